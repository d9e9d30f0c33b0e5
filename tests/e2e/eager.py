"""Pods that send before anybody told them that they are ready: from the moment their namespace exists. Run as a file.

``python -I -S eager.py WORD TARGET_NETNS=ADDRESS … via=ADDRESS …``: enters every network namespace that appears under a
name with WORD in it, and from then on sends to every target every ``PERIOD_S``, in each way that it has: a *datagram*,
which the kernel refuses until there is an interface with a route, also to each service address ``via``; and a *frame*
made by hand, as soon as there is an interface at all, which it sets up itself without waiting for whoever made it.
Prints ``ready``; for each line that it reads one line of JSON: what was sent and what arrived, each as
``[namespace, way, target, count]``. Ends with its standard input.
"""

import ctypes
import fcntl
import json
import os
import select
import socket
import struct
import sys

CLONE_NEWNET = 0x40000000
NAMED = "/var/run/netns"
LINK = b"eth0"
PORT = 9  # RFC 863
PERIOD_S = 0.002
SIOCGIFFLAGS, SIOCSIFFLAGS, SIOCGIFADDR = 0x8913, 0x8914, 0x8915
IFF_UP = 1
ETH_P_IP = b"\x08\x00"
BROADCAST = b"\xff" * 6
STRANGER = "198.18.0.1"  # RFC 2544
LIBC = ctypes.CDLL(None, use_errno=True)


def enter(path):
    """Let this process make its sockets there; False when the namespace is not mounted yet."""
    descriptor = os.open(path, os.O_RDONLY)
    entered = LIBC.setns(descriptor, CLONE_NEWNET) == 0
    os.close(descriptor)
    return entered


class Sender:
    """A namespace that was entered."""

    def __init__(self):
        self.datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.frames = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK)
        self.bound = False

    def close(self):
        """Let go of the namespace."""
        self.datagrams.close()
        self.frames.close()

    def frame(self, text, target):
        """To whoever is at the other end of the cable, from the interface's address or from nobody's."""
        request = struct.pack("16sH22x", LINK, 0)
        flags = struct.unpack("16sH22x", fcntl.ioctl(self.frames, SIOCGIFFLAGS, request))[1]
        if not flags & IFF_UP:
            fcntl.ioctl(self.frames, SIOCSIFFLAGS, struct.pack("16sH22x", LINK, flags | IFF_UP))
        if not self.bound:
            self.frames.bind((LINK.decode(), 0))
            self.bound = True
        try:
            source = fcntl.ioctl(self.datagrams, SIOCGIFADDR, struct.pack("16s24x", LINK))[20:24]
        except OSError:
            source = socket.inet_aton(STRANGER)
        self.frames.send(BROADCAST + b"\x02\xfe\x00\x00\x00\x99" + ETH_P_IP + packet(source, target, text))

    def datagram(self, text, target):
        """As programs send."""
        self.datagrams.sendto(text, (target, PORT))


def packet(source, target, text):
    """An IPv4 packet with a UDP datagram, which needs no checksum."""
    head = struct.pack("!BBHHHBBH", 0x45, 0, 28 + len(text), 0, 0, 64, 17, 0) + source + socket.inet_aton(target)
    total = sum(struct.unpack("!10H", head))
    total = (total & 0xFFFF) + (total >> 16)
    head = head[:10] + struct.pack("!H", ~(total + (total >> 16)) & 0xFFFF) + head[12:]
    return head + struct.pack("!HHHH", PORT, PORT, 8 + len(text), 0) + text


def look(word, senders):
    """Enter namespaces that are new, let go of those that are gone."""
    names = {name for name in os.listdir(NAMED) if word in name}
    for name in senders.keys() - names:
        senders.pop(name).close()
    for name in names - senders.keys():
        try:
            if enter(f"{NAMED}/{name}"):
                senders[name] = Sender()
        except OSError:
            continue  # gone again, or not a namespace yet


def main(word, arguments):
    """Do as the module says."""
    ends = [argument.partition("=")[::2] for argument in arguments]
    servers = []
    for place, address in ends:
        if place != "via":
            enter(place)
            server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
            server.bind((address, PORT))
            servers.append(server)
    ways = [("datagram", address) for _, address in ends]
    ways += [("frame", address) for place, address in ends if place != "via"]
    senders, sent, arrived = {}, {}, {}
    print("ready", flush=True)
    while True:
        look(word, senders)
        for name, sender in senders.items():
            for way, address in ways:
                try:
                    getattr(sender, way)(f"{name} {way} {address}".encode(), address)
                except OSError:
                    continue  # no interface, no route, or the namespace was left behind
                sent[name, way, address] = sent.get((name, way, address), 0) + 1
        for server in servers:
            while True:
                try:
                    key = tuple(server.recv(256).decode().split())
                except BlockingIOError:
                    break
                arrived[key] = arrived.get(key, 0) + 1
        if select.select([sys.stdin], [], [], PERIOD_S)[0]:
            if not sys.stdin.readline():
                return
            told = {"sent": [[*key, count] for key, count in sent.items()]}
            told["arrived"] = [[*key, count] for key, count in arrived.items()]
            print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
