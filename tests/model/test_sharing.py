"""contiv.model.sharing: equal objects, fewer values."""

from __future__ import annotations

import pytest

from contiv.model import kube, sharing
from contiv.model.sharing import Sharing


def decoded(name: str, **labels: str) -> kube.Pod:
    """A pod as it comes from etcd: all of its parts its own."""
    port = kube.ContainerPort(container="c", name="http", port=80, protocol="TCP")
    pod = kube.Pod(
        namespace="default", name=name, labels=labels, node_name="node-1", host_ip="192.0.2.1", ports=(port,)
    )
    return kube.PODS.decode(kube.PODS.encode(pod))


def test_pods_of_one_kind_share_what_is_equal_and_stay_equal_to_what_was_decoded() -> None:
    shared = Sharing()
    one, other = decoded("one", app="web"), decoded("other", app="web")
    assert one.labels is not other.labels
    first, second = shared.share(one), shared.share(other)
    assert (first, second) == (one, other)
    for part in ("labels", "ports", "namespace", "node_name", "host_ip"):
        assert getattr(first, part) is getattr(second, part), part
    assert shared.share(decoded("third", app="db")).labels == {"app": "db"}


def test_what_is_kept_for_sharing_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing, "KEPT", 10)
    shared = Sharing()
    for number in range(100):
        pod = decoded("pod", number=str(number))
        assert shared.share(pod) == pod
        assert len(shared._labels) <= 10


def test_other_kinds_stay_as_they_are() -> None:
    namespace = kube.Namespace(name="a", labels={"x": "y"})
    assert Sharing().share(namespace) is namespace
