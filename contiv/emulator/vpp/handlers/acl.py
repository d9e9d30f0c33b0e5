"""Access lists and the interfaces that check them (plugins/acl/acl.api). MAC-IP lists are not emulated."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from contiv.emulator.vpp import acl
from contiv.emulator.vpp.acl_rules import RULE, TAG_LENGTH, read_rules
from contiv.emulator.vpp.handlers import WireMessage, from_wire
from contiv.emulator.vpp.interface import NO_INTERFACE
from contiv.emulator.vpp.refusal import Refusal
from contiv.vpp.api import builtin_schema

if TYPE_CHECKING:
    from collections.abc import Iterable

    from contiv.emulator.vpp.acl_rules import AccessList
    from contiv.emulator.vpp.handlers import Fields
    from contiv.emulator.vpp.machine import Machine

VERSION: Final = (1, 4)
"""ACL_PLUGIN_VERSION_MAJOR and _MINOR."""
EVERY: Final = 0xFFFFFFFF
_PUT: Final = struct.Struct(f">HIII{TAG_LENGTH}sI")
"""acl_add_replace before its rules: number, client, context, index, tag, count."""


class AclHandlers:
    """Handlers of the ACL plugin."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._acl = machine.graph.acl

    def acl_plugin_get_version(self, message: Any) -> Fields:
        return {"major": VERSION[0], "minor": VERSION[1]}

    def acl_plugin_get_conn_table_max_entries(self, message: Any) -> Fields:
        return {"conn_table_max_entries": self._acl.sessions.sessions_max}

    @from_wire
    def acl_add_replace(self, message: WireMessage) -> Fields:
        _, _, _, index, tag, count = _PUT.unpack_from(message.data)
        try:
            rules = read_rules(_records(message.data, count))
            index = self._acl.put(index, tag=tag.partition(b"\0")[0], rules=rules)
        except Refusal as refusal:
            return {"retval": refusal.retval, "acl_index": index}
        return {"acl_index": index}

    def acl_del(self, message: Any) -> None:
        self._acl.delete(message.acl_index)

    def acl_dump(self, message: Any) -> Iterable[Fields]:
        lists = self._acl.lists
        wanted = sorted(lists) if message.acl_index == EVERY else [message.acl_index]
        return [_details(lists[index]) for index in wanted if index in lists]

    def acl_interface_add_del(self, message: Any) -> None:
        interface = self._machine.interface(message.sw_if_index)
        change = self._acl.append if message.is_add else self._acl.remove
        change(interface, message.acl_index, is_input=bool(message.is_input))

    def acl_interface_set_acl_list(self, message: Any) -> Fields:
        interface = self._machine.interface(message.sw_if_index)
        lists = list(message.acls)
        if any(index not in self._acl.lists for index in lists):
            raise Refusal("NO_SUCH_ENTRY")
        try:
            self._acl.set_lists(interface, lists[message.n_input :], is_input=False)
            self._acl.set_lists(interface, lists[: message.n_input], is_input=True)
        except Refusal:
            return {"retval": acl.FAILED}
        return {}

    def acl_interface_list_dump(self, message: Any) -> Iterable[Fields]:
        for interface in self._machine.interfaces:
            if message.sw_if_index in {NO_INTERFACE, interface.index}:
                inputs, outputs = (list(self._acl.applied(interface.index, is_input=side)) for side in (True, False))
                yield {
                    "sw_if_index": interface.index, "count": len(inputs) + len(outputs), "n_input": len(inputs),
                    "acls": inputs + outputs,
                }  # fmt: skip

    def acl_stats_intf_counters_enable(self, message: Any) -> None:
        self._acl.counters_enabled = bool(message.enable)


def _records(data: bytes, count: int) -> bytes:
    """The rules' records in a message that should hold ``count`` (verify_message_len)."""
    end = _PUT.size + count * RULE.size
    if len(data) < end:
        raise Refusal("INVALID_VALUE")
    return data[_PUT.size : end]


def _details(access_list: AccessList) -> Fields:
    records = b"".join(rule.packed() for rule in access_list.rules)
    rules = np.frombuffer(records, builtin_schema().dtype("acl_rule"))
    return {"acl_index": access_list.index, "tag": access_list.tag, "count": len(rules), "r": rules}
