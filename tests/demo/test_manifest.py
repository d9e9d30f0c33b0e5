"""Manifests: what ships loads, and every mistake is named with its place."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from contiv.demo import manifest
from contiv.errors import DemoError

POD = """
apiVersion: v1
kind: Pod
metadata: {name: p}
spec: {containers: []}
"""


@pytest.mark.parametrize("nodes", [1, 2, 4])
def test_the_shipped_set_has_two_pods_for_each_node(nodes: int) -> None:
    things = manifest.load(None, nodes=nodes)
    kinds = Counter(thing["kind"] for thing in things)
    assert kinds["Pod"] >= 2 * nodes
    assert things[0]["kind"] == "Namespace"
    assert all(thing["metadata"]["labels"] for thing in things)
    names = [thing["metadata"]["name"] for thing in things if thing["kind"] == "Pod"]
    assert len(set(names)) == len(names)


def test_namespaces_come_first_and_pods_last_whatever_the_files_say(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(f"{POD}---\napiVersion: v1\nkind: Service\nmetadata: {{name: s}}\n")
    (tmp_path / "b.yml").write_text("apiVersion: v1\nkind: Namespace\nmetadata: {name: n}\n")
    assert [thing["kind"] for thing in manifest.load(tmp_path, nodes=2)] == ["Namespace", "Service", "Pod"]


def test_lists_are_opened_and_empty_documents_skipped(tmp_path: Path) -> None:
    file = tmp_path / "list.yaml"
    file.write_text(
        "---\n---\napiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Pod, metadata: {name: a}}\n"
    )
    assert [thing["metadata"]["name"] for thing in manifest.load(file, nodes=1)] == ["a"]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("a: [", "not YAML"),
        ("- 1", "document 1: is no mapping"),
        (f"{POD}---\nkind: Pod\nmetadata: {{name: x}}", "document 2: apiVersion = None"),
        ("apiVersion: v1\nkind: Pod\nmetadata: {}", "metadata.name = None"),
        ("apiVersion: v1\nkind: Pod\nmetadata: x", "metadata = 'x'"),
        ("", "no object"),
        (
            "apiVersion: v1\nkind: Pod\nmetadata: {name: x, annotations: {demo.contiv.vpp/per-node: 2}}",
            "per-node.*= 2: give a pod a number",
        ),
        (
            "apiVersion: v1\nkind: List\nitems: [{apiVersion: v1, kind: Pod, metadata: {name: ''}}]",
            r"items\[0\]: metadata.name = ''",
        ),
    ],
)
def test_a_mistake_is_named_with_file_and_field(tmp_path: Path, text: str, complaint: str) -> None:
    file = tmp_path / "wrong.yaml"
    file.write_text(text)
    with pytest.raises(DemoError, match=complaint) as caught:
        manifest.load(file, nodes=1)
    assert "wrong.yaml" in str(caught.value)


def test_a_missing_place_and_an_empty_directory_are_named(tmp_path: Path) -> None:
    with pytest.raises(DemoError, match="not there"):
        manifest.load(tmp_path / "none.yaml", nodes=1)
    with pytest.raises(DemoError, match=r"no \.yaml"):
        manifest.load(tmp_path, nodes=1)
