"""The file that keeps an emulated cluster's objects across restarts: one JSON line per change.

Comes in: events as the store applies them. Goes out: at start, the same objects at the same versions; the history is
not kept, so that watches from before the restart get 410 unless they had seen everything. The first line holds the
counter of versions; the file is rewritten with the living objects alone whenever it is opened. A torn last line (the
process was killed) is dropped. Refuses files that are none of its own.
"""

from __future__ import annotations

from io import BufferedWriter
from pathlib import Path
from typing import Literal

import msgspec

from contiv.emulator.kube.errors import Json
from contiv.emulator.kube.store import Event, Record, Store
from contiv.errors import KubeError


class _Line(msgspec.Struct, array_like=True):
    type: Literal["ADDED", "MODIFIED", "DELETED"]
    revision: int
    table: tuple[str, str]
    name: tuple[str, str]
    content: Json


class Journal:
    """An append-only file of changes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._encoder = msgspec.json.Encoder()
        self._file: BufferedWriter | None = None

    def load(self, store: Store) -> None:
        """Repeat the kept changes on an empty store, then open the file for more."""
        if self._path.exists():
            self._replay(store)
        self._rewrite(store)

    def _replay(self, store: Store) -> None:
        lines = self._path.read_bytes().split(b"\n")[:-1]
        if not lines or not lines[0].isdigit():
            raise KubeError(f"{self._path}: not a file of an emulated cluster; name another one or remove it")
        store.revision = int(lines[0])
        decoder = msgspec.json.Decoder(_Line)
        for index, text in enumerate(lines[1:], start=1):
            try:
                line = decoder.decode(text)
            except msgspec.MsgspecError as error:
                raise KubeError(f"{self._path}:{index + 1}: not a line of an emulated cluster: {error}") from error
            body = self._encoder.encode(line.content)[1:]
            record = Record(line.name, line.revision, line.content, body)
            previous = store.table(line.table).records.get(line.name)
            store.replay(line.table, Event(line.type, line.revision, record, previous))
        store.compact()

    def _rewrite(self, store: Store) -> None:
        """Keep one line per living object, in order of versions, so that the file does not grow for ever."""
        living = [
            (record.revision, table_key, record)
            for table_key, table in store.tables.items()
            for record in table.records.values()
        ]
        living.sort(key=lambda each: each[0])
        fresh = self._path.with_name(self._path.name + ".new")
        with fresh.open("wb") as file:
            file.write(f"{store.revision}\n".encode())
            for revision, table_key, record in living:
                file.write(self._line("ADDED", revision, table_key, record))
        fresh.replace(self._path)
        self._file = self._path.open("ab")

    def _line(
        self,
        event_type: Literal["ADDED", "MODIFIED", "DELETED"],
        revision: int,
        table_key: tuple[str, str],
        record: Record,
    ) -> bytes:
        return self._encoder.encode(_Line(event_type, revision, table_key, record.name, record.content)) + b"\n"

    def write(self, table_key: tuple[str, str], event: Event) -> None:
        """Append one change and hand it to the kernel."""
        if self._file is None:
            raise KubeError(f"{self._path}: journal is closed")
        self._file.write(self._line(event.type, event.revision, table_key, event.record))
        self._file.flush()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
