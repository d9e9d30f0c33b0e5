"""Which ports a host's own connections come from."""

from __future__ import annotations

from pathlib import Path

import pytest

from contiv.linux.ports import DEFAULT_RANGE, source_ports


@pytest.mark.parametrize(
    ("whole", "reserved", "expected"),
    [
        ("32768\t60999\n", "\n", ((32768, 60999),)),
        ("32768\t60999\n", "8080,40000\n", ((32768, 39999), (40001, 60999))),
        ("32768 60999", "30000-32768,60000-65535", ((32769, 59999),)),
        ("32768 60999", "50000-50010,40000,50005-50020", ((32768, 39999), (40001, 49999), (50021, 60999))),
        ("32768 60999", "1-65535", ()),
    ],
)
def test_the_kernels_range_without_what_is_reserved(
    tmp_path: Path, whole: str, reserved: str, expected: tuple[tuple[int, int], ...]
) -> None:
    (tmp_path / "ip_local_port_range").write_text(whole)
    (tmp_path / "ip_local_reserved_ports").write_text(reserved)
    assert source_ports(tmp_path) == expected


def test_what_cannot_be_read_is_taken_for_linux_own(tmp_path: Path) -> None:
    assert source_ports(tmp_path) == (DEFAULT_RANGE,)
    (tmp_path / "ip_local_port_range").write_text("nonsense")
    assert source_ports(tmp_path) == (DEFAULT_RANGE,)


def test_this_host_has_some() -> None:
    assert all(0 < first <= last < 65536 for first, last in source_ports())
