"""contiv.store.mirror: what was written is there after any death, a bad file is set aside, a bad disk is ridden out."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contiv.store import mirror as mirror_module
from contiv.store.mirror import MIGRATIONS, LocalMirror


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "mirror.db"


async def contents(path: Path, prefix: str = "") -> dict[str, bytes]:
    async with await LocalMirror.open(path) as mirror:
        assert mirror.problem is None
        return await mirror.load(prefix)


async def test_what_was_written_is_there_at_the_next_start(path: Path) -> None:
    async with await LocalMirror.open(path) as mirror:
        await mirror.write({"/a/1": b"one", "/a/2": b"two", "/b/1": b""})
        await mirror.write({"/a/2": None, "/a/missing": None})
    assert await contents(path) == {"/a/1": b"one", "/b/1": b""}
    assert await contents(path, "/a/") == {"/a/1": b"one"}


async def test_a_replacement_is_all_there_is_under_its_prefix(path: Path) -> None:
    async with await LocalMirror.open(path) as mirror:
        await mirror.write({"/a/1": b"one", "/a/2": b"two", "/ab": b"other"})
        await mirror.replace("/a/", {"/a/2": b"TWO", "/a/3": b"three"})
        assert await mirror.load("/") == {"/a/2": b"TWO", "/a/3": b"three", "/ab": b"other"}
    assert await contents(path) == {"/a/2": b"TWO", "/a/3": b"three", "/ab": b"other"}


OPERATIONS = st.lists(
    st.one_of(
        st.tuples(
            st.just("write"),
            st.dictionaries(
                st.sampled_from(["/a/1", "/a/2", "/b/1", "/b/%", "/b/_"]), st.none() | st.binary(max_size=8)
            ),
        ),
        st.tuples(
            st.just("replace"),
            st.sampled_from(["/a/", "/b/", "/"]),
            st.dictionaries(st.sampled_from(["1", "2", "%"]), st.binary(max_size=8)),
        ),
        st.tuples(st.just("fail")),
        st.tuples(st.just("restart")),
    ),
    max_size=12,
)


@settings(max_examples=60, deadline=None)
@given(operations=OPERATIONS)
def test_any_sequence_of_writes_faults_and_restarts_ends_in_the_same_state(
    tmp_path_factory: pytest.TempPathFactory, operations: list[tuple[object, ...]]
) -> None:
    path = tmp_path_factory.mktemp("mirror") / "mirror.db"

    async def run() -> None:
        expected: dict[str, bytes] = {}
        mirror = await LocalMirror.open(path)
        for name, *arguments in operations:
            if name == "write":
                (changes,) = arguments
                await mirror.write(changes)  # type: ignore[arg-type]
                for key, value in changes.items():  # type: ignore[attr-defined]
                    expected.pop(key, None)
                    if value is not None:
                        expected[key] = value
            elif name == "replace":
                prefix, values = arguments
                full = {f"{prefix}{key}": value for key, value in values.items()}  # type: ignore[attr-defined]
                await mirror.replace(str(prefix), full)
                expected = {k: v for k, v in expected.items() if not k.startswith(str(prefix))} | full
            elif name == "fail":
                await refuse(mirror)
            else:
                await accept(mirror)
                await mirror.close()
                mirror = await LocalMirror.open(path)
            assert await mirror.load("/") == expected
        await accept(mirror)
        await mirror.close()
        assert await contents(path) == expected

    asyncio.run(run())


async def refuse(mirror: LocalMirror) -> None:
    """From now on SQLite refuses to write, as on a read-only disk."""
    file = mirror._file
    assert file is not None
    await mirror._in_thread(lambda: file.execute("PRAGMA query_only = ON"))


async def accept(mirror: LocalMirror) -> None:
    file = mirror._file
    assert file is not None
    await mirror._in_thread(lambda: file.execute("PRAGMA query_only = OFF"))


async def test_a_disk_that_refuses_is_a_problem_until_it_takes_writes_again(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror_module, "RETRY_S", 0.05)
    async with await LocalMirror.open(path) as mirror:
        await mirror.write({"/a": b"1"})
        await refuse(mirror)
        await mirror.write({"/a": b"2", "/b": b"1"})
        assert mirror.problem is not None
        assert str(path) in mirror.problem
        assert await mirror.load("/") == {"/a": b"2", "/b": b"1"}
        await accept(mirror)
        async with asyncio.timeout(5):
            while mirror.problem is not None:
                await asyncio.sleep(0.01)
        assert await contents_of_file(path) == {"/a": b"2", "/b": b"1"}


async def contents_of_file(path: Path) -> dict[str, bytes]:
    with sqlite3.connect(path) as file:
        return dict(file.execute("SELECT key, value FROM records").fetchall())


@pytest.mark.root
async def test_a_full_disk_costs_nothing_but_the_mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real file system of one megabyte, filled to the brim and freed again."""
    monkeypatch.setattr(mirror_module, "RETRY_S", 0.05)
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], check=True)
    try:
        async with await LocalMirror.open(disk / "mirror.db") as mirror:
            await mirror.write({"/before": b"x"})
            big = {f"/big/{n}": os.urandom(1000) for n in range(3000)}
            await mirror.write(big)
            assert mirror.problem is not None
            assert "full" in mirror.problem
            assert await mirror.load("/before") == {"/before": b"x"}
            await mirror.replace("/big/", {"/big/1": b"small"})
            async with asyncio.timeout(5):
                while mirror.problem is not None:
                    await asyncio.sleep(0.01)
        assert await contents(disk / "mirror.db") == {"/before": b"x", "/big/1": b"small"}
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("damage", ["garbage", "truncated", "bit", "newer"])
async def test_an_unreadable_file_is_set_aside_and_kept(path: Path, damage: str) -> None:
    async with await LocalMirror.open(path) as mirror:
        await mirror.write({f"/a/{n}": bytes(200) for n in range(500)})
    if damage == "garbage":
        path.write_bytes(b"no database" * 1000)
    elif damage == "truncated":
        os.truncate(path, path.stat().st_size // 2)
    elif damage == "bit":
        with sqlite3.connect(path) as file:
            file.execute("UPDATE records SET value = x'ff' WHERE key = '/a/7'")
    else:
        with sqlite3.connect(path) as file:
            file.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    before = path.read_bytes()
    async with await LocalMirror.open(path) as mirror:
        assert mirror.set_aside is not None
        assert mirror.set_aside.read_bytes() == before
        assert mirror.problem is None
        assert await mirror.load("/") == {}
        await mirror.write({"/new": b"1"})
    assert await contents(path) == {"/new": b"1"}


async def test_a_newer_version_takes_over_what_an_older_one_wrote(path: Path) -> None:
    async with await LocalMirror.open(path) as mirror:
        await mirror.write({"/old/1": b"one"})
    newer = (*MIGRATIONS, "ALTER TABLE records ADD COLUMN note TEXT; UPDATE records SET note = key")
    async with await LocalMirror.open(path, migrations=newer) as mirror:
        assert mirror.set_aside is None
        assert await mirror.load("/") == {"/old/1": b"one"}
    with sqlite3.connect(path) as file:
        assert file.execute("SELECT note FROM records").fetchall() == [("/old/1",)]
        assert file.execute("PRAGMA user_version").fetchone() == (len(newer),)


async def test_a_migration_that_fails_leaves_the_file_as_it_was(path: Path) -> None:
    async with await LocalMirror.open(path) as mirror:
        await mirror.write({"/old/1": b"one"})
    broken = (*MIGRATIONS, "ALTER TABLE records ADD COLUMN note TEXT; UPDATE nowhere SET note = key")
    async with await LocalMirror.open(path, migrations=broken) as mirror:
        assert mirror.problem is not None
    assert await contents(path) == {"/old/1": b"one"}


WRITER = """
import asyncio, sys
from pathlib import Path
from contiv.store.mirror import LocalMirror

async def main():
    mirror = await LocalMirror.open(Path(sys.argv[1]))
    number = 0
    while True:
        number += 1
        # both in one transaction: a state with different numbers was never written
        await mirror.write({"/left": str(number).encode(), "/right": str(number).encode()})
        print(number, flush=True)

asyncio.run(main())
"""


async def test_a_writer_killed_at_any_moment_leaves_a_whole_state(path: Path) -> None:
    acknowledged = 0
    for _ in range(6):
        writer = await asyncio.create_subprocess_exec(
            sys.executable, "-c", WRITER, str(path), stdout=asyncio.subprocess.PIPE
        )
        assert writer.stdout is not None
        await writer.stdout.readline()
        await asyncio.sleep(random.uniform(0.0, 0.1))
        writer.send_signal(signal.SIGKILL)
        lines = (await writer.stdout.read()).split()
        await writer.wait()
        acknowledged = int(lines[-1]) if lines else 1
        state = await contents(path)
        assert state["/left"] == state["/right"]
        assert int(state["/left"]) >= acknowledged
