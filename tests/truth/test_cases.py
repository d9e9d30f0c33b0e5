"""The truth cases themselves: the oracle says what was pinned by hand, and no clause of the checklist is left out."""

from __future__ import annotations

import collections

import pytest

from tests.policy.oracle import allowed
from tests.truth.cases import CASES, Case, as_enforced

CLAUSES = range(1, 16)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.id} {case.name}")
def test_the_oracle_agrees_with_what_is_pinned(case: Case) -> None:
    cluster = case.cluster()
    for pin in case.pins:
        pairs = list(pin.pairs(cluster))
        assert pairs, f"{pin.text}: is about nothing"
        wrong = [
            (source, destination, traffic)
            for source, destination in pairs
            for traffic in pin.traffic
            if allowed(cluster, source, destination, *traffic, family=pin.family) is not pin.allowed
        ]
        assert not wrong, pin.text


def test_every_clause_has_cases_and_there_are_enough_of_them() -> None:
    found = collections.Counter(case.clause for case in CASES)
    assert set(found) == set(CLAUSES)
    assert min(found.values()) >= 3
    assert len(CASES) >= 150
    assert len({case.name for case in CASES}) == len(CASES)


def test_only_rules_for_particular_sctp_ports_deviate_from_kubernetes() -> None:
    deviating = {case.name for case in CASES if as_enforced(case.cluster()) != case.cluster()}
    assert deviating == {"one SCTP port", "another SCTP port", "the name of an SCTP port"}
