"""Many pings at a steady pace from many network namespaces, in one process. Run as a file, inside any namespace.

In: on the command line a JSON file, ``{"period_s": 0.01, "sources": [{"netns": PATH, "targets": [ADDRESS, …]}, …]}``:
in each period every source sends one echo request to each of its targets, spread evenly. It prints ``ready``, runs
until its standard input ends, waits for late replies, and prints one JSON line: requests sent and, for each pair
with losses, how many. A request that the kernel refuses to send is a loss.
"""

import json
import os
import select
import socket
import struct
import sys
import time

CLONE_NEWNET = 0x40000000
SOL_RAW = 255
ICMP_FILTER = 1  # linux/icmp.h; a set bit blocks the type
ECHO_REPLY_ONLY = struct.pack("I", ~(1 << 0) & 0xFFFFFFFF)
LATE_S = 1.5
CATCH_UP_S = 0.002  # a sender that was held up skips what it owes beyond this, for a burst would measure queues
RECEIVE_BUFFER = 1 << 20


class Source:
    """One namespace: a raw socket in it, its targets, what was sent and what came back."""

    def __init__(self, netns: str, targets: list[str], identifier: int) -> None:
        self.netns = netns
        self.targets = targets
        self._identifier = identifier
        self.sent = [0] * len(targets)
        self.back = [0] * len(targets)
        self._seen: list[int] = [0] * len(targets)
        descriptor = os.open(netns, os.O_RDONLY)
        setns(descriptor)
        os.close(descriptor)
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.IPPROTO_ICMP)
        self.socket.setsockopt(SOL_RAW, ICMP_FILTER, ECHO_REPLY_ONLY)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)

    def send(self, index: int) -> None:
        """One request to one target."""
        self.sent[index] += 1
        body = struct.pack("!HI", index, self.sent[index]) + bytes(50)
        head = struct.pack("!BBHHH", 8, 0, 0, self._identifier, self.sent[index] & 0xFFFF)
        checksum = internet_checksum(head + body)
        head = struct.pack("!BBHHH", 8, 0, checksum, self._identifier, self.sent[index] & 0xFFFF)
        try:
            self.socket.sendto(head + body, (self.targets[index], 0))
        except OSError:
            return  # counted as sent, so it shows as lost

    def receive(self) -> None:
        """All replies that are there; each of a target's requests is counted once."""
        while True:
            try:
                packet = self.socket.recv(256)
            except BlockingIOError:
                return
            start = (packet[0] & 0xF) * 4
            kind, _, _, identifier, _ = struct.unpack_from("!BBHHH", packet, start)
            if kind != 0 or identifier != self._identifier:
                continue
            index, number = struct.unpack_from("!HI", packet, start + 8)
            if number > self._seen[index]:  # replies keep their order on every path that we test
                self._seen[index] = number
                self.back[index] += 1


def setns(descriptor: int) -> None:
    """Enter a network namespace."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


def internet_checksum(data: bytes) -> int:
    """RFC 1071, for an even number of bytes."""
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF


def main(path: str) -> None:
    """Do as the module says."""
    with open(path) as file:
        spec = json.load(file)
    pid = os.getpid()
    sources = [
        Source(each["netns"], each["targets"], (pid + number) & 0xFFFF) for number, each in enumerate(spec["sources"])
    ]
    # sources take turns, and neighbours in the order ping different targets: no pod gets a burst
    rounds = max(len(source.targets) for source in sources)
    turns = [
        (source, (number + round_) % rounds)
        for round_ in range(rounds)
        for number, source in enumerate(sources)
        if (number + round_) % rounds < len(source.targets)
    ]
    by_descriptor = {source.socket.fileno(): source for source in sources}
    poll = select.epoll()
    for descriptor in by_descriptor:
        poll.register(descriptor, select.EPOLLIN)
    stdin = sys.stdin.fileno()
    poll.register(stdin, select.EPOLLIN | select.EPOLLHUP)
    print("ready", flush=True)

    step = spec["period_s"] / len(turns)
    turn, due, worst_s = 0, time.monotonic(), 0.0
    running = True
    while running:
        now = time.monotonic()
        worst_s = max(worst_s, now - due)
        due = max(due, now - CATCH_UP_S)
        while due <= now:
            source, index = turns[turn]
            source.send(index)
            turn = (turn + 1) % len(turns)
            due += step
        for descriptor, _ in poll.poll(max(0.0, due - time.monotonic())):
            if descriptor == stdin:
                running = bool(os.read(stdin, 1))
            else:
                by_descriptor[descriptor].receive()
    poll.unregister(stdin)
    deadline = time.monotonic() + LATE_S
    while (left := deadline - time.monotonic()) > 0:
        for descriptor, _ in poll.poll(left):
            by_descriptor[descriptor].receive()
    lost = {
        f"{source.netns.rpartition('/')[2]} to {target}": sent - back
        for source in sources
        for target, sent, back in zip(source.targets, source.sent, source.back, strict=True)
        if sent != back
    }
    result = {"sent": sum(sum(source.sent) for source in sources), "late_s": worst_s, "lost": lost}
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
