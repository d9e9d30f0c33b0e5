"""Access lists as the ACL plugin keeps them: rules read from the wire, checked, and the first one that fits a flow.

In: ``vl_api_acl_rule_t`` records and the flow of a packet (``acl_flow.py``). Out: rules for the API, a ``Verdict`` for
the packet. ``Chain`` is what one side of an interface evaluates: its lists one after the other, the first rule that
fits decides, no rule denies. It remembers which rules there are between two addresses, so that only the first packet
between them walks all rules.
Follows plugins/acl: acl_add_list, single_acl_match_5tuple and single_rule_match_5tuple.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from itertools import chain
from typing import TYPE_CHECKING, Final, NamedTuple

from contiv.emulator.vpp.acl_flow import NONFIRST, TCP, VALID
from contiv.emulator.vpp.refusal import Refusal

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from contiv.emulator.vpp.acl_flow import Addresses, Flow

RULE: Final = struct.Struct(">BB16sBB16sBBHHHHBB")
"""One record: action, two prefixes of (family, address, length), protocol, two port ranges, TCP flags."""
TAG_LENGTH: Final = 64
PAIRS_MAX: Final = 65_536
"""Pairs of addresses, by protocol, that a chain remembers; then it starts anew."""


class Action(IntEnum):
    """What a rule does. Others than these pass packets like PERMIT (acl_fa_inner_node_fn)."""

    DENY = 0
    PERMIT = 1
    REFLECT = 2


class Rule(NamedTuple):
    """One rule; ports are types and codes for ICMP. ``protocol`` 0 fits every protocol."""

    action: int
    version: int
    source: int
    source_length: int
    destination: int
    destination_length: int
    protocol: int
    source_first: int
    source_last: int
    destination_first: int
    destination_last: int
    tcp_mask: int
    tcp_value: int

    def packed(self) -> bytes:
        """The record on the wire; what an IPv4 address leaves of its room is zero."""
        family = self.version == 6
        source, destination = (_wire_address(self.version, value) for value in (self.source, self.destination))
        return RULE.pack(
            self.action, family, source, self.source_length, family, destination, self.destination_length, *self[6:]
        )


class AccessList:
    """One list in VPP's pool; its rules are made ready for packets when the first one comes."""

    __slots__ = ("_ready", "index", "rules", "tag")

    def __init__(self, index: int, tag: bytes, rules: tuple[Rule, ...]) -> None:
        self.index = index
        self.tag = tag
        self.rules = rules
        self._ready: dict[int, tuple[_Compiled, ...]] = {}

    def ready(self, version: int) -> tuple[_Compiled, ...]:
        """The rules of one IP version as ``Chain`` walks them."""
        found = self._ready.get(version)
        if found is None:
            found = self._ready[version] = tuple(
                _compile(rule, Verdict(rule.action, self.index, number))
                for number, rule in enumerate(self.rules)
                if rule.version == version
            )
        return found


class Verdict(NamedTuple):
    """What decided about a packet: the action, the list and the rule's place in it; -1 where no rule fitted."""

    action: int
    acl_index: int
    rule_index: int


NO_RULE: Final = Verdict(Action.DENY, -1, -1)

# destination mask, destination, source mask, source, protocol, and what is left to compare
_Compiled = tuple[int, int, int, int, int, "_Ports"]
# protocol, source ports, destination ports, TCP mask, TCP value, verdict
_Ports = tuple[int, int, int, int, int, int, int, Verdict]


def read_rules(records: bytes | memoryview) -> tuple[Rule, ...]:
    """The rules in whole records, in order. Refusal as VPP's for the first record that it does not take."""
    return tuple(_read(fields) for fields in RULE.iter_unpack(records))


def _read(fields: tuple[int, int, bytes, int, int, bytes, int, int, int, int, int, int, int, int]) -> Rule:
    action, source_family, source, source_length, family, destination, length, *rest = fields
    source_value = _prefix(source_family, source, source_length, refusal="INVALID_SRC_ADDRESS")
    value = _prefix(family, destination, length, refusal="INVALID_DST_ADDRESS")
    if source_family != family:
        raise Refusal("INVALID_SRC_ADDRESS")
    if rest[1] > rest[2] or rest[3] > rest[4]:
        raise Refusal("INVALID_VALUE_2")
    return Rule(action, 6 if family else 4, source_value, source_length, value, length, *rest)


def _prefix(family: int, address: bytes, length: int, *, refusal: str) -> int:
    """The address of a prefix without host bits (ip_prefix_validate)."""
    if family > 1:
        raise Refusal(refusal)
    bits = 128 if family else 32
    value = int.from_bytes(address if family else address[:4], "big")
    if length > bits or value & (1 << bits - length) - 1:
        raise Refusal(refusal)
    return value


def _wire_address(version: int, value: int) -> bytes:
    return value.to_bytes(16, "big") if version == 6 else value.to_bytes(4, "big") + bytes(12)


class Chain:
    """The lists of one side of an interface, in order, ready to judge flows of both IP versions."""

    def __init__(self, lists: Iterable[AccessList]) -> None:
        self._lists = tuple(lists)
        self._known: dict[tuple[Addresses, int], tuple[_Ports, ...]] = {}

    def judge(self, version: int, flow: Flow) -> Verdict:
        """The first rule that fits ``flow``."""
        addresses, ports, protocol, tcp_flags, kind = flow
        first, second = ports >> 16, ports & 0xFFFF
        for wanted, s_first, s_last, d_first, d_last, mask, value, verdict in self._between(
            version, addresses, protocol
        ):
            if not wanted or kind & NONFIRST:
                return verdict  # a later fragment has no ports: the protocol alone decides (l4_match_nonfirst_fragment)
            if not kind & VALID or not s_first <= first <= s_last or not d_first <= second <= d_last:
                continue
            if not kind & TCP or tcp_flags & mask == value:
                return verdict
        return NO_RULE

    def _between(self, version: int, addresses: Addresses, protocol: int) -> tuple[_Ports, ...]:
        """The rules for a protocol between two addresses, up to the first that all its packets fit."""
        found = self._known.get((addresses, protocol))
        if found is None:
            if len(self._known) >= PAIRS_MAX:
                self._known.clear()
            found = self._known[addresses, protocol] = tuple(self._walk(version, addresses, protocol))
        return found

    def _walk(self, version: int, addresses: Addresses, protocol: int) -> Iterator[_Ports]:
        source, destination = _pair(addresses)
        rows = chain.from_iterable(access_list.ready(version) for access_list in self._lists)
        for to_mask, to, from_mask, origin, wanted, ports in rows:
            if destination & to_mask == to and source & from_mask == origin and wanted in {0, protocol}:
                yield ports
                if not wanted:
                    return


def _pair(addresses: Addresses) -> tuple[int, int]:
    if isinstance(addresses, int):
        return addresses >> 32, addresses & 0xFFFFFFFF
    return int.from_bytes(addresses[:16], "big"), int.from_bytes(addresses[16:], "big")


def _compile(rule: Rule, verdict: Verdict) -> _Compiled:
    bits = 128 if rule.version == 6 else 32
    ports = (rule.protocol, *rule[7:], verdict)
    to_mask, from_mask = _mask(bits, rule.destination_length), _mask(bits, rule.source_length)
    return to_mask, rule.destination, from_mask, rule.source, rule.protocol, ports


def _mask(bits: int, length: int) -> int:
    return (1 << bits) - (1 << bits - length)
