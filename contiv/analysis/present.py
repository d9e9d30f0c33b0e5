"""Answers as text: tables for people, JSON, dot and CSV for programs. Pure: strings in, strings out.

The JSON of ``contiv connectivity`` is part of the product's interface; docs/connectivity.md describes it.
"""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from contiv.analysis.cluster import EXTERNAL
from contiv.analysis.difference import Difference
from contiv.analysis.explain import Explanation
from contiv.analysis.reach import Connection, Reach
from contiv.analysis.trace import Trace
from contiv.analysis.traffic import Traffic

COLUMNS_MAX: Final = 12
"""Destinations that a table has columns for; with more of them there is a line for each source instead."""
ALL, PART, NONE = "all", "part of", "–"
WIDTH: Final = 200

Object = dict[str, Any]


def as_json(reach: Reach) -> str:
    """``ports``, ``pods``, ``allowed``; ``external`` and ``partly`` where there are any."""
    names = dict.fromkeys((*reach.sources, *reach.destinations))
    answer: Object = {
        "ports": [str(each) for each in reach.traffic],
        "pods": sorted(name for name in names if not name.startswith(EXTERNAL)),
        "allowed": _entries(reach.allowed()),
    }
    for key, found in (
        ("external", [name for name in names if name.startswith(EXTERNAL)]),
        ("partly", _entries(reach.partly())),
    ):
        if found:
            answer[key] = found
    return _json(answer)


def as_csv(reach: Reach) -> str:
    """A line a connection: from, to, port, and whether all or part of a block is meant."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("from", "to", "port", "extent"))
    for extent, found in (("all", reach.allowed()), ("part", reach.partly())):
        writer.writerows((each.source, each.destination, str(each.traffic), extent) for each in found)
    return text.getvalue().rstrip("\n")


def as_dot(reach: Reach) -> str:
    """A graph for Graphviz: a box for each namespace, an arrow for each pair; what is partly allowed is dashed."""
    spaces: dict[str, list[str]] = defaultdict(list)
    for name in dict.fromkeys((*reach.sources, *reach.destinations)):
        spaces["" if name.startswith(EXTERNAL) else name.partition("/")[0]].append(name)
    lines = ["digraph connectivity {", "  rankdir=LR;", "  node [shape=box];"]
    for number, (space, names) in enumerate(spaces.items()):
        if space:
            lines += [f"  subgraph cluster_{number} {{", f"    label={_quoted(space)};"]
            lines += [f"    {_quoted(name)} [label={_quoted(name.partition('/')[2])}];" for name in names]
            lines.append("  }")
        else:
            lines += [f"  {_quoted(name)} [shape=ellipse];" for name in names]
    for style, found in (("", reach.allowed()), (", style=dashed", reach.partly())):
        for (source, destination), traffic in _by_pair(found).items():
            if source != destination:
                label = ", ".join(map(str, traffic))
                lines.append(f"  {_quoted(source)} -> {_quoted(destination)} [label={_quoted(label)}{style}];")
    return "\n".join([*lines, "}"])


def as_table(reach: Reach, *, width: int | None = None) -> str:
    """Sources down, destinations across; when these are too many, what each source reaches."""
    every, some = _by_pair(reach.allowed()), _by_pair(reach.partly())
    ports = ", ".join(map(str, reach.traffic))
    count = sum(map(len, every.values())) + sum(map(len, some.values()))
    total = len(reach.sources) * len(reach.destinations) * len(reach.traffic)
    summary = f"{count} of {total} connections allowed, over {ports}"
    if len(reach.destinations) > COLUMNS_MAX:
        return f"{_drawn(_lines(reach, every, some), width)}\n{summary}"
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("from \\ to", no_wrap=True)
    for name in reach.destinations:
        table.add_column(name if name.startswith(EXTERNAL) else name.replace("/", "/\n", 1), justify="center")
    for source in reach.sources:
        cells = [_cell(reach, every.get((source, to), []), some.get((source, to), [])) for to in reach.destinations]
        table.add_row(source, *cells)
    return f"{_drawn(table, width)}\n{summary}"


def _cell(reach: Reach, every: Sequence[Traffic], some: Sequence[Traffic]) -> str:
    if len(every) == len(reach.traffic):
        return ALL
    parts = [str(each) for each in every] + [f"{PART} {each}" for each in some]
    return "\n".join(parts) or NONE


def _lines(
    reach: Reach, every: dict[tuple[str, str], list[Traffic]], some: dict[tuple[str, str], list[Traffic]]
) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for title in ("from", "port", "reaches"):
        table.add_column(title, overflow="fold")
    for source in reach.sources:
        for traffic in reach.traffic:
            targets = [to for to in reach.destinations if traffic in every.get((source, to), ()) and to != source]
            targets += [f"{PART} {to}" for to in reach.destinations if traffic in some.get((source, to), ())]
            others = len(reach.destinations) - (source in reach.destinations)
            named = "all others" if len(targets) == others else " ".join(targets) or NONE
            table.add_row(source, str(traffic), named)
    return table


def difference_as_json(difference: Difference, traffic: Sequence[Traffic]) -> str:
    """``ports``, ``opened``, ``closed``."""
    return _json(
        {
            "ports": [str(each) for each in traffic],
            "opened": _entries(difference.opened),
            "closed": _entries(difference.closed),
        }
    )


def difference_as_table(difference: Difference, *, width: int | None = None) -> str:
    """What opens and what closes, a line for each pair."""
    if not difference:
        return "nothing opens, nothing closes"
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for title in ("", "from", "to", "ports"):
        table.add_column(title, overflow="fold")
    for word, found in (("opens", difference.opened), ("closes", difference.closed)):
        for (source, destination), traffic in _by_pair(found).items():
            table.add_row(word, source, destination, ", ".join(map(str, traffic)))
    summary = f"{len(difference.opened)} connections open, {len(difference.closed)} close"
    return f"{_drawn(table, width)}\n{summary}"


def difference_as_csv(difference: Difference) -> str:
    """A line a connection: opens or closes, from, to, port."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("change", "from", "to", "port"))
    for word, found in (("opens", difference.opened), ("closes", difference.closed)):
        writer.writerows((word, each.source, each.destination, str(each.traffic)) for each in found)
    return text.getvalue().rstrip("\n")


def explanation_as_json(explanation: Explanation) -> str:
    """The explanation, field by field; ``from`` and ``to`` as in ``contiv connectivity``."""
    egress = [_judged(each) for each in explanation.judgements if each.direction == "Egress"]
    ingress = [_judged(each) for each in explanation.judgements if each.direction == "Ingress"]
    return _json(
        {
            "from": explanation.source,
            "to": explanation.destination,
            "port": explanation.traffic,
            "addresses": [explanation.source_address, explanation.destination_address],
            "allowed": explanation.allowed,
            "egress": egress[0] if egress else None,
            "ingress": ingress[0] if ingress else None,
            "steps": [msgspec.to_builtins(each) for each in explanation.steps],
        }
    )


def _judged(judgement: Any) -> Object:
    return {
        "pod": judgement.pod,
        "isolatedBy": list(judgement.policies),
        "allowedBy": list(judgement.rules),
        "because": judgement.word,
    }


def explanation_as_text(explanation: Explanation) -> str:
    """The verdict, both sides, and the lines on the way."""
    verdict = "allowed" if explanation.allowed else "denied"
    lines = [
        f"{explanation.source} ({explanation.source_address}) to {explanation.destination}"
        f" ({explanation.destination_address}), {explanation.traffic}: {verdict}"
    ]
    for each in explanation.judgements:
        way = "leaving" if each.direction == "Egress" else "entering"
        lines += ["", f"{way} {each.pod}: {each.word}"]
        if each.policies:
            lines.append(f"  isolated by  {', '.join(each.policies)}")
        lines += [f"  allowed by   {rule}" for rule in each.rules]
    lines += ["", "on the way:" if explanation.steps else "it never comes to VPP"]
    for step in explanation.steps:
        place = f"{step.node}, {step.side} of {step.interface}"
        source = f"   [access list {step.table}, line {step.line}]" if step.table else ""
        lines.append(f"  {place:40} {step.rule}{source}")
    return "\n".join(lines)


def trace_as_json(trace: Trace) -> str:
    """The trace, field by field; ``from`` and ``to`` as they were asked for."""
    served = trace.service
    return _json(
        {
            "from": trace.source,
            "to": trace.destination,
            "address": trace.source_address,
            "verdict": trace.verdict,
            "service": None
            if served is None
            else {
                "name": served.name,
                "frontend": served.frontend,
                "node": served.node,
                "answer": served.answer,
                "affinitySeconds": served.affinity_s,
                "chosen": served.chosen,
                "candidates": [msgspec.to_builtins(each) for each in served.candidates],
            },
            "steps": [msgspec.to_builtins(each) for each in trace.steps],
        }
    )


def trace_as_text(trace: Trace, *, width: int | None = None) -> str:
    """The verdict, the steps by node, and the candidates of a service."""
    lines = [f"{trace.source} ({trace.source_address}) to {trace.destination}: {trace.verdict}", ""]
    for step in trace.steps:
        what = f"{step.side} of {step.interface}" if step.kind == "access list" else step.kind
        source = f"   [access list {step.table}, line {step.line}]" if step.table else ""
        mark = " " if step.passes else "x"
        lines.append(f"{mark} {step.node:12} {what:28} {step.text}{source}")
    if trace.service is None or not trace.service.candidates:
        return "\n".join(lines)
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for title in ("", "candidate", "pod", "node", "share", "verdict"):
        table.add_column(title, overflow="fold")
    total = sum(each.weight for each in trace.service.candidates)
    for each in trace.service.candidates:
        where = f"{each.address}:{each.port}"
        mark = "→" if where == trace.service.chosen else ""
        table.add_row(mark, where, each.pod or NONE, each.node or NONE, f"{each.weight / total:.0%}", each.verdict)
    return "\n".join([*lines, _drawn(table, width)])


# ---- parts -------------------------------------------------------------------------------------------------


def _entries(found: Iterable[Connection]) -> list[Object]:
    return [{"from": each.source, "to": each.destination, "port": str(each.traffic)} for each in found]


def _by_pair(found: Iterable[Connection]) -> dict[tuple[str, str], list[Traffic]]:
    pairs: dict[tuple[str, str], list[Traffic]] = defaultdict(list)
    for each in found:
        pairs[each.source, each.destination].append(each.traffic)
    return pairs


def _json(value: Any) -> str:
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode()


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _drawn(table: Table, width: int | None) -> str:
    text = io.StringIO()
    Console(file=text, width=width or WIDTH).print(table)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines())
