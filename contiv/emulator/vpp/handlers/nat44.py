"""NAT44-ED (plugins/nat/nat44-ed/nat44_ed.api), for one thread.

Not here, and refused: mappings and addresses that follow an interface's address, VRF tables, MSS clamping, IPFIX.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Any, Final

from contiv.emulator.vpp.interface import NO_INTERFACE
from contiv.emulator.vpp.nat44 import Config, LocalSpec, Side
from contiv.emulator.vpp.nat44_mappings import LOCALS_MAX, Mapping, MappingFlag
from contiv.emulator.vpp.nat44_sessions import SessionFlag, Timeouts
from contiv.emulator.vpp.refusal import Refusal

if TYPE_CHECKING:
    from collections.abc import Iterable

    from contiv.emulator.vpp.handlers import Fields
    from contiv.emulator.vpp.machine import Machine
    from contiv.emulator.vpp.nat44_sessions import Session

TWICE_NAT, SELF_TWICE_NAT, OUT2IN_ONLY, ADDRESS_ONLY, OUTSIDE, INSIDE, STATIC, EXT_HOST_VALID = (
    1 << bit for bit in range(8)
)
"""vl_api_nat_config_flags_t (plugins/nat/lib/nat_types.api)."""
STATIC_MAPPING_ONLY, CONNECTION_TRACKING, IS_ENDPOINT_DEPENDENT = 2, 4, 1
"""vl_api_nat44_config_flags_t."""
NO_VRF: Final = 0xFFFFFFFF
TAG_MAX: Final = 63
FRAME_QUEUE_DEFAULT: Final = 64
"""NAT_FQ_NELTS_DEFAULT."""
_MAPPING_FLAGS: Final = (
    (TWICE_NAT, MappingFlag.TWICE_NAT),
    (SELF_TWICE_NAT, MappingFlag.SELF_TWICE_NAT),
    (OUT2IN_ONLY, MappingFlag.OUT2IN_ONLY),
    (ADDRESS_ONLY, MappingFlag.ADDRESS_ONLY),
)


class Nat44Handlers:
    """Handlers of NAT44-ED."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._nat = machine.graph.nat44
        self._frame_queue = 0

    # -- the plugin -------------------------------------------------------------------------------------------------

    def nat44_ed_plugin_enable_disable(self, message: Any) -> None:
        if not message.enable:
            self._nat.disable()
        elif int(message.flags) & (STATIC_MAPPING_ONLY | CONNECTION_TRACKING):
            raise Refusal("UNSUPPORTED")
        else:
            self._nat.enable(Config(message.sessions, message.inside_vrf, message.outside_vrf))
            self._frame_queue = self._frame_queue or FRAME_QUEUE_DEFAULT

    def nat44_forwarding_enable_disable(self, message: Any) -> None:
        self._nat.set_forwarding(bool(message.enable))

    def nat44_show_running_config(self, message: Any) -> Fields:
        nat, timeouts = self._nat, self._nat.sessions.timeouts
        return {
            "inside_vrf": nat.config.inside_vrf, "outside_vrf": nat.config.outside_vrf,
            "sessions": nat.config.sessions, "translation_buckets": nat.buckets,
            "forwarding_enabled": nat.forwarding, "timeouts": _timeouts(timeouts),
            "flags": IS_ENDPOINT_DEPENDENT,
        }  # fmt: skip

    def nat_set_timeouts(self, message: Any) -> None:
        self._nat.sessions.timeouts = Timeouts(
            message.udp, message.tcp_established, message.tcp_transitory, message.icmp
        )

    def nat44_set_session_limit(self, message: Any) -> None:
        self._nat.set_limit(message.session_limit, message.vrf_id)

    def nat_set_workers(self, message: Any) -> None:
        raise Refusal("FEATURE_DISABLED")

    def nat44_ed_set_fq_options(self, message: Any) -> None:
        if self._nat.enabled:
            raise Refusal("FEATURE_ALREADY_ENABLED")
        self._frame_queue = message.frame_queue_nelts

    def nat44_ed_show_fq_options(self, message: Any) -> Fields:
        return {"frame_queue_nelts": self._frame_queue}

    # -- interfaces -------------------------------------------------------------------------------------------------

    def nat44_interface_add_del_feature(self, message: Any) -> None:
        interface = self._machine.interface(message.sw_if_index)
        side = Side.INSIDE if int(message.flags) & INSIDE else Side.OUTSIDE
        if message.is_add:
            self._nat.add_interface(interface, side)
        else:
            self._nat.remove_interface(interface, side)

    def nat44_interface_dump(self, message: Any) -> Iterable[Fields]:
        for index, side in self._nat.interfaces.items():
            flags = INSIDE * bool(side & Side.INSIDE) | OUTSIDE * bool(side & Side.OUTSIDE)
            yield {"sw_if_index": index, "flags": flags}

    def nat44_ed_add_del_output_interface(self, message: Any) -> None:
        interface = self._machine.interface(message.sw_if_index)
        if message.is_add:
            self._nat.add_output(interface)
        else:
            self._nat.remove_output(interface)

    def nat44_ed_output_interface_get(self, message: Any) -> Iterable[Fields]:
        return [{"sw_if_index": index} for index in self._nat.outputs]

    # -- addresses --------------------------------------------------------------------------------------------------

    def nat44_add_del_address_range(self, message: Any) -> None:
        twice = bool(int(message.flags) & TWICE_NAT)
        for address in range(int(message.first_ip_address), int(message.last_ip_address) + 1):
            if message.is_add:
                self._nat.add_address(address, message.vrf_id, twice=twice)
            else:
                self._nat.remove_address(address, twice=twice)

    def nat44_address_dump(self, message: Any) -> Iterable[Fields]:
        for known, flags in ((self._nat.addresses, 0), (self._nat.twice_addresses, TWICE_NAT)):
            for present in known:
                vrf_id = NO_VRF if present.fib is None else present.fib.table_id
                yield {"ip_address": _ip(present.address), "flags": flags, "vrf_id": vrf_id}

    # -- mappings ---------------------------------------------------------------------------------------------------

    def nat44_add_del_static_mapping(self, message: Any) -> None:
        self._static(message, pool_address=0)

    def nat44_add_del_static_mapping_v2(self, message: Any) -> None:
        self._static(message, pool_address=int(message.pool_ip_address))

    def _static(self, message: Any, *, pool_address: int) -> None:
        if message.external_sw_if_index != NO_INTERFACE:
            raise Refusal("UNIMPLEMENTED")
        flags = _flags(message.flags) | (MappingFlag.EXACT_ADDRESS if pool_address else MappingFlag.NONE)
        whole = flags & MappingFlag.ADDRESS_ONLY
        address = int(message.external_ip_address)
        external = (address, 0, 0) if whole else (address, message.external_port, message.protocol)
        mapping = Mapping(external, flags=flags, tag=message.tag[:TAG_MAX])
        mapping.local_address = int(message.local_ip_address)
        mapping.local_port = 0 if whole else message.local_port
        mapping.pool_address = pool_address
        self._change(mapping, message)

    def nat44_add_del_identity_mapping(self, message: Any) -> None:
        if message.sw_if_index != NO_INTERFACE:
            raise Refusal("UNIMPLEMENTED")
        whole = int(message.flags) & ADDRESS_ONLY
        flags = MappingFlag.IDENTITY | (MappingFlag.ADDRESS_ONLY if whole else MappingFlag.NONE)
        address = int(message.ip_address)
        port, protocol = (0, 0) if whole else (message.port, message.protocol)
        mapping = Mapping((address, port, protocol), flags=flags, tag=message.tag[:TAG_MAX])
        mapping.local_address = address
        mapping.local_port = port
        self._change(mapping, message)

    def _change(self, mapping: Mapping, message: Any) -> None:
        if message.is_add:
            self._nat.add_mapping(mapping, vrf_id=message.vrf_id)
        else:
            self._nat.remove_mapping(mapping, vrf_id=message.vrf_id)

    def nat44_static_mapping_dump(self, message: Any) -> Iterable[Fields]:
        for mapping in self._nat.mappings.pool:
            if mapping.is_identity or mapping.is_balanced or mapping.fib is None:
                continue
            address, port, protocol = mapping.external
            yield {
                "flags": _api_flags(mapping), "local_ip_address": _ip(mapping.local_address),
                "external_ip_address": _ip(address), "protocol": protocol, "local_port": mapping.local_port,
                "external_port": port, "external_sw_if_index": NO_INTERFACE, "vrf_id": mapping.fib.table_id,
                "tag": mapping.tag,
            }  # fmt: skip

    def nat44_identity_mapping_dump(self, message: Any) -> Iterable[Fields]:
        for mapping in self._nat.mappings.pool:
            if not mapping.is_identity:
                continue
            address, port, protocol = mapping.external
            for local in mapping.locals:
                yield {
                    "flags": ADDRESS_ONLY * mapping.address_only, "ip_address": _ip(address), "protocol": protocol,
                    "port": port, "sw_if_index": NO_INTERFACE, "vrf_id": local.fib.table_id, "tag": mapping.tag,
                }  # fmt: skip

    def nat44_add_del_lb_static_mapping(self, message: Any) -> None:
        if len(message.locals) > LOCALS_MAX:
            raise Refusal("INVALID_VALUE")  # VPP would never answer again
        flags = _flags(message.flags) & (MappingFlag.OUT2IN_ONLY | MappingFlag.TWICE_NAT | MappingFlag.SELF_TWICE_NAT)
        if flags & MappingFlag.TWICE_NAT:
            flags &= ~MappingFlag.SELF_TWICE_NAT
        mapping = _balanced(message, flags)
        mapping.affinity_s = message.affinity
        if message.is_add:
            self._nat.add_balanced(mapping, [_local(local) for local in message.locals])
        else:
            self._nat.remove_balanced(mapping)

    def nat44_lb_static_mapping_add_del_local(self, message: Any) -> None:
        mapping = _balanced(message, MappingFlag.NONE)
        if message.is_add:
            self._nat.add_local(mapping, _local(message.local))
        else:
            self._nat.remove_local(mapping, _local(message.local))

    def nat44_lb_static_mapping_dump(self, message: Any) -> Iterable[Fields]:
        for mapping in self._nat.mappings.pool:
            if not mapping.is_balanced:
                continue
            address, port, protocol = mapping.external
            locals_ = [
                {"addr": _ip(local.address), "port": local.port, "probability": local.weight,
                 "vrf_id": local.fib.table_id}
                for local in mapping.locals
            ]  # fmt: skip
            yield {
                "external_addr": _ip(address), "external_port": port, "protocol": protocol,
                "flags": _api_flags(mapping) & ~ADDRESS_ONLY, "affinity": 0, "tag": mapping.tag,
                "local_num": len(locals_), "locals": locals_,
            }  # fmt: skip

    # -- sessions ---------------------------------------------------------------------------------------------------

    def nat44_del_session(self, message: Any) -> None:
        addresses = int(message.address) << 32 | int(message.ext_host_address)
        ports = message.port << 16 | message.ext_host_port
        self._nat.remove_session(addresses, ports, message.protocol, vrf_id=message.vrf_id)

    def nat44_user_dump(self, message: Any) -> Iterable[Fields]:
        users: dict[tuple[int, int], list[int]] = {}
        for session in self._nat.sessions.pool:
            counts = users.setdefault((session.inside.address, session.inside.fib.table_id), [0, 0])
            counts[bool(session.flags & SessionFlag.STATIC)] += 1
        for (address, vrf_id), (dynamic, static) in users.items():
            yield {"vrf_id": vrf_id, "ip_address": _ip(address), "nsessions": dynamic, "nstaticsessions": static}

    def nat44_user_session_dump(self, message: Any) -> Iterable[Fields]:
        return [self._session(session) for session in self._sessions_of(message)]

    def nat44_user_session_v2_dump(self, message: Any) -> Iterable[Fields]:
        for session in self._sessions_of(message):
            yield {**self._session(session), "is_timed_out": self._is_timed_out(session)}

    def nat44_user_session_v3_dump(self, message: Any) -> Iterable[Fields]:
        now = self._machine.clock()
        for session in self._sessions_of(message):
            yield {
                **self._session(session), "is_timed_out": self._is_timed_out(session),
                "time_since_last_heard": max(0, int(now - session.last_heard_s)),
            }  # fmt: skip

    def _sessions_of(self, message: Any) -> list[Session]:
        """The sessions of an inside address, in any VRF."""
        return self._nat.sessions.of_inside(int(message.ip_address))

    def _is_timed_out(self, session: Session) -> bool:
        sessions = self._nat.sessions
        return self._machine.clock() >= session.last_heard_s + sessions.timeout(session)

    def _session(self, session: Session) -> dict[str, Any]:
        twice = bool(session.flags & SessionFlag.TWICE_NAT)
        flags = EXT_HOST_VALID | STATIC * bool(session.flags & SessionFlag.STATIC) | TWICE_NAT * twice
        fields = {
            "outside_ip_address": _ip(session.outside.address), "outside_port": session.outside.port,
            "inside_ip_address": _ip(session.inside.address), "inside_port": session.inside.port,
            "protocol": session.protocol, "flags": flags, "last_heard": int(session.last_heard_s),
            "total_bytes": session.bytes, "total_pkts": session.packets,
            "ext_host_address": _ip(session.external[0]), "ext_host_port": session.external[1],
        }  # fmt: skip
        if twice:
            address, port = session.external_nat
            fields |= {"ext_host_nat_address": _ip(address), "ext_host_nat_port": port}
        return fields


def _balanced(message: Any, flags: MappingFlag) -> Mapping:
    external = (int(message.external_addr), message.external_port, message.protocol)
    return Mapping(external, flags=flags, tag=getattr(message, "tag", "")[:TAG_MAX])


def _local(local: Any) -> LocalSpec:
    return LocalSpec(int(local.addr), local.port, local.probability, local.vrf_id)


def _flags(flags: Any) -> MappingFlag:
    found = MappingFlag.NONE
    for bit, flag in _MAPPING_FLAGS:
        if int(flags) & bit:
            found |= flag
    return found


def _api_flags(mapping: Mapping) -> int:
    return sum(bit for bit, flag in _MAPPING_FLAGS if mapping.flags & flag)


def _timeouts(timeouts: Timeouts) -> dict[str, int]:
    return {
        "udp": timeouts.udp, "tcp_established": timeouts.tcp_established,
        "tcp_transitory": timeouts.tcp_transitory, "icmp": timeouts.icmp,
    }  # fmt: skip


def _ip(value: int) -> ipaddress.IPv4Address:
    return ipaddress.IPv4Address(value)
