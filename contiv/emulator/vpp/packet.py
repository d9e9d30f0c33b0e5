"""One packet on its way through the graph, edited in place, and the numbers of the protocols in it.

A ``Packet`` is a window ``start:end`` into a buffer with room in front for what gets prepended (VXLAN, virtio-net
header). Devices read into one buffer again and again, so a node that keeps a packet beyond its turn must ``clone``
it. Checksum and segmentation offload travel as virtio-net knows them (OASIS virtio 1.2, section 5.1.6): a checksum
not yet computed has ``csum_start`` (a position in the buffer) above zero, a super frame has ``gso_size`` above zero.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from contiv.emulator.vpp.adjacency import Adjacency
    from contiv.emulator.vpp.fib import Fib
    from contiv.emulator.vpp.interface import Interface
    from contiv.emulator.vpp.shallow import Layer4

HEADROOM: Final = 192
"""Room before a received frame: virtio-net header, and outer Ethernet, IPv6, UDP and VXLAN (80) twice over."""
FRAME_MAX: Final = 65_536 + 64
"""The longest frame a kernel hands over: a 64 KB super frame (GSO_MAX_SIZE) and its link header."""
TAILROOM: Final = 8

ETHERNET_LENGTH: Final = 14
ETHERTYPE_IP4: Final = 0x0800
ETHERTYPE_ARP: Final = 0x0806
ETHERTYPE_IP6: Final = 0x86DD

IPPROTO_ICMP: Final = 1
IPPROTO_TCP: Final = 6
IPPROTO_UDP: Final = 17
IPPROTO_ICMP6: Final = 58

GSO_NONE: Final = 0
GSO_TCP4: Final = 1
GSO_UDP: Final = 3
GSO_TCP6: Final = 4
GSO_UDP_L4: Final = 5
GSO_ECN: Final = 0x80


class Node(Protocol):
    """A node of the graph: handles a packet and names the node that comes next, None when nothing is left to do."""

    def __call__(self, packet: Packet, /) -> Node | None: ...


class Packet:
    """A frame or IP packet in ``buf[start:end]`` and what the graph knows about it."""

    __slots__ = (
        "adjacency", "buf", "csum_offset", "csum_start", "end", "fib", "flow_hash", "gso_size", "gso_type",
        "hdr_end", "icmp_code", "icmp_data", "icmp_type", "local", "loops", "rx", "shallow", "shg", "start", "tx",
        "view",
    )  # fmt: skip

    buf: bytearray
    view: memoryview
    rx: Interface
    tx: Interface
    fib: Fib | None
    adjacency: Adjacency
    icmp_type: int
    icmp_code: int
    icmp_data: int

    def __init__(self, buf: bytearray, view: memoryview, start: int, end: int, *, rx: Interface) -> None:
        self.buf = buf
        self.view = view
        self.start = start
        self.end = end
        self.rx = rx
        self.fib = None
        self.csum_start = 0
        self.csum_offset = 0
        self.gso_type = 0
        self.gso_size = 0
        self.hdr_end = 0
        self.loops = 0
        self.shg = 0
        self.flow_hash = 0
        self.local = False
        self.shallow: Layer4 | None = None

    def __len__(self) -> int:
        return self.end - self.start

    @property
    def data(self) -> memoryview:
        """The window, without a copy."""
        return self.view[self.start : self.end]

    def clone(self) -> Packet:
        """A packet of its own, with the same contents, offload state and interfaces."""
        other = make(self.view[self.start : self.end], rx=self.rx)
        shift = other.start - self.start
        other.fib = self.fib
        if self.csum_start:
            other.csum_start = self.csum_start + shift
            other.csum_offset = self.csum_offset
        other.gso_type = self.gso_type
        other.gso_size = self.gso_size
        other.hdr_end = self.hdr_end + shift if self.hdr_end else 0
        other.loops = self.loops
        other.shg = self.shg
        other.flow_hash = self.flow_hash
        other.local = self.local
        return other

    def clear_offload(self) -> None:
        """Forget that anything is left to a device: the frame stands as it is."""
        self.csum_start = 0
        self.gso_type = 0
        self.gso_size = 0
        self.hdr_end = 0


def make(data: bytes | bytearray | memoryview, *, rx: Interface, tailroom: int = TAILROOM) -> Packet:
    """A packet with a buffer of its own that holds ``data``."""
    length = len(data)
    buf = bytearray(HEADROOM + length + tailroom)
    buf[HEADROOM : HEADROOM + length] = data
    return Packet(buf, memoryview(buf), HEADROOM, HEADROOM + length, rx=rx)
