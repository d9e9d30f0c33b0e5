"""Why a connection passes or not: the policies and rules of both sides, and the line of each list on its way. Pure.

In: ``ClusterTables``, two ends, a kind of traffic. Out: an ``Explanation``. The verdict is that of the lists alone; the
rules are named by what ``contiv.policy`` remembers of where a line comes from.
"""

from __future__ import annotations

from typing import Final

import msgspec

from contiv.analysis.cluster import End
from contiv.analysis.tables import ClusterTables, Hop
from contiv.analysis.traffic import Traffic
from contiv.errors import AnalysisError
from contiv.fastpath import acl
from contiv.model.ip import Address
from contiv.policy.rules import EGRESS, INGRESS, Origin

OPEN: Final = "no access list stands there"
NO_MATCH: Final = "deny, since no line matches"


class Step(msgspec.Struct, frozen=True):
    """One side of one interface on the way. ``table``, ``line`` (from 0) and ``rule`` name what decided."""

    node: str
    interface: str
    side: str
    passes: bool
    rule: str
    table: str = ""
    line: int | None = None


class Judgement(msgspec.Struct, frozen=True):
    """One pod's side: the policies that isolate it in the direction, and the rules of theirs that allow the traffic.

    ``word`` says in a sentence what follows for the connection.
    """

    pod: str
    direction: str
    policies: tuple[str, ...]
    rules: tuple[str, ...]
    word: str


class Explanation(msgspec.Struct, frozen=True):
    """One connection: between which addresses, whether it is allowed, and why."""

    source: str
    source_address: str
    destination: str
    destination_address: str
    traffic: str
    allowed: bool
    judgements: tuple[Judgement, ...]
    steps: tuple[Step, ...]


def explain(
    tables: ClusterTables, source: End, destination: End, traffic: Traffic, *, family: int | None = None
) -> Explanation:
    """Why ``source`` may reach ``destination`` or not; AnalysisError when they have no IP family in common."""
    here, there = _addresses(source, destination, family)
    steps = tuple(_step(hop, here, there, traffic) for hop in tables.way(source, destination))
    same = source.name == destination.name
    judgements = [
        _judgement(tables, end, direction, near=near, far=far, destination=there, traffic=traffic, same=same)
        for end, direction, near, far in ((source, EGRESS, here, there), (destination, INGRESS, there, here))
        if end.pod is not None
    ]
    return Explanation(
        source=source.name,
        source_address=str(here),
        destination=destination.name,
        destination_address=str(there),
        traffic=str(traffic),
        allowed=all(step.passes for step in steps),
        judgements=tuple(judgements),
        steps=steps,
    )


def _addresses(source: End, destination: End, family: int | None) -> tuple[Address, Address]:
    versions = [each.version for each in source.addresses] if family is None else [family]
    for version in versions:
        here, there = source.address(version), destination.address(version)
        if here is not None and there is not None:
            return here, there
    wanted = "" if family is None else f" of IPv{family}"
    raise AnalysisError(f"{source.name} and {destination.name}: have no addresses{wanted} in common")


def _step(hop: Hop, source: Address, destination: Address, traffic: Traffic) -> Step:
    if not hop.lists:
        return Step(hop.node, hop.interface, hop.side, True, OPEN)
    protocol, source_port, port = traffic.header(source.version)
    verdict = acl.evaluate_lists(hop.lists, source, destination, protocol, source_port, port)
    if verdict.table is None or verdict.line is None:
        return Step(hop.node, hop.interface, hop.side, False, NO_MATCH)
    table = hop.lists[verdict.table]
    rule = str(table[verdict.line])
    return Step(hop.node, hop.interface, hop.side, verdict.permitted, rule, table.name, verdict.line)


def _judgement(
    tables: ClusterTables,
    end: End,
    direction: str,
    *,
    near: Address,
    far: Address,
    destination: Address,
    traffic: Traffic,
    same: bool,
) -> Judgement:
    if end.on_host:
        return Judgement(end.name, direction, (), (), "allowed: policies do not select pods on the host's network")
    local = tables.local(end)
    state = tables.state(end.node)
    isolating = tuple("/".join(key) for key in local.policies if direction in tables.directions(*key))
    protocol, _, port = traffic.header(near.version)
    origins = state.origins(local, direction, far=far, traffic=(protocol, port))
    rules = tuple(dict.fromkeys(_named(origin) for origin in origins))
    own_node = direction == INGRESS and far in tables.cluster.nodes[end.node].own
    return Judgement(end.name, direction, isolating, rules, _word(isolating, rules, same=same, own_node=own_node))


def _word(isolating: tuple[str, ...], rules: tuple[str, ...], *, same: bool, own_node: bool) -> str:
    if same:
        return "allowed: a pod always reaches itself"
    if not isolating:
        return "allowed: no policy isolates the pod in this direction"
    if own_node:
        return "allowed: a pod's own node always reaches it"
    return "allowed" if rules else "denied: no rule of these policies allows it"


def _named(origin: Origin) -> str:
    """A rule as a path in its policy."""
    side, peers = ("ingress", "from") if origin.direction == INGRESS else ("egress", "to")
    path = f"{origin.namespace}/{origin.policy} spec.{side}[{origin.rule}]"
    peer = "" if origin.peer is None else f".{peers}[{origin.peer}]"
    port = "" if origin.port is None else f" ports[{origin.port}]"
    return f"{path}{peer}{port}"
