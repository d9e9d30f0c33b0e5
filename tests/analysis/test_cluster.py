"""Who is where: nodes, addresses in order, what is completed and what is noted."""

from __future__ import annotations

from pathlib import Path

import pytest

from contiv.analysis.cluster import build
from contiv.analysis.manifests import Objects
from contiv.config import load
from contiv.errors import AnalysisError
from contiv.model import kube
from contiv.model.node import NodeClaim
from tests.analysis.clusters import cluster, pod


def addresses(built: object) -> dict[str, list[str]]:
    return {end.name: [str(each) for each in end.addresses] for end in built.ends}  # type: ignore[attr-defined]


def test_pods_get_the_addresses_of_their_nodes_in_order(tmp_path: Path) -> None:
    found = cluster(
        tmp_path, pod("x/b", node="n1"), pod("x/a", node="n2"), pod("x/c", node="n1"), pod("x/d", node="n2")
    )
    assert addresses(found) == {
        "x/a": ["10.1.2.2"],
        "x/b": ["10.1.1.2"],
        "x/c": ["10.1.1.3"],
        "x/d": ["10.1.2.3"],
    }


def test_given_addresses_are_kept_and_never_given_again(tmp_path: Path) -> None:
    found = cluster(tmp_path, pod("x/a"), pod("x/b", ips=("10.1.1.2", "fd00::2")), pod("x/c", ips=("192.0.2.9",)))
    assert addresses(found) == {"x/a": ["10.1.1.3"], "x/b": ["10.1.1.2", "fd00::2"], "x/c": ["192.0.2.9"]}


def test_pods_without_a_node_share_the_first_one(tmp_path: Path) -> None:
    found = cluster(tmp_path, pod("x/a"), pod("x/b", node="n9"), pod("x/c", node="n3"))
    assert {end.name: end.node for end in found.ends} == {"x/a": "n9", "x/b": "n9", "x/c": "n3"}
    assert [end.node for end in cluster(tmp_path, pod("x/a")).ends] == ["node-1"]


def test_node_objects_come_before_names_in_pods() -> None:
    objects = (kube.Pod(namespace="x", name="a", node_name="n2"), kube.Node(name="n1"), kube.Node(name="n2"))
    found = build(Objects(objects), load(None))
    assert list(found.nodes) == ["n1", "n2"]
    assert addresses(found) == {"x/a": ["10.1.2.2"]}


def test_nodes_keep_the_ids_that_they_have_claimed() -> None:
    objects = (kube.Pod(namespace="x", name="a", node_name="n1"), kube.Pod(namespace="x", name="b", node_name="n2"))
    found = build(Objects(objects, claims=(NodeClaim(id=1, name="n2", uplink=""),)), load(None))
    assert addresses(found) == {"x/a": ["10.1.2.2"], "x/b": ["10.1.1.2"]}


def test_a_pod_on_the_hosts_network_has_its_nodes_address(tmp_path: Path) -> None:
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}}
    known = {**node, "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.1"}]}}
    assert addresses(cluster(tmp_path, known, pod("x/a", node="n1", host=True))) == {"x/a": ["192.0.2.1"]}
    assert addresses(cluster(tmp_path, node, pod("x/a", node="n1", host=True))) == {"x/a": ["172.30.1.2"]}


def test_finished_pods_are_no_ends_and_hold_no_address(tmp_path: Path) -> None:
    done = pod("x/done", ips=("10.1.1.2",))
    done["status"]["phase"] = "Succeeded"
    assert addresses(cluster(tmp_path, done, pod("x/a"))) == {"x/a": ["10.1.1.2"]}


def test_namespaces_that_nobody_wrote_down_exist_with_their_name(tmp_path: Path) -> None:
    spaces = [each for each in cluster(tmp_path, pod("x/a")).objects if isinstance(each, kube.Namespace)]
    assert [(each.name, each.labels) for each in spaces] == [("x", {"kubernetes.io/metadata.name": "x"})]


def test_two_pods_with_one_address_are_noted(tmp_path: Path) -> None:
    found = cluster(tmp_path, pod("x/a", ips=("10.1.1.2",)), pod("y/b", ips=("10.1.1.2",)))
    assert len(found.notes) == 1
    assert "x/a" in found.notes[0]
    assert "y/b: status.podIPs: 10.1.1.2" in found.notes[0]


def test_an_unknown_pod_and_a_wrong_block_are_named(tmp_path: Path) -> None:
    found = cluster(tmp_path, pod("x/a"))
    with pytest.raises(AnalysisError, match=r"pod y/a: not in the cluster.*x/a"):
        found.end("y/a")
    with pytest.raises(AnalysisError, match="--external here"):
        cluster(tmp_path, pod("x/a"), external=("here",))


def test_an_address_leads_to_whoever_has_it(tmp_path: Path) -> None:
    found = cluster(tmp_path, pod("x/a"), external=("192.0.2.1",))
    assert found.at("10.1.1.2").name == "x/a"
    assert found.at("192.0.2.1").name == "ext:192.0.2.1"


def test_nodes_whose_addresses_are_known_have_the_ids_that_these_give_away() -> None:
    objects = (
        kube.Node(name="n1", addresses=(kube.NodeAddress("InternalIP", "172.30.2.2"),)),
        kube.Node(name="n2"),
        kube.Node(name="n3"),
        kube.Pod(namespace="x", name="known", node_name="n2", pod_ips=("10.1.7.9",)),
        kube.Pod(namespace="x", name="a", node_name="n1"),
        kube.Pod(namespace="x", name="b", node_name="n2"),
        kube.Pod(namespace="x", name="c", node_name="n3"),
    )
    found = addresses(build(Objects(objects), load(None)))
    assert found == {"x/a": ["10.1.2.2"], "x/b": ["10.1.7.10"], "x/c": ["10.1.1.2"], "x/known": ["10.1.7.9"]}
