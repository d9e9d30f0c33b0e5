"""The DHCP client (plugins/dhcp/client.c; RFC 2131): an interface's address and default route by the server's word.

States and times are VPP's: DISCOVER every few seconds until an OFFER, REQUEST until the ACK, renewal by REQUEST at
the time that the server names (else half the lease), DISCOVER again after a NAK or when the lease is over. Replies
are taken by the feature ip4-dhcp-client-detect, in front of all others: the interface has no address yet.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import TYPE_CHECKING, Final

import msgspec

from contiv.emulator.vpp.features import CONTINUE
from contiv.emulator.vpp.fib import Contribution, EntryFlag, Path
from contiv.emulator.vpp.icmp4 import ip4_header
from contiv.emulator.vpp.interface import InterfaceAddress
from contiv.emulator.vpp.packet import IPPROTO_UDP, make
from contiv.emulator.vpp.refusal import Refusal

if TYPE_CHECKING:
    from contiv.emulator.vpp.interface import Interface
    from contiv.emulator.vpp.machine import Machine
    from contiv.emulator.vpp.packet import Node, Packet

CLIENT_PORT, SERVER_PORT = 68, 67
BOOTREQUEST, BOOTREPLY = 1, 2
MAGIC: Final = b"\x63\x82\x53\x63"
BROADCAST_FLAG: Final = 0x8000
DISCOVER, OFFER, REQUEST, ACK, NAK = 1, 2, 3, 5, 6
OPTION_MASK, OPTION_ROUTER, OPTION_DNS, OPTION_HOSTNAME = 1, 3, 6, 12
OPTION_ADDRESS, OPTION_LEASE, OPTION_TYPE, OPTION_SERVER, OPTION_PARAMETERS, OPTION_RENEWAL = 50, 51, 53, 54, 55, 58
ASKED_FOR: Final = bytes((OPTION_MASK, OPTION_ROUTER, OPTION_DNS, OPTION_LEASE, OPTION_RENEWAL))
RETRY_S: Final = 2.0
RETRY_MAX_S: Final = 30.0
RENEW_RETRY_S: Final = 1.0
_BOOTP: Final = struct.Struct(">BBBBIHHIIII16s64s128s4s")
_UDP: Final = struct.Struct(">HHHH")
_U32: Final = struct.Struct(">I")
DETECT: Final = "ip4-dhcp-client-detect"
DHCP_SOURCE: Final = 12
"""FIB_SOURCE_DHCP."""


class State(IntEnum):
    """As the API shows them."""

    DISCOVER = 0
    REQUEST = 1
    BOUND = 2


class Terms(msgspec.Struct, frozen=True):
    """What a server offers; addresses as integers, times in seconds."""

    address: int = 0
    length: int = 0
    router: int = 0
    server: int = 0
    lease_s: float = 0.0
    renew_s: float = 0.0
    dns: tuple[int, ...] = ()


class Client(msgspec.Struct):
    """The client of one interface."""

    interface: Interface
    hostname: str
    broadcast: bool
    pid: int
    wants_event: bool
    transaction: int
    state: State = State.DISCOVER
    retries: int = 0
    next_s: float = 0.0
    expires_s: float = 0.0
    learned: Terms = Terms()
    installed: Terms = Terms()


class DhcpClients:
    """All clients; ``work`` is called about once a second."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._clients: dict[int, Client] = {}

    def all(self) -> list[Client]:
        """The clients by interface."""
        return [self._clients[index] for index in sorted(self._clients)]

    def add(self, interface: Interface, *, hostname: str, broadcast: bool, pid: int, wants_event: bool) -> None:
        """Start a client. Refusal INVALID_VALUE where one runs."""
        if interface.index in self._clients:
            raise Refusal("INVALID_VALUE")
        transaction = int.from_bytes(interface.mac[2:], "big") ^ interface.index
        client = Client(interface, hostname, broadcast, pid, wants_event, transaction)
        self._clients[interface.index] = client
        self._machine.graph.features.enable(interface, "ip4-unicast", feature=DETECT, node=self._detect)
        self.work(self._machine.clock())

    def remove(self, interface: Interface) -> None:
        """Stop a client and take away what it was leased. Refusal NO_SUCH_ENTRY."""
        client = self._clients.pop(interface.index, None)
        if client is None:
            raise Refusal("NO_SUCH_ENTRY")
        self._release(client)
        self._machine.graph.features.disable(interface, "ip4-unicast", feature=DETECT)

    def work(self, now: float) -> None:
        """Send what is due, forget what is over."""
        for index, client in list(self._clients.items()):
            if self._machine.interfaces.get(index) is not client.interface:
                del self._clients[index]  # deleted under it
            elif client.state is State.BOUND and now > client.expires_s:
                self._reset(client, now)
            elif now >= client.next_s and client.interface.usable:
                self._send(client, now)

    # -- packets ----------------------------------------------------------------------------------------------------

    def _send(self, client: Client, now: float) -> None:
        kind = DISCOVER if client.state is State.DISCOVER else REQUEST
        client.retries += 1
        bound = client.state is State.BOUND
        client.next_s = now + (RENEW_RETRY_S if bound else min(RETRY_S * client.retries, RETRY_MAX_S))
        options = bytes((OPTION_TYPE, 1, kind))
        if kind == REQUEST and not bound:
            options += bytes((OPTION_ADDRESS, 4)) + _U32.pack(client.learned.address)
            options += bytes((OPTION_SERVER, 4)) + _U32.pack(client.learned.server)
        name = client.hostname.encode()[:63]
        options += bytes((OPTION_HOSTNAME, len(name))) + name if name else b""
        options += bytes((OPTION_PARAMETERS, len(ASKED_FOR))) + ASKED_FOR + b"\xff"
        own = client.installed.address if bound else 0
        flags = BROADCAST_FLAG if client.broadcast and not bound else 0
        mac = client.interface.mac
        body = _BOOTP.pack(
            BOOTREQUEST, 1, 6, 0, client.transaction, 0, flags, own, 0, 0, 0, mac, b"", b"", MAGIC
        )  # fmt: skip
        body += options
        udp = _UDP.pack(CLIENT_PORT, SERVER_PORT, 8 + len(body), 0)
        header = ip4_header(len(udp) + len(body), own, 0xFFFFFFFF, ttl=128, protocol=IPPROTO_UDP)
        frame = b"\xff" * 6 + mac + b"\x08\x00" + header + udp + body
        packet = make(frame, rx=client.interface)
        packet.tx = client.interface
        self._machine.graph.run(self._machine.graph.output.interface_output, packet)

    def _detect(self, packet: Packet) -> Node | None:
        """ip4-dhcp-client-detect: replies to the client of the receiving interface; all else goes on."""
        start = packet.start
        buf = packet.buf
        udp = start + (buf[start] & 0xF) * 4
        if buf[start + 9] != IPPROTO_UDP or packet.end < udp + 8 + _BOOTP.size:
            return CONTINUE
        if _UDP.unpack_from(buf, udp)[1] != CLIENT_PORT:
            return CONTINUE
        client = self._clients.get(packet.rx.index)
        if client is None:
            return CONTINUE
        self._take(client, bytes(buf[udp + 8 : packet.end]))
        return None

    def _take(self, client: Client, message: bytes) -> None:
        fields = _BOOTP.unpack_from(message)
        operation, transaction, yours, hardware, magic = fields[0], fields[4], fields[8], fields[11], fields[14]
        ours = hardware[:6] == client.interface.mac and transaction == client.transaction
        if operation != BOOTREPLY or magic != MAGIC or not ours:
            return
        options = _options(message[_BOOTP.size :])
        kind = options.get(OPTION_TYPE, b"\0")[0]
        now = self._machine.clock()
        if kind == NAK and client.state is not State.DISCOVER:
            self._reset(client, now)
        elif kind == OFFER and client.state is State.DISCOVER:
            client.learned = _terms(yours, options)
            client.state, client.retries, client.next_s = State.REQUEST, 0, now
            self._send(client, now)
        elif kind == ACK and client.state is not State.DISCOVER:
            client.learned = _terms(yours, options)
            client.state, client.retries = State.BOUND, 0
            client.next_s = now + client.learned.renew_s
            client.expires_s = now + client.learned.lease_s
            self._install(client)

    # -- what a lease means -----------------------------------------------------------------------------------------

    def _install(self, client: Client) -> None:
        before, now = client.installed, client.learned
        if (before.address, before.length, before.router) == (now.address, now.length, now.router):
            client.installed = now
            return
        self._release(client)
        self._machine.add_address(client.interface, 4, InterfaceAddress(now.address, now.length))
        if now.router:
            path = Path(client.interface.index, now.router, 4)
            contribution = Contribution((path,), EntryFlag.NONE)
            client.interface.fib4.put(0, 0, source=self._machine.source(DHCP_SOURCE), contribution=contribution)
            self._machine.probe(4, client.interface.index, now.router)
        client.installed = now

    def _release(self, client: Client) -> None:
        if not client.installed.address:
            return
        if client.installed.router:
            client.interface.fib4.drop_source(0, 0, source=self._machine.source(DHCP_SOURCE))
        address = InterfaceAddress(client.installed.address, client.installed.length)
        if address in client.interface.addresses(4):
            self._machine.remove_address(client.interface, 4, address)
        client.installed = Terms()

    def _reset(self, client: Client, now: float) -> None:
        self._release(client)
        client.learned = Terms()
        client.state, client.retries, client.next_s = State.DISCOVER, 0, now


def _options(data: bytes) -> dict[int, bytes]:
    """The options by number (RFC 2132); what is cut off is left out."""
    found: dict[int, bytes] = {}
    position = 0
    while position + 1 < len(data) and data[position] != 0xFF:
        if data[position] == 0:
            position += 1
            continue
        end = position + 2 + data[position + 1]
        if end > len(data):
            break
        found[data[position]] = data[position + 2 : end]
        position = end
    return found


def _terms(address: int, options: dict[int, bytes]) -> Terms:
    def number(option: int) -> int:
        value = options.get(option, b"")
        return _U32.unpack_from(value)[0] if len(value) >= 4 else 0

    lease_s = float(number(OPTION_LEASE))
    dns = options.get(OPTION_DNS, b"")
    return Terms(
        address=address,
        length=number(OPTION_MASK).bit_count(),
        router=number(OPTION_ROUTER),
        server=number(OPTION_SERVER),
        lease_s=lease_s,
        renew_s=float(number(OPTION_RENEWAL)) or lease_s / 2,
        dns=tuple(_U32.unpack_from(dns, at)[0] for at in range(0, len(dns) - 3, 4)),
    )
