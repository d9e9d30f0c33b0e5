"""NAT44-ED as the API sees it: switched on and off, its interfaces, addresses and mappings (nat44-ed/nat44_ed.c).

Who translates packets is ``nat44_nodes.py``; here is what must hold before and after. An interface that is outside, or
has the output feature, makes VPP answer for every pool address and every mapping that is known at that moment; plain
mappings that come later are added, balanced ones are not. With the first interface that is no longer outside all of
them go. Where VPP forgets or leaks so do we: the renderer has to live with it.

Refusals carry VPP's names. Not here: several workers, VRF tables, syslog and IPFIX, addresses and mappings that follow
an interface's address.
"""

from __future__ import annotations

from enum import IntFlag
from typing import TYPE_CHECKING, Final

import msgspec

from contiv.emulator.vpp import sources
from contiv.emulator.vpp.fib import Contribution, EntryFlag, Path, PathType
from contiv.emulator.vpp.nat44_mappings import Backend, Mapping, MappingFlag, MappingTable, Random
from contiv.emulator.vpp.nat44_nodes import Nat44Nodes
from contiv.emulator.vpp.nat44_sessions import SESSIONS_DEFAULT, Session, SessionFlag, SessionTable, Timeouts
from contiv.emulator.vpp.refusal import Refusal
from contiv.emulator.vpp.shallow import ShallowReassembly

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from contiv.emulator.vpp.fib import Fib
    from contiv.emulator.vpp.graph import Graph
    from contiv.emulator.vpp.interface import Interface
    from contiv.emulator.vpp.packet import Packet

NO_VRF: Final = 0xFFFFFFFF
_FEATURE: Final = {1: "nat-pre-in2out", 2: "nat-pre-out2in", 3: "nat44-ed-classify"}


class Side(IntFlag):
    """NAT_INTERFACE_FLAG_IS_*."""

    NONE = 0
    INSIDE = 1
    OUTSIDE = 2


class NatAddress:
    """An address that sources are translated to; bound to an interface that has it, when their tables are the same."""

    __slots__ = ("address", "fib", "interface", "length")

    def __init__(self, address: int, fib: Fib | None) -> None:
        self.address = address
        self.fib = fib
        self.interface = -1
        self.length: int | None = None

    def holds(self, other: int) -> bool:
        """Whether ``other`` is in the subnet of the interface that the address is bound to."""
        return self.length is not None and (self.address ^ other) >> (32 - self.length) == 0


class LocalSpec(msgspec.Struct, frozen=True, gc=False):
    """A local as the API gives it."""

    address: int
    port: int
    weight: int
    vrf_id: int


class Config(msgspec.Struct, frozen=True):
    """What the plugin was enabled with."""

    sessions: int = 0
    inside_vrf: int = 0
    outside_vrf: int = 0


class Nat44:
    """The plugin of one machine."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.enabled = False
        self.forwarding = False
        self.config = Config()
        self.buckets = 0
        self.random = Random()
        self.sessions = SessionTable(graph.clock)
        self.sessions.on_delete = self._released
        self.sessions.timeouts = Timeouts(0, 0, 0, 0)
        self.mappings = MappingTable(self.random, graph.clock)
        self.interfaces: dict[int, Side] = {}
        self.outputs: list[int] = []
        self.addresses: list[NatAddress] = []
        self.pool_addresses: set[int] = set()
        """The addresses of ``addresses``."""
        self.twice_addresses: list[NatAddress] = []
        self.outside_fibs: dict[int, int] = {}
        self._fibs: dict[int, int] = {}
        self._answered: dict[tuple[int, int], int] = {}
        self.nodes = Nat44Nodes(self)
        self._shallow = {
            arc: ShallowReassembly(arc, graph.errors, graph.clock, resume=resume)
            for arc, resume in (("ip4-unicast", self._resume_input), ("ip4-output", self._resume_output))
        }
        self._node_of = {1: self.nodes.in2out, 2: self.nodes.out2in, 3: self.nodes.classify}
        for side, feature in _FEATURE.items():
            graph.features.declare("ip4-unicast", feature=feature, node=self._node_of[side])

    # -- the plugin -------------------------------------------------------------------------------------------------

    def enable(self, config: Config) -> None:
        """Switch it on. Refusal FEATURE_ALREADY_ENABLED."""
        if self.enabled:
            raise Refusal("FEATURE_ALREADY_ENABLED")
        sessions = config.sessions or SESSIONS_DEFAULT
        self.config = Config(sessions, config.inside_vrf, config.outside_vrf)
        self.buckets = buckets(sessions)
        self.fib(config.inside_vrf)
        self.fib(config.outside_vrf)
        self.sessions.clear(sessions_max=sessions)
        self.sessions.timeouts = Timeouts()
        self.forwarding = False
        self.enabled = True

    def disable(self) -> None:
        """Switch it off: mappings, addresses, interfaces and sessions go. Refusal FEATURE_ALREADY_DISABLED."""
        if not self.enabled:
            raise Refusal("FEATURE_ALREADY_DISABLED")
        for mapping in self.mappings.pool:
            if not mapping.is_balanced:
                self._answer_everywhere(mapping.external[0], add=False)
        self.mappings.clear()
        for address in list(self.addresses):
            self.remove_address(address.address, twice=False)
        self.twice_addresses.clear()
        for index, side in list(self.interfaces.items()):
            for one in (Side.INSIDE, Side.OUTSIDE):
                if side & one:
                    self.remove_interface(self._interface(index), one)
        for index in list(self.outputs):
            self.remove_output(self._interface(index))
        self.sessions.clear(sessions_max=0)
        self.config = Config()
        self.forwarding = False
        self.enabled = False

    def set_forwarding(self, on: bool) -> None:
        """Let what no mapping matches pass; without it bypass sessions go."""
        self.forwarding = on
        if self.enabled and not on:
            self.sessions.delete_all(s for s in self.sessions.pool if s.flags & SessionFlag.BYPASS)

    def set_limit(self, limit: int, vrf_id: int) -> None:
        """At most ``limit`` sessions when a packet of a VRF wants one more."""
        if vrf_id not in self.graph.family4.tables:
            raise Refusal("UNSPECIFIED")
        self.sessions.limits[vrf_id] = limit

    # -- interfaces -------------------------------------------------------------------------------------------------

    def add_interface(self, interface: Interface, side: Side) -> None:
        """Make an interface inside or outside. Refusal VALUE_EXIST when it has the output feature."""
        self._need_enabled()
        if interface.index in self.outputs:
            raise Refusal("VALUE_EXIST")
        before = self.interfaces.get(interface.index, Side.NONE)
        if before & side:
            return
        self._use_shallow(interface, "ip4-unicast", by=1)
        self._set_feature(interface, before, before | side)
        self.interfaces[interface.index] = before | side
        self._hold_fib(interface.fib4, by=1)
        if side is Side.OUTSIDE:
            self._open(interface)

    def remove_interface(self, interface: Interface, side: Side) -> None:
        """End that. One that has only the other side loses that one, as on VPP. Refusal NO_SUCH_ENTRY."""
        self._need_enabled()
        before = self.interfaces.get(interface.index)
        if before is None:
            raise Refusal("NO_SUCH_ENTRY")
        self._use_shallow(interface, "ip4-unicast", by=-1)
        both = before == Side.INSIDE | Side.OUTSIDE
        after = before & ~side if both else Side.NONE
        if both or before == side:
            self._set_feature(interface, before, after)
        if after:
            self.interfaces[interface.index] = after
        else:
            del self.interfaces[interface.index]
        self._hold_fib(interface.fib4, by=-1)
        if side is Side.OUTSIDE:
            self._close(interface)

    def add_output(self, interface: Interface) -> None:
        """Translate what leaves by an interface. Refusal VALUE_EXIST when NAT has a feature on it already."""
        self._need_enabled()
        if interface.index in self.interfaces or interface.index in self.outputs:
            raise Refusal("VALUE_EXIST")
        for arc in self._shallow:
            self._use_shallow(interface, arc, by=1)
        features = self.graph.features
        features.enable(interface, "ip4-unicast", feature="nat-pre-out2in", node=self.nodes.out2in)
        features.enable(interface, "ip4-output", feature="nat-pre-in2out-output", node=self.nodes.output)
        self.outputs.append(interface.index)
        self._hold_fib(interface.fib4, by=1)
        self._open(interface)

    def remove_output(self, interface: Interface) -> None:
        """End that. Refusal NO_SUCH_ENTRY."""
        self._need_enabled()
        if interface.index not in self.outputs:
            raise Refusal("NO_SUCH_ENTRY")
        for arc in self._shallow:
            self._use_shallow(interface, arc, by=-1)
        features = self.graph.features
        features.disable(interface, "ip4-unicast", feature="nat-pre-out2in")
        features.disable(interface, "ip4-output", feature="nat-pre-in2out-output")
        self.outputs.remove(interface.index)
        self._hold_fib(interface.fib4, by=-1)
        self._close(interface)

    def forget(self, interface: Interface) -> None:
        """An interface goes."""
        if self.enabled:
            for side in (Side.INSIDE, Side.OUTSIDE):
                if self.interfaces.get(interface.index, Side.NONE) & side:
                    self.remove_interface(interface, side)
            if interface.index in self.outputs:
                self.remove_output(interface)
        for shallow in self._shallow.values():
            shallow.forget(interface.index)

    def address_changed(self, interface: Interface, address: int, length: int, *, add: bool) -> None:
        """An interface got or lost an address: a pool address of the same table is bound to it, or no longer."""
        for candidate in self.addresses:
            if candidate.fib is interface.fib4 and candidate.address == address:
                candidate.length = length if add else None
                if add:
                    candidate.interface = interface.index
                return

    # -- addresses --------------------------------------------------------------------------------------------------

    def add_address(self, address: int, vrf_id: int, *, twice: bool) -> None:
        """A pool address, or one of twice-NAT. Refusal VALUE_EXIST."""
        self._need_enabled()
        known = self.twice_addresses if twice else self.addresses
        if any(present.address == address for present in known):
            raise Refusal("VALUE_EXIST")
        made = NatAddress(address, None if vrf_id == NO_VRF else self.fib(vrf_id))
        known.append(made)
        if not twice:
            self.pool_addresses.add(address)
            self._answer_everywhere(address, add=True)
            for index in (*self.interfaces, *self.outputs):
                if index in self.outputs or self.interfaces[index] & Side.OUTSIDE:
                    self._bind(made, self._interface(index))

    def remove_address(self, address: int, *, twice: bool) -> None:
        """Take an address away, with the sessions that carry it and come from no mapping. Refusal NO_SUCH_ENTRY."""
        known = self.twice_addresses if twice else self.addresses
        place = next((n for n, present in enumerate(known) if present.address == address), None)
        if place is None:
            raise Refusal("NO_SUCH_ENTRY")
        self.sessions.delete_all(
            session for session in self.sessions.pool
            if not session.flags & SessionFlag.STATIC and session.outside.address == address
        )  # fmt: skip
        if not twice:
            self.pool_addresses.discard(address)
            self._answer_everywhere(address, add=False)
        known[place] = known[-1]  # vec_del1
        known.pop()

    # -- mappings ---------------------------------------------------------------------------------------------------

    def add_mapping(self, mapping: Mapping, *, vrf_id: int) -> None:
        """A mapping of one local, or an identity; an identity may be added for several VRFs. Refusal VALUE_EXIST."""
        self._need_enabled()
        _check(mapping.flags)
        known = self.mappings.by_external.get(mapping.external)
        if known is not None:
            self._add_identity(known, vrf_id)
            return
        vrf_id = self.config.inside_vrf if vrf_id == NO_VRF else vrf_id
        fib = self.fib(vrf_id)
        local = (mapping.local_address, mapping.local_port, fib.table_id, mapping.external[2])
        out2in_only = mapping.flags & MappingFlag.OUT2IN_ONLY
        if not (out2in_only or mapping.is_identity) and local in self.mappings.by_local:
            raise Refusal("VALUE_EXIST")
        if mapping.is_identity:
            self.mappings.add_local(mapping, Backend(0, 0, fib))
        else:
            mapping.fib = fib
        self.mappings.add(mapping)
        if not out2in_only:
            self.mappings.by_local[local] = mapping
        self._answer_everywhere(mapping.external[0], add=True)

    def _add_identity(self, known: Mapping, vrf_id: int) -> None:
        fib_id = self.config.inside_vrf if vrf_id == NO_VRF else vrf_id
        if not known.is_identity or any(local.fib.table_id == fib_id for local in known.locals):
            raise Refusal("VALUE_EXIST")
        fib = self.fib(fib_id)
        self.mappings.add_local(known, Backend(0, 0, fib))
        local = (known.local_address, known.local_port, fib.table_id, known.external[2])
        self.mappings.by_local[local] = known

    def remove_mapping(self, wanted: Mapping, *, vrf_id: int) -> None:
        """Remove a mapping of one local, or an identity in one VRF, with its sessions. Refusal NO_SUCH_ENTRY.

        VPP does not look whether what it found is an identity: a balanced mapping loses all its locals in that VRF,
        and none of its sessions.
        """
        self._need_enabled()
        _check(wanted.flags)
        known = self.mappings.by_external.get(wanted.external)
        if known is None:
            raise Refusal("NO_SUCH_ENTRY")
        table = known.fib.table_id if known.fib is not None else 0
        if wanted.is_identity:
            table = self.config.inside_vrf if vrf_id == NO_VRF else vrf_id
            places = [n for n, local in known.locals.items() if local.fib.table_id == table]
            if not places:
                raise Refusal("NO_SUCH_ENTRY")
            for place in places:
                self.mappings.remove_local(known, place)
        address, _, protocol = wanted.external
        if not wanted.flags & MappingFlag.OUT2IN_ONLY:
            self.mappings.by_local.pop((wanted.local_address, wanted.local_port, table, protocol), None)
        self.sessions.delete_all(self._sessions_of(known, table, whole=wanted.address_only))
        if not known.locals:
            self.mappings.remove(known)
            self._answer_everywhere(address, add=False)

    def _sessions_of(self, mapping: Mapping, table_id: int, *, whole: bool) -> Iterable[Session]:
        """The sessions that go with a mapping of one local: all of its address, but only the first of its port
        (nat_ed_static_mapping_del_sessions)."""
        for session in self.sessions.of_inside(mapping.local_address, None if whole else mapping.local_port):
            outside = session.outside
            if session.inside.fib.table_id != table_id:
                continue
            if not whole and (outside.address, outside.port, session.protocol) != mapping.external:
                continue
            if session.flags & SessionFlag.BALANCED or not session.flags & SessionFlag.STATIC:
                continue
            yield session
            if not whole:
                return

    def add_balanced(self, mapping: Mapping, locals_: Sequence[LocalSpec]) -> None:
        """A mapping of several locals. Refusal VALUE_EXIST, INVALID_VALUE for fewer than two.

        NO_SUCH_ENTRY: one that works both ways needs a pool address.
        """
        self._need_enabled()
        address, _, protocol = mapping.external
        if mapping.external in self.mappings.by_external:
            raise Refusal("VALUE_EXIST")
        if len(locals_) < 2:
            raise Refusal("INVALID_VALUE")
        out2in_only = mapping.flags & MappingFlag.OUT2IN_ONLY
        if not out2in_only and not any(known.address == address for known in self.addresses):
            raise Refusal("NO_SUCH_ENTRY")
        mapping.flags |= MappingFlag.BALANCED
        self.mappings.add(mapping)
        for spec in locals_:
            fib = self.fib(spec.vrf_id)
            self.mappings.add_local(mapping, Backend(spec.address, spec.port, fib, weight=spec.weight))
            if not out2in_only:
                self.mappings.by_local[spec.address, spec.port, 0, protocol] = mapping
        mapping.weigh()

    def remove_balanced(self, wanted: Mapping) -> None:
        """Remove a mapping of several locals, and every balanced session to them, through whichever mapping it came.

        Refusal NO_SUCH_ENTRY; INVALID_VALUE for a mapping of one local.
        """
        mapping = self._balanced(wanted)
        self.mappings.by_external.pop(mapping.external)
        for local in mapping.locals:
            if not wanted.flags & MappingFlag.OUT2IN_ONLY:
                key = (local.address, local.port, local.fib.table_id, mapping.external[2])
                self.mappings.by_local.pop(key, None)
            self._end_balanced(local)
        self.mappings.remove(mapping)

    def add_local(self, wanted: Mapping, spec: LocalSpec) -> None:
        """One more local. Refusal as for ``remove_balanced``, VALUE_EXIST."""
        mapping = self._balanced(wanted)
        if self._place(mapping, spec) is not None:
            raise Refusal("VALUE_EXIST")
        fib = self.fib(spec.vrf_id)
        self.mappings.add_local(mapping, Backend(spec.address, spec.port, fib, weight=spec.weight))
        if not mapping.flags & MappingFlag.OUT2IN_ONLY:
            self.mappings.by_local[spec.address, spec.port, fib.table_id, mapping.external[2]] = mapping
        mapping.weigh()

    def remove_local(self, wanted: Mapping, spec: LocalSpec) -> None:
        """One local less, with every balanced session to it. Refusal UNSPECIFIED while there are only two."""
        mapping = self._balanced(wanted)
        place = self._place(mapping, spec)
        if place is None:
            raise Refusal("NO_SUCH_ENTRY")
        if len(mapping.locals) < 3:
            raise Refusal("UNSPECIFIED")
        local = mapping.locals.get(place)
        assert local is not None
        if not mapping.flags & MappingFlag.OUT2IN_ONLY:
            key = (local.address, local.port, local.fib.table_id, mapping.external[2])
            self.mappings.by_local.pop(key, None)
        self._end_balanced(local)
        self.mappings.remove_local(mapping, place)
        mapping.weigh()

    def _balanced(self, wanted: Mapping) -> Mapping:
        self._need_enabled()
        known = self.mappings.by_external.get(wanted.external)
        if known is None:
            raise Refusal("NO_SUCH_ENTRY")
        if not known.is_balanced:
            raise Refusal("INVALID_VALUE")
        return known

    def _place(self, mapping: Mapping, spec: LocalSpec) -> int | None:
        wanted = (spec.address, spec.port, spec.vrf_id)
        places = mapping.locals.items()
        return next((n for n, local in places if (local.address, local.port, local.fib.table_id) == wanted), None)

    def _end_balanced(self, local: Backend) -> None:
        self.sessions.delete_all(
            session
            for session in self.sessions.of_inside(local.address, local.port)
            if session.flags & SessionFlag.BALANCED
        )

    # -- sessions ---------------------------------------------------------------------------------------------------

    def remove_session(self, addresses: int, ports: int, protocol: int, *, vrf_id: int) -> None:
        """End the session of a flow. Refusal NO_SUCH_ENTRY."""
        self._need_enabled()
        session = self.sessions.find((addresses, ports, vrf_id << 8 | protocol))
        if session is None:
            raise Refusal("NO_SUCH_ENTRY")
        self.sessions.delete(session)

    def _released(self, session: Session) -> None:
        if session.flags & SessionFlag.AFFINITY:
            outside = session.outside
            self.mappings.release(session.external[0], (outside.address, outside.port, session.protocol))

    # -- inside -----------------------------------------------------------------------------------------------------

    def fib(self, vrf_id: int) -> Fib:
        """The table of a VRF, made when it is not there (fib_table_find_or_create_and_lock)."""
        family = self.graph.family4
        return family.tables.get(vrf_id) or family.make(vrf_id)

    def _need_enabled(self) -> None:
        if not self.enabled:
            raise Refusal("UNSUPPORTED")

    def _interface(self, index: int) -> Interface:
        found = self.graph.interfaces.get(index)
        assert found is not None
        return found

    def _set_feature(self, interface: Interface, before: Side, after: Side) -> None:
        """Exchange the node of the input arc."""
        features = self.graph.features
        if before:
            features.disable(interface, "ip4-unicast", feature=_FEATURE[before])
        if after:
            features.enable(interface, "ip4-unicast", feature=_FEATURE[after], node=self._node_of[int(after)])

    def _use_shallow(self, interface: Interface, arc: str, *, by: int) -> None:
        shallow = self._shallow[arc]
        if shallow.use(interface.index, by=by):
            self.graph.features.enable(interface, arc, feature=shallow.name, node=shallow.node)
        else:
            self.graph.features.disable(interface, arc, feature=shallow.name)

    def _resume_input(self, packet: Packet) -> None:
        self.graph.run(self.graph.ip4.input_features, packet)

    def _resume_output(self, packet: Packet) -> None:
        self.graph.run(self.graph.ip4.output_features, packet)

    def _hold_fib(self, fib: Fib, *, by: int) -> None:
        """Count interfaces of a table; with the last one its sessions are void (update_per_vrf_sessions_pool)."""
        count = self._fibs.get(fib.table_id, 0) + by
        self._fibs[fib.table_id] = count
        if not count:
            for session in self.sessions.pool:
                session.expired |= fib in {session.inside.fib, session.outside.fib}

    def _open(self, interface: Interface) -> None:
        """An interface leads outside: answer there for what we translate from."""
        self.outside_fibs[interface.fib4.table_id] = self.outside_fibs.get(interface.fib4.table_id, 0) + 1
        for known in self.addresses:
            self._answer(known.address, interface, add=True)
        for mapping in self.mappings.pool:
            self._answer(mapping.external[0], interface, add=True)
        for known in self.addresses:
            if self._bind(known, interface):
                break

    def _close(self, interface: Interface) -> None:
        count = self.outside_fibs.get(interface.fib4.table_id, 0) - 1
        if count > 0:
            self.outside_fibs[interface.fib4.table_id] = count
        else:
            self.outside_fibs.pop(interface.fib4.table_id, None)
        for known in self.addresses:
            self._answer(known.address, interface, add=False)
        for mapping in self.mappings.pool:
            self._answer(mapping.external[0], interface, add=False)

    def _bind(self, known: NatAddress, interface: Interface) -> bool:
        """Bind a pool address to an interface that has it and looks up in its table."""
        if known.fib is not interface.fib4:
            return False
        found = next((own for own in interface.addresses4 if own.value == known.address), None)
        if found is None:
            return False
        known.length = found.length
        known.interface = interface.index
        return True

    def _answer_everywhere(self, address: int, *, add: bool) -> None:
        for index, side in self.interfaces.items():
            if side & Side.OUTSIDE:
                self._answer(address, self._interface(index), add=add)
        for index in self.outputs:
            self._answer(address, self._interface(index), add=add)

    def _answer(self, address: int, interface: Interface, *, add: bool) -> None:
        """Make an address ours in the interface's table, for as many reasons as there are; the first interface that
        has none left takes it away from all (nat44_ed_add_fib_entry_reg, nat44_ed_del_fib_entry_reg)."""
        key = (address, interface.index)
        count = self._answered.get(key, 0)
        if add:
            if not count:
                path = Path(interface.index, 0, type=PathType.LOCAL)
                ours = Contribution((path,), EntryFlag.CONNECTED | EntryFlag.LOCAL)
                interface.fib4.put(address, 32, source=sources.NAT_LOW, contribution=ours)
            self._answered[key] = count + 1
        elif count > 1:
            self._answered[key] = count - 1
        elif count:
            del self._answered[key]
            interface.fib4.drop_source(address, 32, source=sources.NAT_LOW)


def buckets(elements: int) -> int:
    """How many buckets VPP makes for so many sessions (nat_calc_bihash_buckets)."""
    elements = int(elements / 2.5)
    lower = 1
    while lower * 2 < elements:
        lower *= 2
    upper = 2 * lower
    return upper if upper - elements < elements - lower else lower


def _check(flags: MappingFlag) -> None:
    """What no mapping of one local can be. Refusal UNSUPPORTED."""
    identity = flags & MappingFlag.IDENTITY
    twice = flags & (MappingFlag.TWICE_NAT | MappingFlag.SELF_TWICE_NAT)
    if (identity and flags & MappingFlag.OUT2IN_ONLY) or (twice and (identity or flags & MappingFlag.ADDRESS_ONLY)):
        raise Refusal("UNSUPPORTED")
