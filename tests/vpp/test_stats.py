"""The stats segment of a real VPP: equal to vpp_papi's reading of it, and right while VPP changes it."""

from __future__ import annotations

import asyncio
import os
import threading
from typing import Any

import numpy as np
import pytest
from real import RealVpp
from vpp_papi.vpp_stats import VPPStats

import contiv.vpp
from contiv.fastpath import Stats, StatsError

pytestmark = [pytest.mark.vpp, pytest.mark.root]

SECONDS = float(os.environ.get("CONTIV_STATS_SECONDS", "3"))
"""How long a reader looks on while interfaces come and go."""


def theirs(value: Any) -> Any:
    """vpp_papi's value in lists."""
    if isinstance(value, list):
        return [theirs(each) for each in value]
    return tuple(value) if isinstance(value, tuple) else value


def test_every_entry_equals_vpp_papi(real_vpp: RealVpp) -> None:
    other = VPPStats(real_vpp.stats)
    other.connect()
    compared = 0
    with Stats(real_vpp.stats) as stats:
        for name in stats.names():
            value = stats[name]
            if isinstance(value, tuple) and name.startswith(("/if/", "/net/")):
                assert [each.tolist() for each in value] == theirs(other[name]), name
                compared += 1
            elif isinstance(value, list):
                assert [each for each in value if each is not None] == [each for each in other[name] if each], name
                compared += 1
    assert compared > 20


def test_views_are_no_copies_and_read_only(real_vpp: RealVpp) -> None:
    stats = Stats(real_vpp.stats)
    view = stats["/if/rx"][0]
    assert stats["/if/rx"][0] is view
    assert not view.flags.writeable
    assert not view.flags.owndata
    (copy,) = stats.read("/if/rx")
    assert copy[0].flags.owndata
    stats.close()
    assert view["packets"].sum() >= 0  # the mapping lives as long as the view


def test_symlink_is_its_column(real_vpp: RealVpp) -> None:
    with Stats(real_vpp.stats) as stats:
        assert stats["/interfaces/local0/rx"][0][0] == stats["/if/rx"][0][0]


def test_unknown_name_and_no_socket(real_vpp: RealVpp, tmp_path: Any) -> None:
    with Stats(real_vpp.stats) as stats:
        assert "/none" not in stats
        with pytest.raises(KeyError):
            _ = stats["/none"]
    with pytest.raises(StatsError, match="does VPP run"):
        Stats(tmp_path / "none.sock")


async def churn(path: str, stop: threading.Event) -> int:
    """Interfaces made and removed until ``stop``, by the hundred."""
    made = 0
    async with contiv.vpp.connect(path) as vpp:
        while not stop.is_set():
            replies = await vpp.batch([("create_loopback", {})] * 100)
            made += 100
            await vpp.batch([("delete_loopback", {"sw_if_index": reply.sw_if_index}) for reply in replies])
    return made


def test_reader_is_right_while_interfaces_come_and_go(real_vpp: RealVpp) -> None:
    stop = threading.Event()
    made: list[int] = []
    worker = threading.Thread(target=lambda: made.append(asyncio.run(churn(real_vpp.api, stop))))
    worker.start()
    reads = 0
    epochs = set()
    try:
        with Stats(real_vpp.stats) as stats:
            timer = threading.Timer(SECONDS, stop.set)
            timer.start()
            while not stop.is_set():
                names, rx = stats.read("/if/names", "/if/rx")
                epochs.add(stats.epoch)
                assert names[0] == "local0"
                assert all(name is None or name == "deleted" or name.startswith(("loop", "local")) for name in names)
                assert all(one.dtype.names == ("packets", "bytes") and not np.any(one["packets"]) for one in rx)
                reads += 1
    finally:
        stop.set()
        worker.join()
    assert made
    assert made[0] >= 1000
    assert len(epochs) > 10
    assert reads > 100
    print(f"{reads} reads while {made[0]} interfaces came and went, {len(epochs)} epochs")
