"""Manifests as users write them, and mistakes that are named with file, object and field."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from contiv.analysis.manifests import load
from contiv.errors import AnalysisError
from contiv.model import kube
from tests.analysis.clusters import Object, pod, policy


def names(*places: Path) -> list[str]:
    return [f"{getattr(each, 'namespace', '')}/{each.name}" for each in load(places).objects]


def workload(kind: str, name: str, *, version: str = "apps/v1", **spec: object) -> Object:
    template = {"metadata": {"labels": {"app": name}}, "spec": {"containers": [{"name": "main", "image": "pause"}]}}
    return {
        "apiVersion": version,
        "kind": kind,
        "metadata": {"name": name, "namespace": "x"},
        "spec": {"template": template, **spec},
    }


def test_a_folder_is_read_with_its_subfolders_in_order(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "two.yml").write_text(yaml.safe_dump(pod("x/two")))
    (tmp_path / "a.json").write_text(json.dumps(pod("x/one")))
    (tmp_path / "notes.txt").write_text("no manifest")
    assert names(tmp_path) == ["x/one", "x/two"]


def test_documents_lists_and_typed_lists_are_taken_apart(tmp_path: Path) -> None:
    bare = {key: value for key, value in pod("x/c").items() if key not in {"apiVersion", "kind"}}
    documents = [
        pod("x/a"),
        None,
        {"apiVersion": "v1", "kind": "List", "items": [pod("x/b"), policy("x/p")]},
        {"apiVersion": "v1", "kind": "PodList", "items": [bare]},
    ]
    (tmp_path / "all.yaml").write_text(yaml.safe_dump_all(documents))
    assert names(tmp_path / "all.yaml") == ["x/a", "x/b", "x/p", "x/c"]


def test_an_object_without_a_namespace_is_in_default(tmp_path: Path) -> None:
    (tmp_path / "pod.yaml").write_text(yaml.safe_dump(pod("web")))
    assert names(tmp_path) == ["default/web"]


def test_kinds_that_say_nothing_about_reach_are_passed_over(tmp_path: Path) -> None:
    other = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}}
    foreign = {"apiVersion": "example.org/v1", "kind": "NetworkPolicy", "metadata": {"name": "p"}, "spec": 7}
    (tmp_path / "all.yaml").write_text(yaml.safe_dump_all([other, foreign, pod("x/a")]))
    assert names(tmp_path) == ["x/a"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("kind: Pod\n", ["all.yaml", "apiVersion = None"]),
        ("- a\n", ["all.yaml", "is no mapping"]),
        ("a: [\n", ["all.yaml", "not YAML"]),
        ("apiVersion: v1\nkind: Pod\n", ["all.yaml", "Pod", "metadata = None"]),
        ("apiVersion: v1\nkind: Pod\nmetadata: {name: 7}\n", ["all.yaml", "Pod", "metadata.name = 7"]),
        (
            "apiVersion: v1\nkind: Pod\nmetadata: {name: a, labels: {app: 1}}\nspec: {}\n",
            ["all.yaml", "Pod default/a", "metadata.labels", "expected `str`"],
        ),
        (
            "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: [{name: c, ports: [{name: p}]}]}\n",
            ["Pod default/a", "spec.containers[0].ports[0]", "containerPort"],
        ),
        (
            "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Pod\n",
            ["all.yaml, items[0]", "metadata"],
        ),
        ("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\n", ["no pod, policy"]),
        (
            "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d}\nspec: {replicas: 2}\n",
            ["all.yaml", "Deployment default/d", "spec"],
        ),
    ],
)
def test_a_mistake_is_named_with_file_object_and_field(tmp_path: Path, text: str, words: list[str]) -> None:
    (tmp_path / "all.yaml").write_text(text)
    with pytest.raises(AnalysisError) as caught:
        load([tmp_path])
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_place_that_is_not_there_and_an_empty_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(AnalysisError, match="nowhere: not there"):
        load([tmp_path / "nowhere"])
    with pytest.raises(AnalysisError, match=r"no \.yaml"):
        load([tmp_path])


def test_an_object_that_is_there_twice_is_refused_with_both_places(tmp_path: Path) -> None:
    for file in ("a.yaml", "b.yaml"):
        (tmp_path / file).write_text(yaml.safe_dump(pod("x/web")))
    with pytest.raises(AnalysisError, match=r"b\.yaml: Pod x/web stands in .*a\.yaml too"):
        load([tmp_path])


def test_a_rule_that_cannot_be_read_leaves_its_policy_isolating(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(policy("x/p", ingress=[{"from": "everybody"}, {}])))
    (found,) = load([tmp_path]).objects
    assert isinstance(found, kube.NetworkPolicy)
    assert found.ingress == (kube.IngressRule(),)
    assert found.faults
    assert "spec.ingress[0].from" in found.faults[0]


@pytest.mark.parametrize(
    ("thing", "expected"),
    [
        (workload("Deployment", "d", replicas=2), ["x/d-0", "x/d-1"]),
        (workload("Deployment", "d"), ["x/d-0"]),
        (workload("StatefulSet", "s", replicas=1), ["x/s-0"]),
        (workload("ReplicaSet", "r", replicas=0), []),
        (workload("DaemonSet", "d"), ["x/d-n1", "x/d-n2"]),
        (workload("Job", "j", version="batch/v1", parallelism=2), ["x/j-0", "x/j-1"]),
    ],
)
def test_a_workload_stands_for_its_pods(tmp_path: Path, thing: Object, expected: list[str]) -> None:
    others = [pod("y/a", node="n1"), pod("y/b", node="n2")]
    (tmp_path / "all.yaml").write_text(yaml.safe_dump_all([*others, thing]))
    assert names(tmp_path) == ["y/a", "y/b", *expected]


def test_a_cron_job_stands_for_the_pods_of_one_run(tmp_path: Path) -> None:
    inner = workload("Job", "j", version="batch/v1")["spec"]
    thing = workload("CronJob", "c", version="batch/v1")
    thing["spec"] = {"jobTemplate": {"spec": inner}}
    (tmp_path / "all.yaml").write_text(yaml.safe_dump(thing))
    assert names(tmp_path) == ["x/c-0"]


def test_a_workload_whose_pods_are_given_is_not_expanded_again(tmp_path: Path) -> None:
    owned = workload("ReplicaSet", "d-5f")
    owned["metadata"]["ownerReferences"] = [{"kind": "Deployment", "name": "d"}]
    given = pod("x/d-5f-abcde", app="d")
    (tmp_path / "all.yaml").write_text(yaml.safe_dump_all([workload("Deployment", "d", replicas=3), owned, given]))
    assert names(tmp_path) == ["x/d-5f-abcde"]
