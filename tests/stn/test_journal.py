"""contiv.stn.journal and the boot in a record."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from contiv.linux.snapshot import Snapshot
from contiv.stn.errors import StnError
from contiv.stn.journal import Journal
from contiv.stn.model import Confirmation, Phase, Record, StolenRoute
from contiv.stn.theft import BOOT_ID, Theft

RECORD = Record(
    phase=Phase.STOLEN,
    boot="b",
    snapshot=Snapshot(
        name="eth0",
        index=2,
        mac="02:00:00:00:00:01",
        mtu=1500,
        up=True,
        ipv6=True,
        addresses=(b"\x02\x18\x80\0raw",),
        routes=(),
        rules=(),
        neighbours=(),
    ),
    routes=(StolenRoute(destination="0.0.0.0/0", gateway="192.0.2.1"),),
    vpp_socket="/run/vpp/api.sock",
    bridge="stn2",
    confirmed=Confirmation(pid=7, started=9),
)


def test_what_was_written_is_read_and_what_was_removed_is_gone(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "new" / "stn")
    assert journal.read() is None
    journal.write(RECORD)
    assert Journal(journal.path).read() == RECORD
    journal.remove()
    journal.remove()
    assert journal.read() is None


def test_a_write_that_did_not_end_leaves_the_record_of_before(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "stn")
    journal.write(RECORD)
    (tmp_path / "stn.new").write_bytes(b"half a rec")
    assert journal.read() == RECORD
    changed = msgspec.structs.replace(RECORD, phase=Phase.RETURNING)
    journal.write(changed)
    assert journal.read() == changed


@pytest.mark.parametrize("content", [b"", b"\n", b"abc\n{}", b"{}"])
def test_a_record_whose_checksum_does_not_hold_is_refused_with_what_to_do(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "stn").write_bytes(content)
    with pytest.raises(StnError, match=r"checksum.*configure the NIC by hand"):
        Journal(tmp_path / "stn").read()


def test_a_theft_of_an_earlier_boot_is_forgotten(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "stn")
    journal.write(RECORD)
    assert Theft(journal).record() is None
    assert journal.read() is None
    now = msgspec.structs.replace(RECORD, boot=BOOT_ID.read_text().strip())
    journal.write(now)
    assert Theft(journal).record() == now
