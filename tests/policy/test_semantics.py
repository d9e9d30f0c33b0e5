"""The lists that two nodes get let through exactly what an oracle reads off the objects."""

from __future__ import annotations

from hypothesis import HealthCheck, Phase, given, settings

from contiv.model import kube
from tests.policy import oracle
from tests.policy.worlds import NODE_IPS, NODES, OUTSIDE, TRAFFIC, World, objects

# no shrinking: clusters take minutes to shrink, and the first that fails tells enough
SETTINGS = settings(
    max_examples=120, deadline=None, phases=[Phase.generate], suppress_health_check=[HealthCheck.too_slow]
)


@SETTINGS
@given(objects())
def test_random_clusters_pass_what_the_oracle_allows_and_nothing_else(things: list[kube.KubeObject]) -> None:
    cluster = oracle.Cluster.of(things, node_addresses={node: frozenset(NODE_IPS[node]) for node in NODES})
    world = World(things)
    pods = [address for address, pod in world.places.items() if pod.node_name in NODES and address != "nonsense"]
    ends = [*pods, *OUTSIDE, *(ips[-1] for ips in NODE_IPS.values())]
    for source in ends:
        for destination in ends:
            if source == destination or (":" in source) != (":" in destination):
                continue
            if source in OUTSIDE and destination in OUTSIDE:
                continue
            for case in TRAFFIC:
                expected = oracle.allowed(cluster, source, destination, *case)
                assert world.passes(source, destination, case) == expected, (source, destination, case)
                if source in pods and destination in pods and ":" not in source:
                    assert world.passes(source, destination, case, service=True) == expected, ("by service", source)
