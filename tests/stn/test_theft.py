"""contiv.stn.theft: the kernel gets back exactly what it had, from wherever a process was killed."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import pytest

from contiv.stn.journal import Journal
from contiv.stn.model import Phase
from contiv.stn.theft import STEPS_OF_RETURNING, STEPS_OF_TAKING
from tests.stn.conftest import NIC, NODE, Node, program

pytestmark = pytest.mark.root


def assert_ok(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 0, done.stderr


def test_what_was_stolen_comes_back_exactly(node: Node, tmp_path: Path) -> None:
    before = node.state()
    assert node.answers()
    assert_ok(program(node.path, tmp_path / "stn", "take"))
    stolen = node.state()
    nic = next(link for link in stolen["addresses"] if link["ifname"] == NIC)
    assert nic["addr_info"] == []
    assert nic["operstate"] == "UP"  # VPP needs it
    assert not [line for line in (*stolen["routes"], *stolen["routes6"]) if f"dev {NIC}" in line]
    assert_ok(program(node.path, tmp_path / "stn", "back"))
    assert node.state() == before
    assert node.answers()


def test_the_kernel_is_deaf_on_a_stolen_nic_even_for_its_own_address(node: Node, tmp_path: Path) -> None:
    assert_ok(program(node.path, tmp_path / "stn", "take"))
    node.ip("addr", "add", f"{NODE}/32", "dev", "lo")
    node.ip("route", "add", "192.0.2.0/24", "dev", NIC)
    assert not node.answers()


@pytest.mark.parametrize("step", STEPS_OF_TAKING)
def test_killed_while_taking_it_is_stolen_or_given_back_and_nothing_between(
    node: Node, tmp_path: Path, step: str
) -> None:
    before = node.state()
    journal = tmp_path / "stn"
    assert program(node.path, journal, "take", step).returncode == -signal.SIGKILL
    record = Journal(journal).read()
    assert record is not None
    assert record.phase is (Phase.STOLEN if step == "stolen" else Phase.TAKING)
    assert_ok(program(node.path, journal, "back"))
    assert node.state() == before
    assert not journal.exists()
    assert node.answers()


@pytest.mark.parametrize("step", STEPS_OF_RETURNING)
def test_killed_while_giving_back_the_next_one_finishes_it(node: Node, tmp_path: Path, step: str) -> None:
    before = node.state()
    journal = tmp_path / "stn"
    assert_ok(program(node.path, journal, "take"))
    assert program(node.path, journal, "back", step).returncode == -signal.SIGKILL
    assert_ok(program(node.path, journal, "back"))
    assert node.state() == before
    assert node.answers()


def test_an_interrupted_taking_is_given_back_before_it_is_taken_again(node: Node, tmp_path: Path) -> None:
    before = node.state()
    journal = tmp_path / "stn"
    program(node.path, journal, "take", "deafened")
    assert_ok(program(node.path, journal, "take"))
    assert_ok(program(node.path, journal, "take"))  # stolen already: nothing happens
    assert_ok(program(node.path, journal, "back"))
    assert node.state() == before


def test_what_took_the_place_of_addresses_and_routes_makes_way(node: Node, tmp_path: Path) -> None:
    """As the agent leaves the host: the address alone on the interconnect, its routes by VPP."""
    before = node.state()
    assert_ok(program(node.path, tmp_path / "stn", "take"))
    node.ip("addr", "add", f"{NODE}/32", "dev", "lo")
    node.ip("link", "add", "name", "vpp1", "type", "veth", "peer", "name", "vpp2")
    node.ip("addr", "add", "172.30.1.2/24", "dev", "vpp1")
    node.ip("link", "set", "vpp1", "up")
    for route in (
        "default via 172.30.1.1 dev vpp1 src 192.0.2.7 metric 100 proto 199",
        "192.0.2.0/24 via 172.30.1.1 dev vpp1 proto 199",
        "10.50.0.0/16 via 172.30.1.1 dev vpp1 proto 199",
    ):
        node.ip("route", "add", *route.split())
    assert_ok(program(node.path, tmp_path / "stn", "back"))
    node.ip("link", "del", "vpp1")
    assert node.state() == before


@pytest.mark.parametrize(
    ("prepare", "words"),
    [
        ((f"link del {NIC}",), "no such link"),
        ((f"link set {NIC} down",), "it is down"),
        ((f"addr flush dev {NIC}",), "no IPv4 address"),
        (("link add name br9 type bridge", f"link set {NIC} master br9"), "bound to br9 already"),
    ],
)
def test_a_nic_that_cannot_be_stolen_is_named_with_the_reason_and_left_alone(
    node: Node, tmp_path: Path, prepare: tuple[str, ...], words: str
) -> None:
    for text in prepare:
        node.ip(*text.split())
    before = node.state()
    done = program(node.path, tmp_path / "stn", "take")
    assert done.returncode == 1
    assert NIC in done.stderr
    assert words in done.stderr
    assert node.state() == before
    assert not (tmp_path / "stn").exists()


def test_a_record_that_a_hand_has_changed_is_not_trusted(node: Node, tmp_path: Path) -> None:
    journal = tmp_path / "stn"
    assert_ok(program(node.path, journal, "take"))
    journal.write_bytes(journal.read_bytes().replace(b"stolen", b"taking"))
    done = program(node.path, journal, "back")
    assert done.returncode == 1
    assert "checksum" in done.stderr
