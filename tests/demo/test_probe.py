"""Measurements inside a namespace whose loopback answers, and towards addresses that do not."""

from __future__ import annotations

import time

import pytest

from contiv.demo import probe
from contiv.errors import DemoError
from contiv.linux.netns import Workers

pytestmark = pytest.mark.root


async def test_pings_come_back_with_their_times(workers: Workers, loopback_netns: str) -> None:
    pings = await probe.ping(workers, loopback_netns, "127.0.0.1", count=3)
    assert (pings.sent, pings.lost) == (3, 0)
    assert 0 < pings.median_s < 0.5


async def test_what_does_not_answer_is_lost(workers: Workers, loopback_netns: str) -> None:
    pings = await probe.ping(workers, loopback_netns, "192.0.2.1", count=2)
    assert pings.lost == 2


async def test_the_first_reply_is_timed_and_its_absence_noticed(workers: Workers, loopback_netns: str) -> None:
    before = time.perf_counter()
    reply = await probe.first_reply(workers, loopback_netns, "127.0.0.1", timeout_s=2)
    assert reply is not None
    assert before < reply < before + 2
    assert await probe.first_reply(workers, loopback_netns, "192.0.2.1", timeout_s=0.05) is None


async def test_tcp_throughput_is_what_the_receiver_counted(loopback_netns: str) -> None:
    rate = await probe.throughput(loopback_netns, loopback_netns, "127.0.0.1", seconds=0.2)
    assert rate > 10e6


async def test_tcp_to_nowhere_is_an_error(loopback_netns: str) -> None:
    with pytest.raises(DemoError, match=r"TCP to 192\.0\.2\.1"):
        await probe.throughput(loopback_netns, loopback_netns, "192.0.2.1", seconds=0.1)


def test_checksums_are_those_of_rfc_1071() -> None:
    assert probe._checksum(bytes.fromhex("0001f203f4f5f6f7")) == 0xFFFF & ~0xDDF2
