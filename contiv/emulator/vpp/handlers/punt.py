"""Punting to the host (vnet/ip/punt.api, ip.api: ip_punt_redirect_v2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from contiv.emulator.vpp.fib import Path
from contiv.emulator.vpp.handlers.convert import address
from contiv.emulator.vpp.interface import NO_INTERFACE
from contiv.emulator.vpp.punt import ANY_RECEIVER
from contiv.emulator.vpp.refusal import Refusal

if TYPE_CHECKING:
    from collections.abc import Iterable

    from contiv.emulator.vpp.handlers import Fields
    from contiv.emulator.vpp.machine import Machine

L4: Final = 0
UDP: Final = 17
ALL_PORTS: Final = 0xFFFF


class PuntHandlers:
    """Handlers about what VPP itself does not take; IPv4."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._punt = machine.graph.punt

    def set_punt(self, message: Any) -> None:
        if int(message.punt.type) != L4:
            raise Refusal("UNIMPLEMENTED")
        l4 = message.punt.punt.l4
        if int(l4.af) or int(l4.protocol) != UDP or l4.port != ALL_PORTS:
            raise Refusal("UNIMPLEMENTED")
        self._punt.unknown_udp = bool(message.is_add)

    def add_del_ip_punt_redirect_v2(self, message: Any) -> None:
        punt = message.punt
        if int(punt.af):
            raise Refusal("UNIMPLEMENTED")
        receiver = ANY_RECEIVER if punt.rx_sw_if_index == NO_INTERFACE else punt.rx_sw_if_index
        if receiver != ANY_RECEIVER:
            self._machine.interface(receiver)
        if not message.is_add:
            self._punt.redirects.pop(receiver, None)
            return
        if len(punt.paths) != 1:
            raise Refusal("INVALID_VALUE" if not punt.paths else "UNIMPLEMENTED")
        path = punt.paths[0]
        self._machine.interface(path.sw_if_index)
        self._punt.redirects[receiver] = Path(path.sw_if_index, int(path.nh.address.ip4), 4)

    def ip_punt_redirect_v2_dump(self, message: Any) -> Iterable[Fields]:
        wanted = message.sw_if_index
        for receiver, path in sorted(self._punt.redirects.items()):
            if int(message.af) or wanted not in {NO_INTERFACE, receiver}:
                continue
            hop = {"sw_if_index": path.sw_if_index, "weight": 1, "nh": {"address": {"ip4": address(4, path.next_hop)}}}
            yield {"punt": {"rx_sw_if_index": receiver, "af": 0, "n_paths": 1, "paths": [hop]}}
