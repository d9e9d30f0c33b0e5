"""af_packet interfaces: VPP's end of a veth pair, or a NIC, through a raw socket (plugins/af_packet).

The socket hands over frames with their virtio-net header (PACKET_VNET_HDR), does not see what the kernel itself sends
there (PACKET_IGNORE_OUTGOING) and, when asked, bypasses the queueing discipline.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import socket
import struct
from typing import TYPE_CHECKING, Final

import msgspec

from contiv.emulator.vpp.descriptor import FrameDevice
from contiv.emulator.vpp.errors import ErrorCode, Refusal
from contiv.log import get_logger

if TYPE_CHECKING:
    from contiv.emulator.vpp.interface import Interface
    from contiv.emulator.vpp.loop import EventLoop
    from contiv.emulator.vpp.vswitch import VSwitch

log = get_logger(__name__)

FLAG_QDISC_BYPASS: Final = 1
FLAG_CKSUM_GSO: Final = 2
MODE_ETHERNET: Final = 1

ETH_P_ALL: Final = 3
SOL_PACKET: Final = 263
PACKET_ADD_MEMBERSHIP: Final = 1
PACKET_VNET_HDR: Final = 15
PACKET_QDISC_BYPASS: Final = 20
PACKET_IGNORE_OUTGOING: Final = 23
PACKET_MR_PROMISC: Final = 1
SO_SNDBUFFORCE: Final = 32
SO_RCVBUFFORCE: Final = 33
SIOCGIFFLAGS: Final = 0x8913
SIOCSIFFLAGS: Final = 0x8914
SIOCGIFMTU: Final = 0x8921
IFF_UP: Final = 1
BUFFER_BYTES: Final = 4 << 20
"""Of each socket, so that a burst of super frames waits instead of being lost; used only while it waits."""


class HostInterface(msgspec.Struct):
    """An af_packet interface and the socket behind it."""

    interface: Interface
    host_name: str
    socket: socket.socket


class AfPackets:
    """All af_packet interfaces by the name of their Linux end."""

    def __init__(self, vswitch: VSwitch, loop: EventLoop) -> None:
        self._vswitch = vswitch
        self._loop = loop
        self.by_name: dict[str, HostInterface] = {}

    def create(self, host_name: str, *, mac: bytes | None, flags: int, mode: int) -> Interface:
        """Take the Linux interface ``host_name`` over. Refusals INVALID_INTERFACE, IF_ALREADY_EXISTS, SYSCALL_ERROR_1."""
        if mode != MODE_ETHERNET:
            raise Refusal(ErrorCode.INVALID_VALUE, f"mode {mode} is not emulated", sw_if_index=0xFFFFFFFF)
        known = self.by_name.get(host_name)
        if known is not None:
            raise Refusal(ErrorCode.IF_ALREADY_EXISTS, host_name, sw_if_index=known.interface.index)
        try:
            socket.if_nametoindex(host_name)
        except OSError as error:
            raise Refusal(ErrorCode.INVALID_INTERFACE, f"{host_name}: {error}") from error
        try:
            raw = _open(host_name, flags)
        except OSError as error:
            raise Refusal(ErrorCode.SYSCALL_ERROR_1, f"{host_name}: {error}") from error
        vswitch = self._vswitch
        interface = vswitch.add_interface(
            f"host-{host_name}",
            kind="af-packet",
            dev_type="af-packet",
            mac=mac or vswitch.random_mac(),
            mtu=_mtu(raw, host_name),
            transmit=vswitch.graph.ip4.drop,
        )
        interface.can_csum = interface.can_gso = bool(flags & FLAG_CKSUM_GSO)
        host = HostInterface(interface, host_name, raw)
        device = FrameDevice(
            vswitch.graph,
            interface,
            read_into=raw.recv_into,
            write=raw.send,
            tx_node=f"{interface.name}-tx",
            on_error=lambda error: self._failed(host, error),
        )
        self.by_name[host_name] = host
        self._loop.add_device(raw.fileno(), device.receive)
        return interface

    def delete(self, host_name: str) -> None:
        """Let the Linux interface go. Refusal SYSCALL_ERROR_1 when it is none of ours."""
        host = self.by_name.get(host_name)
        if host is None:
            raise Refusal(ErrorCode.SYSCALL_ERROR_1, f"{host_name} is no af_packet interface")
        self._close(host)
        del self.by_name[host_name]
        self._vswitch.remove_interface(host.interface)

    def admin_changed(self, interface: Interface) -> None:
        """The interface went up or down: so does its Linux end (af_packet_interface_admin_up_down)."""
        host = next((host for host in self.by_name.values() if host.interface is interface), None)
        if host is not None and host.socket.fileno() >= 0:
            try:
                _set_up(host.socket, host.host_name, interface.admin_up)
            except OSError as error:
                log.warning("host_interface_flags", interface=host.host_name, error=str(error))

    def close(self) -> None:
        """Close every socket; the end of the process."""
        for host in self.by_name.values():
            self._close(host)

    def _close(self, host: HostInterface) -> None:
        if host.socket.fileno() >= 0:
            self._loop.remove(host.socket.fileno())
            host.socket.close()

    def _failed(self, host: HostInterface, error: OSError) -> None:
        if error.errno == errno.ENETDOWN:
            return  # the Linux end is down for now; the kernel reports that once on every socket
        if error.errno in {errno.ENXIO, errno.ENODEV}:
            log.warning("host_interface_gone", interface=host.host_name)
            self._loop.remove(host.socket.fileno())
            self._vswitch.set_link(host.interface, up=False)
            return
        log.debug("host_interface_error", interface=host.host_name, error=str(error))


def _open(host_name: str, flags: int) -> socket.socket:
    raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, 0)
    try:
        raw.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
        raw.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
        if flags & FLAG_QDISC_BYPASS:
            raw.setsockopt(SOL_PACKET, PACKET_QDISC_BYPASS, 1)
        with contextlib.suppress(PermissionError):  # a namespace of an unprivileged user: the default size must do
            raw.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER_BYTES)
            raw.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, BUFFER_BYTES)
        raw.bind((host_name, ETH_P_ALL))
        index = socket.if_nametoindex(host_name)
        membership = struct.pack("iHH8s", index, PACKET_MR_PROMISC, 0, b"")
        raw.setsockopt(SOL_PACKET, PACKET_ADD_MEMBERSHIP, membership)
    except OSError:
        raw.close()
        raise
    return raw


def _set_up(raw: socket.socket, name: str, up: bool) -> None:
    request = struct.pack("16sh14x", name.encode(), 0)
    flags = struct.unpack_from("h", fcntl.ioctl(raw, SIOCGIFFLAGS, request), 16)[0]
    wanted = flags | IFF_UP if up else flags & ~IFF_UP
    if wanted != flags:
        fcntl.ioctl(raw, SIOCSIFFLAGS, struct.pack("16sh14x", name.encode(), wanted))


def _mtu(raw: socket.socket, name: str) -> int:
    answer = fcntl.ioctl(raw, SIOCGIFMTU, struct.pack("16si12x", name.encode(), 0))
    return int(struct.unpack_from("i", answer, 16)[0])
