"""Classify tables, input ACLs made of them, and features by name (vnet/classify/classify.api, feature/feature.api).

Tables match from the IP header on, sessions set the IPv4 table or nothing: what is more is refused as unimplemented.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from contiv.emulator.vpp.classify import Session, Table
from contiv.emulator.vpp.features import ARCS
from contiv.emulator.vpp.interface import NO_INTERFACE
from contiv.emulator.vpp.refusal import Refusal

if TYPE_CHECKING:
    from collections.abc import Iterable

    from contiv.emulator.vpp.handlers import Fields
    from contiv.emulator.vpp.machine import Machine

VECTOR: Final = 16
NONE: Final = 0xFFFFFFFF
NO_ACTION, SET_IP4_TABLE = 0, 1
"""``vl_api_classify_action_t``."""


class ClassifyHandlers:
    """Handlers about what matches bytes; and the two about features."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._classifier = machine.graph.classifier

    def classify_add_del_table(self, message: Any) -> Fields:
        if not message.is_add:
            self._classifier.table(message.table_index)
            self._classifier.tables.remove(message.table_index)
            return {"new_table_index": NONE, "skip_n_vectors": 0, "match_n_vectors": 0}
        if message.table_index != NONE or message.current_data_flag:
            raise Refusal("UNIMPLEMENTED")
        skip, count, mask = message.skip_n_vectors, message.match_n_vectors, bytes(message.mask)
        if not 1 <= count <= 5 or not message.nbuckets or len(mask) != (skip + count) * VECTOR:
            raise Refusal("INVALID_VALUE")
        table = Table(
            skip=skip * VECTOR, mask=mask[skip * VECTOR :], buckets=message.nbuckets,
            next_table=message.next_table_index, miss_next_index=message.miss_next_index,
        )  # fmt: skip
        index = self._classifier.tables.put(table)
        return {"new_table_index": index, "skip_n_vectors": skip, "match_n_vectors": count}

    def classify_add_del_session(self, message: Any) -> None:
        table = self._classifier.table(message.table_index)
        match = bytes(message.match)
        if len(match) != table.skip + len(table.mask):
            raise Refusal("INVALID_VALUE")
        key = table.masked(match[table.skip :])
        if not message.is_add:
            if table.sessions.pop(key, None) is None:
                raise Refusal("NO_SUCH_ENTRY")
            return
        action = int(message.action)
        if action not in {NO_ACTION, SET_IP4_TABLE}:
            raise Refusal("UNIMPLEMENTED")
        fib = self._machine.fib(4, message.metadata) if action == SET_IP4_TABLE else None
        table.sessions[key] = Session(
            match=match, fib=fib, opaque_index=message.opaque_index, advance=message.advance,
            hit_next_index=message.hit_next_index,
        )  # fmt: skip

    def classify_table_ids(self, message: Any) -> Fields:
        ids = [index for index, _ in self._classifier.tables.items()]
        return {"count": len(ids), "ids": ids}

    def classify_session_dump(self, message: Any) -> Iterable[Fields]:
        table = self._classifier.tables.get(message.table_id)
        for session in table.sessions.values() if table is not None else ():
            yield {
                "table_id": message.table_id, "hit_next_index": session.hit_next_index, "advance": session.advance,
                "opaque_index": session.opaque_index, "match_length": len(session.match), "match": session.match,
            }  # fmt: skip

    def classify_table_by_interface(self, message: Any) -> Fields:
        interface = self._machine.interface(message.sw_if_index)
        table = self._classifier.inputs.get(interface.index, NONE)
        return {"sw_if_index": interface.index, "l2_table_id": NONE, "ip4_table_id": table, "ip6_table_id": NONE}

    def input_acl_set_interface(self, message: Any) -> None:
        interface = self._machine.interface(message.sw_if_index)
        if message.ip6_table_index != NONE or message.l2_table_index != NONE:
            raise Refusal("UNIMPLEMENTED")
        if message.ip4_table_index == NONE:
            return
        self._classifier.table(message.ip4_table_index)
        if not message.is_add and self._classifier.inputs.get(interface.index) != message.ip4_table_index:
            raise Refusal("NO_SUCH_TABLE")
        self._classifier.set_input(interface, message.ip4_table_index if message.is_add else None)

    # -- features ---------------------------------------------------------------------------------------------------

    def feature_enable_disable(self, message: Any) -> None:
        """Taking any away, and putting in those whose node is known by name."""
        interface = self._machine.interface(message.sw_if_index)
        arc, feature, features = message.arc_name, message.feature_name, self._machine.graph.features
        if arc not in ARCS:
            raise Refusal("INVALID_VALUE")
        if not message.enable:
            features.disable(interface, arc, feature=feature)
            return
        node = features.declared(arc, feature)
        if node is None:
            raise Refusal("UNIMPLEMENTED")
        features.enable(interface, arc, feature=feature, node=node)

    def feature_is_enabled(self, message: Any) -> Fields:
        if message.arc_name not in ARCS:
            raise Refusal("INVALID_VALUE")
        if message.sw_if_index == NO_INTERFACE:
            raise Refusal("INVALID_SW_IF_INDEX")
        interface = self._machine.interface(message.sw_if_index)
        enabled = self._machine.graph.features.enabled(interface, message.arc_name)
        return {"is_enabled": message.feature_name in enabled}
