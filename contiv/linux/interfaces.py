"""The configuration of one existing link: applied, changed by difference, removed, read back. Synchronous.

In: an ``Interface`` and its key, on a worker thread that is inside the interface's namespace. Out: the link's
index. Order matters to the kernel: MAC before up, up before addresses and routes, routes in the order that
the renderer gave (the one to the gateway before the one through it), removal the other way round.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import TypeVar

import msgspec

from contiv.linux import addresses, ipv4, ipv6, links, neighbours, offloads, routes, sysfs
from contiv.linux.errors import LinkMissing
from contiv.linux.netlink import Conversation, Request
from contiv.model.linux import Interface, Route

T = TypeVar("T")
MERGE_WITHIN = "gro_flush_timeout"


def configure(key: str, wanted: Interface) -> int:
    """Give the link all that ``wanted`` says; ``LinkMissing`` when there is no such link."""
    nothing = msgspec.structs.replace(
        wanted, up=False, mac=None, mtu=None, addresses=(), routes=(), neighbours=(), offloads=()
    )
    return reconfigure(key, wanted, old=nothing)


def reconfigure(key: str, wanted: Interface, *, old: Interface) -> int:
    """Bring the link from ``old`` to ``wanted``: what left goes first, then what is new comes."""
    with Conversation() as conversation:
        link = _found(conversation, wanted)
        ipv6.set_enabled(wanted.name, wanted.ipv6)
        offloads.apply(wanted.name, wanted.offloads)
        if wanted.deaf:
            ipv4.make_deaf(wanted.name)
        if wanted.merge_within_ns is not None:
            sysfs.write(wanted.name, MERGE_WITHIN, wanted.merge_within_ns)
        conversation.run(_removals(link.index, old, kept=wanted))
        conversation.run(_base(key, link, wanted))
        had = _left(old, wanted, link)
        conversation.run(_additions(link.index, wanted, had=had))
        missing = tuple(route for route in wanted.routes if route not in had.routes)
        routes.add(conversation, link.index, missing, name=wanted.name)
    return link.index


def unconfigure(key: str, value: Interface) -> None:
    """Remove what ``value`` gave the link; a link that is gone is fine."""
    with Conversation() as conversation:
        link = links.find(conversation, value.name)
        if link is None:
            return
        nothing = msgspec.structs.replace(value, addresses=(), routes=(), neighbours=())
        requests = list(_removals(link.index, value, kept=nothing))
        if value.up:
            requests.append(links.set_up(link.index, False, name=link.name))
        requests.append(links.set_alias(link.index, links.without_owner(link.alias, key), name=link.name))
        outcomes = conversation.attempt(requests)
        for refusal in outcomes:
            if refusal is not None and refusal.code != errno.ENODEV:
                raise refusal


def read(key: str, wanted: Interface) -> tuple[Interface, int] | None:
    """What the kernel holds of the interface, and its index; None when the link is missing or not marked as
    ours.

    Fields that ``wanted`` leaves to the kernel are left out, and what is equal but for its order is given in
    the order of ``wanted``, so that equality means "nothing to do".
    """
    with Conversation() as conversation:
        link = links.find(conversation, wanted.name)
        if link is None or not link.owned_by(key):
            return None
        actual = msgspec.structs.replace(
            wanted,
            up=link.up,
            mac=link.mac if wanted.mac is not None else None,
            mtu=link.mtu if wanted.mtu is not None else None,
            addresses=_as_wanted(addresses.of_link(conversation, link.index), wanted.addresses),
            routes=_routes_as_wanted(routes.of_link(conversation, link.index), wanted.routes),
            neighbours=_as_wanted(neighbours.of_link(conversation, link.index), wanted.neighbours),
            offloads=offloads.read(link.name, [name for name, _ in wanted.offloads]),
            ipv6=ipv6.enabled(link.name),
            deaf=wanted.deaf and ipv4.is_deaf(link.name),
            merge_within_ns=None if wanted.merge_within_ns is None else sysfs.read(link.name, MERGE_WITHIN),
        )
    return actual, link.index


def _found(conversation: Conversation, wanted: Interface) -> links.Link:
    link = links.find(conversation, wanted.name)
    if link is None:
        raise LinkMissing(wanted.name, wanted.netns)
    return link


def _left(old: Interface, wanted: Interface, link: links.Link) -> Interface:
    """``old`` without what the kernel may have dropped; that is sent again, what is there is accepted.

    A change of state drops routes, neighbours and IPv6 addresses. An address that leaves drops the secondary ones of
    its network and the routes that name it as source; the last one drops all routes and neighbours
    (net/ipv4/fib_frontend.c, fib_disable_ip).
    """
    if wanted.up != link.up:
        return msgspec.structs.replace(old, addresses=(), routes=(), neighbours=())
    if set(old.addresses) - set(wanted.addresses):
        return msgspec.structs.replace(old, addresses=(), routes=(), neighbours=())
    return old


def _base(key: str, link: links.Link, wanted: Interface) -> Iterator[Request]:
    """Owner, MAC, MTU, state: only what differs from the link as found."""
    name = wanted.name
    if not link.owned_by(key):
        yield links.set_alias(link.index, links.with_owner(link.alias, key), name=name)
    if wanted.mac is not None and wanted.mac != link.mac:
        yield links.set_mac(link.index, wanted.mac, name=name)
    if wanted.mtu is not None and wanted.mtu != link.mtu:
        yield links.set_mtu(link.index, wanted.mtu, name=name)
    if wanted.up != link.up:
        yield links.set_up(link.index, wanted.up, name=name)
    if wanted.netns:
        yield links.set_up(links.LOOPBACK, True, name="lo")


def _removals(index: int, old: Interface, *, kept: Interface) -> Iterator[Request]:
    for route in reversed(old.routes):
        if route not in kept.routes:
            yield routes.remove(index, route, name=old.name)
    for neighbour in old.neighbours:
        if neighbour not in kept.neighbours:
            yield neighbours.remove(index, neighbour, name=old.name)
    for address in old.addresses:
        if address not in kept.addresses:
            yield addresses.remove(index, address, name=old.name)


def _additions(index: int, wanted: Interface, *, had: Interface) -> Iterator[Request]:
    for address in wanted.addresses:
        if address not in had.addresses:
            yield addresses.add(index, address, name=wanted.name)
    for neighbour in wanted.neighbours:
        if neighbour not in had.neighbours:
            yield neighbours.add(index, neighbour, name=wanted.name)


def _as_wanted(actual: list[T], wanted: tuple[T, ...]) -> tuple[T, ...]:
    """``actual`` in the order of ``wanted`` where both hold the same, else as it is."""
    return wanted if len(actual) == len(wanted) and set(actual) == set(wanted) else tuple(actual)


def _routes_as_wanted(actual: list[Route], wanted: tuple[Route, ...]) -> tuple[Route, ...]:
    """The same for routes, which have several spellings."""
    return wanted if set(actual) == {routes.resolved(route) for route in wanted} else tuple(actual)
