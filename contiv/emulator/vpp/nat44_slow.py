"""What NAT44-ED does with a packet that has no session: make one, leave it alone, or say why it is dropped.

``outwards`` follows nat44_ed_in2out.c (source NAT, and what the output feature must not touch), ``inwards``
nat44_ed_out2in.c (mappings, twice-NAT, and bypasses for what is forwarded without one). Both return the session, one of
the marks below, or VPP's words for the drop.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Final

from contiv.emulator.vpp.checksum import is_valid
from contiv.emulator.vpp.interface import NO_INTERFACE
from contiv.emulator.vpp.nat44_flow import ERRORS, NO_KEY, Flow, Key, Seen
from contiv.emulator.vpp.nat44_mappings import MappingFlag, Match
from contiv.emulator.vpp.nat44_sessions import ACK, SYN, Endpoint, Session, SessionFlag, Way
from contiv.emulator.vpp.packet import IPPROTO_ICMP, IPPROTO_TCP, IPPROTO_UDP

if TYPE_CHECKING:
    from contiv.emulator.vpp.fib import Fib
    from contiv.emulator.vpp.nat44 import Nat44, NatAddress
    from contiv.emulator.vpp.packet import Packet


class Mark(Enum):
    """Results that are neither a session nor a reason."""

    LEFT_ALONE = 0
    OUTWARDS_INSTEAD = 1
    DROPPED = 2


LEFT_ALONE: Final = Mark.LEFT_ALONE
OUTWARDS_INSTEAD: Final = Mark.OUTWARDS_INSTEAD
DROPPED: Final = Mark.DROPPED
Made = Session | Mark | str

FULL: Final = "maximum sessions exceeded"
NO_PORTS: Final = "out of ports"
NOT_SYN: Final = "non-SYN packet try to create session"
BAD_ICMP: Final = "unsupported ICMP type"
NO_TRANSLATION: Final = "no translation"
NO_WEIGHT: Final = "weights add up to a multiple of 256: VPP would end here"
KNOWN: Final = frozenset({IPPROTO_TCP, IPPROTO_UDP, IPPROTO_ICMP, 58})
"""nat44_ed_is_unk_proto is false for these."""
PORT_MIN: Final = 1024
PORT_MAX: Final = 65535
ATTEMPTS: Final = 10
"""ED_PORT_ALLOC_ATTEMPTS."""
ECHO_REPLY, ECHO_REQUEST = 0, 8
DHCP_SERVER, DHCP_CLIENT = 67, 68
BROADCAST: Final = 0xFFFFFFFF


class SlowPath:
    """The slow paths of one plugin."""

    def __init__(self, nat: Nat44) -> None:
        self._nat = nat
        self._sessions = nat.sessions

    # -- inside to outside ------------------------------------------------------------------------------------------

    def outwards(self, packet: Packet, seen: Seen, key: Key, *, output: bool, now: float) -> Made:
        """A packet from the inside, or on its way out of an interface with the output feature."""
        if seen.protocol not in KNOWN:
            return self._unknown_outwards(packet, seen, now)
        if output and self._not_for_output(packet, seen, key[1]):
            return LEFT_ALONE
        if seen.protocol == IPPROTO_ICMP:
            if not output and self._not_for_inside(packet, seen):
                return LEFT_ALONE
            if seen.kind in ERRORS:
                return BAD_ICMP
            made = self._translate_source(packet, seen, output=output, now=now)
            return made if isinstance(made, Mark | str) or self._icmp_holds(packet, seen) else DROPPED
        if output:
            to_dhcp = seen.protocol == IPPROTO_UDP and seen.destination_port == DHCP_SERVER
            if to_dhcp and seen.destination == BROADCAST:
                return LEFT_ALONE
        elif self._not_for_inside(packet, seen):
            return LEFT_ALONE
        return self._translate_source(packet, seen, output=output, now=now)

    def _not_for_inside(self, packet: Packet, seen: Seen) -> bool:
        """nat44_ed_not_translate: neither a session nor a mapping behind it, and forwarding on."""
        nat = self._nat
        turned = (seen.destination << 32 | seen.source, seen.destination_port << 16 | seen.source_port)
        outside = nat.config.outside_vrf
        if self._sessions.find((*turned, outside << 8 | seen.protocol)) is not None:
            return False
        mapping = nat.mappings.find_external(seen.destination, seen.destination_port, seen.protocol)
        if mapping is not None and nat.mappings.pick(mapping, seen.destination_port, 0) is not None:
            return False
        if nat.forwarding:
            return True
        owner = packet.rx.unnumbered or packet.rx
        if any(own.value == seen.destination for own in owner.addresses4):
            return True
        return not self._leads_outside(seen.destination)

    def _leads_outside(self, address: int) -> bool:
        """is_destination_resolvable: whether a table of the outside leads to ``address`` by an outside interface."""
        for table_id in self._nat.outside_fibs:
            index = self._resolving(table_id, address)
            if index is not None and self._nat.interfaces.get(index, 0) & 2:
                return True
        return False

    def _resolving(self, table_id: int, address: int) -> int | None:
        family = self._nat.graph.family4
        index = family.resolver.resolving_interface(family.tables[table_id].match(address))
        return None if index == NO_INTERFACE else index

    def _not_for_output(self, packet: Packet, seen: Seen, ports: int) -> bool:
        """nat44_ed_not_translate_output_feature: replies of what came in translated have been translated already.

        An ICMP error is looked up by its own addresses and the ports that it quotes, which finds nothing.
        """
        protocol = seen.protocol
        if self._sessions.find((seen.addresses, ports, packet.tx.fib4.table_id << 8 | protocol)) is not None:
            return True
        turned = (seen.destination << 32 | seen.source, (ports & 0xFFFF) << 16 | ports >> 16)
        session = self._sessions.find((*turned, packet.rx.fib4.table_id << 8 | protocol))
        if session is None or session.flags & SessionFlag.BYPASS:
            return False
        return packet.rx.index not in self._nat.outputs

    def _translate_source(self, packet: Packet, seen: Seen, *, output: bool, now: float) -> Made:
        """slow_path_ed: a session that gives the packet an outside source, by mapping or from the pool."""
        nat = self._nat
        sessions = self._sessions
        rx_fib = packet.rx.fib4
        if sessions.is_full(rx_fib.table_id) and not sessions.free_one(now):
            return FULL
        tables = (rx_fib.table_id, nat.config.inside_vrf, nat.config.outside_vrf)
        mapping = nat.mappings.find_local(seen.source, seen.source_port, seen.protocol, tables)
        if mapping is not None and mapping.is_identity:
            return LEFT_ALONE
        if seen.protocol == IPPROTO_TCP and seen.kind & (SYN | ACK) != SYN:
            return NOT_SYN
        session = sessions.make(seen.protocol, Endpoint(seen.source, seen.source_port, rx_fib), now)
        tx_fib = self._outside_fib(seen.destination)
        hairpin = self._hairpin(seen.destination, seen.destination_port, seen.protocol)
        if hairpin is not None:
            session.flags |= SessionFlag.HAIRPIN
        target = hairpin or (seen.destination, seen.destination_port)
        session.external = (seen.destination, seen.destination_port)
        if mapping is not None:
            port = seen.source_port if mapping.address_only else mapping.external[1]
            session.flags |= SessionFlag.STATIC
            session.outside = Endpoint(mapping.external[0], port, tx_fib)
            flow = self._reply(seen, target, (mapping.external[0], port), tx_fib, rx_fib)
            if flow.match in sessions.flows:
                sessions.delete(session)
                return DROPPED
            sessions.set_inwards(session, flow)
        elif not self._allocate(session, seen, target, tx_fib, packet.tx.index if output else None):
            sessions.delete(session)
            return NO_PORTS
        sessions.set_outwards(session, self._request(seen, session, target, rx_fib, tx_fib))
        return session

    def _request(self, seen: Seen, session: Session, target: tuple[int, int], rx_fib: Fib, tx_fib: Fib) -> Flow:
        match = (seen.addresses, seen.ports, rx_fib.table_id << 8 | seen.protocol)
        outside = session.outside
        common = {"source": outside.address, "destination": target[0]}
        if seen.protocol == IPPROTO_ICMP:
            return Flow(match, **common, icmp_id=outside.port, fib=tx_fib)
        return Flow(match, **common, source_port=outside.port, destination_port=target[1], fib=tx_fib)

    def _reply(self, seen: Seen, target: tuple[int, int], ours: tuple[int, int], tx_fib: Fib, rx_fib: Fib) -> Flow:
        """The flow back: from where the packet really went, to the outside address that it got."""
        address, port = ours
        icmp = seen.protocol == IPPROTO_ICMP
        ports = (port if icmp else target[1]) << 16 | port
        match = (target[0] << 32 | address, ports, tx_fib.table_id << 8 | seen.protocol)
        common = {"source": seen.destination, "destination": seen.source}
        if icmp:
            return Flow(match, **common, icmp_id=seen.source_port, fib=rx_fib)
        return Flow(match, **common, destination_port=seen.source_port, fib=rx_fib)

    def _outside_fib(self, address: int) -> Fib:
        """get_tx_fib_index: the first table of the outside that leads to ``address``, or the configured one."""
        tables = self._nat.graph.family4.tables
        for table_id in self._nat.outside_fibs:
            if self._resolving(table_id, address) is not None:
                return tables[table_id]
        return tables[self._nat.config.outside_vrf]

    def _hairpin(self, address: int, port: int, protocol: int) -> tuple[int, int] | None:
        mapping = self._nat.mappings.find_external(address, port, protocol)
        if mapping is None:
            return None
        return mapping.local_address, port if mapping.address_only else mapping.local_port

    def _allocate(
        self, session: Session, seen: Seen, target: tuple[int, int], tx_fib: Fib, tx_interface: int | None
    ) -> bool:
        """Find a pool address and a port whose flow back is free; the packet's own port first."""
        rx_fib = session.inside.fib
        address = self._choose(rx_fib, seen, tx_interface)
        if address is None:
            return False
        random = self._nat.random
        port = seen.source_port if seen.source_port >= PORT_MIN else random.port(0, PORT_MAX - PORT_MIN) + PORT_MIN
        for _ in range(ATTEMPTS):
            flow = self._reply(seen, target, (address, port), tx_fib, rx_fib)
            taken = (address, port, seen.protocol) in self._nat.mappings.by_external
            if not taken and flow.match not in self._sessions.flows:
                session.outside = Endpoint(address, port, tx_fib)
                self._sessions.set_inwards(session, flow)
                return True
            port = random.port(0, PORT_MAX - PORT_MIN) + PORT_MIN
        return False

    def _choose(self, rx_fib: Fib, seen: Seen, tx_interface: int | None) -> int | None:
        """nat_ed_alloc_addr_and_port: the pool address of the subnet that the packet goes to, of the interface, of
        the table, of any table."""
        pool = self._nat.addresses
        if not pool:
            return None
        raw = int.from_bytes(seen.source.to_bytes(4, "big"), "little")
        offset = (raw + (raw >> 8) + (raw >> 16) + (raw >> 24) & 0xFFFFFFFF) % len(pool)
        bound: NatAddress | None = None
        own: NatAddress | None = None
        common: NatAddress | None = None
        for known in (*pool[offset:], *pool[:offset]):
            if known.fib is rx_fib:
                here = tx_interface is None or known.interface == tx_interface
                if here and known.holds(seen.destination):
                    return known.address
                if tx_interface is not None and here:
                    bound = known
                own = known
            elif known.fib is None:
                common = known
        chosen = bound or own or common
        return None if chosen is None else chosen.address

    def _unknown_outwards(self, packet: Packet, seen: Seen, now: float) -> Made:
        """A protocol without ports: its source is translated, whatever forwarding says
        (nat44_ed_in2out_slowpath_unknown_proto)."""
        nat, sessions = self._nat, self._sessions
        rx_fib = packet.rx.fib4
        if sessions.is_full(rx_fib.table_id):
            return FULL
        tx_fib = self._outside_fib(seen.destination)
        mapping = nat.mappings.by_local.get((seen.source, 0, rx_fib.table_id, seen.protocol))
        source = mapping.external[0] if mapping is not None else self._free_source(seen, tx_fib)
        if source is None:
            return DROPPED
        session = sessions.make(seen.protocol, Endpoint(seen.source, seen.protocol << 8, rx_fib), now)
        session.protocol = 0  # VPP leaves it out, so such sessions live as long as UDP's
        target = self._hairpin(seen.destination, 0, seen.protocol)
        if target is not None:
            session.flags |= SessionFlag.HAIRPIN
        destination = seen.destination if target is None else target[0]
        session.external = (seen.destination, 0)
        session.outside = Endpoint(source, seen.protocol << 8, tx_fib)
        if mapping is not None:
            session.flags |= SessionFlag.STATIC
        match = (seen.addresses, 0, rx_fib.table_id << 8 | seen.protocol)
        sessions.set_outwards(session, Flow(match, source=source, destination=destination, fib=tx_fib))
        back = (destination << 32 | source, 0, tx_fib.table_id << 8 | seen.protocol)
        sessions.set_inwards(session, Flow(back, source=seen.destination, destination=seen.source, fib=rx_fib))
        return session

    def _free_source(self, seen: Seen, tx_fib: Fib) -> int | None:
        """The outside address of another session to the same host, else the last one of the pool."""
        where = tx_fib.table_id << 8 | seen.protocol
        for session in self._sessions.pool:
            if session.external[0] == seen.destination:
                if (session.outside.address << 32 | seen.destination, 0, where) not in self._sessions.flows:
                    return session.outside.address or None
                break
        free = [
            known.address for known in self._nat.addresses
            if (known.address << 32 | seen.destination, 0, where) not in self._sessions.flows
        ]  # fmt: skip
        return free[-1] if free else None

    # -- outside to inside ------------------------------------------------------------------------------------------

    def inwards(self, packet: Packet, seen: Seen, key: Key, *, now: float) -> Made:
        """A packet from the outside."""
        if seen.protocol not in KNOWN:
            return self._unknown_inwards(packet, seen, now)
        mappings = self._nat.mappings
        icmp = seen.protocol == IPPROTO_ICMP
        port = key[1] >> 16 if icmp else seen.destination_port
        mapping = mappings.find_external(seen.destination, port, seen.protocol)
        if mapping is None:
            return self._unmatched(packet, seen, key, now)
        if icmp and seen.kind != ECHO_REPLY and not (seen.kind == ECHO_REQUEST and mapping.address_only):
            return BAD_ICMP
        if mapping.is_identity:
            return LEFT_ALONE
        match = mappings.pick(mapping, port, seen.source)
        if match is None:
            return NO_WEIGHT
        if seen.protocol == IPPROTO_TCP and seen.kind & (SYN | ACK) != SYN:
            return NOT_SYN
        made = self._from_mapping(packet, seen, match, port, now)
        if icmp and isinstance(made, Session) and not self._icmp_holds(packet, seen):
            self._sessions.delete(made)
            return DROPPED
        return made

    def _unmatched(self, packet: Packet, seen: Seen, key: Key, now: float) -> Made:
        """No mapping: forwarded, with a bypass so that the reply stays as it is, or dropped."""
        if seen.protocol == IPPROTO_UDP and seen.destination_port == DHCP_CLIENT:
            return LEFT_ALONE
        if not self._nat.forwarding:
            owner = packet.rx.unnumbered or packet.rx
            ours = any(own.value == seen.destination for own in owner.addresses4)
            return LEFT_ALONE if ours and seen.protocol == IPPROTO_ICMP else NO_TRANSLATION
        ports = key[1] if seen.protocol == IPPROTO_ICMP else seen.ports
        here = (seen.addresses, ports, packet.rx.fib4.table_id << 8 | seen.protocol)
        if self._sessions.find(here) is not None:
            return OUTWARDS_INSTEAD
        self._bypass(packet, seen, key, now)
        return LEFT_ALONE

    def _bypass(self, packet: Packet, seen: Seen, key: Key, now: float) -> None:
        """create_bypass_for_fwd: remember a connection from the outside that is left alone, by its way back."""
        sessions = self._sessions
        fib = packet.rx.fib4
        addresses, ports, where = key
        if seen.protocol != IPPROTO_ICMP:  # of what an error quotes, VPP turns the addresses round, the ports not
            ports = (ports & 0xFFFF) << 16 | ports >> 16
        match = ((addresses & 0xFFFFFFFF) << 32 | addresses >> 32, ports, where)
        session = sessions.find(match)
        if session is None:
            if key == NO_KEY or (seen.protocol == IPPROTO_ICMP and seen.kind in ERRORS):
                return
            if sessions.is_full(fib.table_id):
                return
            end = Endpoint(seen.destination, match[1] >> 16, fib)
            session = sessions.make(seen.protocol, end, now)
            session.flags |= SessionFlag.BYPASS
            session.external = (seen.source, match[1] & 0xFFFF)
            session.outside = end
            sessions.set_outwards(session, Flow(match, fib=fib))
        if seen.protocol == IPPROTO_TCP:
            sessions.track(session, seen.kind, Way.INWARDS, now)
        sessions.count(session, 0, now)

    def _from_mapping(self, packet: Packet, seen: Seen, match: Match, port: int, now: float) -> Made:
        """create_session_for_static_mapping_ed."""
        sessions = self._sessions
        rx_fib = packet.rx.fib4
        if sessions.is_full(rx_fib.table_id):
            return FULL
        mapping = match.mapping
        icmp = seen.protocol == IPPROTO_ICMP
        session = sessions.make(seen.protocol, Endpoint(match.address, match.port, match.fib), now)
        session.external = (seen.source, 0 if icmp else seen.source_port)
        session.flags |= _flags(match)
        session.outside = Endpoint(seen.destination, port, rx_fib)
        where = rx_fib.table_id << 8 | seen.protocol
        here = (seen.addresses, port << 16 | port if icmp else seen.ports, where)
        twice = MappingFlag.TWICE_NAT in mapping.flags
        if MappingFlag.SELF_TWICE_NAT in mapping.flags and seen.source == match.address:
            twice = True
        if not twice or icmp:  # a mapping with a port never matches ICMP, one without never has twice-NAT
            inwards, outwards = self._one_sided(seen, match, port, here)
            sessions.set_inwards(session, inwards)
            sessions.set_outwards(session, outwards)
            return session
        client = self._twice_address(match)
        if client is None:
            sessions.delete(session)
            return NO_PORTS
        self._hide_client(session, seen, match, client, here)
        return session

    def _one_sided(self, seen: Seen, match: Match, port: int, here: Key) -> tuple[Flow, Flow]:
        """The flows of a session whose client keeps its address."""
        address, fib, ours = match.address, match.fib, seen.destination
        where = fib.table_id << 8 | seen.protocol
        if seen.protocol == IPPROTO_ICMP:
            back = (address << 32 | seen.source, match.port << 16 | match.port, where)
            inwards = Flow(here, destination=address, icmp_id=match.port, fib=fib)
            return inwards, Flow(back, source=ours, icmp_id=port)
        back = (address << 32 | seen.source, match.port << 16 | seen.source_port, where)
        inwards = Flow(here, destination=address, destination_port=match.port, fib=fib)
        return inwards, Flow(back, source=ours, source_port=port)

    def _hide_client(self, session: Session, seen: Seen, match: Match, client: int, here: Key) -> None:
        """Twice-NAT: the backend sees ``client`` and a port drawn at random, taken or not."""
        session.flags |= SessionFlag.TWICE_NAT
        port = PORT_MIN + self._nat.random.port(0, PORT_MAX - PORT_MIN)
        session.external_nat = (client, port)
        inwards = Flow(
            here, source=client, destination=match.address, source_port=port, destination_port=match.port,
            fib=match.fib,
        )  # fmt: skip
        self._sessions.set_inwards(session, inwards)
        key = (match.address << 32 | client, match.port << 16 | port, match.fib.table_id << 8 | seen.protocol)
        outwards = Flow(
            key, source=seen.destination, destination=seen.source, source_port=seen.destination_port,
            destination_port=seen.source_port,
        )  # fmt: skip
        self._sessions.set_outwards(session, outwards)

    def _twice_address(self, match: Match) -> int | None:
        """nat44_ed_alloc_i2o_addr_and_port: the mapping's own, one of the backend's table, or one of any table."""
        pool = self._nat.twice_addresses
        if not pool:
            return None
        mapping = match.mapping
        if MappingFlag.EXACT_ADDRESS in mapping.flags:
            exact = next((known.address for known in pool if known.address == mapping.pool_address), None)
            if exact is not None:
                return exact
        offset = int.from_bytes(match.address.to_bytes(4, "big"), "little") % len(pool)
        common = None
        for known in (*pool[offset:], *pool[:offset]):
            if known.fib is match.fib:
                return known.address
            if known.fib is None:
                common = known.address
        return common

    def _unknown_inwards(self, packet: Packet, seen: Seen, now: float) -> Made:
        """A protocol without ports: a mapping of its number and port 0 (nat44_ed_out2in_slowpath_unknown_proto)."""
        sessions = self._sessions
        rx_fib = packet.rx.fib4
        mapping = self._nat.mappings.by_external.get((seen.destination, 0, seen.protocol))
        full = sessions.is_full(rx_fib.table_id)
        if full or mapping is None:
            if self._nat.forwarding:
                return LEFT_ALONE
            return FULL if full else NO_TRANSLATION
        fib = mapping.fib or rx_fib
        session = sessions.make(seen.protocol, Endpoint(mapping.local_address, seen.protocol << 8, fib), now)
        session.protocol = 0
        session.flags |= SessionFlag.STATIC
        session.external = (seen.source, 0)
        session.outside = Endpoint(seen.destination, seen.protocol << 8, rx_fib)
        sessions.set_outwards(session, Flow(NO_KEY, source=seen.destination))  # VPP sets its match up in the other one
        key = (seen.addresses, 0, rx_fib.table_id << 8 | seen.protocol)
        sessions.set_inwards(session, Flow(key, destination=mapping.local_address, fib=fib))
        return session

    def _icmp_holds(self, packet: Packet, seen: Seen) -> bool:
        """Whether the checksum of a whole ICMP message is right."""
        if not seen.layer4 or packet.csum_start or packet.shallow is not None:
            return True
        layer4 = packet.start + (packet.buf[packet.start] & 0xF) * 4
        return is_valid(packet.view[layer4 : packet.end])


def _flags(match: Match) -> SessionFlag:
    flags = SessionFlag.STATIC
    if match.mapping.is_balanced:
        flags |= SessionFlag.BALANCED
        if match.mapping.affinity_s:
            flags |= SessionFlag.AFFINITY
    if MappingFlag.EXACT_ADDRESS in match.mapping.flags:
        flags |= SessionFlag.EXACT_ADDRESS
    return flags
