"""af_packet interfaces: a raw socket on a kernel link, usually one end of a veth pair.

Frames travel with their virtio-net header, so that a super frame that a pod's TCP made goes to the other pod as it is.
Frames that the kernel itself sends out of the link are not seen. The link is set up and down with the interface, as
VPP does. Everything is non-blocking: what the kernel does not take is counted as a transmit error and lost.
"""

from __future__ import annotations

import errno
import fcntl
import socket
import struct
from typing import TYPE_CHECKING, Final

from contiv.emulator.vpp.devices import virtio
from contiv.emulator.vpp.refusal import Refusal

if TYPE_CHECKING:
    from contiv.emulator.vpp.graph import Graph
    from contiv.emulator.vpp.interface import Interface
    from contiv.emulator.vpp.packet import Node, Packet

ETH_P_ALL: Final = 0x0003
SOL_PACKET: Final = 263
PACKET_VNET_HDR, PACKET_QDISC_BYPASS, PACKET_IGNORE_OUTGOING = 15, 20, 23  # linux/if_packet.h
SO_SNDBUFFORCE, SO_RCVBUFFORCE = 32, 33  # asm-generic/socket.h
SIOCGIFFLAGS, SIOCSIFFLAGS, SIOCSIFMTU = 0x8913, 0x8914, 0x8922  # linux/sockios.h
IFF_UP: Final = 1
BUFFER_BYTES: Final = 8 << 20
"""Socket buffers: some hundred super frames, so that a burst waits here while the API is served."""
FRAMES_PER_TURN: Final = 32
"""Frames that one interface may hand over before the others, and the API, have their turn."""
_IFREQ: Final = struct.Struct("=16sh14x")
_IFREQ_MTU: Final = struct.Struct("=16si12x")


class AfPacketDevice:
    """The socket behind one interface."""

    def __init__(self, graph: Graph, host_if: str, *, offload: bool, qdisc_bypass: bool) -> None:
        self.host_if = host_if
        self.interface: Interface
        self.offload = offload
        self._graph = graph
        self._run = graph.run
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
        self._recv_into = self._socket.recv_into
        self._send = self._socket.send
        try:
            self._open(qdisc_bypass)
        except BaseException:
            self._socket.close()
            raise

    def _open(self, qdisc_bypass: bool) -> None:
        try:
            socket.if_nametoindex(self.host_if)
        except OSError:
            raise Refusal("INVALID_INTERFACE") from None
        try:
            self.set_host_up(True)
            raw = self._socket
            raw.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
            raw.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
            raw.setsockopt(SOL_PACKET, PACKET_QDISC_BYPASS, int(qdisc_bypass))
            raw.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER_BYTES)
            raw.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, BUFFER_BYTES)
            raw.bind((self.host_if, ETH_P_ALL))
        except OSError:
            raise Refusal("SYSCALL_ERROR_1") from None

    def fileno(self) -> int:
        """For epoll."""
        return self._socket.fileno()

    def close(self) -> None:
        """Give the link back."""
        self._socket.close()

    def set_host_up(self, up: bool) -> None:
        """Set the kernel's link up or down; a link that is gone stays gone."""
        name = self.host_if.encode()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as channel:
            try:
                flags = _IFREQ.unpack(fcntl.ioctl(channel, SIOCGIFFLAGS, _IFREQ.pack(name, 0)))[1]
                wanted = flags | IFF_UP if up else flags & ~IFF_UP
                if wanted != flags:
                    fcntl.ioctl(channel, SIOCSIFFLAGS, _IFREQ.pack(name, wanted))
            except OSError as error:
                if error.errno != errno.ENODEV:
                    raise

    def set_host_mtu(self, mtu: int) -> None:
        """Set the MTU of the kernel's link. Refusal SYSCALL_ERROR_1 for one that it does not take."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as channel:
            try:
                fcntl.ioctl(channel, SIOCSIFMTU, _IFREQ_MTU.pack(self.host_if.encode(), mtu))
            except OSError:
                raise Refusal("SYSCALL_ERROR_1") from None

    def receive(self) -> None:
        """Carry what waits, at most a turn's share of it, through the graph."""
        interface = self.interface
        run = self._run
        node = self._graph.ethernet.input
        recv_into, room = self._recv_into, virtio.room
        for _ in range(FRAMES_PER_TURN):
            try:
                length = recv_into(room)
            except BlockingIOError:
                return
            except OSError as error:
                self._lost(error)
                return
            packet = virtio.read(length, interface)
            if packet is not None:
                run(node, packet)

    def transmit(self, packet: Packet) -> Node | None:
        """The interface's node: send a frame."""
        try:
            self._send(virtio.write(packet))
        except OSError:
            packet.tx.tx_errors += 1
            self._graph.errors.count(f"{packet.tx.name}-output", "tx sendto failure")
        return None

    def _lost(self, error: OSError) -> None:
        """The link went down or away; the socket reports it once and works on when the link comes back."""
        self._graph.errors.count("af-packet-input", f"link error: {errno.errorcode.get(error.errno or 0, '?')}")
