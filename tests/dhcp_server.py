"""A DHCP server (RFC 2131) for one client, as a process: ``python dhcp_server.py INTERFACE TERMS_FILE``.

The file is JSON and read anew for each message, so that a test changes the terms under the client's feet: ``server``,
``address``, ``length``, ``router`` (may be empty), ``lease_s``. Whoever asks for another address than it has now is
refused (NAK). A line on standard output says that it listens.
"""

from __future__ import annotations

import ipaddress
import json
import socket
import struct
import sys
from pathlib import Path

FIXED = struct.Struct("!BBBBIHH4s4s4s4s16s64s128s4s")
MAGIC = b"\x63\x82\x53\x63"
DISCOVER, OFFER, REQUEST, ACK, NAK = 1, 2, 3, 5, 6


def main() -> None:
    interface, terms_file = sys.argv[1], Path(sys.argv[2])
    listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    listener.bind(("", 67))
    print("listening", flush=True)
    while True:
        message, _ = listener.recvfrom(2048)
        terms = json.loads(terms_file.read_text())
        answered = answer(message, terms)
        if answered is not None:
            reply, to = answered
            listener.sendto(reply, (to, 68))


def answer(message: bytes, terms: dict[str, object]) -> tuple[bytes, str] | None:
    fields = FIXED.unpack_from(message)
    transaction, flags, own, hardware, magic = fields[4], fields[6], fields[7], fields[11], fields[14]
    if fields[0] != 1 or magic != MAGIC:
        return None
    options = parse(message[FIXED.size :])
    offered = packed(terms["address"])
    kind = options[53][0]
    if kind == DISCOVER:
        verdict = OFFER
    elif kind == REQUEST:
        verdict = ACK if options.get(50, own) == offered else NAK
    else:
        return None
    yours = offered if verdict != NAK else bytes(4)
    head = FIXED.pack(2, 1, 6, 0, transaction, 0, flags, bytes(4), yours, bytes(4), bytes(4), hardware, b"", b"", MAGIC)
    told = option(53, bytes((verdict,))) + option(54, packed(terms["server"]))
    if verdict != NAK:
        mask = (0xFFFFFFFF << (32 - int(str(terms["length"])))) & 0xFFFFFFFF
        told += option(51, struct.pack("!I", int(str(terms["lease_s"])))) + option(1, struct.pack("!I", mask))
        told += option(3, packed(terms["router"])) if terms["router"] else b""
    renewing = own != bytes(4) and verdict == ACK
    to = str(ipaddress.ip_address(own)) if renewing else "255.255.255.255"
    return head + told + b"\xff", to


def packed(address: object) -> bytes:
    return ipaddress.ip_address(str(address)).packed


def option(number: int, value: bytes) -> bytes:
    return bytes((number, len(value))) + value


def parse(data: bytes) -> dict[int, bytes]:
    found = {}
    while data and data[0] != 0xFF:
        if data[0] == 0:
            data = data[1:]
            continue
        found[data[0]] = data[2 : 2 + data[1]]
        data = data[2 + data[1] :]
    return found


if __name__ == "__main__":
    main()
