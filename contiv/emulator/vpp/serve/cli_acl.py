"""The ACL plugin's commands of the debug CLI: its lists, who checks them, its sessions, and their timeouts.

The lines of ``show acl-plugin`` are VPP's own, so that what reads them reads both; what only VPP has inside (hash
tables, worker interrupts) is left out.
"""

from __future__ import annotations

import ipaddress
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from contiv.emulator.vpp.acl_sessions import EVERY, Timeout

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from contiv.emulator.vpp.acl_rules import AccessList, Rule
    from contiv.emulator.vpp.machine import Machine

_ACTIONS: Final = {0: "deny", 1: "permit", 2: "permit+reflect"}
_TIMEOUTS: Final = {
    ("udp", "idle"): Timeout.UDP_IDLE,
    ("tcp", "idle"): Timeout.TCP_IDLE,
    ("tcp", "transient"): Timeout.TCP_TRANSIENT,
}

Command = tuple[tuple[str, ...], "Callable[[list[str]], Iterator[str]]"]


class AclCli:
    """Commands over one machine's access lists."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._acl = machine.graph.acl
        self.commands: tuple[Command, ...] = (
            (("show", "acl-plugin", "acl"), self._lists),
            (("show", "acl-plugin", "interface"), self._interfaces),
            (("show", "acl-plugin", "sessions"), self._sessions),
            (("show", "acl-plugin", "tables"), self._tables),
            (("set", "acl-plugin", "session", "timeout"), self._set_timeout),
            (("set", "acl-plugin", "session", "table", "max-entries"), self._set_sessions_max),
            (("set", "acl-plugin", "reclassify-sessions"), self._set_reclassify),
            (("clear", "acl-plugin", "sessions"), self._clear),
        )

    def _lists(self, words: list[str]) -> Iterator[str]:
        wanted = _option(words, "index")
        for index, access_list in sorted(self._acl.lists.items()):
            if wanted in {None, index}:
                yield from _list_lines(access_list)
                for is_input, way in ((True, "inbound"), (False, "outbound")):
                    users = ", ".join(str(number) for number in self._acl.users(index, is_input=is_input))
                    yield f"  applied {way} on sw_if_index: {users}"

    def _interfaces(self, words: list[str]) -> Iterator[str]:
        wanted = _option(words, "sw_if_index")
        for interface in self._machine.interfaces:
            if wanted not in {None, interface.index}:
                continue
            yield f"sw_if_index {interface.index}:"
            for is_input, way in ((True, "input"), (False, "output")):
                epoch = self._acl.epoch(interface.index, is_input=is_input)
                if epoch is not None:
                    yield f"   {way} policy epoch: {epoch & 0x7FFF | is_input << 15:x}"
            for is_input, way in ((True, "input"), (False, "output")):
                lists = self._acl.applied(interface.index, is_input=is_input)
                if lists:
                    yield f"  {way} acl(s): {', '.join(str(index) for index in lists)}"
                    if "acl" in words:
                        for index in lists:
                            yield from _list_lines(self._acl.lists[index])

    def _sessions(self, words: list[str]) -> Iterator[str]:
        table = self._acl.sessions
        table.work(table.clock())
        added, deleted, deactivated = table.added.total(), table.deleted.total(), table.deactivated
        yield f"Sessions total: add {added} - del {deleted} = {added - deleted}"
        yield f"Sessions active: add {added} - deact {deactivated} = {added - deactivated}"
        yield f"Sessions being purged: deact {deactivated} - del {deleted} = {deactivated - deleted}"
        yield "\n\nPer-thread data:\nThread #0:\n  connection add/del stats:"
        for interface in self._machine.interfaces:
            made, gone = table.added[interface.index], table.deleted[interface.index]
            changed = table.restarted[interface.index]
            yield f"    sw_if_index {interface.index}: add {made} - del {gone} = {made - gone}; epoch chg: {changed}"
        yield f"Reclassify sessions: {int(self._acl.reclassify)}"

    def _tables(self, words: list[str]) -> Iterator[str]:
        yield f"Stats counters enabled for interface ACLs: {int(self._acl.counters_enabled)}"

    def _set_timeout(self, words: list[str]) -> Iterator[str]:
        timeout = _TIMEOUTS.get((words[0], words[1])) if len(words) == 3 else None
        if timeout is None or not words[2].isdigit():
            return iter(("set acl-plugin session timeout {{udp idle}|tcp {idle|transient}} <seconds>",))
        self._acl.sessions.set_timeout(timeout, int(words[2]))
        return iter(())

    def _set_sessions_max(self, words: list[str]) -> Iterator[str]:
        if len(words) != 1 or not words[0].isdigit():
            return iter(("expecting maximum number of entries",))
        self._acl.sessions.sessions_max = int(words[0])
        return iter(())

    def _set_reclassify(self, words: list[str]) -> Iterator[str]:
        self._acl.reclassify = words[:1] not in ([], ["0"])
        return iter(())

    def _clear(self, words: list[str]) -> Iterator[str]:
        self._acl.sessions.clear(EVERY)
        return iter(())


def _list_lines(access_list: AccessList) -> Iterator[str]:
    tag = access_list.tag.decode(errors="replace")
    yield f"acl-index {access_list.index} count {len(access_list.rules)} tag {{{tag}}}"
    for number, rule in enumerate(access_list.rules):
        yield f"  {number:>9}: {_rule(rule)}"


def _rule(rule: Rule) -> str:
    address = ipaddress.IPv4Address if rule.version == 4 else ipaddress.IPv6Address
    text = (
        f"ipv{rule.version} {_ACTIONS.get(rule.action, f'action {rule.action}')}"
        f" src {address(rule.source)}/{rule.source_length} dst {address(rule.destination)}/{rule.destination_length}"
        f" proto {rule.protocol} sport {_span(rule.source_first, rule.source_last)}"
        f" dport {_span(rule.destination_first, rule.destination_last)}"
    )
    if rule.tcp_mask or rule.tcp_value:
        text += f" tcpflags {rule.tcp_value} mask {rule.tcp_mask}"
    return text


def _span(first: int, last: int) -> str:
    return str(first) if first == last else f"{first}-{last}"


def _option(words: list[str], name: str) -> int | None:
    """The number behind a word; None without it."""
    for word, value in pairwise(words):
        if word == name and value.isdigit():
            return int(value)
    return None
