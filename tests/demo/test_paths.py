"""Which paths are checked, and when the verdict is good."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contiv.demo import paths, probe, table
from contiv.demo.paths import KINDS, Endpoint, Outcome
from contiv.demo.probe import Pings


def cluster(nodes: int, pods: int) -> list[Endpoint]:
    """Endpoints as the demo has them."""
    found = []
    for node in range(1, nodes + 1):
        name = f"node-{node}"
        found.append(Endpoint("host", name, name, f"/n/{node}", f"172.30.{node}.2"))
        found += [
            Endpoint("pod", f"p{node}-{pod}", name, f"/p/{node}/{pod}", f"10.1.{node}.{pod}") for pod in range(pods)
        ]
    return found


@given(st.integers(1, 5), st.integers(2, 6))
def test_every_kind_is_checked_on_every_pair_of_nodes(nodes: int, pods: int) -> None:
    found = paths.between(cluster(nodes, pods))
    for kind in KINDS:
        pairs = {(path.source.node, path.target.node) for path in found if path.kind == kind}
        names = [f"node-{node}" for node in range(1, nodes + 1)]
        expected = {(n, n) for n in names} if "same" in kind else set(itertools.permutations(names, 2))
        assert pairs == expected, kind
    assert len({str(path) for path in found}) == len(found)
    chosen = paths.measured(found)
    assert {path.kind for path in chosen} == {path.kind for path in found}
    assert paths.steps(found) == len(found) + len(chosen)


def _outcomes(*, lost: int = 0, problem: str = "") -> list[Outcome]:
    good = [Outcome(path, Pings(2, (0.001, 0.002)), 1e9) for path in paths.between(cluster(2, 2))]
    first = good[0]
    return [Outcome(first.path, Pings(2 + lost, (0.001, 0.002)), None, problem), *good[1:]]


ARRIVALS = [table.Arrival("web-1", "node-1", "10.1.1.2", 0.05)]


def test_the_verdict_needs_every_path_every_kind_and_every_pod() -> None:
    assert table.verdict(_outcomes(), ARRIVALS)
    assert not table.verdict(_outcomes(lost=1), ARRIVALS)
    assert not table.verdict(_outcomes(problem="no data"), ARRIVALS)
    assert not table.verdict([], ARRIVALS)
    assert not table.verdict([o for o in _outcomes() if "host" not in o.path.kind], ARRIVALS)
    assert not table.verdict(_outcomes(), [table.Arrival("web-2", "node-1", "10.1.1.3", None)])


@pytest.mark.parametrize(("rate", "works"), [(914e6, True), (125e3, False)])
async def test_tcp_that_collapsed_is_a_failure_although_pings_pass(
    monkeypatch: pytest.MonkeyPatch, rate: float, works: bool
) -> None:
    async def measured(*_: object, **__: object) -> float:
        return rate

    monkeypatch.setattr(probe, "throughput", measured)
    outcome = await paths._with_tcp(_outcomes()[0])
    assert outcome.works == works
    assert outcome.tcp == rate
    assert table.failures([outcome]) == ([] if works else [f"{outcome.path}: TCP collapsed to 125 kbit/s"])


def test_failures_name_the_path_and_the_reason() -> None:
    (line,) = table.failures(_outcomes(lost=1))
    assert "1 of 3 pings lost" in line
    assert "node-1" in line
    assert table.failures(_outcomes()) == []


def test_numbers_are_readable() -> None:
    assert [str(table.rate(bits)) for bits in (9.6e9, 12e9, 914e6, 250e3, None)] == [
        "9.60 Gbit/s",
        "12 Gbit/s",
        "914 Mbit/s",
        "250 kbit/s",
        "none",
    ]
    assert [str(table.milliseconds(s)) for s in (0.00012, 0.0456, None, float("nan"))] == [
        "0.12 ms",
        "46 ms",
        "none",
        "none",
    ]
