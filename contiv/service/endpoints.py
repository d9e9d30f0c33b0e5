"""Endpoint slices, reduced to packed addresses and flags, and the choice of those that serve. Pure.

In: ``EndpointSlice`` objects as etcd has them. Out: a ``Slice`` each, a few bytes an endpoint, and for a service the
flags that its endpoints must have (``Choice``); ``contiv.fastpath.hashing`` picks by them. An address that no endpoint
can have is left out and reported; the others of its slice serve on.

The rules are kube-proxy's (kubernetes/pkg/proxy/topology.go, CategorizeEndpoints): ready endpoints, narrowed by the
topology hints where all of them have some; if there is none, those that still serve while they terminate.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from contiv.model import kube
from contiv.model.ip import Address, Network

READY: Final = 1
DRAINING: Final = 2
"""Not ready, but serving while it terminates."""
LOCAL: Final = 4
ZONE_HINTED: Final = 8
ZONE: Final = 16
"""Hinted for this node's zone."""
NODE_HINTED: Final = 32
NODE: Final = 64
"""Hinted for this node."""
SAME_ZONE: Final = 128

PREFER_NODE: Final = "PreferSameNode"
PREFER_ZONE: Final = frozenset({PREFER_NODE, "PreferSameZone", "PreferClose"})
"""core/v1 ServiceSpec.trafficDistribution; PreferClose is PreferSameZone's older name."""

Choice = tuple[int, int]
"""Mask and value: an endpoint is chosen when its flags, masked, equal the value."""


class Fault(msgspec.Struct, frozen=True, order=True):
    """What is wrong with an object, and where: ``Service default/web``, a field of it, a reason with its remedy."""

    object: str
    field: str
    reason: str


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where endpoints are judged from: this node, its zone ("" for none), its part and all of the pod subnet, …"""

    node: str
    zone: str
    own_pods: Network
    own_addresses: frozenset[Address]
    pods: Network
    services: Network


class Slice(msgspec.Struct, frozen=True, gc=False):
    """The endpoints of one slice: ``addresses`` of 4 or 16 bytes and ``flags`` of one byte each, in the same order.

    ``kinds`` are the flags that occur. ``foreign``: some address is no pod's. ``strangers``: those that a pod is said
    to have, outside of the pod subnet; fine if they are a node's.
    """

    version: int
    addresses: bytes
    flags: bytes
    kinds: bytes
    ports: tuple[kube.EndpointPort, ...]
    foreign: bool
    strangers: tuple[str, ...]
    faults: tuple[Fault, ...]


def parse(slice_: kube.EndpointSlice, place: Place) -> Slice | None:
    """The slice as this node sees it; None for one of names (addressType FQDN), which nobody can translate to."""
    version = {"IPv4": 4, "IPv6": 6}.get(slice_.address_type)
    if version is None:
        return None
    addresses: list[bytes] = []
    flags = bytearray()
    strangers: list[str] = []
    faults: list[Fault] = []
    foreign = False
    for number, endpoint in enumerate(slice_.endpoints):
        text = endpoint.addresses[0] if endpoint.addresses else ""
        try:
            packed = _pack(text, version, place)
        except ValueError as error:
            name = f"EndpointSlice {slice_.namespace}/{slice_.name}"
            faults.append(Fault(name, f"endpoints[{number}].addresses[0]", str(error)))
            continue
        value = int.from_bytes(packed, "big")
        outside = version == 4 and value & place.pods.mask != place.pods.value
        if outside:
            foreign = True
            if endpoint.target_ref is not None and endpoint.target_ref.kind == "Pod":
                strangers.append(text)
        addresses.append(packed)
        flags.append(_flags(endpoint, value, version, place))
    return Slice(
        version=version,
        addresses=b"".join(addresses),
        flags=bytes(flags),
        kinds=bytes(sorted(set(flags))),
        ports=slice_.ports,
        foreign=foreign,
        strangers=tuple(strangers),
        faults=tuple(faults),
    )


def _pack(text: str, version: int, place: Place) -> bytes:
    """The address in network order. ValueError, with a remedy, for one that no endpoint can have."""
    packed = _ipv4(text) if version == 4 else _ipv6(text)
    if version == 4:
        first = packed[0]
        if first in (0, 127) or first >= 224 or packed[:2] == b"\xa9\xfe":
            raise ValueError(f"{text} is no unicast address that a node can route; left out")
        if int.from_bytes(packed, "big") & place.services.mask == place.services.value:
            raise ValueError(
                f"{text} lies in the service CIDR {place.services}; left out: name a pod's or host's address"
            )
    return packed


def _ipv4(text: str) -> bytes:
    """Several times faster than the standard library's parser, and as strict: what it gives back must be the text."""
    try:
        packed = bytes(map(int, text.split(".")))
        if len(packed) == 4 and ".".join(map(str, packed)) == text:
            return packed
    except ValueError:
        pass  # said below, as for every other text
    raise ValueError(f"{text!r} is no IPv4 address; left out")


def _ipv6(text: str) -> bytes:
    try:
        address = Address.parse(text)
    except ValueError:
        address = None
    if address is None or address.version != 6:
        raise ValueError(f"{text!r} is no IPv6 address; left out")
    return address.packed


def _flags(endpoint: kube.Endpoint, value: int, version: int, place: Place) -> int:
    flags = 0
    if endpoint.ready:
        flags = READY
    elif endpoint.serving and endpoint.terminating:
        flags = DRAINING
    if endpoint.node_name:
        if endpoint.node_name == place.node:
            flags |= LOCAL
    elif _own(value, version, place):
        flags |= LOCAL
    if endpoint.zone and endpoint.zone == place.zone:
        flags |= SAME_ZONE
    if endpoint.zones:
        flags |= ZONE_HINTED | (ZONE if place.zone in endpoint.zones else 0)
    if endpoint.nodes:
        flags |= NODE_HINTED | (NODE if place.node in endpoint.nodes else 0)
    return flags


def _own(value: int, version: int, place: Place) -> bool:
    """Whether an endpoint that names no node is here all the same."""
    own = place.own_pods
    if version == own.version and value & own.mask == own.value & own.mask:
        return True
    return any(each.version == version and each.value == value for each in place.own_addresses)


def choose(kinds: Iterable[int], *, local: bool, publish_not_ready: bool, distribution: str) -> Choice | None:
    """Which endpoints serve, from the flags that occur among them; None when nobody does.

    ``local``: a traffic policy Local, this node's alone. ``publish_not_ready``: readiness does not count.
    ``distribution`` is the service's trafficDistribution; it speaks where the slices carry no hints.
    """
    kinds = list(kinds)
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
