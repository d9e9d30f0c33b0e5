"""The debug CLI's text: a few ``show`` commands in VPP's own layout, for people and for ``cli_inband``.

Anything else is answered as VPP answers it: unknown input.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Final

from contiv.emulator.vpp import adjacency as kinds
from contiv.emulator.vpp import sources
from contiv.emulator.vpp.serve.cli_acl import AclCli
from contiv.emulator.vpp.serve.cli_nat import NatCli

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from contiv.emulator.vpp.adjacency import Adjacency
    from contiv.emulator.vpp.fib import Entry, Fib
    from contiv.emulator.vpp.interface import Interface
    from contiv.emulator.vpp.machine import Machine

LEARN_LIMIT: Final = 16_777_216
"""Addresses that a bridge domain learns at most (L2LEARN_DEFAULT_LIMIT); shown, not enforced."""
VERSION_LINE: Final = "vpp v26.06-emulated, the emulated VPP of Contiv/VPP (contiv.emulator.vpp)"


class Cli:
    """Commands over one machine."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._commands: tuple[tuple[tuple[str, ...], Callable[[list[str]], Iterator[str]]], ...] = (
            (("show", "version"), self._version),
            (("show", "interface", "address"), self._addresses),
            (("show", "interface"), self._interfaces),
            (("show", "ip", "fib"), lambda words: self._fib(4, words)),
            (("show", "ip6", "fib"), lambda words: self._fib(6, words)),
            (("show", "ip", "neighbors"), self._neighbours),
            (("show", "ip", "table"), self._tables),
            (("show", "bridge-domain"), self._bridges),
            (("show", "l2fib"), self._l2fib),
            (("show", "vxlan", "tunnel"), self._tunnels),
            (("show", "errors"), self._errors),
            (("clear", "errors"), self._clear_errors),
            *AclCli(machine).commands,
            *NatCli(machine).commands,
        )

    def answer(self, line: str) -> tuple[str, bool]:
        """The text for a command line, and whether it is a command. Words may be cut short, as in VPP."""
        words = line.split()
        for names, command in self._commands:
            head = words[: len(names)]
            if len(head) == len(names) and all(n.startswith(w) for n, w in zip(names, head, strict=True)):
                return "".join(f"{text}\n" for text in command(words[len(names) :])), True
        return f"unknown input `{line.strip()}'\n", False

    def _version(self, words: list[str]) -> Iterator[str]:
        yield VERSION_LINE

    def _interfaces(self, words: list[str]) -> Iterator[str]:
        yield f"{'Name':>18}{'Idx':>18}    State  MTU (L3/IP4/IP6/MPLS)     Counter          Count     "
        for interface in sorted(self._machine.interfaces, key=lambda interface: interface.name):
            if words and interface.name not in words:
                continue
            mtu = "/".join(str(number) for number in interface.mtu)
            state = "up" if interface.admin_up else "down"
            head = f"{interface.name:<33}{interface.index:<5}{state:>6}{mtu:>20}     "
            counters = [(name, value) for name, value in _counters(interface) if value]
            if not counters:
                yield head
            for name, value in counters:
                yield f"{head:<69}{name:<21}{value:>11}"
                head = ""

    def _addresses(self, words: list[str]) -> Iterator[str]:
        for interface in sorted(self._machine.interfaces, key=lambda interface: interface.name):
            yield f"{interface.name} ({'up' if interface.admin_up else 'dn'}):"
            if interface.l2 is not None:
                bd_id, shg = interface.l2.bridge.bd_id, interface.l2.shg
                mark = "bvi" if interface.l2.bridge.bvi is interface else " "
                yield f"  L2 bridge bd-id {bd_id} idx {bd_id} shg {shg} {mark}"
            owner = interface
            if interface.unnumbered is not None:
                owner = interface.unnumbered
                yield f"  unnumbered, use {owner.name}"
            for version in (4, 6):
                table = interface.fib(version).table_id
                suffix = f" ip{version} table-id {table} fib-idx {table}" if table else ""
                for address in owner.addresses(version):
                    yield f"  L3 {_text(version, address.value)}/{address.length}{suffix}"

    def _fib(self, version: int, words: list[str]) -> Iterator[str]:
        tables = self._machine.family(version).tables
        if words[:1] == ["table"] and len(words) > 1:
            tables = {number: fib for number, fib in tables.items() if str(number) == words[1]}
            words = words[2:]
        for fib in tables.values():
            yield f"{fib.name}, fib_index:{fib.table_id}, flow hash:[src dst sport dport proto flowlabel ]"
            if words:
                yield from self._entry(fib, words[0])
                continue
            for entry in fib.sorted_entries():
                yield _prefix(entry)
                yield from self._forwarding(entry)

    def _entry(self, fib: Fib, text: str) -> Iterator[str]:
        try:
            network = ipaddress.ip_network(text, strict=False)
        except ValueError:
            yield f"unknown input `{text}'"
            return
        if network.version != fib.family.version:
            return
        entry = fib.match(int(network.network_address), length_max=network.prefixlen)
        yield f"{_prefix(entry)} fib:{fib.table_id} index:{entry.index}"
        for source in sorted(entry.sources):
            yield f"  {source.name}"
            for path in entry.sources[source].paths:
                interface = self._machine.interfaces.get(path.sw_if_index)
                where = interface.name if interface is not None else f"table {path.table_id}"
                hop = _text(path.next_hop_version, path.next_hop)
                yield f"    path: {path.type.name.lower()} weight={path.weight} pref={path.preference} {hop} {where}"
        yield " forwarding:"
        yield from self._forwarding(entry)

    def _forwarding(self, entry: Entry) -> Iterator[str]:
        resolver = entry.fib.family.resolver
        if entry.best == sources.ADJACENCY and not resolver.is_installed(entry):
            yield "  UNRESOLVED"
            return
        adjacency = resolver.forwarding(entry)
        buckets = adjacency.buckets or (adjacency,)
        yield f"  unicast-ip{entry.fib.family.version}-chain"
        protocol = f"ip{entry.fib.family.version}"
        yield f"  [@0]: dpo-load-balance: [proto:{protocol} index:{entry.index} buckets:{len(buckets)}]"
        for number, bucket in enumerate(buckets):
            yield f"    [{number}] {_adjacency(entry.fib.family.version, bucket)}"

    def _neighbours(self, words: list[str]) -> Iterator[str]:
        yield f"{'Age':>8}{'IP':>25}{'Flags':>25}      Ethernet              Interface       "
        now = self._machine.clock()
        for version in (4, 6):
            for neighbour in self._machine.neighbours(version):
                interface = self._machine.interfaces.get(neighbour.sw_if_index)
                flags = ("S" if neighbour.flags & 1 else "D") + ("N" if neighbour.flags & 2 else "")
                address = _text(version, neighbour.address)
                name = interface.name if interface is not None else "?"
                mac = neighbour.mac.hex(":")
                yield f"{now - neighbour.updated_s:>12.4f}{address:>25}{flags:>19}    {mac} {name}"

    def _tables(self, words: list[str]) -> Iterator[str]:
        for number, fib in enumerate(self._machine.family(4).tables.values()):
            yield f"[{number}] table_id:{fib.table_id} {fib.name}"

    def _bridges(self, words: list[str]) -> Iterator[str]:
        yield (
            "  BD-ID   Index   BSN  Age(min)  Learning  U-Forwrd   UU-Flood   Flooding  ARP-Term  arp-ufwd"
            " Learn-co Learn-li   BVI-Intf "
        )
        wanted = words[0] if words and words[0].isdigit() else ""
        for number, bridge in enumerate(self._machine.graph.bridges, start=1):
            if wanted and bridge.bd_id != int(wanted):
                continue
            age = str(bridge.mac_age) if bridge.mac_age else "off"
            bvi = bridge.bvi.name if bridge.bvi is not None else "N/A"
            switches = [_on(bridge.learn), _on(bridge.forward), "flood" if bridge.uu_flood else "drop"]
            switches += [_on(bridge.flood), _on(bridge.arp_term), _on(bridge.arp_ufwd)]
            row = " ".join(_centred(text, width) for text, width in zip(switches, (9, 9, 11, 9, 9, 9), strict=True))
            learned = sum(entry.learned for entry in bridge.macs.values())
            head = f"{_centred(bridge.bd_id, 8)} {_centred(number, 7)} {_centred(0, 4)} {_centred(age, 9)}"
            yield f"{head} {row} {_centred(learned, 8)} {LEARN_LIMIT} {_centred(bvi, 11)}"
            if "detail" in words:
                yield f"\n{'Interface':>20}{'If-idx':>17} ISN  SHG  BVI  TxFlood        VLAN-Tag-Rewrite       "
                for port in bridge.ports:
                    mark = "*" if port.interface is bridge.bvi else "-"
                    name, index = port.interface.name, port.interface.index
                    yield f"{name:>20}{index:>14}     1{port.shg:>5}    {mark}      *{'none':>21}"
                if bridge.tag:
                    yield f"\n  BD-Tag: {bridge.tag}"

    def _l2fib(self, words: list[str]) -> Iterator[str]:
        yield "    Mac-Address     BD-Idx If-Idx BSN-ISN Age(min) static filter bvi         Interface-Name        "
        for number, bridge in enumerate(self._machine.graph.bridges, start=1):
            for mac, entry in sorted(bridge.macs.items()):
                name = entry.interface.name if entry.interface is not None else "drop"
                index = entry.interface.index if entry.interface is not None else -1
                marks = "".join(f"{'*' if mark else '-':^7}" for mark in (entry.static, entry.filter, entry.bvi))
                yield f" {mac.hex(':')} {number:>5} {index:>7}      0/1      -   {marks}{name:>24}"

    def _tunnels(self, words: list[str]) -> Iterator[str]:
        for number, tunnel in enumerate(self._machine.graph.vxlan.tunnels()):
            yield (
                f"[{number}] instance {tunnel.instance} "
                f"src {_text(4, tunnel.source)} dst {_text(4, tunnel.destination)} "
                f"src_port {tunnel.source_port} dst_port {tunnel.destination_port} vni {tunnel.vni} "
                f"fib-idx {tunnel.fib.table_id} sw-if-idx {tunnel.interface.index} encap-dpo-idx 0 "
            )

    def _errors(self, words: list[str]) -> Iterator[str]:
        yield f"{'Count':>8}{'Node':>22}{'Reason':>35}{'Severity':>22} "
        for (node, reason), count in sorted(self._machine.graph.errors.by_reason.items()):
            yield f"{count:>10}{node:>28}  {reason:<40}{'error':>9}  "

    def _clear_errors(self, words: list[str]) -> Iterator[str]:
        self._machine.graph.errors.clear()
        return iter(())


def _counters(interface: Interface) -> tuple[tuple[str, int], ...]:
    return (
        ("rx packets", interface.rx_packets), ("rx bytes", interface.rx_bytes),
        ("tx packets", interface.tx_packets), ("tx bytes", interface.tx_bytes),
        ("drops", interface.drops), ("tx-error", interface.tx_errors),
    )  # fmt: skip


def _adjacency(version: int, adjacency: Adjacency) -> str:
    name = adjacency.interface.name if adjacency.interface is not None else ""
    if adjacency.kind == kinds.REWRITE and adjacency.interface is not None:
        mtu = adjacency.interface.mtu4 if version == 4 else adjacency.interface.mtu6
        hop = _text(version, adjacency.next_hop)
        return f"[@5]: ipv{version} via {hop} {name}: mtu:{mtu} flags:[] {adjacency.rewrite.hex()}"
    if adjacency.kind == kinds.INCOMPLETE:
        return f"[@3]: arp-ipv{version}: via {_text(version, adjacency.next_hop)} {name}"
    if adjacency.kind == kinds.GLEAN:
        return f"[@4]: ipv{version}-glean: {name}"
    if adjacency.kind == kinds.RECEIVE:
        return f"[@11]: dpo-receive: {_text(version, adjacency.next_hop)} on {name}"
    if adjacency.kind == kinds.LOOKUP and adjacency.fib is not None:
        return f"[@12]: dst-address,unicast lookup in {adjacency.fib.name}"
    return f"[@0]: dpo-drop ip{version}"


def _prefix(entry: Entry) -> str:
    return f"{_text(entry.fib.family.version, entry.value)}/{entry.length}"


def _text(version: int, value: int) -> str:
    return str(ipaddress.IPv4Address(value) if version == 4 else ipaddress.IPv6Address(value))


def _centred(value: object, width: int) -> str:
    """In the middle of a column, rather right than left, as VPP's ``%=`` has it."""
    text = str(value)
    left = (width - len(text) + 1) // 2
    return f"{' ' * left}{text}".ljust(width)


def _on(state: bool) -> str:
    return "on" if state else "off"
