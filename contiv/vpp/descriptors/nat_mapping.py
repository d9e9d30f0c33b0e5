"""Load-balancing mappings of NAT44-ED: a service's address and port, and the backends behind it.

VPP keeps a mapping's backends ("locals") in a list that single messages extend and shorten, so that a change of one
backend is one message, and the connections of all others stay. It refuses a mapping of fewer than two, which would
make the step between one backend and two a deletion, and a deletion ends every connection. So each mapping carries one
more record, the **anchor**: weight 0, port 0. VPP draws a number from 1 to the sum of the weights and takes the first
backend whose running sum reaches it (nat44_ed.c, snat_static_mapping_match): never one that adds nothing to the sum.
With several workers VPP sorts backends by the worker of their address, so there the anchor stands at the address of a
backend and moves when that one goes.

Removing a backend makes VPP delete the sessions to its address and port, by whichever mapping they came. That is right
for a backend that is gone from all of them. Where connections must live on, because its weight changes (to 0 while it
drains) or because it serves another service too, it leaves the list by another door: the deletion of an identity
mapping takes all locals of one VRF out of whatever mapping has the address, and deletes sessions of identities alone
(nat44_ed.c, nat44_ed_del_static_mapping_internal). Everybody who stays comes back in the same batch, which VPP reads at
once but for what exceeds 4096 bytes. Anchor and **guard**, in a VRF of their own, keep the mapping there and the sum of
its weights above zero, by which VPP divides. Workers go on between two messages, so with several of them connections
end after all. UDP sockets move on all the same: the sessions of theirs that the mapping had made are ended one by one.

What VPP does not do is forget which client had a backend by affinity: it remembers places in the list, and a place that
was vacated still holds the one that is gone. So under affinity a backend goes only where another takes its place at
once, or with the whole mapping.

Tags are ``contiv:<affinity in seconds>:<label>``: no dump tells the affinity.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from contiv.errors import VppError
from contiv.fastpath import Columns, Ragged
from contiv.model import vpp as model
from contiv.model.ip import Address
from contiv.scheduler.descriptor import Actual, Dependency, Descriptor
from contiv.vpp.api import builtin_schema
from contiv.vpp.descriptors.base import NO_INDEX, OWNER, Api, lacks, remove
from contiv.vpp.descriptors.nat import (
    MAIN_VRF,
    ON_NAT,
    OUT2IN_ONLY,
    SELF_TWICE_NAT,
    SETTINGS,
    TWICE_NAT,
    NatInterfaceDescriptor,
)
from contiv.vpp.descriptors.nat_sessions import end_sessions
from contiv.vpp.descriptors.nat_users import Users
from contiv.vpp.errors import VppApiError

TAG_MAX: Final = 63
"""Characters of a tag: 64 with the NUL."""
WEIGHT: Final = 6
"""Offset of the weight in a backend's record; before it address and port, after it the VRF."""
SIZE: Final = model.NAT_LOCAL_SIZE
DUMP_TIMEOUT_S: Final = 60.0
WORKER: Final = "workers"
ADDRESS: Final = slice(0, 6)
"""Address and port in a backend's record: what VPP knows sessions by."""
UDP: Final = 17
ANCHOR_VRF: Final = 0x616E6368
"""A table that nobody else has (the letters "anch"); there are no routes in it."""
ANCHOR_TAIL: Final = bytes(3) + ANCHOR_VRF.to_bytes(4, "big")

Step = tuple[bool, bytes]
"""Add (true) or remove a backend's record."""
EMPTIED: Final[Step] = (False, b"")
"""All backends leave the list, and no connection ends."""
GUARD: Final = bytes(6) + b"\1" + ANCHOR_VRF.to_bytes(4, "big")
"""Stands in the list while it is empty: a connection that meets it waits for its next SYN."""


class NatMappingDescriptor(Descriptor[model.NatMapping, bytes]):
    """``vpp/nat-mapping/<protocol>/<address>/<port>``; the metadata is the anchor's record."""

    name = "vpp/nat-mapping"
    prefix = model.NAT_MAPPING
    retrieve_after = (SETTINGS,)
    # An interface that becomes outside costs VPP a FIB entry for each mapping that is there, found by a linear search,
    # and leaves the entry behind when the mapping goes (nat44_ed.c, nat44_ed_add_del_sm_fib_reg_entries).
    create_after = (NatInterfaceDescriptor.name,)
    create_at_once = 1024  # VPP works on the first while the next are made

    def __init__(self, api: Api) -> None:
        self._api = api
        self._workers: int | None = None
        self._users = Users()

    def dependencies(self, key: str, value: model.NatMapping) -> Iterable[Dependency]:
        return _NEEDS

    def equivalent(self, key: str, old: model.NatMapping, new: model.NatMapping) -> bool:
        return old == new or (old.backends == new.backends and not _differ(old, new))

    def must_recreate(self, key: str, old: model.NatMapping, new: model.NatMapping) -> bool:
        if _problem(new):
            return False  # the update refuses it, and what is there serves on
        return _differ(old, new) or self._way(old, new, self._spared(key, old, new)) is None

    async def create(self, key: str, value: model.NatMapping) -> bytes:
        (made,) = await self.create_many([(key, value)])
        if isinstance(made, BaseException):
            raise made
        return made

    async def create_many(self, items: Sequence[tuple[str, model.NatMapping]]) -> Sequence[bytes | BaseException]:
        results: dict[str, bytes | BaseException] = {}
        sound: dict[str, model.NatMapping] = {}
        for key, value in items:
            problem = _problem(value)
            if problem:
                results[key] = _refusal(value, problem)
            else:
                sound[key] = value
        results |= await self._add(sound)
        standing: dict[str, model.NatMapping] = {}
        for key, made in results.items():
            if not isinstance(made, BaseException):
                self._users.put(key, sound[key])
            elif _exists(made):
                standing[key] = sound[key]
        if standing:
            ours = await self._remove_ours(standing)
            results |= await self._add(ours)
            for key, value in ours.items():
                self._users.put(key, value)
        return [results[key] for key, _ in items]

    async def update(self, key: str, old: model.NatMapping, new: model.NatMapping, metadata: bytes) -> bytes:
        problem = _problem(new)
        if problem:
            raise _refusal(new, problem)
        spared = self._spared(key, old, new)
        way = self._way(old, new, spared)
        if way is None:
            raise _refusal(new, "takes a recreate")
        anchor = metadata
        if not _stands(anchor, new.backends) and await self._many_workers():
            anchor = _anchor(new.backends)
            way = [*way, (True, anchor), (False, metadata)]
        self._users.put(key, new)
        await self._walk(new, way)
        await self._move_on(new, spared)
        return anchor

    async def delete(self, key: str, value: model.NatMapping, metadata: bytes) -> None:
        self._users.drop(key)
        spared = self._users.shared(key, _gone(value.backends, b""))
        if spared and self._gently(value):  # only those that serve nowhere else are there when the mapping goes
            ended = [record for record in _records(value.backends) if record[ADDRESS] not in spared]
            await self._walk(value, [(True, GUARD), EMPTIED, *((True, record) for record in ended)])
        fields = {**_frontend(value), "flags": _flags(value), "affinity": value.affinity_s}
        await remove(self._api, "nat44_add_del_lb_static_mapping", is_add=False, local_num=0, locals=[], **fields)
        await self._move_on(value, spared)

    def _way(self, old: model.NatMapping, new: model.NatMapping, spared: Collection[bytes]) -> list[Step] | None:
        """From the backends of one to those of the other, of which ``spared`` leave gently; None where a recreate is
        due."""
        if not self._gently(old) or not self._gently(new):
            return steps(old.backends, new.backends, sticky=bool(new.affinity_s))
        return gentle_steps(old.backends, new.backends, spared)

    def _spared(self, key: str, old: model.NatMapping, new: model.NatMapping) -> set[bytes]:
        """Backends that leave and serve another service too: their connections live on."""
        return self._users.shared(key, _gone(old.backends, new.backends), besides=old.label)

    async def _move_on(self, value: model.NatMapping, left: Iterable[bytes]) -> None:
        """End the sessions by which UDP sockets hold on to backends that ``left`` and were spared: such a socket would
        be sent there for as long as it sends."""
        if value.protocol == UDP:
            ends = ((Address(4, int.from_bytes(each[:4], "big")), int.from_bytes(each[4:], "big")) for each in left)
            await asyncio.gather(*(end_sessions(self._api, value, *end) for end in ends))

    def _gently(self, value: model.NatMapping) -> bool:
        """Whether backends may leave without an end to their connections."""
        room = sum(value.backends[WEIGHT::SIZE]) + GUARD[WEIGHT] <= model.NAT_WEIGHT_MAX
        return room and not value.affinity_s and (self._workers is None or self._workers <= 1)

    async def _walk(self, value: model.NatMapping, way: Iterable[Step]) -> None:
        """Take the steps; one that was taken before, by a try whose answer was lost, is fine."""
        way = list(way)
        replies = await self._api.batch([_message(value, step) for step in way], return_errors=True)
        for (is_add, _), reply in zip(way, replies, strict=True):
            done_before = "VALUE_EXIST" if is_add else "NO_SUCH_ENTRY"
            if isinstance(reply, BaseException) and getattr(reply, "name", "") != done_before:
                raise reply

    async def retrieve(self, wanted: Mapping[str, model.NatMapping]) -> Sequence[Actual[model.NatMapping, bytes]]:
        if lacks(self._api, "nat44_lb_static_mapping_dump"):
            return ()
        self._workers = await self._count_workers()
        found = _decode(await self._api.dump_many("nat44_lb_static_mapping", timeout_s=DUMP_TIMEOUT_S))
        self._users.replace({actual.key: actual.value for actual in found})
        return found

    async def _add(self, items: Mapping[str, model.NatMapping]) -> dict[str, bytes | BaseException]:
        if not items:
            return {}
        anchors = [_anchor(value.backends) for value in items.values()]
        columns = _columns(list(items.values()), anchors)
        replies = await self._api.call_many("nat44_add_del_lb_static_mapping", columns, check=False)
        return {
            key: VppApiError("nat44_add_del_lb_static_mapping", retval) if retval else anchor
            for key, anchor, retval in zip(items, anchors, replies["retval"].tolist(), strict=True)
        }

    async def _remove_ours(self, items: Mapping[str, model.NatMapping]) -> dict[str, model.NatMapping]:
        """Delete those that are there already and are ours, from an earlier try whose answer was lost; these."""
        there = {actual.key: actual for actual in await self.retrieve({})}
        ours = {key: value for key, value in items.items() if key in there}
        for key in ours:
            await self.delete(key, there[key].value, there[key].metadata)
        return ours

    async def _many_workers(self) -> bool:
        if self._workers is None:
            self._workers = await self._count_workers()
        return self._workers > 1

    async def _count_workers(self) -> int:
        threads = (await self._api.call("show_threads")).thread_data
        return sum(thread.type == WORKER for thread in threads)


_NEEDS: Final = (ON_NAT,)


def steps(old: bytes, new: bytes, *, sticky: bool) -> list[Step] | None:
    """The way from the backends ``old`` to ``new``, one message a step; None where there is none but a recreate.

    Additions come before removals wherever both have room: the sum of the weights never exceeds ``NAT_WEIGHT_MAX``,
    and one backend is there at every time. A changed weight is a removal and an addition, which ends the backend's
    connections. ``sticky`` (affinity): every removal is followed by the addition that takes its place.
    """
    before, after = _records(old), _records(new)
    adds = [record for record in after if record not in before]
    removals = [record for record in before if record not in after]
    if sticky and len(removals) > len(adds):
        return None
    weight = sum(before.values())
    standing = {_identity(record) for record in before}
    way: list[Step] = []
    while adds or removals:
        ready = None if sticky and removals and len(way) % 2 == 0 else _ready(adds, standing, room=weight)
        if ready is not None:
            adds.remove(ready)
            standing.add(_identity(ready))
            weight += ready[WEIGHT]
            way.append((True, ready))
        elif removals and weight > removals[0][WEIGHT] and not (sticky and len(way) % 2):
            gone = removals.pop(0)
            standing.discard(_identity(gone))
            weight -= gone[WEIGHT]
            way.append((False, gone))
        else:
            return None
    return way


def gentle_steps(old: bytes, new: bytes, spared: Collection[bytes] = ()) -> list[Step] | None:
    """The same, where connections end only to backends that leave and are not ``spared`` (address and port).

    Weights change by all backends leaving and coming back. The weights of neither side exceed ``NAT_WEIGHT_MAX`` less
    the guard's.
    """
    before, after = _records(old), _records(new)
    stay = {_identity(record) for record in after}
    removals = [record for record in before if record not in after]
    ended = [record for record in removals if _identity(record) not in stay and record[ADDRESS] not in spared]
    if len(ended) == len(removals):
        return steps(old, new, sticky=False)
    way: list[Step] = [(True, GUARD), *((False, record) for record in ended), EMPTIED]
    return [*way, *((True, record) for record in after), (False, GUARD)]


def _ready(adds: Iterable[bytes], standing: set[bytes], *, room: int) -> bytes | None:
    """An addition whose address and port are free and whose weight does not burst the sum."""
    for record in adds:
        if room + record[WEIGHT] <= model.NAT_WEIGHT_MAX and _identity(record) not in standing:
            return record
    return None


def _records(backends: bytes) -> dict[bytes, int]:
    """Records with their weights."""
    return {backends[at : at + SIZE]: backends[at + WEIGHT] for at in range(0, len(backends), SIZE)}


def _gone(old: bytes, new: bytes) -> set[bytes]:
    """Address and port of the backends that leave."""
    return {record[ADDRESS] for record in _records(old)} - {record[ADDRESS] for record in _records(new)}


def _identity(record: bytes) -> bytes:
    """What VPP knows a backend by: all but the weight."""
    return record[:WEIGHT] + record[WEIGHT + 1 :]


def _problem(value: model.NatMapping) -> str:
    """Why VPP must not be given the mapping; empty if it may. VPP itself would hang or divide by zero."""
    weights = value.backends[WEIGHT::SIZE]
    if value.address.version != 4:
        return "NAT44-ED has IPv4 alone"
    if not weights or len(value.backends) % SIZE:
        return f"backends of {len(value.backends)} bytes are no records of {SIZE} bytes"
    if len(weights) > model.NAT_BACKENDS_MAX:
        return f"{len(weights)} backends are more than {model.NAT_BACKENDS_MAX}; choose some of them"
    if not 0 < sum(weights) <= model.NAT_WEIGHT_MAX:
        return f"weights must sum up to 1 at least and {model.NAT_WEIGHT_MAX} at most, not {sum(weights)}"
    return ""


def _refusal(value: model.NatMapping, problem: str) -> VppError:
    return VppError(f"mapping of {value.address} port {value.port}: {problem}")


def _anchor(backends: bytes) -> bytes:
    """The anchor's record: the first backend's address, port and weight 0."""
    return backends[:4] + ANCHOR_TAIL


def _stands(anchor: bytes, backends: bytes) -> bool:
    """Whether a backend has the anchor's address."""
    return any(backends.startswith(anchor[:4], at) for at in range(0, len(backends), SIZE))


def _differ(old: model.NatMapping, new: model.NatMapping) -> bool:
    """Whether anything but the backends is different in VPP."""
    return old.hide_client != new.hide_client or _tag(old) != _tag(new)


def _tag(value: model.NatMapping) -> bytes:
    return f"{OWNER}{value.affinity_s}:{value.label}".encode("ascii", "replace")[:TAG_MAX]


def _flags(value: model.NatMapping) -> int:
    return OUT2IN_ONLY | (TWICE_NAT if value.hide_client else SELF_TWICE_NAT)


def _exists(made: bytes | BaseException) -> bool:
    return getattr(made, "name", "") == "VALUE_EXIST"


def _frontend(value: model.NatMapping) -> dict[str, Any]:
    return {"external_addr": str(value.address), "external_port": value.port, "protocol": value.protocol}


def _message(value: model.NatMapping, step: Step) -> tuple[str, dict[str, Any]]:
    is_add, record = step
    if step == EMPTIED:
        fields = {"ip_address": str(value.address), "port": value.port, "protocol": value.protocol, "flags": 0}
        return "nat44_add_del_identity_mapping", {
            "is_add": False, **fields, "sw_if_index": NO_INDEX, "vrf_id": MAIN_VRF, "tag": "",
        }  # fmt: skip
    backend = {
        "addr": record[:4],
        "port": int.from_bytes(record[4:WEIGHT], "big"),
        "probability": record[WEIGHT],
        "vrf_id": int.from_bytes(record[WEIGHT + 1 :], "big"),
    }
    return "nat44_lb_static_mapping_add_del_local", {"is_add": is_add, **_frontend(value), "local": backend}


def _columns(values: Sequence[model.NatMapping], anchors: Sequence[bytes]) -> dict[str, Any]:
    """The additions of all mappings as columns of one message."""
    n = len(values)
    joined = b"".join(part for value, anchor in zip(values, anchors, strict=True) for part in (value.backends, anchor))
    counts = np.fromiter((len(value.backends) // SIZE + 1 for value in values), np.uint32, n)
    element = builtin_schema().layout("nat44_add_del_lb_static_mapping").element
    assert element.itemsize == SIZE
    return {
        "is_add": np.ones(n, bool),
        "flags": np.fromiter(map(_flags, values), np.uint8, n),
        "external_addr": np.fromiter((value.address.value for value in values), np.uint32, n),
        "external_port": np.fromiter((value.port for value in values), np.uint16, n),
        "protocol": np.fromiter((value.protocol for value in values), np.uint8, n),
        "affinity": np.fromiter((value.affinity_s for value in values), np.uint32, n),
        "tag": np.array([_tag(value) for value in values], f"S{TAG_MAX + 1}"),
        "locals": Ragged(np.frombuffer(joined, element), counts),
    }


def _decode(dumped: Columns) -> list[Actual[model.NatMapping, bytes]]:
    """Our mappings among those dumped, backends sorted and without their anchors."""
    backends, ends, anchors = _sorted_locals(dumped)
    columns = zip(
        dumped["tag"].tolist(),
        dumped["external_addr"].view(">u4")[:, 0].tolist(),
        dumped["external_port"].tolist(),
        dumped["protocol"].tolist(),
        (dumped["flags"] & TWICE_NAT).tolist(),
        strict=True,
    )
    owner = OWNER.encode()
    found = []
    for place, (tag, address, port, protocol, hide_client) in enumerate(columns):
        if not tag.startswith(owner):
            continue
        affinity, _, label = tag[len(owner) :].decode("ascii", "replace").partition(":")
        anchor = anchors.get(place)
        value = model.NatMapping(
            address=Address(4, address),
            port=port,
            protocol=protocol,
            backends=backends[ends[place] : ends[place + 1]],
            affinity_s=int(affinity) if affinity.isdecimal() else 0,
            hide_client=bool(hide_client),
            # a mapping without anchor is not of our making: a label that nobody wants has it made anew
            label=label if anchor else "?",
        )
        found.append(Actual(key=model.key_of(value), value=value, metadata=anchor or _anchor(value.backends)))
    return found


def _sorted_locals(dumped: Columns) -> tuple[bytes, list[int], dict[int, bytes]]:
    """All backends in the order of mappings and records, where each mapping's end in it, and anchors by mapping."""
    assert dumped.elements is not None
    locals_: NDArray[Any] = dumped.elements
    owner = np.repeat(np.arange(dumped.n), dumped.counts)
    order = np.lexsort((_sort_key(locals_), owner))
    is_anchor = (locals_["probability"] == 0) & (locals_["port"] == 0) & (locals_["vrf_id"] == ANCHOR_VRF)
    is_backend = ~is_anchor[order]
    kept = locals_[order][is_backend]
    per_mapping = np.bincount(owner[order][is_backend], minlength=dumped.n)
    ends = np.concatenate(([0], np.cumsum(per_mapping))) * SIZE
    places = order[~is_backend]
    records = locals_[places].tobytes()
    anchors = {int(owner[place]): records[at * SIZE : (at + 1) * SIZE] for at, place in enumerate(places.tolist())}
    return kept.tobytes(), ends.tolist(), anchors


def _sort_key(locals_: NDArray[Any]) -> NDArray[np.uint64]:
    """Address, port and weight of each record as one number: two backends of a mapping differ in them."""
    raw = np.ascontiguousarray(locals_).view(np.uint8).reshape(-1, SIZE)
    wide = np.zeros((len(raw), 8), np.uint8)
    wide[:, 1:] = raw[:, : WEIGHT + 1]
    return wide.view(">u8")[:, 0].astype(np.uint64)
