"""A node's own copy, on its disk, of what it needs from etcd: it outlives the agent, etcd and both at once.

In: keys and values as etcd has them, as bytes; what they mean is the caller's affair. Out: all of them at the next
start. One SQLite file in write-ahead mode, so that a process that is killed at any moment leaves a whole state; every
record has a checksum, so that a bad disk is noticed. A file that cannot be read, or that a newer version wrote, is set
aside under another name, with a line in the log: it is never used in part and never deleted.

Writing does not fail for the caller. While the disk refuses, ``problem`` says why, the newest value of each key waits
in memory, and all of it is tried again every ``RETRY_S`` seconds.
"""

from __future__ import annotations

import asyncio
import sqlite3
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypeVar

import structlog

log = structlog.get_logger(__name__)

MIGRATIONS: Final = (
    """
    CREATE TABLE records (
        key TEXT PRIMARY KEY,
        value BLOB NOT NULL,
        checksum INTEGER NOT NULL -- CRC-32 of key and value
    ) WITHOUT ROWID
    """,
)
"""Step n leads from schema n to n + 1; SQLite's ``user_version`` is the schema of a file."""
BUSY_TIMEOUT_S: Final = 2.0
"""How long to wait for a former agent that still holds the file."""
FILE_NAME: Final = "mirror.db"
RETRY_S: Final = 5.0
"""Between attempts to write while the disk refuses."""

T = TypeVar("T")
Changes = Mapping[str, bytes | None]
NOTHING: Final[dict[str, bytes | None]] = {"": None}
"""A deletion of what is not there: does the disk take it?"""


def mirror_path(state_dir: str) -> Path:
    """Where a node's mirror is."""
    return Path(state_dir) / FILE_NAME


class LocalMirror:
    """Made by ``open``; an async context manager. One writer, one event loop."""

    def __init__(self, path: Path, *, migrations: Sequence[str] = MIGRATIONS) -> None:
        self.path = path
        self.problem: str | None = None
        """Why the disk is behind what was written, in words; None when it is not."""
        self.set_aside: Path | None = None
        """Where the file went that could not be read when the mirror was opened."""
        self._migrations = migrations
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="mirror")  # SQLite is used by one thread alone
        self._file: sqlite3.Connection | None = None
        self._replacements: dict[str, dict[str, bytes]] = {}
        self._changes: dict[str, bytes | None] = {}
        self._turn = asyncio.Lock()
        self._retry: asyncio.Task[None] | None = None

    @classmethod
    async def open(cls, path: Path, *, migrations: Sequence[str] = MIGRATIONS) -> Self:
        """The mirror in file ``path``, made where there is none. A disk that refuses is no error: ``problem``."""
        mirror = cls(path, migrations=migrations)
        try:
            await mirror._in_thread(mirror._open_or_set_aside)
            await mirror._in_thread(lambda: mirror._store({}, {}))
        except (sqlite3.Error, OSError) as error:
            mirror._refused(error)
        return mirror

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Write what waits, as far as the disk takes it, and close the file."""
        if self._retry is not None:
            self._retry.cancel()
        if self._changes or self._replacements:
            await self._flush()
        if self._retry is not None:
            self._retry.cancel()
        if self._file is not None:
            await self._in_thread(self._file.close)
        self._thread.shutdown()

    async def load(self, prefix: str) -> dict[str, bytes]:
        """All values under ``prefix`` by key, as they were last written."""
        async with self._turn:
            found = await self._in_thread(lambda: self._read(prefix))
            for replaced, values in self._replacements.items():
                found = {key: value for key, value in found.items() if not key.startswith(replaced)}
                found.update((key, value) for key, value in values.items() if key.startswith(prefix))
            for key, change in self._changes.items():
                found.pop(key, None)
                if change is not None and key.startswith(prefix):
                    found[key] = change
            return found

    async def write(self, changes: Changes) -> None:
        """Put values and delete (None) keys; on return they outlive the process, unless ``problem`` says otherwise."""
        self._changes.update(changes)
        await self._flush()

    async def replace(self, prefix: str, values: Mapping[str, bytes]) -> None:
        """Make ``values`` all that is known under ``prefix``; only what differs is written."""
        self._changes = {key: change for key, change in self._changes.items() if not key.startswith(prefix)}
        # in order: what a later one covers is void, and one that is narrower comes after the wider
        self._replacements = {k: v for k, v in self._replacements.items() if not k.startswith(prefix)}
        self._replacements[prefix] = dict(values)
        await self._flush()

    # ------------------------------------------------------------------ the loop's side

    async def _flush(self) -> None:
        """One transaction of all that waits; who comes while it runs shares the next one."""
        async with self._turn:
            replacements, changes = self._replacements, self._changes
            if not replacements and not changes:
                return  # the flush before this one took it along
            self._replacements, self._changes = {}, {}
            try:
                await self._in_thread(lambda: self._store(replacements, changes))
            except (sqlite3.Error, OSError) as error:
                self._put_back(replacements, changes)
                self._refused(error)
                return
            if self.problem is not None:
                log.info("mirror is whole again", path=str(self.path))
                self.problem = None

    def _put_back(self, replacements: dict[str, dict[str, bytes]], changes: dict[str, bytes | None]) -> None:
        """What the disk refused waits, below what came meanwhile."""
        newer = tuple(self._replacements)
        self._changes = {k: v for k, v in changes.items() if not k.startswith(newer)} | self._changes
        older = {prefix: values for prefix, values in replacements.items() if not prefix.startswith(newer)}
        self._replacements = older | self._replacements

    def _refused(self, error: Exception) -> None:
        problem = f"{self.path}: {error}; free or remount the disk: until then a restart without etcd loses changes"
        if self.problem != problem:
            log.error("mirror cannot be written", path=str(self.path), error=str(error), retry_s=RETRY_S)
        self.problem = problem
        if self._retry is None or self._retry.done():
            self._retry = asyncio.get_running_loop().create_task(self._flush_later(), name="mirror")

    async def _flush_later(self) -> None:
        while self.problem is not None:
            await asyncio.sleep(RETRY_S)
            if not self._replacements and not self._changes:
                self._changes = dict(NOTHING)
            await self._flush()

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    # ------------------------------------------------------------------ the thread's side

    def _open_or_set_aside(self) -> None:
        try:
            self._open()
        except (sqlite3.DatabaseError, _UnreadableError) as error:
            if isinstance(error, sqlite3.OperationalError):
                raise  # the disk refuses; the file may be whole
            self._set_aside(error)
            self._open()

    def _open(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        file = sqlite3.connect(self.path, timeout=BUSY_TIMEOUT_S, check_same_thread=False)
        try:
            self._prepare(file)
        except BaseException:
            file.close()
            raise
        self._file = file

    def _prepare(self, file: sqlite3.Connection) -> None:
        """Check the file and bring it to this version's schema."""
        file.execute("PRAGMA journal_mode = WAL")
        # A process that dies loses nothing. A machine that dies may lose the last moments, and its pods are gone too.
        file.execute("PRAGMA synchronous = NORMAL")
        (schema,) = file.execute("PRAGMA user_version").fetchone()
        if schema > len(self._migrations):
            raise _UnreadableError(f"its schema is {schema}, this version knows up to {len(self._migrations)}")
        for number, migration in enumerate(self._migrations[schema:], schema + 1):
            # a script would commit before it begins: statements, version and all, are one transaction
            with file:
                file.execute("BEGIN IMMEDIATE")
                for statement in filter(str.strip, migration.split(";")):
                    file.execute(statement)
                file.execute(f"PRAGMA user_version = {number}")
        (verdict,) = file.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise _UnreadableError(str(verdict))
        for key, value, checksum in file.execute("SELECT key, value, checksum FROM records"):
            if _checksum(key, value) != checksum:
                raise _UnreadableError(f"the checksum of {key} does not fit")

    def _set_aside(self, error: Exception) -> None:
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%f")
        aside = self.path.with_name(f"{self.path.name}.unreadable-{stamp}")
        for suffix in ("", "-wal", "-shm"):
            part = self.path.with_name(self.path.name + suffix)
            if part.exists():
                part.rename(aside.with_name(aside.name + suffix))
        self.set_aside = aside
        log.error("mirror is unreadable and was set aside", path=str(self.path), aside=str(aside), error=str(error))

    def _read(self, prefix: str) -> dict[str, bytes]:
        if self._file is None:
            return {}
        rows = self._file.execute("SELECT key, value FROM records WHERE substr(key, 1, ?) = ?", (len(prefix), prefix))
        return dict(rows.fetchall())

    def _store(self, replacements: Mapping[str, Mapping[str, bytes]], changes: Changes) -> None:
        if self._file is None:
            self._open_or_set_aside()
        file = self._file
        assert file is not None, "open raises where it cannot"
        with file:
            file.execute("BEGIN IMMEDIATE")
            for prefix, values in replacements.items():
                known = self._read(prefix)
                _delete(file, known.keys() - values.keys())
                _put(file, {key: value for key, value in values.items() if known.get(key) != value})
            # NOTHING as well: a disk that is read-only refuses a statement that writes, not a transaction without any
            _delete(file, [key for key, value in (NOTHING | dict(changes)).items() if value is None])
            _put(file, {key: value for key, value in changes.items() if value is not None})


class _UnreadableError(Exception):
    """The file is a database, and not one that may be used."""


def _put(file: sqlite3.Connection, values: Mapping[str, bytes]) -> None:
    rows = ((key, value, _checksum(key, value)) for key, value in values.items())
    file.executemany("INSERT OR REPLACE INTO records (key, value, checksum) VALUES (?, ?, ?)", rows)


def _delete(file: sqlite3.Connection, keys: Iterable[str]) -> None:
    file.executemany("DELETE FROM records WHERE key = ?", ((key,) for key in keys))


def _checksum(key: str, value: bytes) -> int:
    return zlib.crc32(value, zlib.crc32(key.encode()))
