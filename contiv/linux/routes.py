"""Routes of the main table: requests, what a link holds, and what to do when the place is taken.

Ours carry a routing protocol number of their own, so that a resync tells them from the kernel's and the
operator's. A route to the same destination with the same metric over another link is not replaced but
reported.
"""

from __future__ import annotations

import errno
import socket
from typing import Any, Final, Literal

import msgspec
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from contiv.linux.addresses import FAMILY
from contiv.linux.errors import KernelRefusal
from contiv.linux.netlink import CREATE, EXCL, REPLACE, Conversation, Request, gone, index_name
from contiv.model.ip import Address, Network
from contiv.model.linux import Route

RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
PROTOCOL: Final = 199
"""Marks our routes. Numbers above RTPROT_STATIC (4) mean nothing to the kernel (linux/rtnetlink.h)."""
MAIN: Final = 254
UNICAST: Final = 1
SCOPES: Final[dict[str, int]] = {"global": 0, "link": 253}
RTNH_F_ONLINK: Final = 4
IPV6_METRIC: Final = 1024
"""What the kernel makes of metric 0 for IPv6 (net/ipv6/route.c, IP6_RT_PRIO_USER)."""


def resolved(route: Route) -> Route:
    """``route`` as the kernel gives it back: the scope made explicit (IPv6 has but one), metrics of 0 and
    1024 alike.
    """
    scope: Literal["global", "link"] = "global"
    if route.destination.version == 4 and (route.scope == "link" or (route.scope == "auto" and not route.gateway)):
        scope = "link"
    return msgspec.structs.replace(route, scope=scope, metric=_metric(route))


def add(conversation: Conversation, index: int, routes: tuple[Route, ...], *, name: str) -> None:
    """Add the routes over the link, in order; those that are there are fine.

    ``KernelRefusal`` for the first that the kernel refuses, EEXIST when another link has its place.
    """
    outcomes = conversation.attempt(_request(RTM_NEWROUTE, CREATE | EXCL, index, route, name=name) for route in routes)
    for route, refusal in zip(routes, outcomes, strict=True):
        if refusal is None:
            continue
        if refusal.code != errno.EEXIST:
            raise refusal
        _settle(conversation, index, route, name=name)


def remove(index: int, route: Route, *, name: str) -> Request:
    """Take the route away; one that is gone is fine."""
    return _request(RTM_DELROUTE, 0, index, route, name=name, accept=gone(errno.ENETUNREACH, errno.EHOSTUNREACH))


def of_link(conversation: Conversation, index: int) -> list[Route]:
    """Our routes over the link."""
    return [route for found, route, protocol in _all(conversation) if found == index and protocol == PROTOCOL]


def _settle(conversation: Conversation, index: int, route: Route, *, name: str) -> None:
    """The destination has a route of that metric: ours over this link is brought up to date, others stay."""
    for found, other, _ in _all(conversation):
        if other.destination == route.destination and other.metric == _metric(route) and found != index:
            where = index_name(found)
            raise KernelRefusal(
                f"link {name}",
                f"route {route.destination}",
                errno.EEXIST,
                detail=f"link {where} has a route to it with the same metric",
            )
    conversation.run([_request(RTM_NEWROUTE, CREATE | REPLACE, index, route, name=name)])


def _all(conversation: Conversation) -> list[tuple[int, Route, int]]:
    """Every unicast route of the main table with its link's index and protocol."""
    found = []
    for family in (socket.AF_INET, socket.AF_INET6):
        query = rtmsg()
        query["family"] = family
        query["table"] = MAIN
        # with strict checking a table without any route answers ENOENT
        request = Request(RTM_GETROUTE, 0, query, "routes", "dump", frozenset({errno.ENOENT}))
        for answer in conversation.dump(request):
            index = answer.get_attr("RTA_OIF")
            if index is not None and answer["type"] == UNICAST:
                found.append((index, _route(answer), answer["proto"]))
    return found


def _request(
    kind: int, flags: int, index: int, route: Route, *, name: str, accept: frozenset[int] = frozenset()
) -> Request:
    message = rtmsg()
    message["family"] = FAMILY[route.destination.version]
    message["dst_len"] = route.destination.length
    message["table"] = MAIN
    message["proto"] = PROTOCOL
    message["scope"] = SCOPES[resolved(route).scope]
    message["type"] = UNICAST
    message["flags"] = RTNH_F_ONLINK if route.onlink else 0
    message["attrs"] = _attributes(index, route)
    return Request(kind, flags, message, f"link {name}", f"route {route.destination}", accept)


def _attributes(index: int, route: Route) -> list[tuple[str, Any]]:
    attributes: list[tuple[str, Any]] = [("RTA_OIF", index)]
    if route.destination.length:
        attributes.append(("RTA_DST", str(route.destination.address)))
    if route.gateway is not None:
        attributes.append(("RTA_GATEWAY", str(route.gateway)))
    if route.source is not None:
        attributes.append(("RTA_PREFSRC", str(route.source)))
    if route.metric:
        attributes.append(("RTA_PRIORITY", route.metric))
    if route.mtu is not None:
        attributes.append(("RTA_METRICS", {"attrs": [("RTAX_MTU", route.mtu)]}))
    return attributes


def _metric(route: Route) -> int:
    """The metric as ``_route`` reads it back: the kernel's default is 0."""
    return 0 if route.destination.version == 6 and route.metric == IPV6_METRIC else route.metric


def _route(answer: Any) -> Route:
    version: Literal[4, 6] = 4 if answer["family"] == socket.AF_INET else 6
    text = answer.get_attr("RTA_DST")
    value = Address.parse(text).value if text else 0
    metric = answer.get_attr("RTA_PRIORITY") or 0
    metrics = answer.get_attr("RTA_METRICS")
    return Route(
        destination=Network(version, value, answer["dst_len"]),
        gateway=_address(answer.get_attr("RTA_GATEWAY")),
        source=_address(answer.get_attr("RTA_PREFSRC")),
        scope="link" if answer["scope"] == SCOPES["link"] else "global",
        metric=0 if version == 6 and metric == IPV6_METRIC else metric,
        mtu=(metrics.get_attr("RTAX_MTU") or None) if metrics is not None else None,
        onlink=bool(answer["flags"] & RTNH_F_ONLINK),
    )


def _address(text: str | None) -> Address | None:
    return None if text is None else Address.parse(text)
