"""TAP interfaces: a character device on VPP's side, a kernel link on the other, moved to where it is asked for.

As ``tap_create_v3`` has it: the host side gets its name, MAC address, MTU, bridge and namespace, and is set up. Unlike
VPP's, which needs /dev/vhost-net, this one reads and writes frames itself.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import struct
from typing import TYPE_CHECKING, Final

import msgspec

from contiv.emulator.vpp.devices import virtio
from contiv.emulator.vpp.devices.af_packet import FRAMES_PER_TURN
from contiv.emulator.vpp.refusal import Refusal
from contiv.errors import LinuxError
from contiv.linux import links, netns
from contiv.linux.netlink import Conversation

if TYPE_CHECKING:
    from contiv.emulator.vpp.graph import Graph
    from contiv.emulator.vpp.interface import Interface
    from contiv.emulator.vpp.packet import Node, Packet

TUNSETIFF, TUNSETOFFLOAD = 0x400454CA, 0x400454D0  # linux/if_tun.h
IFF_TAP, IFF_NO_PI, IFF_VNET_HDR = 0x0002, 0x1000, 0x4000
TUN_F_CSUM, TUN_F_TSO4, TUN_F_TSO6 = 0x01, 0x02, 0x04
IFNAMSIZ: Final = 16
DEVICE: Final = "/dev/net/tun"


class HostSide(msgspec.Struct, frozen=True, kw_only=True):
    """What the kernel's end shall be; empty or 0: as it comes."""

    name: str
    mac: str = ""
    mtu: int = 0
    namespace: str = ""
    bridge: str = ""


class TapDevice:
    """The character device behind one interface."""

    def __init__(self, graph: Graph, host: HostSide, *, number: int, gso: bool, csum: bool) -> None:
        self.host = host
        self.interface: Interface
        self.flags = 0
        self._graph = graph
        self._run = graph.run
        try:
            self._fd = os.open(DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            raise Refusal("SYSCALL_ERROR_2") from None
        try:
            self._open(number, gso=gso, csum=csum)
        except BaseException:
            os.close(self._fd)
            raise

    def _open(self, number: int, *, gso: bool, csum: bool) -> None:
        temporary = f"vpptap{number}"
        flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR
        offload = (TUN_F_CSUM if csum or gso else 0) | (TUN_F_TSO4 | TUN_F_TSO6 if gso else 0)
        try:
            fcntl.ioctl(self._fd, TUNSETIFF, struct.pack(f"={IFNAMSIZ}sH22x", temporary.encode(), flags))
            fcntl.ioctl(self._fd, TUNSETOFFLOAD, offload)
        except OSError:
            raise Refusal("SYSCALL_ERROR_2") from None
        try:
            self._place(temporary)
        except LinuxError:
            raise Refusal("NETLINK_ERROR") from None

    def _place(self, temporary: str) -> None:
        """Make the kernel's end what it shall be and put it where it belongs."""
        host = self.host
        try:
            own = netns.open_namespace(_path(host.namespace))
        except LinuxError:
            raise Refusal("SYSCALL_ERROR_2") from None
        try:
            with Conversation() as conversation:
                link = links.find(conversation, temporary)
                if link is None:
                    raise Refusal("NETLINK_ERROR")
                requests = []
                if host.mac:
                    requests.append(links.set_mac(link.index, host.mac, name=temporary))
                if host.mtu:
                    requests.append(links.set_mtu(link.index, host.mtu, name=temporary))
                requests.append(links.move(link.index, own, name=temporary, new_name=host.name))
                conversation.run(requests)
        finally:
            os.close(own)
        _inside(_path(host.namespace), host)

    def fileno(self) -> int:
        """For epoll."""
        return self._fd

    def close(self) -> None:
        """Remove the TAP: its kernel end goes with the descriptor."""
        os.close(self._fd)

    def receive(self) -> None:
        """Carry what waits, at most a turn's share of it, through the graph."""
        node = self._graph.ethernet.input
        for _ in range(FRAMES_PER_TURN):
            try:
                length = os.readv(self._fd, [virtio.room])
            except BlockingIOError:
                return
            except OSError:
                self._graph.errors.count("virtio-input", "read failure")
                return
            packet = virtio.read(length, self.interface)
            if packet is not None:
                self._run(node, packet)

    def transmit(self, packet: Packet) -> Node | None:
        """The interface's node: send a frame."""
        try:
            os.write(self._fd, virtio.write(packet))
        except OSError:
            packet.tx.tx_errors += 1
            self._graph.errors.count(f"{packet.tx.name}-output", "no free tx slots")
        return None


def _path(namespace: str) -> str:
    """A namespace as tap_create_v3 names it (a name, a path, ``pid:N``) as a path; empty: our own."""
    if not namespace or namespace.startswith("/"):
        return namespace
    if namespace.startswith("pid:"):
        return f"/proc/{namespace[4:]}/ns/net"
    return netns.path_of(namespace)


def _inside(path: str, host: HostSide) -> None:
    """In the host side's namespace: make it a port of its bridge, set it up."""

    def work() -> None:
        with Conversation() as conversation:
            link = links.find(conversation, host.name)
            bridge = links.find(conversation, host.bridge) if host.bridge else None
            if link is None or (host.bridge and bridge is None):
                raise Refusal("NETLINK_ERROR")
            requests = [links.set_up(link.index, True, name=host.name)]
            if bridge is not None:
                requests.append(links.set_master(link.index, bridge.index, name=host.name))
            conversation.run(requests)

    async def enter() -> None:
        workers = netns.Workers(1)
        try:
            await workers.inside(path, work)
        finally:
            workers.close()

    asyncio.run(enter())
