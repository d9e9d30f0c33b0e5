"""NAT44-ED's sessions in the debug CLI, filtered as VPP filters them (nat44_ed_cli.c, nat44_show_sessions_command_fn).

The lines that tell the ends of a session are VPP's own; its flows as VPP rewrites packets by them are left out.
"""

from __future__ import annotations

import ipaddress
from socket import IPPROTO_ICMP, IPPROTO_SCTP, IPPROTO_TCP, IPPROTO_UDP
from typing import TYPE_CHECKING, Final

from contiv.emulator.vpp.nat44_sessions import SessionFlag

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from contiv.emulator.vpp.machine import Machine
    from contiv.emulator.vpp.nat44_sessions import Session
    from contiv.emulator.vpp.serve.cli_acl import Command

_FILTER: Final = "filter"
_WORDS: Final = 4
"""Of one filter: ``filter <flow> <field> <value>``."""
_PROTOCOLS: Final = {IPPROTO_ICMP: "ICMP", IPPROTO_TCP: "TCP", IPPROTO_UDP: "UDP", IPPROTO_SCTP: "SCTP"}


class NatCli:
    """Commands over one machine's NAT44-ED."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self.commands: tuple[Command, ...] = ((("show", "nat44", "sessions"), self._sessions),)

    def _sessions(self, words: list[str]) -> Iterator[str]:
        filters: dict[tuple[str, str], int] = {}
        for at in range(0, len(words), _WORDS):
            each = words[at : at + _WORDS]
            value = _value(each[2], each[3]) if len(each) == _WORDS else None
            if value is None or each[0] != _FILTER or (each[1], each[2]) not in _FIELDS:
                yield f"show nat44 sessions: unknown input '{' '.join(each)}'"
                return
            filters[each[1], each[2]] = value
        table = self._machine.graph.nat44.sessions
        total = len(table.pool)
        yield "NAT44 ED sessions:"
        yield f"-------- thread 0 vpp_main: {total} sessions --------\n"
        shown = self._shown(filters)
        for session in shown:
            yield from self._lines(session)
        if filters:
            hidden = total - len(shown)
            yield f"Showed: {len(shown)}, Filtered: {hidden} of total {total} sessions of thread 0\n\n"

    def _shown(self, filters: dict[tuple[str, str], int]) -> list[Session]:
        table = self._machine.graph.nat44.sessions
        address = filters.get(("i2o", "saddr"))
        among = table.pool if address is None else table.of_inside(address, filters.get(("i2o", "sport")))
        tests = [(_FIELDS[name], value) for name, value in filters.items()]
        return [session for session in among if all(field(session) == value for field, value in tests)]

    def _lines(self, session: Session) -> Iterator[str]:
        protocol, inside, outside = _protocol(session), session.inside, session.outside
        yield f"    i2o {_address(inside.address)} proto {protocol} port {inside.port} fib {inside.fib.table_id}"
        yield f"    o2i {_address(outside.address)} proto {protocol} port {outside.port} fib {outside.fib.table_id}"
        if session.flags & SessionFlag.TWICE_NAT:
            yield f"       external host o2i {_end(session.external)} i2o {_end(session.external_nat)}"
        elif session.external[0]:
            yield f"       external host {_end(session.external)}"
        yield f"       index {session.index}"
        yield f"       last heard {session.last_heard_s:.2f}"
        left = session.last_heard_s + self._machine.graph.nat44.sessions.timeout(session) - self._machine.clock()
        yield f"       timeout in {left:.2f}"
        yield f"       total pkts {session.packets}, total bytes {session.bytes}"
        yield f"       {'static' if session.flags & SessionFlag.STATIC else 'dynamic'} translation"


def _inner(session: Session) -> tuple[int, int]:
    """The client as the backend sees it."""
    return session.external_nat if session.flags & SessionFlag.TWICE_NAT else session.external


def _protocol(session: Session) -> str:
    return _PROTOCOLS.get(session.protocol, str(session.protocol))


def _value(field: str, text: str) -> int | None:
    """A filter's value as sessions have it."""
    if field == "proto":
        return next((number for number, name in _PROTOCOLS.items() if name == text), None)
    if field.endswith("port"):
        return int(text) if text.isdigit() else None
    try:
        return int(ipaddress.IPv4Address(text))
    except ValueError:
        return None


def _address(value: int) -> str:
    return str(ipaddress.IPv4Address(value))


def _end(end: tuple[int, int]) -> str:
    return f"{_address(end[0])}:{end[1]}"


_FIELDS: Final[dict[tuple[str, str], Callable[[Session], int]]] = {
    ("i2o", "saddr"): lambda session: session.inside.address,
    ("i2o", "sport"): lambda session: session.inside.port,
    ("i2o", "daddr"): lambda session: _inner(session)[0],
    ("i2o", "dport"): lambda session: _inner(session)[1],
    ("i2o", "proto"): lambda session: session.protocol,
    ("o2i", "saddr"): lambda session: session.external[0],
    ("o2i", "sport"): lambda session: session.external[1],
    ("o2i", "daddr"): lambda session: session.outside.address,
    ("o2i", "dport"): lambda session: session.outside.port,
    ("o2i", "proto"): lambda session: session.protocol,
}
