"""All that the kernel holds about one link at layer 3, as the kernel says it, and the way back to exactly that.

Addresses, routes of every table, policy rules and permanent neighbours are kept as the very messages of the kernel's
dumps (as ``ip route save`` does), so that what is restored has every attribute that was there: labels, lifetimes,
metrics, multipath. ``capture`` reads, ``strip`` takes addresses and routes off the link, ``restore`` puts them back
and removes what took their place meanwhile. All are idempotent and synchronous, in the calling thread's namespace. A
link that comes back with another index (a NIC bound again to its driver) gets what the old one had.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterable, Iterator
from typing import Any, Final

import msgspec
from pyroute2.netlink.rtnl.fibmsg import fibmsg
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ndmsg import ndmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from contiv.errors import LinuxError
from contiv.linux import ipv6, links
from contiv.linux.netlink import CREATE, EXCL, REPLACE, Conversation, Request, gone

RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTM_NEWNEIGH, RTM_GETNEIGH = 28, 30
RTM_NEWRULE, RTM_GETRULE = 32, 34
APPEND: Final = 0x800
INET, INET6 = 2, 10
HEADER: Final = 16
"""struct nlmsghdr."""
_NLMSG = struct.Struct("=IHHII")
_U32 = struct.Struct("=I")
RTPROT_KERNEL: Final = 2
RTN_UNICAST: Final = 1
RTM_F_CLONED: Final = 0x200
HOP_FLAGS: Final = 0x6
"""RTNH_F_PERVASIVE and RTNH_F_ONLINK: the flags of a next hop that are set by whoever adds the route."""
TABLE_LOCAL: Final = 255
RTA_DST, RTA_OIF, RTA_PRIORITY, RTA_PREFSRC, RTA_MULTIPATH, RTA_CACHEINFO, RTA_TABLE = 1, 4, 6, 7, 9, 12, 15
NUD_PERMANENT: Final = 0x80
PASSES_MAX: Final = 4
"""A route by a gateway needs the route to the gateway first; deeper nesting than this nobody builds."""

Attributes = dict[int, bytes]


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """What ``capture`` read of the link ``name``. Messages are the kernel's, without their netlink header."""

    name: str
    index: int
    mac: str
    mtu: int
    up: bool
    ipv6: bool
    addresses: tuple[bytes, ...]
    routes: tuple[bytes, ...]
    rules: tuple[bytes, ...]
    neighbours: tuple[bytes, ...]


class Raw:
    """A message that is sent as it was received; what ``netlink.Conversation`` asks of a message, no more."""

    def __init__(self, payload: bytes) -> None:
        self._payload = payload
        self.header: dict[str, int] = {}
        self.data = b""

    def __getitem__(self, name: str) -> dict[str, int]:
        return {"header": self.header}[name]

    def reset(self) -> None:
        """Nothing was encoded that would have to go."""

    def encode(self) -> None:
        """Put the header that ``self.header`` describes in front."""
        length = _NLMSG.size + len(self._payload)
        header = self.header
        self.data = _NLMSG.pack(length, header["type"], header["flags"], header["sequence_number"], 0) + self._payload


def capture(conversation: Conversation, name: str) -> Snapshot:
    """Everything about link ``name``; LinuxError when there is no such link."""
    link = links.find(conversation, name)
    if link is None:
        raise LinuxError(f"link {name}: not there; name a link that the kernel has")
    addresses = [raw for raw in _addresses(conversation) if _index_of_address(raw) == link.index]
    own = {_address_value(raw) for raw in addresses}
    routes = [
        raw for raw in _routes(conversation) if _uses(raw, link.index) or _attributes(raw).get(RTA_PREFSRC) in own
    ]
    return Snapshot(
        name=name,
        index=link.index,
        mac=link.mac,
        mtu=link.mtu,
        up=link.up,
        ipv6=ipv6.enabled(name),
        addresses=tuple(addresses),
        routes=tuple(raw for raw in routes if _is_restorable(raw)),
        rules=tuple(_rules(conversation)),
        neighbours=tuple(raw for raw in _neighbours(conversation) if _index_of_address(raw) == link.index),
    )


def strip(conversation: Conversation, snapshot: Snapshot) -> None:
    """Take addresses and routes off the link, IPv6 with them: from now on the host does not reach anything by it."""
    link = links.find(conversation, snapshot.name)
    if link is None:
        return
    removals = [_raw(RTM_DELROUTE, 0, raw, snapshot.name, "route") for raw in reversed(snapshot.routes)]
    present = [raw for raw in _addresses(conversation) if _index_of_address(raw) == link.index]
    removals += [_raw(RTM_DELADDR, 0, raw, snapshot.name, "address") for raw in reversed(present)]
    conversation.run(removals)
    ipv6.set_enabled(snapshot.name, False)


def restore(conversation: Conversation, snapshot: Snapshot) -> None:
    """Make the link hold exactly what it held; LinuxError when it is not there."""
    link = links.find(conversation, snapshot.name)
    if link is None:
        raise LinuxError(f"link {snapshot.name}: not there; nothing can be given back to it yet")
    _remove_usurpers(conversation, snapshot, link.index)
    if snapshot.ipv6:
        ipv6.set_enabled(snapshot.name, True)
    conversation.run([links.set_mtu(link.index, snapshot.mtu, name=snapshot.name)])
    conversation.run([links.set_up(link.index, snapshot.up, name=snapshot.name)])
    moved = {snapshot.index: link.index}
    _restore_addresses(conversation, snapshot, link.index)
    _restore_routes(conversation, [_moved_route(raw, moved) for raw in snapshot.routes], snapshot.name)
    present = set(_rules(conversation))
    again = [raw for raw in snapshot.rules if raw not in present]
    exists = frozenset({errno.EEXIST})
    conversation.run(_raw(RTM_NEWRULE, CREATE | EXCL, raw, snapshot.name, "rule", accept=exists) for raw in again)
    conversation.run(
        _raw(RTM_NEWNEIGH, CREATE | REPLACE, _with_index(raw, link.index), snapshot.name, "neighbour")
        for raw in snapshot.neighbours
    )
    _remove_extras(conversation, snapshot, link.index)


def _restore_addresses(conversation: Conversation, snapshot: Snapshot, index: int) -> None:
    """IPv4 in the order of the dump; IPv6 the other way round, since the kernel lists the youngest first."""
    ipv4 = [raw for raw in snapshot.addresses if raw[0] == INET]
    youngest_first = [raw for raw in snapshot.addresses if raw[0] == INET6]
    present = {_address_identity(raw) for raw in _addresses(conversation) if _index_of_address(raw) == index}
    wanted = [_with_index(raw, index) for raw in (*ipv4, *reversed(youngest_first))]
    conversation.run(
        _raw(RTM_NEWADDR, CREATE | REPLACE, raw, snapshot.name, "address", accept=frozenset({errno.EEXIST}))
        for raw in wanted
        if _address_identity(raw) not in present
    )


def _restore_routes(conversation: Conversation, wanted: list[bytes], name: str) -> None:
    """Those that the kernel refuses for want of another one get their turn again."""
    waiting = [raw for raw in wanted if raw not in _all_routes(conversation)]
    for attempt in range(PASSES_MAX):
        exists = frozenset({errno.EEXIST})
        requests = [
            _raw(RTM_NEWROUTE, CREATE | APPEND if raw[0] == INET else CREATE, raw, name, "route", accept=exists)
            for raw in waiting
        ]
        outcomes = conversation.attempt(requests)
        refused = [(raw, outcome) for raw, outcome in zip(waiting, outcomes, strict=True) if outcome is not None]
        if not refused:
            return
        if attempt == PASSES_MAX - 1 or len(refused) == len(waiting):
            refusal = refused[0][1]
            assert refusal is not None
            raise refusal
        waiting = [raw for raw, _ in refused]


def _remove_usurpers(conversation: Conversation, snapshot: Snapshot, index: int) -> None:
    """What stands where our addresses and routes stood: the same addresses on other links, other routes to the same
    destinations that were not there when we looked."""
    own = {_address_value(raw) for raw in snapshot.addresses if not _is_link_local(raw)}
    removals = [
        _raw(RTM_DELADDR, 0, raw, snapshot.name, "address on another link")
        for raw in _addresses(conversation)
        if _index_of_address(raw) != index and _address_value(raw) in own
    ]
    places = {_route_place(raw) for raw in snapshot.routes}
    places |= {place for raw in snapshot.addresses if (place := _connected_place(raw)) is not None}
    moved = {_moved_route(raw, {snapshot.index: index}) for raw in snapshot.routes}
    removals += [
        _raw(RTM_DELROUTE, 0, raw, snapshot.name, "route in the way")
        for raw in _routes(conversation)
        if not _uses(raw, index) and raw not in moved and raw[7] == RTN_UNICAST and _route_place(raw) in places
    ]
    conversation.run(removals)


def _remove_extras(conversation: Conversation, snapshot: Snapshot, index: int) -> None:
    """Addresses and routes that the link got by itself on the way: a link-local address, a connected route that the
    operator had removed."""
    wanted = {_address_identity(_with_index(raw, index)) for raw in snapshot.addresses}
    conversation.run(
        _raw(RTM_DELADDR, 0, raw, snapshot.name, "address too many")
        for raw in _addresses(conversation)
        if _index_of_address(raw) == index and _address_identity(raw) not in wanted
    )
    kept = {_route_place(_moved_route(raw, {snapshot.index: index})) for raw in snapshot.routes}
    conversation.run(
        _raw(RTM_DELROUTE, 0, raw, snapshot.name, "route too many")
        for raw in _routes(conversation)
        if _uses(raw, index) and _is_restorable(raw) and _route_place(raw) not in kept
    )


# ---- the kernel's messages ---------------------------------------------------------------------------------------


def _raw(
    kind: int, flags: int, payload: bytes, name: str, field: str, *, accept: frozenset[int] = frozenset()
) -> Request:
    if kind in (RTM_DELADDR, RTM_DELROUTE):
        accept = gone(errno.ENETUNREACH, errno.EHOSTUNREACH)
    return Request(kind, flags, Raw(payload), f"link {name}", field, accept)


def _dump(conversation: Conversation, kind: int, message: Any, what: str) -> list[bytes]:
    request = Request(kind, 0, message, what, "dump", frozenset({errno.ENOENT}))
    return [bytes(answer.data[HEADER : answer["header"]["length"]]) for answer in conversation.dump(request)]


def _addresses(conversation: Conversation) -> list[bytes]:
    return _dump(conversation, RTM_GETADDR, ifaddrmsg(), "addresses")


def _routes(conversation: Conversation) -> Iterator[bytes]:
    """Every route of every table but the kernel's own local one."""
    for family in (INET, INET6):
        query = rtmsg()
        query["family"] = family
        for raw in _dump(conversation, RTM_GETROUTE, query, "routes"):
            cloned = _U32.unpack_from(raw, 8)[0] & RTM_F_CLONED
            if not cloned and _table(raw) != TABLE_LOCAL:
                yield _settled(raw)


def _all_routes(conversation: Conversation) -> set[bytes]:
    return set(_routes(conversation))


def _rules(conversation: Conversation) -> list[bytes]:
    found = []
    for family in (INET, INET6):
        query = fibmsg()
        query["family"] = family
        found += _dump(conversation, RTM_GETRULE, query, "policy rules")
    return found


def _neighbours(conversation: Conversation) -> list[bytes]:
    found = _dump(conversation, RTM_GETNEIGH, ndmsg(), "neighbours")
    # struct ndmsg: family, padding, ifindex at 4, state at 8
    return [raw for raw in found if raw[0] in (INET, INET6) and struct.unpack_from("=H", raw, 8)[0] & NUD_PERMANENT]


def _attributes(raw: bytes, *, start: int = 12) -> Attributes:
    """The attributes behind the header of ``start`` bytes (rtmsg 12, ifaddrmsg 8), by type."""
    found = {}
    while start + 4 <= len(raw):
        length, kind = struct.unpack_from("=HH", raw, start)
        if length < 4:
            break
        found[kind & 0x3FFF] = raw[start + 4 : start + length]
        start += (length + 3) & ~3
    return found


def _settled(raw: bytes) -> bytes:
    """A route as it can be sent again: without ages and use counts, and without what the kernel reports of its hops
    (dead, link down, offloaded), which it refuses to be told."""
    header = bytearray(raw[:12])
    _U32.pack_into(header, 8, _U32.unpack_from(raw, 8)[0] & HOP_FLAGS)
    parts = []
    for kind, value in _attributes(raw).items():
        if kind == RTA_MULTIPATH:
            copy = bytearray(value)
            for offset, _ in _hops(value):
                copy[offset + 2] &= HOP_FLAGS
            parts.append(_attribute(kind, bytes(copy)))
        elif kind != RTA_CACHEINFO:
            parts.append(_attribute(kind, value))
    return bytes(header) + b"".join(parts)


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + b"\0" * (-len(value) % 4)


def _table(raw: bytes) -> int:
    value = _attributes(raw).get(RTA_TABLE)
    return raw[4] if value is None else int(_U32.unpack(value)[0])


def _is_restorable(raw: bytes) -> bool:
    """Whether the route is somebody's and not the kernel's own, which comes and goes with an address."""
    return raw[5] != RTPROT_KERNEL


def _uses(raw: bytes, index: int) -> bool:
    attributes = _attributes(raw)
    oif = attributes.get(RTA_OIF)
    if oif is not None and _U32.unpack(oif)[0] == index:
        return True
    return any(hop == index for _, hop in _hops(attributes.get(RTA_MULTIPATH, b"")))


def _hops(multipath: bytes) -> Iterator[tuple[int, int]]:
    """Offset and ifindex of each struct rtnexthop."""
    offset = 0
    while offset + 8 <= len(multipath):
        (length,) = struct.unpack_from("=H", multipath, offset)
        if length < 8:
            return
        yield offset, _U32.unpack_from(multipath, offset + 4)[0]
        offset += (length + 3) & ~3


def _moved_route(raw: bytes, moved: dict[int, int]) -> bytes:
    """The route over the new index where the old one stood."""
    if all(old == new for old, new in moved.items()):
        return raw
    parts = []
    for kind, value in _attributes(raw).items():
        patched = value
        if kind == RTA_OIF:
            old = _U32.unpack(value)[0]
            patched = _U32.pack(moved.get(old, old))
        elif kind == RTA_MULTIPATH:
            copy = bytearray(value)
            for offset, hop in _hops(value):
                _U32.pack_into(copy, offset + 4, moved.get(hop, hop))
            patched = bytes(copy)
        parts.append(_attribute(kind, patched))
    return raw[:12] + b"".join(parts)


def _route_place(raw: bytes) -> tuple[object, ...]:
    """What two routes cannot share: family, table, destination, TOS, metric."""
    attributes = _attributes(raw)
    return (raw[0], _table(raw), attributes.get(RTA_DST, b""), raw[1], raw[3], attributes.get(RTA_PRIORITY, b""))


def _connected_place(raw: bytes) -> tuple[object, ...] | None:
    """The place of the route that the kernel makes for an IPv4 address."""
    value = _address_value(raw)
    if raw[0] != INET or raw[1] == 32:
        return None
    number = int.from_bytes(value, "big") >> (32 - raw[1]) << (32 - raw[1])
    return (INET, 254, number.to_bytes(4, "big"), raw[1], 0, b"")


def _index_of_address(raw: bytes) -> int:
    """ifaddrmsg and ndmsg both have it at 4."""
    return int(_U32.unpack_from(raw, 4)[0])


def _with_index(raw: bytes, index: int) -> bytes:
    return raw[:4] + _U32.pack(index) + raw[8:]


def _address_value(raw: bytes) -> bytes:
    attributes = _attributes(raw, start=8)
    return attributes.get(2) or attributes.get(1) or b""  # IFA_LOCAL, IFA_ADDRESS


def _is_link_local(raw: bytes) -> bool:
    value = _address_value(raw)
    return raw[0] == INET6 and value[:1] == b"\xfe" and value[1] & 0xC0 == 0x80


def _address_identity(raw: bytes) -> tuple[object, ...]:
    """Family, prefix length, link, address."""
    return (raw[0], raw[1], _index_of_address(raw), _address_value(raw), _attributes(raw, start=8).get(1))


def readable(snapshot: Snapshot) -> Iterable[tuple[int, bytes, int]]:
    """Family, value and prefix length of each address, for those who speak no netlink."""
    for raw in snapshot.addresses:
        yield (4 if raw[0] == INET else 6), _address_value(raw), raw[1]


class PlainRoute(msgspec.Struct, frozen=True, kw_only=True):
    """A unicast route of the main table in words: values are addresses in network order, None where there is none."""

    version: int
    destination: bytes
    length: int
    gateway: bytes | None
    source: bytes | None
    metric: int


def plain_routes(conversation: Conversation, name: str) -> list[PlainRoute]:
    """The unicast routes of the main table over link ``name`` alone, the kernel's own (connected) ones too."""
    link = links.find(conversation, name)
    if link is None:
        return []
    found = []
    for raw in _routes(conversation):
        attributes = _attributes(raw)
        oif = attributes.get(RTA_OIF)
        if raw[7] != RTN_UNICAST or _table(raw) != 254 or oif is None or _U32.unpack(oif)[0] != link.index:
            continue
        width = 4 if raw[0] == INET else 16
        priority = attributes.get(RTA_PRIORITY)
        found.append(
            PlainRoute(
                version=4 if raw[0] == INET else 6,
                destination=attributes.get(RTA_DST, bytes(width)),
                length=raw[1],
                gateway=attributes.get(5),
                source=attributes.get(RTA_PREFSRC),
                metric=0 if priority is None else int(_U32.unpack(priority)[0]),
            )
        )
    return found
