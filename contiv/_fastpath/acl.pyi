"""Types of the compiled access lists: sets of addresses, of ports, of both, and tables in VPP's wire layout.

All values are immutable, hashable (the hash is kept) and equal when they mean the same, however they were made: what is
built from the same facts in another order has the same rules and the same name. IPv4 and IPv6 stand side by side in
every value. Nothing here does I/O.

From sets to a table::

    web = Peers.of(["10.1.0.0/16"]).difference(Peers.of(["10.1.9.0/24"]))    # ipBlock with except
    http = Ports.of([(TCP, 80, 80), (TCP, 8000, 8080)])
    allowed = Allowed.of([(web, http), (Peers.of(pod_addresses), Ports.ANY)])
    table = Table.build([permit(allowed, side="source"), deny()])
    await vpp.call("acl_add_replace", acl_index=0xFFFFFFFF, tag=table.name, r=table.wire)

Errors: ValueError for what is no address, port, rule or packet (text names it); TypeError for other types.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar, Final, Literal

import numpy as np
from numpy.typing import NDArray

from contiv._fastpath.acl_types import Rule as Rule
from contiv._fastpath.acl_types import Verdict as Verdict
from contiv.model.ip import Address, Network

RULE_SIZE: Final = 48
"""Bytes of one rule on the wire."""
DENY: Final = 0
PERMIT: Final = 1
REFLECT: Final = 2
"""Permit, and let what belongs to the same session back through the other list of the interface."""
ICMP: Final = 1
TCP: Final = 6
UDP: Final = 17
ICMP6: Final = 58
SCTP: Final = 132
FRAGMENT: Final = 1
"""Flag of a packet: a fragment that is not the first."""
TRUNCATED: Final = 2
"""Flag of a packet: fewer than 8 bytes behind its IP headers."""
RULE_DTYPE: Final[np.dtype[Any]]
"""``vl_api_acl_rule_t``: equal to ``schema.dtype("acl_rule")``."""
PACKET_DTYPE: Final[np.dtype[Any]]
"""A packet: ``version`` (4, 6), ``protocol``, ``flags``, ``tcp_flags`` as u1; ``source_port``, ``destination_port`` as
u2 in native order; ``source``, ``destination`` as 16 bytes in network order (IPv4 in the first four)."""

AddressLike = Address | Network | str
"""An address, a network (its host bits do not count), or the text of either."""

class Peers:
    """A set of addresses of both families, kept as sorted ranges that neither touch nor overlap.

    8 bytes a range for IPv4, 32 for IPv6; neighbours share a range. ``len`` is the number of prefixes that
    ``networks`` gives, the least that cover the set exactly.
    """

    ANY: ClassVar[Peers]
    NONE: ClassVar[Peers]
    @classmethod
    def of(cls, items: Iterable[AddressLike | Peers] | AddressLike) -> Peers:
        """All of ``items`` together."""

    @classmethod
    def from_arrays(cls, *, v4: NDArray[np.uint32] | None = None, v6: NDArray[np.uint8] | None = None) -> Peers:
        """Single addresses: ``v4`` as numbers in native order, ``v6`` of shape ``(n, 16)`` in network order."""

    @classmethod
    def union_of(cls, sets: Iterable[Peers]) -> Peers:
        """The union of any number of sets; the same object given twice is looked at once."""

    def union(self, *others: Peers) -> Peers: ...
    def intersection(self, other: Peers) -> Peers: ...
    def difference(self, other: Peers) -> Peers:
        """What is here and not in ``other``: an ipBlock less its ``except``."""

    def with_(self, items: Iterable[AddressLike | Peers] | AddressLike) -> Peers:
        """The set with ``items`` added, at the price of copying it; the very same object when they were in it."""

    def without(self, items: Iterable[AddressLike | Peers] | AddressLike) -> Peers:
        """The set with ``items`` taken out; the very same object when none was in it."""

    def family(self, version: Literal[4, 6]) -> Peers:
        """The addresses of one family."""

    def covers(self, other: Peers) -> bool:
        """Whether ``other`` is a subset."""

    def isdisjoint(self, other: Peers) -> bool:
        """Whether no address is in both."""

    def networks(self) -> list[Network]:
        """The least list of networks that covers the set exactly, IPv4 first, in order."""

    @property
    def allows_everything(self) -> bool:
        """Whether every address of both families is in the set."""

    @property
    def size(self) -> int:
        """How many addresses."""

    @property
    def nbytes(self) -> int:
        """Bytes of memory that the ranges take."""

    def __contains__(self, item: AddressLike) -> bool: ...
    def __iter__(self) -> Iterator[Network]: ...
    def __len__(self) -> int: ...
    def __bool__(self) -> bool: ...
    def __hash__(self) -> int: ...
    def __eq__(self, other: object) -> bool: ...

class Ports:
    """A set of protocols with destination ports: sorted ranges over protocol and port.

    Protocols are 1 to 255; protocol 0, which VPP's rules cannot name, is in ``ANY`` alone. For ICMP and ICMPv6 the port
    is the code.
    """

    ANY: ClassVar[Ports]
    NONE: ClassVar[Ports]
    @classmethod
    def of(cls, items: Iterable[tuple[int, int, int] | int]) -> Ports:
        """``(protocol, first, last)`` for a range of ports, last included; a bare protocol for all of its ports."""

    def union(self, *others: Ports) -> Ports: ...
    def intersection(self, other: Ports) -> Ports: ...
    def covers(self, other: Ports) -> bool:
        """Whether ``other`` is a subset."""

    def isdisjoint(self, other: Ports) -> bool: ...
    def contains(self, protocol: int, port: int = 0) -> bool: ...
    def ranges(self) -> list[tuple[int, int, int]]:
        """``(protocol, first, last)`` in order; for ``ANY``, ``[(0, 0, 65535)]``."""

    @property
    def blurred(self) -> list[tuple[int, int, int]]:
        """The ranges that VPP cannot tell apart, because its ACLs read no ports of that protocol (SCTP above all;
        plugins/acl/public_inlines.h). ``permit`` leaves them out, ``deny`` takes the whole protocol. Ports 1 to 65535
        count as all."""

    def __len__(self) -> int: ...
    def __bool__(self) -> bool: ...
    def __hash__(self) -> int: ...
    def __eq__(self, other: object) -> bool: ...

class Allowed:
    """What one direction allows: for every address its ``Ports``. A union of ``Peers`` times ``Ports``.

    Kept as ranges of addresses with equal ports, so that equal meaning is equal value. ``len`` is the number of
    different port sets.
    """

    ANY: ClassVar[Allowed]
    NONE: ClassVar[Allowed]
    @classmethod
    def of(cls, boxes: Iterable[tuple[Peers, Ports]]) -> Allowed:
        """The union of ``boxes``."""

    @classmethod
    def union_of(cls, items: Iterable[Allowed]) -> Allowed: ...
    def union(self, *others: Allowed) -> Allowed: ...
    def intersection(self, other: Allowed) -> Allowed: ...
    def toward(self, address: Address | str) -> Ports:
        """What is allowed with this address."""

    def toward_all(self, addresses: Iterable[Address | str]) -> list[Ports]:
        """``toward`` of each."""

    def sources_of(self, protocol: int, port: int) -> Peers:
        """The addresses that are allowed this protocol and port (of the destination, whichever side they are)."""

    def peers_with(self, ports: Ports) -> Peers:
        """The addresses that are allowed all of ``ports``."""

    def contains(self, address: Address | str, protocol: int, port: int = 0) -> bool: ...
    def covers(self, other: Allowed) -> bool:
        """Whether everything that ``other`` allows is allowed here."""

    def boxes(self) -> list[tuple[Peers, Ports]]:
        """Disjoint sets of addresses with their ports, one for each port set, in order of their first address."""

    @property
    def peers(self) -> Peers:
        """The addresses that are allowed anything."""

    @property
    def covers_all(self) -> bool:
        """Whether everything is allowed with every address."""

    @property
    def nbytes(self) -> int: ...
    def __len__(self) -> int: ...
    def __bool__(self) -> bool: ...
    def __hash__(self) -> int: ...
    def __eq__(self, other: object) -> bool: ...

class Block:
    """Lines of one action in no particular order: an ``Allowed`` on one side, fixed addresses on the other."""

    action: Final[int]
    allowed: Final[Allowed]
    side: Final[Literal["source", "destination"]]
    own: Final[Peers]

def permit(
    allowed: Allowed | Peers = ...,
    *,
    side: Literal["source", "destination"] = "source",
    own: Peers | AddressLike | None = None,
    reflect: bool = True,
) -> Block:
    """Lines that let through what is ``allowed`` (Peers: on all ports; default: everything).

    ``side`` says whose addresses ``allowed`` speaks of; ports are the destination's either way. ``own`` are the
    addresses of the other side, None for any. A protocol whose ports VPP does not read is left out unless all of its
    ports are allowed (``Ports.blurred``).
    """

def deny(
    allowed: Allowed | Peers = ...,
    *,
    side: Literal["source", "destination"] = "source",
    own: Peers | AddressLike | None = None,
) -> Block:
    """Lines that drop what ``allowed`` names; all of a protocol whose ports VPP does not read."""

class Table:
    """An access list: rules of ``RULE_SIZE`` bytes in wire order, the first that matches decides."""

    EMPTY: ClassVar[Table]
    @classmethod
    def build(cls, blocks: Iterable[Block]) -> Table:
        """The blocks one after another. Neighbours of equal action, side and ``own`` become one; every block is
        written with as few lines as its port sets allow; lines that can never decide, because an earlier line takes
        everything of their family, or the same packets, are left out."""

    @classmethod
    def from_wire(cls, data: bytes) -> Table:
        """Rules as VPP has them. ValueError, with the line's number, for a rule that VPP would refuse."""

    @classmethod
    def from_numpy(cls, rules: NDArray[Any]) -> Table:
        """Records of ``RULE_DTYPE``. ValueError as ``from_wire``."""

    @classmethod
    def from_rules(cls, rules: Iterable[Rule]) -> Table:
        """Rules written by hand, as they stand. ValueError as ``from_wire``."""

    @property
    def wire(self) -> bytes:
        """What ``acl_add_replace`` takes as ``r``: no copy is made."""

    @property
    def name(self) -> str:
        """32 hexadecimal digits that say what the rules are: BLAKE2b of 128 bits over their compact form."""

    def to_numpy(self) -> NDArray[Any]:
        """The rules as read-only records of ``RULE_DTYPE``, over the same memory."""

    def rules(self) -> tuple[Rule, ...]:
        """The lines for people; ``str`` of one reads like a sentence."""

    def evaluate(
        self,
        source: Address | str,
        destination: Address | str,
        protocol: int,
        source_port: int = 0,
        destination_port: int = 0,
        *,
        tcp_flags: int = 2,
        fragment: bool = False,
        truncated: bool = False,
    ) -> Verdict:
        """What VPP's ACL plugin does with the packet, a table without a match being a drop.

        For ICMP the ports are type and code. Ports of protocols that VPP does not read count as 0. ``fragment``: not
        the first one, so that address and protocol alone are looked at. ``truncated``: fewer than 8 bytes behind the IP
        headers, where only rules of any protocol match. (plugins/acl/public_inlines.h, single_acl_match_5tuple)
        """

    def evaluate_many(self, packets: NDArray[Any]) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
        """Actions and lines (-1: no match) of packets of ``PACKET_DTYPE``."""

    def __add__(self, other: Table) -> Table:
        """The rules of both, one after another."""

    def __getitem__(self, line: int) -> Rule: ...
    def __iter__(self) -> Iterator[Rule]: ...
    def __len__(self) -> int: ...
    def __hash__(self) -> int: ...
    def __eq__(self, other: object) -> bool: ...

def evaluate_lists(
    tables: Sequence[Table],
    source: Address | str,
    destination: Address | str,
    protocol: int,
    source_port: int = 0,
    destination_port: int = 0,
    *,
    tcp_flags: int = 2,
    fragment: bool = False,
    truncated: bool = False,
) -> Verdict:
    """As ``Table.evaluate`` for one side of an interface: the first table with a match decides. No match is a drop; no
    table at all is an open interface: permitted, without table and line."""

def evaluate_lists_many(
    tables: Sequence[Table], packets: NDArray[Any]
) -> tuple[NDArray[np.uint8], NDArray[np.int32], NDArray[np.int32]]:
    """Actions, tables and lines (-1: nothing matched) of packets of ``PACKET_DTYPE``."""

def packets(
    sources: Sequence[Address | str] | Address | str,
    destinations: Sequence[Address | str] | Address | str,
    *,
    protocol: int | Sequence[int] | NDArray[Any] = 6,
    source_port: int | Sequence[int] | NDArray[Any] = 0,
    destination_port: int | Sequence[int] | NDArray[Any] = 0,
    tcp_flags: int = 2,
    flags: int = 0,
) -> NDArray[Any]:
    """An array of ``PACKET_DTYPE``; a single value stands for all packets. Both addresses of a packet must be of one
    family: ValueError."""
