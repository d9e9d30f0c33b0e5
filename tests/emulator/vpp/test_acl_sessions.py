"""Sessions of access lists by a clock that is told: which key comes back, when one ends, what a sweep leaves."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from contiv.emulator.vpp.acl_flow import SLOW, VALID
from contiv.emulator.vpp.acl_sessions import (
    EVERY,
    SWEEP_MAX,
    Key,
    Session,
    SessionTable,
    Timeout,
    key_of,
    place,
    reverse_of,
)

HERE, ELSEWHERE = 7, 8
ACK, SYN, FIN = 16, 2, 1


class Table:
    """A session table and its clock."""

    def __init__(self) -> None:
        self.now = 0.0
        self.table = SessionTable(lambda: self.now)

    def add(self, number: int, *, protocol: int = 17, interface: int = HERE) -> Session:
        key = (number, 0, protocol, place(interface, is_input=True))
        made = Session(key, reverse_of(key, version=4), interface=interface, is_input=True, epoch=0)
        assert self.table.add(made, now=self.now)
        return made

    def at(self, now: float) -> None:
        """The cleaner's turn at a time, as the loop gives it."""
        self.now = now
        if now >= self.table.due:
            self.table.work(now)


def test_idle_for_its_timeout() -> None:
    it = Table()
    session = it.add(1)
    it.at(599.9)
    assert it.table.find(session.key) is session
    it.at(600.1)
    it.at(900.1)
    assert it.table.find(session.key) is None
    assert session.reverse is not None
    assert it.table.find(session.reverse) is None
    assert it.table.due == float("inf")


@given(st.lists(st.floats(0.1, 400), min_size=1, max_size=30))
def test_never_sooner_and_at_most_half_a_timeout_later(steps: list[float]) -> None:
    it = Table()
    session = it.add(1)
    for step in steps:
        it.at(it.now + step)
        assert it.table.find(session.key) is session, "in use"
        it.table.passed(session, is_input=True, tcp_flags=0, now=it.now)
    last = it.now
    while it.now < last + 599:
        it.at(it.now + 1)
        assert it.table.find(session.key) is session
    while it.now < last + 902:
        it.at(it.now + 1)
    assert it.table.find(session.key) is None


def test_established_is_syn_and_ack_both_ways() -> None:
    it = Table()
    session = it.add(1, protocol=6)
    assert session.timeout is Timeout.TCP_TRANSIENT
    for is_input, flags, timeout in (
        (True, SYN, Timeout.TCP_TRANSIENT),
        (False, SYN | ACK, Timeout.TCP_TRANSIENT),
        (True, ACK, Timeout.TCP_IDLE),
        (False, ACK, Timeout.TCP_IDLE),
        (False, FIN | ACK, Timeout.TCP_TRANSIENT),
    ):
        it.table.passed(session, is_input=is_input, tcp_flags=flags, now=it.now)
        assert session.timeout is timeout
    it.at(180.1)
    assert len(it.table) == 0


def test_a_sweep_looks_at_a_hundred_of_each_queue() -> None:
    it = Table()
    for number in range(SWEEP_MAX + 20):
        it.add(number, interface=ELSEWHERE if number % 2 else HERE)
        it.add(number, protocol=6)
    it.table.clear(HERE)
    it.at(1.0)
    assert len(it.table) == SWEEP_MAX + 20 - SWEEP_MAX // 2 + 20
    it.table.clear(EVERY)
    it.at(2.0)
    assert len(it.table) == 0


def test_several_clearings_are_one_sweep() -> None:
    it = Table()
    for number in range(SWEEP_MAX):
        it.add(number)
    for number in range(10):
        it.add(1000 + number, interface=ELSEWHERE)
    it.table.clear(ELSEWHERE)
    it.table.clear(HERE)
    it.at(1.0)
    assert len(it.table) == 10


def test_places_are_given_back_after_a_moment() -> None:
    it = Table()
    it.table.sessions_max = 3
    it.add(1, protocol=6)
    it.add(2)
    third: Key = (3, 0, 17, place(HERE, is_input=True))
    late = Session(third, None, interface=HERE, is_input=True, epoch=0)
    assert not it.table.add(late, now=0.0)
    assert it.table.deactivated == 1
    it.now = 1.0
    assert it.table.add(late, now=1.0)
    assert not it.table.add(Session((4, 0, 17, 1), None, interface=HERE, is_input=True, epoch=0), now=2.0)


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**32 - 1), st.sampled_from((1, 6, 17, 58, 132)))
def test_what_comes_back_leads_back(addresses: int, ports: int, protocol: int) -> None:
    kind = VALID if protocol in {6, 17} else VALID | SLOW
    key = key_of((addresses, ports, protocol, 0, kind), place(HERE, is_input=True))
    back = reverse_of(key, version=4)
    if protocol != 1:
        assert back is not None
        assert reverse_of(back, version=4) == key
        assert back[3] == place(HERE, is_input=False)
    else:
        assert (back is not None) == (ports >> 16 in {8, 13, 15, 17})
