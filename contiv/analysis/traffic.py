"""Kinds of traffic as people write them: ``80/TCP``, ``53/UDP``, ``ICMP``. Pure."""

from __future__ import annotations

from typing import Final

import msgspec

from contiv.errors import AnalysisError
from contiv.fastpath import acl

PROTOCOLS: Final = {"TCP": acl.TCP, "UDP": acl.UDP, "SCTP": acl.SCTP}
PORT_MAX: Final = 65535
ICMP: Final = "ICMP"
ECHO: Final = {4: (acl.ICMP, 8), 6: (acl.ICMP6, 128)}
"""Protocol and type of an echo request by IP version (RFC 792, RFC 4443)."""


class Traffic(msgspec.Struct, frozen=True, order=True):
    """A protocol with a destination port, or ICMP echo requests with port 0."""

    protocol: str
    port: int = 0

    @classmethod
    def parse(cls, text: str) -> Traffic:
        """``80/TCP``, ``80`` (TCP) or ``ICMP``; AnalysisError for anything else."""
        number, _, protocol = text.upper().partition("/")
        if text.upper() == ICMP:
            return cls(ICMP)
        if not number.isdecimal() or not 1 <= int(number) <= PORT_MAX or (protocol or "TCP") not in PROTOCOLS:
            raise AnalysisError(f"--port {text}: no port; write 80/TCP, 53/UDP, 36412/SCTP or ICMP")
        return cls(protocol or "TCP", int(number))

    def header(self, version: int) -> tuple[int, int, int]:
        """Protocol number, source port and destination port in packets of an IP version; of ICMP type and code."""
        if self.protocol == ICMP:
            return *ECHO[version], 0
        return PROTOCOLS[self.protocol], 0, self.port

    def __str__(self) -> str:
        return self.protocol if self.protocol == ICMP else f"{self.port}/{self.protocol}"
