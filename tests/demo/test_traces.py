"""What the demo takes back from an API server that outlives it."""

from __future__ import annotations

import pytest

from contiv.demo import traces
from contiv.demo.api import Api, ApiRefusal, Object
from contiv.errors import DemoError


class Server(Api):
    """An API server's answers from a dictionary of paths; deletions empty it, namespaces wait for a controller."""

    def __init__(self, objects: dict[str, Object]) -> None:
        self.objects = objects

    async def request(self, method: str, path: str, **options: object) -> Object:
        if method == "PUT" and path.endswith("/finalize"):
            return self.objects.pop(path.removesuffix("/finalize"))
        if path not in self.objects:
            raise ApiRefusal(f"{method} {path}", 404, reason="NotFound", message="not there")
        if method == "DELETE" and "finalizers" not in self.objects[path].get("spec", {}):
            return self.objects.pop(path)
        return self.objects[path]


def node(**labels: str) -> Object:
    return {"metadata": {"name": "node-1", "labels": labels}}


async def test_a_demos_node_goes_with_the_pods_bound_to_it() -> None:
    pod = {"metadata": {"namespace": "x", "name": "p"}}
    server = Server(
        {
            "/api/v1/nodes/node-1": node(**{traces.NODE_LABEL: ""}),
            "/api/v1/pods?fieldSelector=spec.nodeName%3Dnode-1": {"items": [pod]},
            "/api/v1/namespaces/x/pods/p": pod,
        }
    )
    await traces.remove_nodes(server, ["node-1", "node-2"])
    assert list(server.objects) == ["/api/v1/pods?fieldSelector=spec.nodeName%3Dnode-1"]


async def test_a_node_of_somebody_else_is_refused_and_left_alone() -> None:
    server = Server({"/api/v1/nodes/node-1": node(role="worker")})
    with pytest.raises(DemoError, match=r"node-1: .* no demo's"):
        await traces.remove_nodes(server, ["node-1"])
    assert "/api/v1/nodes/node-1" in server.objects


async def test_created_objects_go_and_a_stuck_namespace_is_finished(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traces, "POLL_S", 0.001)
    namespace = {"metadata": {"name": "demo"}, "spec": {"finalizers": ["kubernetes"]}}
    account = "/api/v1/namespaces/demo/serviceaccounts/default"
    server = Server({"/api/v1/namespaces/demo": namespace, account: {"metadata": {"name": "default"}}})
    await traces.remove_objects(server, ["/api/v1/namespaces/demo", account, "/api/v1/namespaces/demo/pods/gone"])
    assert server.objects == {}
