"""The record of a theft on disk, so that whoever starts after a crash knows what to give back.

A file of two lines: the SHA-256 of the second, and the record as JSON. A write is a new file, synced, renamed over the
old one, the directory synced (rename(2) is atomic, fsync(2) makes it last): at any moment there is the old record or
the new one. Refused: a file whose checksum does not hold, which only a broken disk or a hand can make.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import msgspec

from contiv.stn.errors import StnError
from contiv.stn.model import Record

_decoder = msgspec.json.Decoder(Record)


class Journal:
    """The one record at ``path``."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> Record | None:
        """The record, None when nothing is stolen; StnError when it cannot be trusted."""
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return None
        digest, _, body = content.partition(b"\n")
        if hashlib.sha256(body).hexdigest().encode() != digest:
            raise self._unreadable("its checksum does not hold")
        try:
            return _decoder.decode(body)
        except msgspec.DecodeError as error:
            raise self._unreadable(str(error)) from error

    def write(self, record: Record) -> None:
        """Replace the record; when this returns it is on disk."""
        body = msgspec.json.encode(record)
        content = hashlib.sha256(body).hexdigest().encode() + b"\n" + body
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_name(self.path.name + ".new")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "wb", closefd=False) as file:
                file.write(content)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        temporary.rename(self.path)
        self._sync_directory()

    def remove(self) -> None:
        """Forget the record; when this returns it is gone from disk."""
        self.path.unlink(missing_ok=True)
        if self.path.parent.exists():
            self._sync_directory()

    def _sync_directory(self) -> None:
        descriptor = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _unreadable(self, problem: str) -> StnError:
        return StnError(
            f"record {self.path}: {problem}; configure the NIC by hand (its addresses are in the file), then remove it"
        )
