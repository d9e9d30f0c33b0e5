"""Endpoint slices, reduced to packed addresses and flags, and the choice of those that serve. Pure.

In: ``EndpointSlice`` objects as etcd has them. Out: a ``Slice`` each, a few bytes an endpoint, and for a service the
flags that its endpoints must have (``Choice``); ``contiv.fastpath.hashing`` picks by them. An address that no endpoint
can have is left out and reported; the others of its slice serve on.

The rules are kube-proxy's (kubernetes/pkg/proxy/topology.go, CategorizeEndpoints): ready endpoints, narrowed by the
topology hints where all of them have some; if there is none, those that still serve while they terminate.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import IntEnum
from functools import lru_cache
from typing import Final, Literal

import msgspec

from contiv.fastpath import hashing
from contiv.model import kube
from contiv.model.ip import Address, Network

READY: Final = hashing.READY
DRAINING: Final = hashing.DRAINING
"""Not ready, but serving while it terminates."""
LOCAL: Final = hashing.LOCAL
ZONE_HINTED: Final = hashing.ZONE_HINTED
ZONE: Final = hashing.ZONE
"""Hinted for this node's zone."""
NODE_HINTED: Final = hashing.NODE_HINTED
NODE: Final = hashing.NODE
"""Hinted for this node."""
SAME_ZONE: Final = hashing.SAME_ZONE

PREFER_NODE: Final = "PreferSameNode"
PREFER_ZONE: Final = frozenset({PREFER_NODE, "PreferSameZone", "PreferClose"})
"""core/v1 ServiceSpec.trafficDistribution; PreferClose is PreferSameZone's older name."""

CASES: Final = 1024
"""Different questions of who serves whose answers are kept: services ask few."""

Choice = tuple[int, int]
"""Mask and value: an endpoint is chosen when its flags, masked, equal the value."""


class Fault(msgspec.Struct, frozen=True, order=True):
    """What is wrong with an object, and where: ``Service default/web``, a field of it, a reason with its remedy."""

    object: str
    field: str
    reason: str


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where endpoints are judged from: this node, its zone ("" for none), its share and all of the pod subnet, …"""

    node: str
    zone: str
    own_pods: Network
    own_addresses: frozenset[Address]
    pods: Network
    services: Network
    networks: tuple[tuple[int, int], ...] = ()
    """What ``Region`` counts, as ``hashing.read_endpoints`` takes it."""

    def __post_init__(self) -> None:
        parsed = (*_UNFIT, self.services, self.own_pods, self.pods)
        msgspec.structs.force_setattr(self, "networks", tuple((each.network.value, each.mask) for each in parsed))


class Region(IntEnum):
    """Where an IPv4 address lies, in the order of ``Place.networks``."""

    THIS_NETWORK = 0
    LOOPBACK = 1
    LINK_LOCAL = 2
    NO_UNICAST = 3
    SERVICES = 4
    OWN_PODS = 5
    PODS = 6
    ELSEWHERE = 7


_UNFIT: Final = tuple(map(Network.parse, ("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3")))
"""No endpoint's (RFC 6890, and core/v1's validation of endpoints)."""


class Slice(msgspec.Struct, frozen=True, gc=False):
    """The endpoints of one slice: ``addresses`` of 4 or 16 bytes and ``flags`` of one byte each, in the same order.

    ``kinds`` are the flags that occur. ``foreign``: some address is no pod's. ``strangers``: those that a pod is said
    to have, outside of the pod subnet; fine if they are a node's.
    """

    version: Literal[4, 6]
    addresses: bytes
    flags: bytes
    kinds: bytes
    ports: tuple[kube.EndpointPort, ...]
    foreign: bool
    strangers: tuple[str, ...]
    faults: tuple[Fault, ...]


def parse(slice_: kube.EndpointSlice, place: Place) -> Slice | None:
    """The slice as this node sees it; None for one of names (addressType FQDN), which nobody can translate to."""
    if slice_.address_type not in ("IPv4", "IPv6"):
        return None
    version: Literal[4, 6] = 4 if slice_.address_type == "IPv4" else 6
    endpoints = slice_.endpoints
    packed, regions = hashing.read_endpoints(endpoints, place.networks) if version == 4 else _read_ipv6(endpoints)
    faults: tuple[Fault, ...] = ()
    if regions.translate(None, _FIT_REGIONS):
        faults = tuple(_fault(slice_, number, each.address, regions[number]) for number, each in enumerate(endpoints))
        faults = tuple(fault for fault in faults if fault.reason)
        fit = [number for number, region in enumerate(regions) if region in _FIT_REGIONS]
        size = 4 if version == 4 else 16
        packed = b"".join(packed[number * size : (number + 1) * size] for number in fit)
        regions = bytes(regions[number] for number in fit)
        endpoints = tuple(endpoints[number] for number in fit)
    foreign = _ELSEWHERE in regions
    own = _own(packed, regions, place) if foreign else regions.translate(_OWN_PODS)
    flags = hashing.endpoint_flags(endpoints, own, place.node, place.zone)
    return Slice(
        version=version,
        addresses=packed,
        flags=flags,
        kinds=hashing.distinct(flags),
        ports=slice_.ports,
        foreign=foreign,
        strangers=tuple(_strangers(endpoints, regions)) if foreign else (),
        faults=faults,
    )


def _read_ipv6(endpoints: Iterable[kube.Endpoint]) -> tuple[bytes, bytes]:
    """As ``hashing.read_endpoints``. The pod subnet is IPv4's, so that all are elsewhere."""
    packed, regions = bytearray(), bytearray()
    for endpoint in endpoints:
        try:
            address = Address.parse(endpoint.address)
        except ValueError:
            address = None
        readable = address is not None and address.version == 6
        packed += address.packed if address is not None and readable else bytes(16)
        regions.append(Region.ELSEWHERE if readable else hashing.UNREADABLE)
    return bytes(packed), bytes(regions)


_ELSEWHERE: Final = int(Region.ELSEWHERE)
_FIT_REGIONS: Final = bytes((Region.OWN_PODS, Region.PODS, Region.ELSEWHERE))
_OWN_PODS: Final = bytes(region == Region.OWN_PODS for region in range(256))


def _fault(slice_: kube.EndpointSlice, number: int, text: str, region: int) -> Fault:
    match region:
        case Region.OWN_PODS | Region.PODS | Region.ELSEWHERE:
            reason = ""
        case Region.SERVICES:
            reason = f"{text} lies in the service CIDR; left out: name a pod's or a host's address"
        case hashing.UNREADABLE:
            reason = f"{text!r} is no {slice_.address_type} address; left out"
        case _:
            reason = f"{text} is no unicast address that a node can route; left out"
    return Fault(f"EndpointSlice {slice_.namespace}/{slice_.name}", f"endpoints[{number}].addresses[0]", reason)


def _strangers(endpoints: Iterable[kube.Endpoint], regions: bytes) -> Iterator[str]:
    """The addresses that a pod is said to have, outside of the pod subnet."""
    for endpoint, region in zip(endpoints, regions, strict=True):
        if region == Region.ELSEWHERE and endpoint.is_pod:
            yield endpoint.address


def _own(packed: bytes, regions: bytes, place: Place) -> bytes:
    """Which addresses are this node's or its pods', a byte each."""
    size = len(packed) // len(regions)
    own = {address.packed for address in place.own_addresses}
    return bytes(
        region == Region.OWN_PODS or packed[number * size : (number + 1) * size] in own
        for number, region in enumerate(regions)
    )


def choose(kinds: Iterable[int], *, local: bool, publish_not_ready: bool, distribution: str) -> Choice | None:
    """Which endpoints serve, from the flags that occur among them; None when nobody does.

    ``local``: a traffic policy Local, this node's alone. ``publish_not_ready``: readiness does not count.
    ``distribution`` is the service's trafficDistribution; it speaks where the slices carry no hints.
    """
    return _choose(bytes(kinds), local, publish_not_ready, distribution)


@lru_cache(maxsize=CASES)
def _choose(kinds: bytes, local: bool, publish_not_ready: bool, distribution: str) -> Choice | None:
    scope = LOCAL if local else 0
    ready = 0 if publish_not_ready else READY
    usable = [kind for kind in kinds if kind & ready == ready and kind & scope == scope]
    if not usable:
        draining = DRAINING | scope
        return (draining, draining) if any(kind & draining == draining for kind in kinds) else None
    near = 0 if local else _near(usable, distribution)
    want = ready | scope | near
    return (want, want)


def _near(usable: list[int], distribution: str) -> int:
    """The flag that narrows the choice: hints if all endpoints have some and one fits, else the service's wish."""
    if all(kind & NODE_HINTED for kind in usable) and any(kind & NODE for kind in usable):
        return NODE
    if all(kind & ZONE_HINTED for kind in usable) and any(kind & ZONE for kind in usable):
        return ZONE
    if any(kind & (NODE_HINTED | ZONE_HINTED) for kind in usable):
        return 0
    if distribution == PREFER_NODE and any(kind & LOCAL for kind in usable):
        return LOCAL
    if distribution in PREFER_ZONE and any(kind & SAME_ZONE for kind in usable):
        return SAME_ZONE
    return 0


def ready_here(slices: Iterable[Slice]) -> int:
    """How many different ready endpoints this node has: what a health check reports."""
    here = READY | LOCAL
    found = set()
    for each in slices:
        size = 4 if each.version == 4 else 16
        for number, flags in enumerate(each.flags):
            if flags & here == here:
                found.add(each.addresses[number * size : (number + 1) * size])
    return len(found)
