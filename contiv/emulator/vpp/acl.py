"""The ACL plugin: lists in a pool, which of them each interface checks, and the nodes that check packets.

``AclPlugin`` keeps what the API sets, with VPP's refusals; ``Gate`` is one side of one interface, its ``check4`` and
``check6`` are the nodes acl-plugin-in-ip4-fa and its three siblings. A packet of a known session passes without the
lists being asked, so a rule that changes in place does not touch established connections, and a list that comes or
goes clears the interface's sessions, as on VPP (plugins/acl/acl.c, dataplane_node.c). With ``reclassify`` a session
whose list has changed is judged anew by its next packet in the direction that made it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from contiv.emulator.vpp.acl_flow import Flow, flow4, flow6
from contiv.emulator.vpp.acl_rules import TAG_LENGTH, AccessList, Action, Chain
from contiv.emulator.vpp.acl_sessions import Key, Session, SessionTable, key_of, place, reverse_of
from contiv.emulator.vpp.features import CONTINUE
from contiv.emulator.vpp.refusal import Refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from contiv.emulator.vpp.acl_rules import Rule
    from contiv.emulator.vpp.counters import ErrorCounters
    from contiv.emulator.vpp.features import FeatureArcs
    from contiv.emulator.vpp.interface import Interface
    from contiv.emulator.vpp.packet import Node, Packet

NEW: Final = 0xFFFFFFFF
"""The index of a list that is yet to be made."""
FAILED: Final = 1
"""What acl_interface_set_acl_list answers for a list that it does not take: its handler makes a truth value of it."""
_IN_USE: Final = {True: "ACL_IN_USE_INBOUND", False: "ACL_IN_USE_OUTBOUND"}


class Gate:
    """One side of an interface that has lists."""

    def __init__(self, plugin: AclPlugin, interface: Interface, *, is_input: bool, epoch: int) -> None:
        self.lists: list[int] = []
        self.chain = Chain(())
        self.epoch = epoch
        self.open = True
        """No list: the nodes are not on the interface's arcs."""
        self._plugin = plugin
        self._interface = interface.index
        self._is_input = is_input
        self._place = place(interface.index, is_input=is_input)
        self._sessions = plugin.sessions
        self._counts = plugin.errors.by_reason
        side = "in" if is_input else "out"
        self._names = {4: f"acl-plugin-{side}-ip4-fa", 6: f"acl-plugin-{side}-ip6-fa"}
        self._checked = {version: (name, "checked packets") for version, name in self._names.items()}
        self._existing = {version: (name, "existing session packets") for version, name in self._names.items()}

    def check4(self, packet: Packet) -> Node | None:
        """acl-plugin-in-ip4-fa, acl-plugin-out-ip4-fa."""
        return self._check(packet, 4, flow4(packet))

    def check6(self, packet: Packet) -> Node | None:
        """acl-plugin-in-ip6-fa, acl-plugin-out-ip6-fa."""
        return self._check(packet, 6, flow6(packet))

    def _check(self, packet: Packet, version: int, flow: Flow) -> Node | None:
        sessions = self._sessions
        now = sessions.clock()
        if now >= sessions.due:
            sessions.work(now)
        self._counts[self._checked[version]] += 1
        key = key_of(flow, self._place)
        session = sessions.find(key)
        if session is not None:
            self._counts[self._existing[version]] += 1
            if sessions.passed(session, is_input=self._is_input, tcp_flags=flow[3], now=now):
                self._counts[self._names[version], "restart session timer"] += 1
            if not self._is_stale(session):
                return CONTINUE
            sessions.restarted[self._interface] += 1
            sessions.delete(session, now=now)
        action = self.chain.judge(version, flow).action
        if action == Action.REFLECT:
            return self._remember(packet, version, flow, key)
        if action != Action.DENY:
            self._counts[self._names[version], "ACL permit packets"] += 1
            return CONTINUE
        self._plugin.errors.drop(packet, self._names[version], "ACL deny packets")
        return None

    def _is_stale(self, session: Session) -> bool:
        """Whether the lists have changed since the session was made here (stale_session_deleted)."""
        return self._plugin.reclassify and session.is_input is self._is_input and session.epoch != self.epoch

    def _remember(self, packet: Packet, version: int, flow: Flow, key: Key) -> Node | None:
        sessions = self._sessions
        now = sessions.clock()
        session = Session(
            key,
            reverse_of(key, version=version),
            interface=self._interface,
            is_input=self._is_input,
            epoch=self.epoch,
        )
        if not sessions.add(session, now=now):
            self._plugin.errors.drop(packet, self._names[version], "too many sessions to add new")
            return None
        sessions.passed(session, is_input=self._is_input, tcp_flags=flow[3], now=now)
        self._counts[self._names[version], "new sessions added"] += 1
        return CONTINUE


class AclPlugin:
    """Lists, gates and sessions of one machine."""

    def __init__(self, features: FeatureArcs, errors: ErrorCounters, clock: Callable[[], float]) -> None:
        self.errors = errors
        self.sessions = SessionTable(clock)
        self.reclassify = False
        self.counters_enabled = False
        """Whether VPP would count matches in its stats segment, which the emulated one does not have."""
        self.lists: dict[int, AccessList] = {}
        self._features = features
        self._free: list[int] = []
        self._gates: dict[tuple[int, bool], Gate] = {}
        self._epochs: dict[tuple[int, bool], int] = {}
        """Of interfaces that are gone: sessions outlive them, and must be stale for the next with the index."""

    # -- lists ------------------------------------------------------------------------------------------------------

    def put(self, index: int, *, tag: bytes, rules: Iterable[Rule]) -> int:
        """Make a list (``NEW``) or replace one in place; its index. Refusal NO_SUCH_ENTRY, INVALID_VALUE (tag)."""
        if len(tag) >= TAG_LENGTH:
            raise Refusal("INVALID_VALUE")
        if index != NEW and index not in self.lists:
            raise Refusal("NO_SUCH_ENTRY")
        if index == NEW:
            index = self._free.pop() if self._free else len(self.lists)
        self.lists[index] = AccessList(index, tag, tuple(rules))
        for gate in self._gates.values():
            if index in gate.lists:
                gate.epoch += self.reclassify
                self._load(gate)
        return index

    def delete(self, index: int) -> None:
        """Delete a list that no interface uses. Refusal NO_SUCH_ENTRY, ACL_IN_USE_INBOUND, ACL_IN_USE_OUTBOUND."""
        if index not in self.lists:
            raise Refusal("NO_SUCH_ENTRY")
        for is_input in (True, False):
            if self.users(index, is_input=is_input):
                raise Refusal(_IN_USE[is_input])
        del self.lists[index]
        self._free.append(index)

    def users(self, index: int, *, is_input: bool) -> list[int]:
        """The interfaces that check a list on one side."""
        gates = self._gates.items()
        return [number for (number, side), gate in gates if side is is_input and index in gate.lists]

    # -- interfaces -------------------------------------------------------------------------------------------------

    def applied(self, interface: int, *, is_input: bool) -> Sequence[int]:
        """The lists of one side of an interface, in order."""
        gate = self._gates.get((interface, is_input))
        return gate.lists if gate is not None else ()

    def epoch(self, interface: int, *, is_input: bool) -> int | None:
        """How often the lists of a side have changed while ``reclassify`` was on; None before the first time."""
        gate = self._gates.get((interface, is_input))
        return gate.epoch if gate is not None and gate.epoch else None

    def set_lists(self, interface: Interface, lists: Sequence[int], *, is_input: bool) -> None:
        """Put lists on one side of an interface in place of those before; none opens it.

        Refusal NO_SUCH_ENTRY for one that does not exist, ENTRY_ALREADY_EXISTS for one that comes twice.
        """
        for position, index in enumerate(lists):
            if index not in self.lists:
                raise Refusal("NO_SUCH_ENTRY")
            if index in lists[:position]:
                raise Refusal("ENTRY_ALREADY_EXISTS")
        gate = self._gate(interface, is_input=is_input)
        others = set(gate.lists) != set(lists)
        gate.lists = list(lists)
        if self.reclassify:
            gate.epoch += 1
        elif others:
            self.sessions.clear(interface.index)
        self._load(gate)
        if gate.open is bool(lists):
            gate.open = not lists
            self._switch(interface, gate, is_input=is_input)

    def append(self, interface: Interface, index: int, *, is_input: bool) -> None:
        """One more list at the end. Refusal ACL_IN_USE_INBOUND or ACL_IN_USE_OUTBOUND when it is there already."""
        lists = self.applied(interface.index, is_input=is_input)
        if index in lists:
            raise Refusal(_IN_USE[is_input])
        self.set_lists(interface, [*lists, index], is_input=is_input)

    def remove(self, interface: Interface, index: int, *, is_input: bool) -> None:
        """Take a list off; the last one takes its place, as VPP's vectors do. Refusal NO_SUCH_ENTRY."""
        lists = list(self.applied(interface.index, is_input=is_input))
        if index not in lists:
            raise Refusal("NO_SUCH_ENTRY")
        last = lists.pop()
        if last != index:
            lists[lists.index(index)] = last
        self.set_lists(interface, lists, is_input=is_input)

    def forget(self, interface: Interface) -> None:
        """An interface goes, with its arcs: its lists are free. VPP leaves its sessions alone, and so do we."""
        for side in ((interface.index, False), (interface.index, True)):
            gate = self._gates.pop(side, None)
            if gate is not None:
                self._epochs[side] = gate.epoch + self.reclassify

    # -- inside -----------------------------------------------------------------------------------------------------

    def _gate(self, interface: Interface, *, is_input: bool) -> Gate:
        side = interface.index, is_input
        gate = self._gates.get(side)
        if gate is None:
            gate = self._gates[side] = Gate(self, interface, is_input=is_input, epoch=self._epochs.get(side, 0))
        return gate

    def _load(self, gate: Gate) -> None:
        gate.chain = Chain(self.lists[index] for index in gate.lists)

    def _switch(self, interface: Interface, gate: Gate, *, is_input: bool) -> None:
        """Put a gate's nodes on the arcs of its interface, or take them off where it has become open."""
        side, arc = ("in", "unicast") if is_input else ("out", "output")
        for version, node in ((4, gate.check4), (6, gate.check6)):
            name = f"ip{version}-{arc}"
            feature = f"acl-plugin-{side}-ip{version}-fa"
            if gate.open:
                self._features.disable(interface, name, feature=feature)
            else:
                self._features.enable(interface, name, feature=feature, node=node)
        if gate.open and not any(self.applied(interface.index, is_input=way) for way in (False, True)):
            self.sessions.clear(interface.index)
