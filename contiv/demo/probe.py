"""Real packets between namespaces: ICMP echo with loss and round-trip times, TCP with throughput.

In: a namespace and a target address. Out: ``Pings`` and bits per second. Ping is a raw socket on a worker
thread that is inside the namespace; TCP is a process on each side (``traffic``), as an application would be.
"""

from __future__ import annotations

import asyncio
import secrets
import signal
import socket
import statistics
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

import msgspec

from contiv.errors import DemoError
from contiv.linux import netns
from contiv.linux.netns import Workers
from contiv.processes import send_signal

ECHO_REQUEST, ECHO_REPLY = 8, 0  # RFC 792
PAYLOAD: Final = bytes(range(56))
PING_TIMEOUT_S: Final = 1.0
FIRST_REPLY_INTERVAL_S: Final = 0.005
TRAFFIC_PORT: Final = 5201
TRAFFIC_TIMEOUT_S: Final = 10.0


class Pings(msgspec.Struct, frozen=True):
    """Echo requests sent and the round-trip times, in seconds, of those answered."""

    sent: int
    times_s: tuple[float, ...] = ()

    @property
    def lost(self) -> int:
        """Requests without a reply."""
        return self.sent - len(self.times_s)

    @property
    def median_s(self) -> float:
        """The median round-trip time; NaN when nothing came back."""
        return statistics.median(self.times_s) if self.times_s else float("nan")


async def ping(workers: Workers, source_netns: str, target: str, *, count: int) -> Pings:
    """``count`` echo requests, one after the other."""
    return await workers.inside(source_netns, lambda: _ping(target, count))


async def first_reply(workers: Workers, source_netns: str, target: str, *, timeout_s: float) -> float | None:
    """The ``time.perf_counter`` of the first reply when asking every few milliseconds, None without any."""
    return await workers.inside(source_netns, lambda: _first_reply(target, timeout_s))


async def throughput(source_netns: str, target_netns: str, target: str, *, seconds: float) -> float:
    """Bits per second of one TCP connection, as the receiver counts them. DemoError without one."""
    script = str(Path(__file__).with_name("traffic.py"))
    python = [sys.executable, "-I", "-S", script]
    receiver = await _start(target_netns, [*python, "receive", target, str(TRAFFIC_PORT), str(seconds)])
    sender = None
    try:
        async with asyncio.timeout(TRAFFIC_TIMEOUT_S + seconds):
            assert receiver.stdout is not None
            if await receiver.stdout.readline() != b"ready\n":
                raise DemoError(f"TCP to {target}: the receiver did not start; is port {TRAFFIC_PORT} taken?")
            sender = await _start(source_netns, [*python, "send", target, str(TRAFFIC_PORT), str(seconds)])
            count, duration = (await receiver.stdout.readline()).split()
            return int(count) * 8 / float(duration)
    except (TimeoutError, ValueError, ZeroDivisionError):
        raise DemoError(f"TCP to {target}: no data within {TRAFFIC_TIMEOUT_S:g} s") from None
    finally:
        for child in (receiver, sender):
            if child is not None:
                send_signal(child, signal.SIGKILL)
                await child.wait()


async def _start(namespace: str, argv: list[str]) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *netns.command_in(namespace, argv, die_with_parent=True),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def _ping(target: str, count: int) -> Pings:
    times = []
    with _Echo(target) as echo:
        for _ in range(count):
            elapsed = echo.exchange(PING_TIMEOUT_S)
            if elapsed is not None:
                times.append(elapsed)
    return Pings(count, tuple(times))


def _first_reply(target: str, timeout_s: float) -> float | None:
    deadline = time.perf_counter() + timeout_s
    with _Echo(target) as echo:
        while time.perf_counter() < deadline:
            started = time.perf_counter()
            if echo.exchange(FIRST_REPLY_INTERVAL_S) is not None:
                return time.perf_counter()
            time.sleep(max(0.0, started + FIRST_REPLY_INTERVAL_S - time.perf_counter()))
    return None


class _Echo:
    """A raw ICMP socket for one target, with an identifier of its own."""

    def __init__(self, target: str) -> None:
        self._target = target
        self._identifier = secrets.randbits(16)
        self._sequence = 0
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.IPPROTO_ICMP)

    def __enter__(self) -> _Echo:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def exchange(self, timeout_s: float) -> float | None:
        """Seconds until the reply to one request; None when it did not come in time or could not be sent."""
        self._sequence = (self._sequence + 1) & 0xFFFF
        request = _request(self._identifier, self._sequence)
        sent = time.perf_counter()
        try:
            self._socket.sendto(request, (self._target, 0))
        except OSError:  # no route yet: the pod is not there
            return None
        while (left := sent + timeout_s - time.perf_counter()) > 0:
            self._socket.settimeout(left)
            try:
                packet = self._socket.recv(2048)
            except TimeoutError:
                return None
            if self._is_reply(packet):
                return time.perf_counter() - sent
        return None

    def _is_reply(self, packet: bytes) -> bool:
        start = (packet[0] & 0xF) * 4
        if len(packet) < start + 8:
            return False
        kind, _, _, identifier, sequence = struct.unpack_from("!BBHHH", packet, start)
        return (kind, identifier, sequence) == (ECHO_REPLY, self._identifier, self._sequence)


def _request(identifier: int, sequence: int) -> bytes:
    body = struct.pack("!BBHHH", ECHO_REQUEST, 0, 0, identifier, sequence) + PAYLOAD
    return struct.pack("!BBHHH", ECHO_REQUEST, 0, _checksum(body), identifier, sequence) + PAYLOAD


def _checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071) of an even number of bytes."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF
