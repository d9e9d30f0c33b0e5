"""What ``netctl`` asks an agent over HTTP: read-only views, and one verb, resync. JSON throughout.

A parameter that cannot be used is answered with 400, a data plane that does not answer with 503, each with one line.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

import msgspec
from aiohttp import web

from contiv.controller import Controller
from contiv.controller.cluster import ClusterState
from contiv.controller.event import DownstreamResync
from contiv.errors import ContivError
from contiv.model.ip import Address, Network
from contiv.model.node import NodeStatus
from contiv.network.state import NetworkState

T = TypeVar("T")


class Views:
    """The handlers of the routes; each reads what the agent holds at that moment."""

    def __init__(
        self,
        status: NodeStatus,
        network: NetworkState,
        controller: Controller[ClusterState],
        problems: Callable[[], dict[str, str]],
    ) -> None:
        self._status = status
        self._network = network
        self._controller = controller
        self._problems = problems

    def routes(self) -> list[web.RouteDef]:
        """All routes, below ``/contiv/v1``."""
        return [
            web.get("/contiv/v1/status", self.status),
            web.get("/contiv/v1/ipam", self.ipam),
            web.get("/contiv/v1/pods", self.pods),
            web.get("/contiv/v1/events", self.events),
            web.get("/contiv/v1/transactions", self.transactions),
            web.get("/contiv/v1/desired", self.desired),
            web.get("/contiv/v1/diff", self.diff),
            web.post("/contiv/v1/resync", self.resync),
        ]

    async def status(self, _: web.Request) -> web.Response:
        """Who this is, whether it is synced, what is wrong, what waits."""
        scheduler = self._controller.scheduler
        unsettled = {
            key: {"state": status.state, "error": str(status.error or ""), "waits for": status.unmet}
            for key, status in scheduler.unsettled.items()
        }
        return _json(
            {
                "node": self._status,
                "synced": self._controller.synced,
                "busy": self._controller.busy,
                "problems": self._problems(),
                "pods": len(self._network.attachments),
                "preparedInterfaces": self._network.slots.prepared,
                "objects": len(scheduler.actual),
                "unsettled": unsettled,
            }
        )

    async def ipam(self, _: web.Request) -> web.Response:
        """The node's subnets and who has which address."""
        pool = self._network.pool
        allocations = {str(address): owner for address, owner in pool.allocations().items()}
        return _json(
            {"node": self._network.node, "capacity": pool.capacity, "used": len(pool), "allocations": allocations}
        )

    async def pods(self, _: web.Request) -> web.Response:
        """The pods attached here."""
        return _json(list(self._network.attachments.values()))

    async def events(self, request: web.Request) -> web.Response:
        """The event history, the last ``last`` of them, as JSON or with ``text`` for people."""
        last = _number(request, "last")
        if "text" in request.query:
            return web.Response(text=self._controller.history.to_text(last=last))
        return _raw(self._controller.history.to_json(last=last))

    async def transactions(self, request: web.Request) -> web.Response:
        """The scheduler's history."""
        history = self._controller.scheduler.history
        if "text" in request.query:
            return web.Response(text=history.to_text())
        return _raw(history.to_json())

    async def desired(self, _: web.Request) -> web.Response:
        """Every desired key with its value."""
        return _json(dict(self._controller.scheduler.desired))

    async def diff(self, _: web.Request) -> web.Response:
        """What a resync would do now: key, verb and why; empty when VPP and Linux are as desired."""
        plan = await _answered(self._controller.scheduler.inspect())
        operations = [{"verb": each.verb, "key": each.key} for each in plan.operations]
        pending = {key: [str(need) for need in needs] for key, needs in plan.pending.items()}
        return _json({"operations": operations, "pending": pending})

    async def resync(self, _: web.Request) -> web.Response:
        """Compare VPP and Linux with what is desired, and mend the difference."""
        await _answered(self._controller.call(DownstreamResync(reason="asked for over REST")))
        return _json({"resynced": True})


def _number(request: web.Request, name: str) -> int | None:
    text = request.query.get(name)
    if text is None:
        return None
    if not text.isdecimal():
        raise web.HTTPBadRequest(text=f"{name} = {text!r}: not a number; write how many, as {name}=50")
    return int(text)


async def _answered(work: Awaitable[T]) -> T:
    try:
        return await work
    except ContivError as error:
        raise web.HTTPServiceUnavailable(text=str(error)) from error


def _json(value: Any) -> web.Response:
    return _raw(msgspec.json.encode(_readable(value)))


def _readable(value: Any) -> Any:
    """The value with addresses and networks as text; msgspec would spell out their integers."""
    match value:
        case Address() | Network():
            return str(value)
        case msgspec.Struct():
            config = value.__struct_config__
            tagged = {config.tag_field: config.tag} if config.tag_field else {}
            named = {each.encode_name: getattr(value, each.name) for each in msgspec.structs.fields(value)}
            return tagged | {name: _readable(each) for name, each in named.items()}
        case Mapping():
            return {key: _readable(each) for key, each in value.items()}
        case list() | tuple():
            return [_readable(each) for each in value]
        case _:
            return value


def _raw(body: bytes) -> web.Response:
    return web.Response(body=body, content_type="application/json")
