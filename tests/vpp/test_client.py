"""The client against a scripted peer: answers, errors, limits, loss of the connection."""

from __future__ import annotations

import asyncio
import gc
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from peer import Peer

import contiv.vpp
from contiv.fastpath import DecodeError, Schema
from contiv.vpp import VppApiError, VppBusy, VppDisconnected, VppIncompatible, VppTimeout, api

BUILTIN = api.builtin_schema()


def client(peer: Peer, **options: Any) -> contiv.vpp.Vpp:
    """A client of the peer."""
    return contiv.vpp.connect(peer.path, schema=BUILTIN, **options)


async def test_call_returns_the_reply_to_its_own_request(peer: Peer) -> None:
    peer.answers["create_loopback"] = lambda r: [("create_loopback_reply", {"sw_if_index": r.mac_address.packed[5]})]
    async with client(peer) as vpp:
        calls = [vpp.call("create_loopback", mac_address=f"02:00:00:00:00:{i:02x}") for i in range(50)]
        assert [(await call).sw_if_index for call in calls] == list(range(50))


async def test_negative_retval_raises_with_vpps_name(peer: Peer) -> None:
    peer.answers["sw_interface_set_flags"] = lambda r: [("sw_interface_set_flags_reply", {"retval": -2})]
    async with client(peer) as vpp:
        with pytest.raises(VppApiError, match="INVALID_SW_IF_INDEX") as caught:
            await vpp.call("sw_interface_set_flags", sw_if_index=9)
        assert (caught.value.message, caught.value.retval) == ("sw_interface_set_flags", -2)
        assert (await vpp.call("sw_interface_set_flags", sw_if_index=9, check=False)).retval == -2


async def test_retval_is_found_where_the_message_has_it(peer: Peer) -> None:
    peer.answers["acl_add_replace"] = lambda r: [("acl_add_replace_reply", {"acl_index": 5, "retval": -1})]
    async with client(peer) as vpp:
        with pytest.raises(VppApiError, match="UNSPECIFIED"):
            await vpp.call("acl_add_replace", r=[])


async def test_batch_keeps_order_and_errors_in_place(peer: Peer) -> None:
    def answer(record: Any) -> list[tuple[str, dict[str, Any]]]:
        return [("sw_interface_set_flags_reply", {"retval": -2 if record.sw_if_index % 3 == 0 else 0})]

    peer.answers["sw_interface_set_flags"] = answer
    requests: list[tuple[str, dict[str, Any]]] = [("sw_interface_set_flags", {"sw_if_index": i}) for i in range(9)]
    requests.append(("sw_interface_set_flags", {"sw_if_index": "none"}))
    requests.append(("no_such_message", {}))
    async with client(peer) as vpp:
        results = await vpp.batch(requests, return_errors=True)
        kinds = [type(result).__name__ for result in results]
        reply = "sw_interface_set_flags_reply"
        assert kinds == ["VppApiError", reply, reply] * 3 + ["EncodeError", "VppIncompatible"]
        with pytest.raises(VppApiError):
            await vpp.batch(requests)
        assert await vpp.batch([]) == []


async def test_dump_collects_details_until_the_ping_returns(peer: Peer) -> None:
    peer.answers["sw_interface_dump"] = lambda r: [("sw_interface_details", {"sw_if_index": i}) for i in range(700)]
    async with client(peer) as vpp:
        first, second = await asyncio.gather(vpp.dump("sw_interface"), vpp.dump("sw_interface_dump"))
        assert [record.sw_if_index for record in first] == [record.sw_if_index for record in second] == list(range(700))


async def test_dump_many_gives_details_as_columns_with_their_arrays(peer: Peer) -> None:
    def answer(_: Any) -> list[tuple[str, dict[str, Any]]]:
        return [
            ("acl_interface_list_details", {"sw_if_index": i, "count": i % 3, "n_input": 0, "acls": [i] * (i % 3)})
            for i in range(300)
        ]

    peer.answers["acl_interface_list_dump"] = answer
    async with client(peer) as vpp:
        columns = await vpp.dump_many("acl_interface_list")
        assert columns.n == 300
        assert columns["sw_if_index"].tolist() == list(range(300))
        assert columns["acls"].tolist() == [i for i in range(300) for _ in range(i % 3)]
        assert columns.counts.tolist() == [i % 3 for i in range(300)]
        peer.answers["acl_interface_list_dump"] = lambda _: []
        assert (await vpp.dump_many("acl_interface_list_dump")).n == 0
        for name in ("nat44_ed_output_interface", "nat44_ed_output_interface_get", "acl_del"):
            with pytest.raises(VppIncompatible):
                await vpp.dump_many(name)


async def test_get_follows_its_cursor(peer: Peer) -> None:
    name = "nat44_ed_output_interface"

    def answer(record: Any) -> list[tuple[str, dict[str, Any]]]:
        details = [(f"{name}_details", {"sw_if_index": record.cursor + i}) for i in range(10)]
        last = record.cursor == 40
        return [*details, (f"{name}_get_reply", {"retval": 0 if last else -165, "cursor": record.cursor + 10})]

    peer.answers[f"{name}_get"] = answer
    async with client(peer) as vpp:
        assert [record.sw_if_index for record in await vpp.dump(name)] == list(range(50))


async def test_get_that_fails_raises(peer: Peer) -> None:
    name = "nat44_ed_output_interface_get"
    peer.answers[name] = lambda r: [(f"{name}_reply", {"retval": -7})]
    async with client(peer) as vpp:
        with pytest.raises(VppApiError, match="INVALID_VALUE"):
            await vpp.dump(name)


async def test_events_reach_their_subscribers_alone(peer: Peer) -> None:
    async with client(peer) as vpp:
        wanted, other = vpp.events("sw_interface_event"), vpp.events("dhcp_compl_event")
        peer.send(peer.frame("sw_interface_event", sw_if_index=4))
        assert (await anext(wanted)).sw_if_index == 4
        other.close()
        assert [event async for event in other] == []


async def test_events_that_nobody_reads_end_in_an_error(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("contiv.vpp.events.EVENT_QUEUE", 3)
    async with client(peer) as vpp:
        events = vpp.events("sw_interface_event")
        for i in range(5):
            peer.send(peer.frame("sw_interface_event", sw_if_index=i))
        await vpp.call("control_ping")
        assert [(await anext(events)).sw_if_index for _ in range(3)] == [0, 1, 2]
        with pytest.raises(VppBusy, match="lost"):
            await anext(events)


async def test_timeout_names_the_message_and_spares_the_others(peer: Peer) -> None:
    peer.silent.add("show_threads")
    async with client(peer) as vpp:
        late = vpp.call("show_threads", timeout_s=0.05)
        patient = vpp.call("show_threads", timeout_s=30)
        with pytest.raises(VppTimeout, match=r"show_threads: no answer from VPP within 0\.05 s"):
            await late
        assert not patient.done()
        assert (await vpp.call("control_ping")).retval == 0
        patient.cancel()


async def test_late_answer_of_a_timed_out_call_is_dropped(peer: Peer) -> None:
    peer.silent.add("show_threads")
    async with client(peer) as vpp:
        with pytest.raises(VppTimeout):
            await vpp.call("show_threads", timeout_s=0.01)
        name, record = peer.seen[-1]
        assert name == "show_threads"
        peer.send(peer.frame("show_threads_reply", context=record.context))
        assert (await vpp.call("control_ping")).retval == 0


async def test_cancelled_call_leaves_nothing_behind(peer: Peer) -> None:
    async with client(peer) as vpp:
        call = vpp.call("control_ping")
        call.cancel()
        assert (await vpp.call("control_ping")).retval == 0
        assert vpp.in_flight == 0


async def test_lost_connection_fails_ten_thousand_calls_at_once(peer: Peer) -> None:
    peer.silent.add("show_threads")
    async with client(peer) as vpp:
        calls = [vpp.call("show_threads") for _ in range(10_000)]
        dump = asyncio.create_task(vpp.dump("sw_interface"))
        peer.silent.add("control_ping")
        await asyncio.sleep(0)
        events = vpp.events("sw_interface_event")
        started = time.perf_counter()
        await peer.stop()
        await vpp.wait_disconnected()
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert time.perf_counter() - started < 1.0  # measured: 30 ms
        assert {type(result) for result in results} == {VppDisconnected}
        with pytest.raises(VppDisconnected):
            await dump
        with pytest.raises(VppDisconnected):
            await anext(events)
        with pytest.raises(VppDisconnected):
            vpp.call("control_ping")


async def test_reconnects_with_a_fresh_table(tmp_path: Path) -> None:
    path = tmp_path / "api.sock"
    async with Peer(path, BUILTIN) as first:
        vpp = contiv.vpp.connect(path, schema=BUILTIN, reconnect=True)
        async with vpp:
            await vpp.call("control_ping")
            await first.stop()
            await vpp.wait_disconnected()
            async with Peer(path, BUILTIN, without={"acl_del"}):
                await vpp.wait_connected(5)
                assert vpp.generation == 2
                assert (await vpp.call("control_ping")).retval == 0
                with pytest.raises(VppIncompatible, match="lacks it"):
                    vpp.call("acl_del")


async def test_no_vpp_is_said_plainly(tmp_path: Path) -> None:
    with pytest.raises(VppDisconnected, match="does VPP run"):
        await contiv.vpp.connect(tmp_path / "none.sock").open()


async def test_vpp_that_does_not_answer_the_handshake_times_out(peer: Peer) -> None:
    peer.answers["sockclnt_create"] = lambda r: []
    peer._answer = lambda data: b""  # type: ignore[method-assign]
    with pytest.raises(VppTimeout, match="connecting to"):
        await client(peer, connect_timeout_s=0.1).open()


async def test_message_that_vpp_lacks_or_has_otherwise_is_named(tmp_path: Path) -> None:
    async with Peer(tmp_path / "api.sock", BUILTIN, without={"acl_del"}, crcs={"acl_dump": "deadbeef"}) as peer:
        async with client(peer) as vpp:
            lacks = vpp.check({"control_ping": BUILTIN.messages["control_ping"].crc, "acl_del": None, "acl_dump": "00"})
            assert [(lack.name, lack.found) for lack in lacks] == [("acl_del", None), ("acl_dump", "deadbeef")]
            with pytest.raises(VppIncompatible, match="VPP has acl_dump_deadbeef"):
                vpp.call("acl_dump")
            assert (await vpp.call("control_ping")).retval == 0


async def test_definitions_are_asked_of_vpp_when_its_own_differ(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "PREFIXES", ())
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.delenv(api.PREFIX_VARIABLE, raising=False)
    record = api.read_record()
    entry = next(entry for entry in record["messages"] if entry[0] == "acl_del")
    entry.insert(-1, ["u8", "novelty"])
    entry[-1] = {"crc": "0xdeadbeef"}
    changed = Schema([record])
    async with Peer(tmp_path / "api.sock", changed) as peer:
        peer.answers["get_api_json"] = lambda r: [("get_api_json_reply", {"json": json.dumps([record])})]
        async with contiv.vpp.connect(peer.path) as vpp:
            await vpp.call("acl_del", acl_index=1, novelty=3)
            assert peer.seen[-1][1].novelty == 3


@pytest.mark.parametrize(
    "garbage",
    [b"\xff" * 64, bytes(8) + b"\xff\xff\xff\xff" + bytes(4)],
    ids=["all ones", "length of 4 GB"],
)
async def test_stream_that_is_no_stream_ends_the_connection(peer: Peer, garbage: bytes) -> None:
    peer.silent.add("show_threads")
    async with client(peer) as vpp:
        call = vpp.call("show_threads")
        peer.send(garbage)
        with pytest.raises(VppDisconnected, match="no message"):
            await call


async def test_truncated_reply_fails_its_call_alone(peer: Peer) -> None:
    async with client(peer) as vpp:
        peer.seen.clear()
        peer.silent.add("show_version")
        call = vpp.call("show_version")
        await vpp.call("control_ping")
        record = next(record for name, record in peer.seen if name == "show_version")
        short = peer.frame("show_version_reply", context=record.context)[16:40]
        peer.send(bytes(8) + len(short).to_bytes(4, "big") + bytes(4) + short)
        with pytest.raises(DecodeError, match="show_version_reply"):
            await call
        assert vpp.connected


async def test_answers_in_pieces_are_put_together(peer: Peer) -> None:
    peer.silent.add("show_threads")
    async with client(peer) as vpp:
        calls = [vpp.call("show_threads") for _ in range(3)]
        await vpp.call("control_ping")
        contexts = [record.context for name, record in peer.seen if name == "show_threads"]
        stream = b"".join(
            peer.frame("show_threads_reply", context=context, thread_data=[{"id": i}] * 40)
            for i, context in enumerate(contexts)
        )
        for start in range(0, len(stream), 997):
            peer.send(stream[start : start + 997])
            await peer.writers[-1].drain()
            await asyncio.sleep(0)
        assert [len((await call).thread_data) for call in calls] == [40, 40, 40]


async def test_reply_larger_than_the_buffer_arrives_whole(peer: Peer) -> None:
    text = "x" * 3_000_000
    peer.answers["cli_inband"] = lambda r: [("cli_inband_reply", {"reply": text})]
    async with client(peer) as vpp:
        assert (await vpp.call("cli_inband", cmd="show")).reply == text
        assert (await vpp.call("control_ping")).retval == 0


async def test_requests_beyond_the_limit_are_refused(peer: Peer) -> None:
    peer.silent.add("show_threads")
    async with client(peer, max_in_flight=10) as vpp:
        calls = [vpp.call("show_threads") for _ in range(10)]
        with pytest.raises(VppBusy, match="10 requests are in flight"):
            vpp.call("control_ping")
        for call in calls:
            call.cancel()


async def test_memory_stays_level_over_mixed_outcomes(peer: Peer) -> None:
    tracemalloc = pytest.importorskip("tracemalloc")
    peer.silent.add("show_threads")
    peer.answers["acl_del"] = lambda r: [("acl_del_reply", {"retval": -1})]

    async def mix(vpp: contiv.vpp.Vpp, rounds: int) -> None:
        for _ in range(rounds):
            calls = [vpp.call("control_ping"), vpp.call("acl_del"), vpp.call("show_threads", timeout_s=0.001)]
            cancelled = vpp.call("control_ping")
            cancelled.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
        peer.seen.clear()

    async with client(peer) as vpp:
        await mix(vpp, 100)
        gc.collect()
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        await mix(vpp, 300)
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0] - before
        tracemalloc.stop()
        assert vpp.in_flight == 0
        assert grown < 50_000


async def test_many_from_columns_get_their_own_replies(peer: Peer) -> None:
    peer.answers["create_loopback"] = lambda r: [("create_loopback_reply", {"sw_if_index": r.mac_address.packed[5]})]
    macs = np.zeros((200, 6), np.uint8)
    macs[:, 5] = np.arange(200)
    async with client(peer) as vpp:
        between = vpp.call("control_ping")
        replies = await vpp.call_many("create_loopback", {"mac_address": macs})
        assert replies["sw_if_index"].tolist() == list(range(200))
        assert (await between).retval == 0
        assert vpp.in_flight == 0
        assert (await vpp.call_many("create_loopback", {}, n=0)).n == 0


async def test_many_raise_the_first_error_with_all_replies(peer: Peer) -> None:
    def answer(record: Any) -> list[tuple[str, dict[str, Any]]]:
        return [("sw_interface_set_flags_reply", {"retval": -2 if record.sw_if_index == 3 else 0})]

    peer.answers["sw_interface_set_flags"] = answer
    async with client(peer) as vpp:
        with pytest.raises(VppApiError, match="INVALID_SW_IF_INDEX") as caught:
            await vpp.call_many("sw_interface_set_flags", {"sw_if_index": np.arange(5)})
        reply: Any = caught.value.reply
        assert reply["retval"].tolist() == [0, 0, 0, -2, 0]


async def test_many_that_get_no_answer_time_out_and_leave_nothing(peer: Peer) -> None:
    peer.silent.add("show_threads")
    async with client(peer) as vpp:
        with pytest.raises(VppIncompatible, match="variable size"):
            await vpp.call_many("show_threads", {}, n=2)
        peer.silent.add("acl_del")
        with pytest.raises(VppTimeout):
            await vpp.call_many("acl_del", {"acl_index": np.arange(1000)}, timeout_s=0.05)
        assert vpp.in_flight == 0
        assert (await vpp.call("control_ping")).retval == 0


async def test_call_of_a_dump_is_refused(peer: Peer) -> None:
    async with client(peer) as vpp:
        with pytest.raises(VppIncompatible, match="use dump"):
            vpp.call("sw_interface_dump")
        with pytest.raises(VppIncompatible, match="no dump"):
            await vpp.dump("control_ping")


async def test_cancelled_dump_leaves_nothing_behind(peer: Peer) -> None:
    peer.answers["sw_interface_dump"] = lambda r: [("sw_interface_details", {"sw_if_index": i}) for i in range(50)]
    async with client(peer) as vpp:
        dump = asyncio.create_task(vpp.dump("sw_interface"))
        await asyncio.sleep(0)
        dump.cancel()
        await vpp.call("control_ping")
        assert vpp.in_flight == 0


async def test_close_does_not_wait_for_a_vpp_that_stopped_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("contiv.vpp.client.CLOSE_TIMEOUT_S", 0.05)
    async with Peer(tmp_path / "api.sock", BUILTIN) as peer:
        async with client(peer) as vpp:
            peer.pause()
            calls = [vpp.call("cli_inband", cmd="x" * 50_000) for _ in range(100)]
            await asyncio.sleep(0)
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(result) for result in results} == {VppDisconnected}
