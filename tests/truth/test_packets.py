"""Truth cases with real packets, on two nodes: pods and hosts, near and far, over TCP, UDP, SCTP and ICMP.

On the emulator a part of the cases is played each time and all of them as slow tests; on VPP all are slow
(``make truth DATAPLANE=vpp``). Every pair of ends is probed, not only what a case pins.
"""

from __future__ import annotations

import pytest

from tests.truth.cases import CASES, TRAFFIC, Case
from tests.truth.player import Player

pytestmark = [pytest.mark.root, pytest.mark.asyncio(loop_scope="module")]

QUICK_EVERY = 8
QUICK_CLAUSES = frozenset({10, 11})
SHOWN = 20
SCTP = ("SCTP", 80)
LIVE = ("both sides allow each other by name", "an exception of one address")


def _cases(dataplane: str, services: str) -> list[object]:
    """The cases on one data plane; without services those that SCTP has a part in, or that all traffic has."""
    played = [case for case in CASES if not case.packets]
    quick = {case.id for case in played[::QUICK_EVERY]} | {case.id for case in played if case.clause in QUICK_CLAUSES}
    if services == "none":
        played = [case for case in played if any(SCTP in pin.traffic for pin in case.pins)]
        quick = {case.id for case in played[:: 2 * QUICK_EVERY]}
    found = []
    for case in played:
        marks = [pytest.mark.vpp] if dataplane == "vpp" else []
        if dataplane == "vpp" or case.id not in quick:
            marks.append(pytest.mark.slow)
        found.append(pytest.param(dataplane, services, case, marks=marks, id=f"{dataplane}-{services}-{case.id}"))
    return found


PLAYED = [param for plane in ("emulator", "vpp") for services in ("nat44", "none") for param in _cases(plane, services)]
PLAYED += _cases("vpp", "cnat")
CARRIED = {"nat44": [one for one in TRAFFIC if one != SCTP], "none": [SCTP], "cnat": list(TRAFFIC)}
"""What is played, by what translates services; CNAT carries everything between pods."""


@pytest.mark.parametrize(("dataplane", "services", "case"), PLAYED, scope="module")
async def test_packets_pass_exactly_where_the_oracle_says(player: Player, services: str, case: Case) -> None:
    wrong = await player.play(case, CARRIED[services])
    assert not wrong, "\n".join([f"{case.name}: {len(wrong)} of all probes:", *wrong[:SHOWN]])
    if case.by == "etcd":
        assert await player.faults() <= case.policies.keys()
        assert await player.faults(), "the agents report what is wrong"


@pytest.mark.parametrize(("dataplane", "services"), [("emulator", "nat44")], scope="module")
@pytest.mark.parametrize("case", [case for case in CASES if case.name in LIVE], ids=lambda case: case.id)
async def test_contiv_connectivity_tells_of_the_live_cluster_what_packets_show(player: Player, case: Case) -> None:
    assert not await player.play(case, [("TCP", 80), ("ICMP", None)])
    for source in player.sources():
        assert await player.told(*source) == player.expected(case), source
    for number in (1, 2):
        programmed, computed = await player.lists(number)
        assert programmed == computed, f"node {number}: the lists that contiv explain names are those in the data plane"
