"""Access lists as the ACL plugin keeps them: rules read from the wire, checked, and the first one that fits a flow.

In: ``vl_api_acl_rule_t`` records and the flow of a packet (``acl_flow.py``). Out: rules for the API, a ``Verdict`` for
the packet. ``Chain`` is what one side of an interface evaluates: its lists one after the other, the first rule that
fits decides, no rule denies. It remembers decisions by flow, so that only a flow's first packet walks the rules.
Follows plugins/acl: acl_add_list, single_acl_match_5tuple and single_rule_match_5tuple.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from contiv.emulator.vpp.acl_flow import NONFIRST, TCP, VALID
from contiv.emulator.vpp.refusal import Refusal

if TYPE_CHECKING:
    from collections.abc import Iterable

    from contiv.emulator.vpp.acl_flow import Flow

RULE: Final = struct.Struct(">BB16sBB16sBBHHHHBB")
"""One record: action, two prefixes of (family, address, length), protocol, two port ranges, TCP flags."""
TAG_LENGTH: Final = 64
DECISIONS_MAX: Final = 65_536
"""Flows whose decision a chain remembers; then it starts anew."""
_BITS: Final = {4: 32, 6: 128}


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


class AccessList(msgspec.Struct, frozen=True):
    """One list in VPP's pool."""

    index: int
    tag: bytes
    rules: tuple[Rule, ...]


class Verdict(NamedTuple):
    """What decided about a packet: the action, the list and the rule's place in it; -1 where no rule fitted."""

    action: int
    acl_index: int
    rule_index: int


NO_RULE: Final = Verdict(Action.DENY, -1, -1)

# destination mask, destination, source mask, source, protocol, ports (4), TCP mask, TCP value, verdict
_Compiled = tuple[int, int, int, int, int, int, int, int, int, int, int, Verdict]


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
        self._rules: dict[int, list[_Compiled]] = {4: [], 6: []}
        flags = 0
        for access_list in lists:
            for number, rule in enumerate(access_list.rules):
                self._rules[rule.version].append(_compile(rule, Verdict(rule.action, access_list.index, number)))
                flags |= rule.tcp_mask
        self._tcp_flags = flags
        """Flags that some rule looks at: they are part of what a decision depends on."""
        self._by_protocol: dict[tuple[int, int], tuple[_Compiled, ...]] = {}
        self._decisions: dict[tuple[object, int, int, int, int], Verdict] = {}

    def judge(self, version: int, flow: Flow) -> Verdict:
        """The first rule that fits ``flow``."""
        addresses, ports, protocol, tcp_flags, kind = flow
        key = (addresses, ports, protocol, tcp_flags & self._tcp_flags, kind)
        verdict = self._decisions.get(key)
        if verdict is None:
            if len(self._decisions) >= DECISIONS_MAX:
                self._decisions.clear()
            verdict = self._decisions[key] = self._walk(version, flow)
        return verdict

    def _walk(self, version: int, flow: Flow) -> Verdict:
        addresses, ports, protocol, tcp_flags, kind = flow
        if version == 4:
            assert isinstance(addresses, int)
            source, destination = addresses >> 32, addresses & 0xFFFFFFFF
        else:
            assert isinstance(addresses, bytes)
            source, destination = int.from_bytes(addresses[:16], "big"), int.from_bytes(addresses[16:], "big")
        first, second = ports >> 16, ports & 0xFFFF
        for rule in self._candidates(version, protocol):
            to_mask, to, from_mask, frm, wanted, s_first, s_last, d_first, d_last, t_mask, t_value, verdict = rule
            if destination & to_mask != to or source & from_mask != frm:
                continue
            if not wanted or kind & NONFIRST:
                return verdict  # a later fragment has no ports: the protocol alone decides (l4_match_nonfirst_fragment)
            if not kind & VALID or not s_first <= first <= s_last or not d_first <= second <= d_last:
                continue
            if kind & TCP and tcp_flags & t_mask != t_value:
                continue
            return verdict
        return NO_RULE

    def _candidates(self, version: int, protocol: int) -> tuple[_Compiled, ...]:
        """The rules that a protocol's packets can fit."""
        found = self._by_protocol.get((version, protocol))
        if found is None:
            found = tuple(rule for rule in self._rules[version] if rule[4] in {0, protocol})
            self._by_protocol[version, protocol] = found
        return found


def _compile(rule: Rule, verdict: Verdict) -> _Compiled:
    bits = _BITS[rule.version]
    return (
        _mask(bits, rule.destination_length), rule.destination, _mask(bits, rule.source_length), rule.source,
        rule.protocol, rule.source_first, rule.source_last, rule.destination_first, rule.destination_last,
        rule.tcp_mask, rule.tcp_value, verdict,
    )  # fmt: skip


def _mask(bits: int, length: int) -> int:
    return (1 << bits) - (1 << bits - length)
