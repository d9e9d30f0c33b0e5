"""Backends of services in C: Maglev tables, bounded selection, fingerprints, addresses, packed NAT backends.

All functions are pure: equal input gives equal output on every machine, in every process. Backends are named by
bytes or by their 64-bit fingerprints. Nothing here is for secrets: who knows the seed can make collisions.
"""

from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

RECORD_SIZE: int
"""Bytes of one packed backend: address 4, port 2, weight 1, VRF 4 (nat44_ed.api, nat44_lb_addr_port)."""
TABLE_SIZE: int
"""The size that the Maglev paper measured (section 5.3): 65,537, a prime."""

def fingerprint(data: bytes, seed: int = 0) -> int:
    """A 64-bit number that stands for ``data``."""

def fingerprints(names: Sequence[bytes], seed: int = 0) -> NDArray[np.uint64]:
    """The fingerprint of each name."""

def set_fingerprint(names: Iterable[bytes], seed: int = 0) -> int:
    """A 64-bit number that stands for the names in whatever order, each counted as often as it comes."""

def is_prime(n: int) -> bool:
    """Whether a table may have this size."""

def maglev(backends: ArrayLike, size: int, weights: ArrayLike | None = None) -> NDArray[np.uint16] | NDArray[np.uint32]:
    """A Maglev lookup table (NSDI 2016, section 3.4): ``table[hash % size]`` is an index into ``backends``.

    ``backends`` are fingerprints (uint64), all different; ``weights`` (uint32) say how many entries each gets
    relative to the others, 0 none. Their order does not matter for who gets which entry. uint16 where that holds all
    indexes. ValueError: ``size`` is no prime or not larger than the number of backends, or nobody has a weight.
    """

def select(elements: ArrayLike, seed: int, keep: int) -> NDArray[np.uint32]:
    """Indexes, ascending, of the ``keep`` elements (fingerprints) that this seed prefers: rendezvous hashing.

    Different seeds prefer different ones; one element less changes at most one of the chosen.
    """

UNREADABLE: int
"""What ``read_endpoints`` says of text that is no IPv4 address."""

def ipv4(text: str) -> int | None:
    """The address that ``text`` names in canonical notation; None if it names none."""

class Endpoint(Protocol):
    """What is read of an endpoint: ``contiv.model.kube.Endpoint``."""

    @property
    def address(self) -> str: ...
    @property
    def ready(self) -> bool: ...
    @property
    def serving(self) -> bool: ...
    @property
    def terminating(self) -> bool: ...
    @property
    def node_name(self) -> str: ...
    @property
    def zone(self) -> str: ...
    @property
    def zones(self) -> Sequence[str]: ...
    @property
    def nodes(self) -> Sequence[str]: ...

def read_endpoints(endpoints: Sequence[Endpoint], networks: Sequence[tuple[int, int]]) -> tuple[bytes, bytes]:
    """The addresses packed, 4 bytes each (0 for what is unreadable), and one byte each: the first network around it.

    A network is its value and mask. In none: their number; no address in canonical notation: ``UNREADABLE``. At most 8
    networks, else ValueError.
    """

READY: int
DRAINING: int
"""Not ready, but serving while it terminates."""
LOCAL: int
ZONE_HINTED: int
ZONE: int
"""Hinted for this node's zone."""
NODE_HINTED: int
NODE: int
"""Hinted for this node."""
SAME_ZONE: int

def endpoint_flags(endpoints: Sequence[Endpoint], own: bytes, node: str, zone: str) -> bytes:
    """One byte each, of the flags above, as ``node`` in ``zone`` ("" for none) sees them.

    ``own``, a byte each: not 0 where the address is this node's, which counts for those that name no node.
    """

def distinct(data: bytes) -> bytes:
    """The bytes that occur, each once, sorted."""

def pack_backends(
    parts: Iterable[tuple[bytes, bytes, int]], mask: int, want: int, *, heavy: int = 0, weight: int = 1
) -> bytes:
    """Backends as NAT44-ED's messages carry them: ``RECORD_SIZE`` bytes each, sorted, an address and port once.

    A part is IPv4 addresses (4 bytes each), their flags (1 byte each) and a port for all. Those count whose flags
    ``& mask`` equal ``want``. Flags with a bit of ``heavy`` give the weight ``weight`` (1..255), others 1.
    ValueError when addresses and flags do not go together.
    """

def double_weights(records: bytes, limit: int) -> bytes:
    """``records`` with twice their weights if those add up to no more than ``limit`` (255 at most), else unchanged."""

def bound_backends(records: bytes, seed: int, limit: int) -> bytes:
    """``records`` as they are while their weights add up to no more than ``limit``, else a share of that weight.

    The share is the seed's own choice (rendezvous hashing), weights above one first, and stays in order.
    """
