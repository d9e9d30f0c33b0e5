"""The server: turns, clients that vanish, limits, its socket."""

from __future__ import annotations

import asyncio
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from contiv.cni import model, server
from contiv.cni.convert import require_netns
from contiv.errors import CniError


async def until(condition: Any) -> None:
    """Let the loop turn until ``condition`` holds; what a signal could tell is awaited elsewhere."""
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.001)


async def test_calls_for_one_attachment_take_turns(runtime: Any, cni_server: Any, agent: Any) -> None:
    agent.proceed.clear()
    async with asyncio.TaskGroup() as group:
        calls = [group.create_task(runtime.call("ADD")) for _ in range(5)]
        await until(lambda: cni_server.calls == 5)
        assert agent.at_work == 1
        agent.proceed.set()
    assert agent.at_work_max == 1
    assert len({call.result().stdout for call in calls}) == 1


async def test_calls_for_different_attachments_run_together(runtime: Any, cni_server: Any, agent: Any) -> None:
    agent.proceed.clear()
    async with asyncio.TaskGroup() as group:
        for ifname in ("eth0", "eth1"):
            group.create_task(runtime.call("ADD", CNI_IFNAME=ifname))
        await until(lambda: agent.at_work == 2)
        agent.proceed.set()


async def test_an_add_whose_client_vanished_is_finished_before_its_del(
    runtime: Any, cni_server: Any, agent: Any, records: Any
) -> None:
    agent.proceed.clear()
    async with runtime.start("ADD", runtime.config()) as process:
        await agent.entered.wait()
        process.kill()
        await process.wait()
    async with asyncio.TaskGroup() as group:
        deleted = group.create_task(runtime.call("DEL"))
        await until(lambda: cni_server.calls == 2)
        assert agent.at_work == 1
        agent.proceed.set()
    assert deleted.result().succeeded_silently()
    assert agent.finished == ["AddRequest", "DelRequest"]
    assert agent.attached == {}
    assert [(record.command, record.abandoned) for record in records] == [("ADD", True), ("DEL", False)]


async def test_an_add_that_was_given_up_before_its_turn_does_nothing(
    runtime: Any, cni_server: Any, agent: Any, records: Any
) -> None:
    agent.proceed.clear()
    async with asyncio.TaskGroup() as group:
        group.create_task(runtime.call("DEL"))
        await agent.entered.wait()
        async with runtime.start("ADD", runtime.config()) as process:
            await until(lambda: cni_server.calls == 2)
            process.kill()
            await process.wait()
        # the server learns of it when the connection's end has come through
        await until(lambda: any(call.abandoned for call in cni_server.under_way))
        agent.proceed.set()
    await until(lambda: cni_server.calls == 0)
    assert agent.finished == ["DelRequest"]
    assert [(r.command, r.code) for r in records] == [("DEL", 0), ("ADD", model.TRY_AGAIN_LATER)]


async def test_gc_runs_alone(runtime: Any, cni_server: Any, agent: Any) -> None:
    agent.proceed.clear()
    collect = runtime.config(**{"cni.dev/valid-attachments": []})
    async with asyncio.TaskGroup() as group:
        group.create_task(runtime.call("ADD", CNI_CONTAINERID="before"))
        await agent.entered.wait()
        group.create_task(runtime.call("GC", collect))
        await until(lambda: cni_server.calls == 2)
        group.create_task(runtime.call("ADD", CNI_CONTAINERID="after"))
        await until(lambda: cni_server.calls == 3)
        assert agent.at_work == 1
        agent.proceed.set()
    assert agent.at_work_max == 1
    assert agent.finished == ["AddRequest", "GcRequest", "AddRequest"]
    assert set(agent.attached) == {model.Attachment("after", "eth0")}


async def test_a_call_over_its_limit_is_cancelled(runtime: Any, agent: Any) -> None:
    agent.proceed.clear()
    limits = server.Limits(call_timeout_s=0.05)
    async with server.serve(agent, socket=runtime.socket, limits=limits, check_netns=lambda _path: None):
        error = (await runtime.call("ADD")).error
    assert (error["code"], error["details"]) == (model.TRY_AGAIN_LATER, "call_timeout_s")
    assert agent.at_work == 0
    assert agent.attached == {}


async def test_a_timeout_of_the_handler_is_its_own_fault(runtime: Any, cni_server: Any, agent: Any) -> None:
    agent.fails = TimeoutError("VPP is slow")
    assert (await runtime.call("ADD")).error["code"] == model.INTERNAL


async def test_more_calls_than_allowed_are_told_to_try_again(runtime: Any, agent: Any) -> None:
    agent.proceed.clear()
    limits = server.Limits(calls_max=1)
    async with server.serve(agent, socket=runtime.socket, limits=limits, check_netns=lambda _path: None):
        async with asyncio.TaskGroup() as group:
            first = group.create_task(runtime.call("ADD"))
            await agent.entered.wait()
            assert (await runtime.call("ADD", CNI_IFNAME="eth1")).error["code"] == model.TRY_AGAIN_LATER
            agent.proceed.set()
    assert first.result().result


async def test_stopping_cancels_what_hangs_and_tells_the_runtime_to_try_again(runtime: Any, agent: Any) -> None:
    agent.proceed.clear()
    limits = server.Limits(stop_grace_s=0.05)
    async with asyncio.TaskGroup() as group:
        async with server.serve(agent, socket=runtime.socket, limits=limits, check_netns=lambda _path: None):
            hanging = group.create_task(runtime.call("ADD"))
            await agent.entered.wait()
        assert agent.at_work == 0
    assert hanging.result().error["code"] == model.TRY_AGAIN_LATER
    assert agent.attached == {}


async def test_records_tell_command_code_and_time(runtime: Any, cni_server: Any, agent: Any, records: Any) -> None:
    await runtime.call("ADD")
    agent.fails = CniError(112, "full")
    await runtime.call("DEL")
    assert [(record.command, record.code) for record in records] == [("ADD", 0), ("DEL", 112)]
    assert all(record.duration_s >= record.waited_s >= 0 for record in records)


class TestSocket:
    """The socket's mode, and whom it makes way for."""

    async def test_only_its_owner_may_connect(self, runtime: Any, cni_server: Any) -> None:
        assert stat.S_IMODE(runtime.socket.stat().st_mode) == 0o600

    async def test_the_directory_is_made(self, agent: Any, tmp_path: Path) -> None:
        path = tmp_path / "run" / "contiv" / "cni.sock"
        async with server.serve(agent, socket=path):
            assert path.is_socket()

    async def test_a_socket_left_behind_is_replaced(self, runtime: Any, agent: Any) -> None:
        process = await asyncio.create_subprocess_exec(
            "python3",
            "-c",
            f"import socket; s = socket.socket(socket.AF_UNIX); s.bind({str(runtime.socket)!r}); s.listen()",
        )
        assert await process.wait() == 0
        assert runtime.socket.is_socket()
        async with server.serve(agent, socket=runtime.socket, check_netns=lambda _path: None):
            assert (await runtime.call("STATUS")).succeeded_silently()

    async def test_a_second_agent_is_refused_and_the_first_goes_on(
        self, runtime: Any, cni_server: Any, agent: Any
    ) -> None:
        with pytest.raises(CniError, match="another agent serves") as refusal:
            async with server.serve(agent, socket=runtime.socket):
                pass
        assert refusal.value.code == model.IO_FAILURE
        assert (await runtime.call("STATUS")).succeeded_silently()

    async def test_nothing_but_a_socket_is_removed(self, agent: Any, tmp_path: Path) -> None:
        path = tmp_path / "precious"
        path.write_text("data")
        with pytest.raises(CniError, match="is no socket"):
            async with server.serve(agent, socket=path):
                pass
        assert path.read_text() == "data"

    @pytest.mark.parametrize("path", [Path("relative.sock"), Path("/tmp/" + "x" * 103)])
    async def test_paths_that_no_socket_can_have_are_refused(self, agent: Any, path: Path) -> None:
        with pytest.raises(CniError, match="cannot be a socket"):
            async with server.serve(agent, socket=path):
                pass

    async def test_it_serves_again_after_a_stop(self, runtime: Any, agent: Any) -> None:
        for _ in range(2):
            async with server.serve(agent, socket=runtime.socket, check_netns=lambda _path: None):
                assert (await runtime.call("STATUS")).succeeded_silently()
            assert (await runtime.call("STATUS")).error["code"] == model.NOT_AVAILABLE

    async def test_errors_of_the_body_come_out_unwrapped(self, runtime: Any, agent: Any) -> None:
        with pytest.raises(KeyError):
            async with server.serve(agent, socket=runtime.socket):
                raise KeyError("body")

    async def test_the_umask_is_restored(self, cni_server: Any) -> None:
        before = os.umask(0o022)
        os.umask(before)
        assert before != 0o177


class TestNetns:
    """The agent's own look at CNI_NETNS."""

    @pytest.mark.root
    def test_a_namespace_is_accepted(self, netns: str) -> None:
        require_netns(netns)

    @pytest.mark.root
    async def test_a_pod_in_a_fresh_namespace_is_attached(self, runtime: Any, agent: Any, netns: str) -> None:
        async with server.serve(agent, socket=runtime.socket):
            assert (await runtime.call("ADD", CNI_NETNS=netns)).result
            error = (await runtime.call("ADD")).error
        assert error["code"] == model.INVALID_ENVIRONMENT
        assert "node's own" in error["msg"]
        assert len(agent.requests) == 1

    @pytest.mark.parametrize(
        "path", ["", "/nonexistent", "/dev/null", "/", "/proc/self/ns/mnt", "/proc/self/ns/net", "a\0b"]
    )
    def test_anything_else_is_refused(self, path: str) -> None:
        with pytest.raises(CniError) as refusal:
            require_netns(path)
        assert (refusal.value.code, refusal.value.details) == (model.INVALID_ENVIRONMENT, "CNI_NETNS")
