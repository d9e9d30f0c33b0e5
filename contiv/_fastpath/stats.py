"""VPP's counters: the stats segment, mapped read-only, as numpy arrays over VPP's own memory.

``Stats(socket)`` maps the segment. ``stats["/if/rx"]`` is a tuple with one array a thread, no copy: the numbers go on
counting under it. A view is good as long as ``stats.epoch`` stays the same (VPP moves vectors when interfaces come);
``stats.read(...)`` copies several entries at one moment and is right whatever VPP does meanwhile. Names are resolved
once an epoch. Refuses: a segment of another version, one that keeps changing (``StatsError``).
"""

from __future__ import annotations

import mmap
import os
import socket
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from contiv._fastpath import segment
from contiv._fastpath.segment import Changed, Segment
from contiv.errors import VppError

DEFAULT_SOCKET: Final = "/run/vpp/stats.sock"
CONNECT_TIMEOUT_S: Final = 5.0
# how long a reader waits for a moment without a change; VPP changes the directory for microseconds
PATIENCE_S: Final = 2.0
COUNTER: Final = np.dtype("=u8")
COMBINED: Final = np.dtype([("packets", "=u8"), ("bytes", "=u8")])
# vlib_stats_ring_config_t and the two offsets behind it (vlib/stats/stats.h); one metadata line a thread
RING_HEADER: Final = np.dtype(
    [
        ("entry_size", "=u4"),
        ("ring_size", "=u4"),
        ("n_threads", "=u4"),
        ("schema_size", "=u4"),
        ("schema_version", "=u4"),
        ("metadata_offset", "=u4"),
        ("data_offset", "=u4"),
    ]
)
RING_METADATA: Final = np.dtype(
    {
        "names": ["head", "schema_version", "sequence", "schema_offset", "schema_size"],
        "formats": ["=u4", "=u4", "=u8", "=u4", "=u4"],
        "offsets": [0, 4, 8, 16, 20],
        "itemsize": 64,
    }
)
T = TypeVar("T")


class StatsError(VppError):
    """The stats segment cannot be mapped or read."""


class Ring(msgspec.Struct, frozen=True):
    """A ring buffer of one thread: ``entries`` of ``entry_size`` bytes, ``head`` the next place that VPP writes,
    ``sequence`` how many it wrote in all, ``schema`` the description that its writer gave."""

    entries: Any
    head: int
    sequence: int
    schema: bytes


class Stats:
    """One VPP's stats segment. Context manager; ``StatsError`` when it cannot be mapped."""

    def __init__(self, path: str | os.PathLike[str] = DEFAULT_SOCKET) -> None:
        self.path = os.fspath(path)
        self._segment = Segment(_map(self.path))
        problem = self._segment.check()
        if problem:
            raise StatsError(f"{self.path}: stats segment is {'too small' if problem == -1 else 'of another version'}")
        self._directory: dict[str, tuple[int, int, int]] = {}
        self._views: dict[str, Any] = {}
        self._epoch = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Forget the views; the mapping goes when the last array over it has gone."""
        self._views = {}
        self._directory = {}

    @property
    def epoch(self) -> int:
        """VPP's epoch: views made in another one are not to be trusted. StatsError."""
        return self._settled()

    def _settled(self) -> int:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            epoch = self._segment.epoch()
            if epoch >= 0:
                return epoch
            if time.monotonic() > deadline:
                raise StatsError(f"{self.path}: VPP has been changing the segment for {PATIENCE_S} s")
            time.sleep(0)

    def _consistent(self, work: Callable[[], T]) -> T:
        """What ``work`` gives when nothing changed while it ran."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            epoch = self._settled()
            try:
                if epoch != self._epoch:
                    self._views = {}
                    self._directory = self._segment.directory()
                result = work()
            except Changed:
                result = None
                valid = False
            except KeyError:
                if self._segment.epoch() == epoch:
                    self._epoch = epoch
                    raise
                valid = False
            else:
                valid = True
            if valid and self._segment.epoch() == epoch:
                self._epoch = epoch
                return result  # type: ignore[return-value]
            self._epoch = -1
            if time.monotonic() > deadline:
                raise StatsError(f"{self.path}: no moment without a change within {PATIENCE_S} s")

    # -- what callers ask -------------------------------------------------------------------------------------------

    def names(self) -> list[str]:
        """Names of all entries now."""
        return self._consistent(lambda: list(self._directory))

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __contains__(self, name: object) -> bool:
        return name in self.names()

    def __getitem__(self, name: str) -> Any:
        """The entry ``name``: an int (scalar, gauge), a tuple of arrays, one a thread (counters, histograms, symlinks:
        one element each), a list of names, a tuple of ``Ring``. KeyError, StatsError."""
        return self._consistent(lambda: self._view(name))

    def read(self, *names: str) -> list[Any]:
        """Copies of several entries, all of one epoch; arrays are the caller's. KeyError, StatsError."""
        return self._consistent(lambda: [_copy(self._view(name)) for name in names])

    # -- entries ----------------------------------------------------------------------------------------------------

    def _view(self, name: str) -> Any:
        kept = self._views.get(name)
        if kept is not None:
            return kept
        index, _, _ = self._directory[name]
        kind, value = self._segment.entry(index)
        view = self._resolve(kind, value)
        if kind in {segment.SIMPLE, segment.COMBINED, segment.HISTOGRAM, segment.SYMLINK}:
            self._views[name] = view
        return view

    def _resolve(self, kind: int, value: int) -> Any:
        if kind in {segment.SCALAR, segment.GAUGE}:
            return value
        if kind in {segment.SIMPLE, segment.HISTOGRAM}:
            return tuple(self._vector(pointer, COUNTER) for pointer in self._segment.pointers(value))
        if kind == segment.COMBINED:
            return tuple(self._vector(pointer, COMBINED) for pointer in self._segment.pointers(value))
        if kind == segment.NAMES:
            return self._segment.names(value)
        if kind == segment.SYMLINK:
            target, column = value & 0xFFFFFFFF, value >> 32
            target_kind, target_value = self._segment.entry(target)
            if target_kind not in {segment.SIMPLE, segment.COMBINED}:
                raise Changed("symlink to no counter")
            return tuple(one[column : column + 1] for one in self._resolve(target_kind, target_value))
        if kind == segment.RING:
            return self._rings(value)
        raise Changed(f"entry of type {kind}")

    def _vector(self, pointer: int, dtype: np.dtype[Any]) -> NDArray[Any]:
        offset, length = self._segment.vector(pointer, dtype.itemsize)
        return np.frombuffer(self._segment.mapping, dtype, length, offset)

    def _rings(self, pointer: int) -> tuple[Ring, ...]:
        at = self._segment.offset(pointer, RING_HEADER.itemsize)
        mapping = self._segment.mapping
        header = np.frombuffer(mapping, RING_HEADER, 1, at)[0]
        threads, size, entry = int(header["n_threads"]), int(header["ring_size"]), int(header["entry_size"])
        if not entry:
            raise Changed("ring of empty entries")
        metadata_at = self._segment.offset(pointer + int(header["metadata_offset"]), threads * RING_METADATA.itemsize)
        data_at = self._segment.offset(pointer + int(header["data_offset"]), threads * size * entry)
        metadata = np.frombuffer(mapping, RING_METADATA, threads, metadata_at)
        data = np.frombuffer(mapping, np.dtype((np.void, entry)), threads * size, data_at).reshape(threads, size)
        rings = []
        for thread in range(threads):
            one = metadata[thread]
            schema_size = int(one["schema_size"])
            schema_at = self._segment.offset(pointer + int(one["schema_offset"]), schema_size)
            schema = bytes(memoryview(mapping)[schema_at : schema_at + schema_size])
            rings.append(Ring(data[thread], int(one["head"]), int(one["sequence"]), schema))
        return tuple(rings)


def _copy(view: Any) -> Any:
    if isinstance(view, np.ndarray):
        return view.copy()
    if isinstance(view, Ring):
        return Ring(view.entries.copy(), view.head, view.sequence, view.schema)
    return tuple(_copy(each) for each in view) if isinstance(view, tuple) else view


def _map(path: str) -> mmap.mmap:
    """The segment whose descriptor VPP hands out on its stats socket."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
            sock.settimeout(CONNECT_TIMEOUT_S)
            sock.connect(path)
            _, descriptors, _, _ = socket.recv_fds(sock, 1, 1)
    except OSError as error:
        raise StatsError(f"{path}: {error.strerror or error}; does VPP run with statseg?") from error
    if not descriptors:
        raise StatsError(f"{path}: VPP sent no descriptor")
    try:
        return mmap.mmap(descriptors[0], 0, mmap.MAP_SHARED, mmap.PROT_READ)
    except (OSError, ValueError) as error:
        raise StatsError(f"{path}: cannot map the segment: {error}") from error
    finally:
        os.close(descriptors[0])
