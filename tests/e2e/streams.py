"""TCP connections that speak at a steady pace, from many network namespaces, in one process. Run as a file.

In: on the command line a JSON file, ``{"period_s": 0.01, "streams": [{"source": NETNS, "target": NETNS, "address":
ADDRESS}, …]}``: each stream is one connection to an echo server that this process opens in the target's namespace, and
says its next number every period. It prints ``ready`` once all are connected, runs until its standard input ends, and
prints one JSON line: numbers said, the longest that an answer took, retransmitted segments, and by stream why its
connection ended before (``broken``) or how many answers never came (``unanswered``).
"""

import ctypes
import json
import os
import select
import socket
import struct
import sys
import time

CLONE_NEWNET = 0x40000000
PORT = 7  # RFC 862
NUMBER = struct.Struct("!Q")
LATE_S = 5.0
TCP_INFO = 11  # linux/tcp.h
TOTAL_RETRANS_OFFSET = 100  # struct tcp_info, tcpi_total_retrans
LIBC = ctypes.CDLL(None, use_errno=True)


class Stream:
    """One connection: what it said when, what was answered."""

    def __init__(self, source, target, address):
        self.name = f"{source} to {address}"
        self.said = self.heard = 0
        self.times = {}
        self.slowest_s = 0.0
        self.broken = ""
        self.rest = b""
        enter(target)
        server = socket.create_server((address, PORT), reuse_port=True)
        enter(source)
        self.socket = socket.create_connection((address, PORT), timeout=LATE_S)
        self.echo, _ = server.accept()
        server.close()
        for one in (self.socket, self.echo):
            one.setblocking(False)
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def say(self, now):
        self.said += 1
        self.times[self.said] = now
        try:
            self.socket.send(NUMBER.pack(self.said))
        except OSError as error:
            self.broken = self.broken or str(error)

    def answer(self):
        """The server's side: say the same."""
        try:
            self.echo.send(self.echo.recv(65536))
        except OSError as error:
            self.broken = self.broken or f"server: {error}"

    def hear(self, now):
        try:
            data = self.rest + self.socket.recv(65536)
        except OSError as error:
            self.broken = self.broken or str(error)
            return
        whole = len(data) - len(data) % NUMBER.size
        self.rest = data[whole:]
        for (number,) in NUMBER.iter_unpack(data[:whole]):
            self.heard += 1
            self.slowest_s = max(self.slowest_s, now - self.times.pop(number))

    def retransmitted(self):
        info = self.socket.getsockopt(socket.IPPROTO_TCP, TCP_INFO, 192)
        return struct.unpack_from("=I", info, TOTAL_RETRANS_OFFSET)[0]


def enter(netns):
    """Let this process make its sockets in a namespace."""
    descriptor = os.open(netns, os.O_RDONLY)
    try:
        if LIBC.setns(descriptor, CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"setns {netns}")
    finally:
        os.close(descriptor)


def main():
    with open(sys.argv[1]) as file:
        spec = json.load(file)
    streams = [Stream(one["source"], one["target"], one["address"]) for one in spec["streams"]]
    readers = {stream.socket: stream.hear for stream in streams}
    servers = {stream.echo: stream.answer for stream in streams}
    print("ready", flush=True)
    period = spec["period_s"]
    following = time.monotonic()
    ending = None
    while ending is None or (time.monotonic() < ending and any(s.heard < s.said and not s.broken for s in streams)):
        now = time.monotonic()
        if ending is None and now >= following:
            for stream in streams:
                if not stream.broken:
                    stream.say(now)
            following = max(following + period, now)
        wait = max(0.0, following - time.monotonic()) if ending is None else 0.05
        watched = [sys.stdin] if ending is None else []
        broken = [stream for stream in streams if stream.broken]
        dead = {one for stream in broken for one in (stream.socket, stream.echo)}
        ready, _, _ = select.select([*watched, *(one for one in (*readers, *servers) if one not in dead)], [], [], wait)
        for one in ready:
            if one is sys.stdin:
                if not os.read(0, 4096):
                    ending = time.monotonic() + LATE_S
            elif one in readers:
                readers[one](time.monotonic())
            else:
                servers[one]()
    print(
        json.dumps(
            {
                "said": sum(stream.said for stream in streams),
                "slowest_s": max(stream.slowest_s for stream in streams),
                "retransmitted": sum(stream.retransmitted() for stream in streams if not stream.broken),
                "broken": {stream.name: stream.broken for stream in streams if stream.broken},
                "unanswered": {s.name: s.said - s.heard for s in streams if s.said > s.heard},
            }
        ),
        flush=True,
    )


if __name__ == "__main__":
    main()
