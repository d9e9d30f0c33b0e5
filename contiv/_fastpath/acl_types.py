"""What ``contiv.fastpath.acl`` tells people: one line of a table, and how a packet fared.

Plain values without logic; the compiled kernel makes them, ``explain`` and the tests read them.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from contiv.model.ip import Network

ACTIONS: Final = ("deny", "permit", "permit+reflect")
PROTOCOLS: Final = {0: "any", 1: "icmp", 6: "tcp", 17: "udp", 58: "icmp6", 132: "sctp"}
ALL_PORTS: Final = (0, 0xFFFF)


class Rule(NamedTuple):
    """One line of a table, as ``vl_api_acl_rule_t`` has it (plugins/acl/acl_types.api).

    ``action`` indexes ``ACTIONS``. ``protocol`` 0 is any, and then ports and flags are not looked at. Port ranges are
    inclusive; for ICMP the source's is the type's, the destination's the code's.
    """

    action: int
    source: Network
    destination: Network
    protocol: int = 0
    source_ports: tuple[int, int] = ALL_PORTS
    destination_ports: tuple[int, int] = ALL_PORTS
    tcp_flags_mask: int = 0
    tcp_flags_value: int = 0

    def __str__(self) -> str:
        parts = [ACTIONS[self.action], PROTOCOLS.get(self.protocol, str(self.protocol))]
        for network, ports in ((self.source, self.source_ports), (self.destination, self.destination_ports)):
            first, last = ports
            suffix = "" if ports == ALL_PORTS else f" port {first}" if first == last else f" ports {first}-{last}"
            parts.append(f"{network}{suffix}")
        flags = f" flags {self.tcp_flags_value:#x}/{self.tcp_flags_mask:#x}" if self.tcp_flags_mask else ""
        return f"{parts[0]} {parts[1]} {parts[2]} -> {parts[3]}{flags}"


class Verdict(NamedTuple):
    """What happens to a packet: ``action`` 0 deny, 1 permit, 2 permit and let the answers back.

    ``line`` is the rule that decided, ``table`` the place of its table in the list; both None where nothing matched.
    """

    action: int
    line: int | None
    table: int | None = None

    @property
    def permitted(self) -> bool:
        """Whether the packet passes."""
        return self.action != 0
