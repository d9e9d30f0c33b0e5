"""Truth cases through the rendered tables, without a data plane: ``contiv connectivity`` says what the oracle says.

The manifests are written and read as a user's files. All pairs, all traffic, both IP families.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from contiv.analysis import cluster, manifests, reach
from contiv.analysis.tables import ClusterTables
from contiv.analysis.traffic import Traffic
from contiv.config import load
from tests.policy.oracle import allowed
from tests.truth.cases import CASES, DRAWN, TRAFFIC, Case, as_enforced, ends

BROKEN = 15
"""The clause of objects that the API server would refuse."""
PORTS = tuple(Traffic(protocol, port or 0) for protocol, port in TRAFFIC)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.id} {case.name}")
def test_the_rendered_tables_let_pass_what_the_oracle_allows(case: Case, tmp_path: Path) -> None:
    (tmp_path / "cluster.yaml").write_text(yaml.safe_dump_all(case.manifests(), sort_keys=False))
    built = cluster.build(manifests.load([tmp_path]), load(None))
    tables = ClusterTables(built)
    truth = as_enforced(case.cluster())
    names = ends(truth)
    assert sorted(names) == [end.name for end in built.ends]
    for family in (4, 6):
        answer = reach.compute(tables, built.ends, built.ends, PORTS, family=family)
        found = {(each.source, each.destination, each.traffic) for each in answer.allowed()}
        wanted = {
            (source, destination, Traffic(protocol, port or 0))
            for source in names
            for destination in names
            for protocol, port in TRAFFIC
            if allowed(truth, source, destination, protocol, port, family=family)
        }
        assert found == wanted, f"IPv{family}"
        assert list(answer.partly()) == []


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.id} {case.name}")
def test_what_is_wrong_with_a_policy_is_named_with_its_field_and_nothing_else_is(case: Case, tmp_path: Path) -> None:
    (tmp_path / "cluster.yaml").write_text(yaml.safe_dump_all(case.manifests(), sort_keys=False))
    faults = ClusterTables(cluster.build(manifests.load([tmp_path]), load(None))).faults()
    assert bool(faults) is (case.clause == BROKEN or as_enforced(case.cluster()) != case.cluster())
    for fault in faults:
        assert f"{fault.namespace}/{fault.name}" in case.policies
        assert fault.field.startswith("spec.")
        assert fault.problem


def test_the_cast_has_addresses_of_both_families() -> None:
    assert DRAWN.pods_v6
