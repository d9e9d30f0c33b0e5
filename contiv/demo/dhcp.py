"""A DHCP server (RFC 2131) as a process: ``python -m contiv.demo.dhcp INTERFACE TERMS_FILE``.

The file is JSON and read anew for each message, so that terms can change under the clients' feet: ``server``,
``length``, ``router`` (may be empty), ``lease_s``, ``pool`` (addresses, handed out in order to one MAC address after
the other). Whoever asks for another address than it has now is refused (NAK). A line on standard output says that it
listens. Standard library alone: it starts at once.
"""

from __future__ import annotations

import ipaddress
import json
import socket
import struct
import sys
from pathlib import Path
from typing import Any, Final

FIXED: Final = struct.Struct("!BBBBIHH4s4s4s4s16s64s128s4s")
MAGIC: Final = b"\x63\x82\x53\x63"
DISCOVER, OFFER, REQUEST, ACK, NAK = 1, 2, 3, 5, 6
MASK, ROUTER, ADDRESS, LEASE, TYPE, SERVER = 1, 3, 50, 51, 53, 54  # options, RFC 2132
NOBODY: Final = bytes(4)
MESSAGE_MAX: Final = 2048

Terms = dict[str, Any]


def main() -> None:
    """Serve until killed."""
    interface, terms_file = sys.argv[1], Path(sys.argv[2])
    listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    listener.bind(("", 67))
    print("listening", flush=True)
    clients: list[bytes] = []
    while True:
        message, _ = listener.recvfrom(MESSAGE_MAX)
        answered = answer(message, json.loads(terms_file.read_text()), clients)
        if answered is not None:
            reply, to = answered
            listener.sendto(reply, (to, 68))


def answer(message: bytes, terms: Terms, clients: list[bytes]) -> tuple[bytes, str] | None:
    """The reply to a message and where it goes; None for what is no request, or finds the pool empty."""
    if len(message) < FIXED.size:
        return None
    fields = FIXED.unpack_from(message)
    transaction, flags, own, hardware, magic = fields[4], fields[6], fields[7], fields[11], fields[14]
    options = _options(message[FIXED.size :])
    if fields[0] != 1 or magic != MAGIC or TYPE not in options:
        return None
    if hardware not in clients:
        clients.append(hardware)
    pool = terms["pool"]
    number = clients.index(hardware)
    if number >= len(pool):
        return None
    offered = _packed(pool[number])
    verdict = _verdict(options[TYPE][0], asked=options.get(ADDRESS, own), offered=offered)
    if verdict is None:
        return None
    yours = offered if verdict != NAK else NOBODY
    head = FIXED.pack(2, 1, 6, 0, transaction, 0, flags, NOBODY, yours, NOBODY, NOBODY, hardware, b"", b"", MAGIC)
    told = _option(TYPE, bytes((verdict,))) + _option(SERVER, _packed(terms["server"]))
    if verdict != NAK:
        mask = (0xFFFFFFFF << (32 - terms["length"])) & 0xFFFFFFFF
        told += _option(LEASE, struct.pack("!I", terms["lease_s"])) + _option(MASK, struct.pack("!I", mask))
        told += _option(ROUTER, _packed(terms["router"])) if terms["router"] else b""
    renewing = own != NOBODY and verdict == ACK
    return head + told + b"\xff", str(ipaddress.ip_address(own)) if renewing else "255.255.255.255"


def _verdict(kind: int, *, asked: bytes, offered: bytes) -> int | None:
    if kind == DISCOVER:
        return OFFER
    if kind == REQUEST:
        return ACK if asked == offered else NAK
    return None


def _packed(address: str) -> bytes:
    return ipaddress.ip_address(address).packed


def _option(number: int, value: bytes) -> bytes:
    return bytes((number, len(value))) + value


def _options(data: bytes) -> dict[int, bytes]:
    found = {}
    while len(data) > 1 and data[0] != 0xFF:
        if data[0] == 0:
            data = data[1:]
            continue
        found[data[0]] = data[2 : 2 + data[1]]
        data = data[2 + data[1] :]
    return found


if __name__ == "__main__":
    main()
