"""TAP interfaces (plugins/tap): a pair of VPP's interface and a Linux one, by default in the namespace of a pod.

The Linux end is made inside its namespace, so it never shows up elsewhere under a name that is taken there. Real VPP
needs /dev/vhost-net for its TAPs; this one needs /dev/net/tun alone.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import socket
import struct
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import msgspec

from contiv.emulator.vpp.descriptor import FrameDevice
from contiv.emulator.vpp.errors import ErrorCode, Refusal
from contiv.log import get_logger

if TYPE_CHECKING:
    from collections.abc import Iterator

    from contiv.emulator.vpp.interface import Interface
    from contiv.emulator.vpp.loop import EventLoop
    from contiv.emulator.vpp.vswitch import VSwitch

log = get_logger(__name__)

FLAG_GSO: Final = 1
FLAG_CSUM_OFFLOAD: Final = 2
FLAG_TUN: Final = 16

TUN_DEVICE: Final = "/dev/net/tun"
TUNSETIFF: Final = 0x400454CA
TUNSETOFFLOAD: Final = 0x400454D0
TUNSETVNETHDRSZ: Final = 0x400454D8
IFF_TAP: Final = 0x0002
IFF_NO_PI: Final = 0x1000
IFF_VNET_HDR: Final = 0x4000
TUN_F_CSUM: Final = 0x01
TUN_F_TSO4: Final = 0x02
TUN_F_TSO6: Final = 0x04
CLONE_NEWNET: Final = 0x40000000

SIOCADDRT: Final = 0x890B
SIOCGIFFLAGS: Final = 0x8913
SIOCSIFFLAGS: Final = 0x8914
SIOCSIFADDR: Final = 0x8916
SIOCSIFNETMASK: Final = 0x891C
SIOCSIFMTU: Final = 0x8922
SIOCSIFHWADDR: Final = 0x8924
SIOCGIFHWADDR: Final = 0x8927
SIOCBRADDIF: Final = 0x89A2
ARPHRD_ETHER: Final = 1
RTF_UP_GATEWAY: Final = 0x0003
IFF_UP: Final = 1


class TapRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What tap_create_v3 asks for, with what is not asked for left at None."""

    instance: int | None
    mac: bytes | None
    flags: int = 0
    host_namespace: str = ""
    host_if_name: str | None = None
    host_mtu: int | None = None
    host_mac: bytes | None = None
    host_ip4: tuple[bytes, int] | None = None
    host_ip6: tuple[bytes, int] | None = None
    host_gateway4: bytes | None = None
    host_gateway6: bytes | None = None
    host_bridge: str | None = None
    tag: str = ""


class Tap(msgspec.Struct):
    """A TAP and its descriptor."""

    interface: Interface
    instance: int
    descriptor: int
    request: TapRequest
    host_if_name: str
    host_mac: bytes


class Taps:
    """All TAP interfaces by index."""

    def __init__(self, vswitch: VSwitch, loop: EventLoop) -> None:
        self._vswitch = vswitch
        self._loop = loop
        self.by_index: dict[int, Tap] = {}

    def create(self, request: TapRequest) -> Interface:
        """Make the pair. Refusals INVALID_INTERFACE (number in use), SYSCALL_ERROR_2, NETLINK_ERROR, UNSUPPORTED."""
        if request.flags & FLAG_TUN:
            raise Refusal(ErrorCode.UNSUPPORTED, "TUN mode is not emulated")
        vswitch = self._vswitch
        instance = vswitch.graph.interfaces.take_instance("tap", request.instance)
        if instance is None:
            raise Refusal(ErrorCode.INVALID_INTERFACE, f"tap{request.instance} is in use")
        name = request.host_if_name or f"tap{instance}"
        descriptor = -1
        try:
            with _namespace(request.host_namespace):
                descriptor = _open(name, request.flags)
                host_mac = _configure(name, request)
        except OSError as error:
            if descriptor >= 0:
                os.close(descriptor)
            vswitch.graph.interfaces.free_instance("tap", instance)
            code = ErrorCode.SYSCALL_ERROR_2 if descriptor < 0 else ErrorCode.NETLINK_ERROR
            raise Refusal(code, f"{name}: {error}") from error
        interface = vswitch.add_interface(
            f"tap{instance}",
            kind="tap",
            dev_type="virtio",
            mac=request.mac or vswitch.random_mac(),
            transmit=vswitch.graph.ip4.drop,
        )
        interface.tag = request.tag
        interface.link_up = True
        interface.can_gso = bool(request.flags & FLAG_GSO)
        interface.can_csum = bool(request.flags & (FLAG_GSO | FLAG_CSUM_OFFLOAD))
        tap = Tap(interface, instance, descriptor, request, name, host_mac)
        device = FrameDevice(
            vswitch.graph,
            interface,
            read_into=lambda view: os.readv(descriptor, (view,)),
            write=lambda view: os.write(descriptor, view),
            tx_node=f"{interface.name}-tx",
            on_error=lambda error: self._failed(tap, error),
        )
        self.by_index[interface.index] = tap
        self._loop.add_device(descriptor, device.receive)
        return interface

    def delete(self, sw_if_index: int) -> None:
        """Remove the pair. Refusal INVALID_SW_IF_INDEX."""
        tap = self.by_index.pop(sw_if_index, None)
        if tap is None:
            raise Refusal(ErrorCode.INVALID_SW_IF_INDEX, f"{sw_if_index} is no TAP")
        self._close(tap)
        self._vswitch.graph.interfaces.free_instance("tap", tap.instance)
        self._vswitch.remove_interface(tap.interface)

    def close(self) -> None:
        """Close every descriptor, which removes the Linux ends; the end of the process."""
        for tap in self.by_index.values():
            self._close(tap)

    def _close(self, tap: Tap) -> None:
        self._loop.remove(tap.descriptor)
        if tap.descriptor >= 0:
            os.close(tap.descriptor)
            tap.descriptor = -1

    def _failed(self, tap: Tap, error: OSError) -> None:
        if error.errno in {errno.EBADFD, errno.ENODEV}:
            log.warning("tap_gone", interface=tap.interface.name, error=str(error))
            self._loop.remove(tap.descriptor)
            self._vswitch.set_link(tap.interface, up=False)
        elif error.errno != errno.EIO:  # EIO: the Linux end is down
            log.debug("tap_error", interface=tap.interface.name, error=str(error))


@contextmanager
def _namespace(name: str) -> Iterator[None]:
    """Be in the network namespace that VPP understands by ``name``: a name, a path, or ``pid:N``."""
    if not name:
        yield
        return
    path = name if name.startswith("/") else f"/var/run/netns/{name}"
    if name.startswith("pid:"):
        path = f"/proc/{name[4:]}/ns/net"
    home = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        target = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _setns(target, path)
        finally:
            os.close(target)
        try:
            yield
        finally:
            _setns(home, "/proc/self/ns/net")
    finally:
        os.close(home)


def _setns(descriptor: int, path: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, CLONE_NEWNET):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)


def _open(name: str, flags: int) -> int:
    descriptor = os.open(TUN_DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.ioctl(descriptor, TUNSETIFF, struct.pack("16sH14x", name.encode(), IFF_TAP | IFF_NO_PI | IFF_VNET_HDR))
        fcntl.ioctl(descriptor, TUNSETVNETHDRSZ, struct.pack("i", 10))
        offload = 0
        if flags & (FLAG_GSO | FLAG_CSUM_OFFLOAD):
            offload |= TUN_F_CSUM
        if flags & FLAG_GSO:
            offload |= TUN_F_TSO4 | TUN_F_TSO6
        fcntl.ioctl(descriptor, TUNSETOFFLOAD, offload)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _configure(name: str, request: TapRequest) -> bytes:
    """Give the Linux end, in whose namespace we are, all that was asked for, and bring it up; its link address."""
    encoded = name.encode()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as control:
        if request.host_mac is not None:
            fcntl.ioctl(control, SIOCSIFHWADDR, struct.pack("16sH14s", encoded, ARPHRD_ETHER, request.host_mac))
        if request.host_mtu is not None:
            fcntl.ioctl(control, SIOCSIFMTU, struct.pack("16si12x", encoded, request.host_mtu))
        if request.host_bridge:
            index = socket.if_nametoindex(name)
            fcntl.ioctl(control, SIOCBRADDIF, struct.pack("16si12x", request.host_bridge.encode(), index))
        if request.host_ip4 is not None:
            _add_address4(control, encoded, *request.host_ip4)
        flags = struct.unpack_from("h", fcntl.ioctl(control, SIOCGIFFLAGS, struct.pack("16sh14x", encoded, 0)), 16)[0]
        fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sh14x", encoded, flags | IFF_UP))
        if request.host_ip6 is not None:
            _add_address6(name, *request.host_ip6)
        if request.host_gateway4 is not None:
            _add_default_route4(control, request.host_gateway4)
        if request.host_gateway6 is not None:
            _add_default_route6(name, request.host_gateway6)
        answer = fcntl.ioctl(control, SIOCGIFHWADDR, struct.pack("16s16x", encoded))
        return bytes(answer[18:24])


def _sockaddr4(address: bytes) -> bytes:
    return struct.pack("=HH4s8x", socket.AF_INET, 0, address)


def _add_address4(control: socket.socket, name: bytes, address: bytes, length: int) -> None:
    fcntl.ioctl(control, SIOCSIFADDR, struct.pack("16s16s", name, _sockaddr4(address)))
    mask = (0xFFFFFFFF << (32 - length) & 0xFFFFFFFF).to_bytes(4, "big")
    fcntl.ioctl(control, SIOCSIFNETMASK, struct.pack("16s16s", name, _sockaddr4(mask)))


def _add_address6(name: str, address: bytes, length: int) -> None:
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as control:
        index = socket.if_nametoindex(name)
        fcntl.ioctl(control, SIOCSIFADDR, struct.pack("=16sIi", address, length, index))


def _add_default_route4(control: socket.socket, gateway: bytes) -> None:
    """struct rtentry of linux/route.h, for 0.0.0.0/0 by way of ``gateway``."""
    any_address = _sockaddr4(bytes(4))
    entry = struct.pack(
        "@L16s16s16sHhLLhPLLH", 0, any_address, _sockaddr4(gateway), any_address, RTF_UP_GATEWAY, 0, 0, 0, 1, 0, 0, 0, 0
    )
    fcntl.ioctl(control, SIOCADDRT, entry)


def _add_default_route6(name: str, gateway: bytes) -> None:
    """struct in6_rtmsg of linux/ipv6_route.h, for ::/0 by way of ``gateway``."""
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as control:
        index = socket.if_nametoindex(name)
        entry = struct.pack("@16s16s16sIHHILIi", bytes(16), bytes(16), gateway, 0, 0, 0, 1, 0, RTF_UP_GATEWAY, index)
        fcntl.ioctl(control, SIOCADDRT, entry)
