"""Interfaces whose packets are looked up in another table than their own (VPP: src/vnet/ip/ip_in_out_acl.c).

An input ACL of a classify table does it: one session that every packet matches, with the action "set the IPv4 table".
It stands behind NAT44-ED in the arc, so NAT's sessions are still those of the interface's own table. A table that is
diverted to needs one classify table, made at the first use and removed after the last: it holds the table. A number of
ours in its session marks it, for classify tables have no names.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any, Final

from contiv.errors import VppError
from contiv.model import vpp as model
from contiv.scheduler.descriptor import Actual, Dependency, Descriptor
from contiv.vpp.descriptors.base import NO_INDEX, Api, Interfaces, remove
from contiv.vpp.descriptors.layer3 import INTERFACE_DESCRIPTOR, on_interface

VECTOR: Final = 16
"""Bytes of one match vector: an all-zero mask of one matches everything."""
SET_IP4_TABLE: Final = 1
"""CLASSIFY_API_ACTION_SET_IP4_FIB_INDEX; the session's metadata is the table's ID."""
MARK: Final = 0xC0_00_00_00
"""Plus the table's ID: the session's opaque index, which nothing in the IPv4 path reads."""
MEMORY: Final = 1 << 16


class DiversionDescriptor(Descriptor[model.Diversion, None]):
    """``vpp/diversion/<interface>``."""

    name = "vpp/diversion"
    prefix = model.DIVERSION
    retrieve_after = (*INTERFACE_DESCRIPTOR, "vpp/vrf")

    def __init__(self, api: Api, interfaces: Interfaces) -> None:
        self._api = api
        self._interfaces = interfaces
        self._classifiers: dict[int, int] = {}
        """Classify table by the ID of the table that it leads to."""
        self._users: set[tuple[int, str]] = set()
        """Tables and the interfaces that are diverted to them."""
        self._turn = asyncio.Lock()

    def dependencies(self, key: str, value: model.Diversion) -> Iterable[Dependency]:
        return (on_interface(value.interface), Dependency("vrf", model.vrf_key(value.table_id, 4)))

    def must_recreate(self, key: str, old: model.Diversion, new: model.Diversion) -> bool:
        return True

    async def create(self, key: str, value: model.Diversion) -> None:
        async with self._turn:
            if value.table_id not in self._classifiers:
                self._classifiers[value.table_id] = await self._make(value.table_id)
            self._users.add((value.table_id, value.interface))
        await self._set(value, self._classifiers[value.table_id], is_add=True)

    async def delete(self, key: str, value: model.Diversion, metadata: None) -> None:
        table_id = value.table_id
        if table_id not in self._classifiers:
            return
        await self._set(value, self._classifiers[table_id], is_add=False)
        async with self._turn:
            self._users.discard((table_id, value.interface))
            if not any(used == table_id for used, _ in self._users):
                await self._unmake(self._classifiers[table_id])
                del self._classifiers[table_id]

    async def retrieve(self, wanted: Mapping[str, model.Diversion]) -> Iterable[Actual[model.Diversion, None]]:
        async with self._turn:
            self._classifiers = await self._find()
            values = await self._dump()
            self._users = {(value.table_id, value.interface) for value in values}
            needed = {table_id for table_id, _ in self._users} | {value.table_id for value in wanted.values()}
            for table_id in self._classifiers.keys() - needed:  # its last user went, and then a call failed
                await self._unmake(self._classifiers.pop(table_id))
        return [Actual(key=model.key_of(value), value=value, metadata=None) for value in values]

    async def _dump(self) -> list[model.Diversion]:
        if not self._classifiers:
            return []
        leads_to = {classifier: table_id for table_id, classifier in self._classifiers.items()}
        ours = self._interfaces.items()
        replies = await asyncio.gather(
            *(self._api.call("classify_table_by_interface", sw_if_index=index) for _, index in ours)
        )
        return [
            model.Diversion(interface=name, table_id=leads_to[reply.ip4_table_id])
            for (name, _), reply in zip(ours, replies, strict=True)
            if reply.ip4_table_id in leads_to
        ]

    async def _set(self, value: model.Diversion, classifier: int, *, is_add: bool) -> None:
        fields = {
            "sw_if_index": self._interfaces.index(value.interface),
            "ip4_table_index": classifier,
            "ip6_table_index": NO_INDEX,
            "l2_table_index": NO_INDEX,
            "is_add": is_add,
        }
        if is_add:
            await self._api.call("input_acl_set_interface", **fields)
        else:
            await remove(self._api, "input_acl_set_interface", **fields)

    async def _find(self) -> dict[int, int]:
        found = {}
        for classifier in (await self._api.call("classify_table_ids")).ids:
            sessions = await self._api.dump("classify_session", table_id=classifier)
            if len(sessions) == 1 and sessions[0].opaque_index & MARK == MARK and sessions[0].opaque_index != NO_INDEX:
                found[sessions[0].opaque_index ^ MARK] = int(classifier)
        return found

    async def _make(self, table_id: int) -> int:
        reply = await self._api.call("classify_add_del_table", is_add=True, **_table(NO_INDEX))
        classifier = int(reply.new_table_index)
        try:
            await self._api.call(
                "classify_add_del_session", is_add=True, table_index=classifier, hit_next_index=NO_INDEX,
                opaque_index=MARK | table_id, advance=0, action=SET_IP4_TABLE, metadata=table_id, match_len=VECTOR,
                match=bytes(VECTOR),
            )  # fmt: skip
        except VppError:  # without its session nobody would find it again
            await self._unmake(classifier)
            raise
        return classifier

    async def _unmake(self, classifier: int) -> None:
        """The session first: a table that goes does not let go of what its sessions hold."""
        nothing = bytes(VECTOR)
        await remove(
            self._api, "classify_add_del_session", is_add=False, table_index=classifier, hit_next_index=NO_INDEX,
            opaque_index=NO_INDEX, advance=0, action=0, metadata=0, match_len=VECTOR, match=nothing,
        )  # fmt: skip
        await remove(self._api, "classify_add_del_table", is_add=False, **_table(classifier))


def _table(index: int) -> dict[str, Any]:
    """A table of IPv4 headers whose mask is empty."""
    return {
        "del_chain": False, "table_index": index, "nbuckets": 1, "memory_size": MEMORY, "skip_n_vectors": 0,
        "match_n_vectors": 1, "next_table_index": NO_INDEX, "miss_next_index": NO_INDEX, "current_data_flag": 0,
        "current_data_offset": 0, "mask_len": VECTOR, "mask": bytes(VECTOR),
    }  # fmt: skip
