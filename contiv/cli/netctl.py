"""``netctl``: what an operator asks of the network. Tables for people, ``-o json`` for programs.

``nodes``, ``pods`` and ``ipam`` read Contiv's etcd, so they answer for agents that are down as well; ``status``,
``services``, ``policies``, ``events``, ``diff`` and ``resync`` ask an agent over the address that it published there.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final

import click
import msgspec

from contiv.cli.main import guarded
from contiv.config import EtcdConfig, load
from contiv.credentials import credentials
from contiv.errors import ContivError, StoreError
from contiv.log import configure
from contiv.model import keys, kube
from contiv.model.node import Attachment, NodeClaim, NodeStatus
from contiv.store.client import Etcd
from contiv.store.records import Record

TIMEOUT_S: Final = 10.0
BACKENDS_SHOWN: Final = 6
Row = dict[str, Any]


class Context(msgspec.Struct, frozen=True):
    """The options that all commands share."""

    etcd: EtcdConfig
    output: str


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--etcd", multiple=True, envvar="CONTIV_ETCD", help="endpoint of Contiv's etcd; default: as configured")
@click.option(
    "--config",
    "config_path",
    envvar="CONTIV_CONFIG",
    default=None,
    help="a node's configuration, for etcd's credentials",
)
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
@click.pass_context
def netctl(context: click.Context, etcd: Sequence[str], config_path: str | None, output: str) -> None:
    """Nodes, pods and addresses of a Contiv/VPP cluster."""
    configure("warning")
    configured = load(config_path).etcd
    context.obj = Context(msgspec.structs.replace(configured, endpoints=tuple(etcd) or configured.endpoints), output)


def with_output(command: Callable[..., Any]) -> Callable[..., Any]:
    """Let ``-o`` stand after the subcommand too, as kubectl's users expect."""
    option = click.option("-o", "--output", "own_output", type=click.Choice(["table", "json"]), default=None)
    return option(command)


@netctl.command()
@with_output
@click.pass_obj
def nodes(context: Context, own_output: str | None) -> None:
    """Every node with an ID: addresses, data plane, whether its agent is up."""

    async def rows(etcd: Etcd) -> list[Row]:
        claims = await _values(etcd, keys.NODE_IDS, NodeClaim)
        statuses = {status.name: status for status in await _values(etcd, keys.NODE_STATUS, NodeStatus)}
        return [_node_row(claim, statuses.get(claim.name)) for claim in claims]

    _show(context, own_output, _with_etcd(context, rows))


def _node_row(claim: NodeClaim, status: NodeStatus | None) -> Row:
    return {
        "id": claim.id,
        "node": claim.name,
        "vppIP": claim.uplink,
        "hostIP": status.host_address if status else "",
        "agent": "up" if status else "down",
        "dataplane": status.dataplane if status else "",
        "started": status.started_at if status else "",
        "version": status.version if status else "",
    }


@netctl.command()
@click.argument("node", default="")
@with_output
@click.pass_obj
def pods(context: Context, node: str, own_output: str | None) -> None:
    """The pods that are attached, with their addresses and interfaces; of NODE alone when it is given."""

    async def rows(etcd: Etcd) -> list[Row]:
        prefix = keys.attachments(node) if node else keys.VSWITCH
        records = (await etcd.get_prefix(prefix)).records
        return [_pod_row(record) for key, record in sorted(records.items()) if "/pods/" in key]

    _show(context, own_output, _with_etcd(context, rows))


def _pod_row(record: Record) -> Row:
    attachment = _decoded(record, Attachment)
    return {
        "node": record.key.removeprefix(keys.VSWITCH).partition("/")[0],
        "namespace": attachment.pod_namespace,
        "pod": attachment.pod_name,
        "ip": attachment.address,
        "interface": attachment.interface,
        "mac": attachment.pod_mac,
        "container": attachment.container_id[:12],
    }


@netctl.command()
@click.argument("node", default="")
@with_output
@click.pass_obj
def ipam(context: Context, node: str, own_output: str | None) -> None:
    """The subnets of each node and how many of its pod addresses are in use."""

    async def rows(etcd: Etcd) -> list[Row]:
        statuses = await _values(etcd, keys.NODE_STATUS, NodeStatus)
        attached = await etcd.get_prefix(keys.VSWITCH)
        used: dict[str, int] = {}
        for key in attached.records:
            if "/pods/" not in key:
                continue
            owner = key.removeprefix(keys.VSWITCH).partition("/")[0]
            used[owner] = used.get(owner, 0) + 1
        return [
            {
                "id": status.id,
                "node": status.name,
                "vppIP": status.uplink,
                "bviIP": status.vxlan,
                "podCIDR": status.pod_subnet,
                "vppHostCIDR": status.host_subnet,
                "podClusterCIDR": status.pod_cluster_subnet,
                "podsAttached": used.get(status.name, 0),
            }
            for status in statuses
            if not node or status.name == node
        ]

    _show(context, own_output, _with_etcd(context, rows))


@netctl.command()
@click.argument("node", default="")
@with_output
@click.pass_obj
def status(context: Context, node: str, own_output: str | None) -> None:
    """What each agent says of itself: synced or not, what is wrong; and how far KSR has reflected."""

    async def rows(etcd: Etcd) -> list[Row]:
        found = [await _agent_row(each) for each in await _agents(etcd, node)]
        if node:
            return found
        reflected = await _values(etcd, keys.KSR_STATUS, kube.KsrStatus)
        return found + [
            {"part": f"ksr {each.plural}", "state": "synced", "detail": f"{each.objects} objects at {each.synced_at}"}
            for each in reflected
        ]

    _show(context, own_output, _with_etcd(context, rows))


async def _agent_row(agent: NodeStatus) -> Row:
    part = f"agent {agent.name}"
    try:
        told = await _ask(agent, "status")
    except ContivError as error:
        return {"part": part, "state": "unreachable", "detail": str(error)}
    problems = [f"{name}: {problem}" for name, problem in told["problems"].items()]
    problems += [f"{key}: {why['error'] or why['waits for']}" for key, why in told["unsettled"].items()]
    detail = "; ".join(problems) or f"{told['pods']} pods, {told['objects']} objects, VPP {agent.dataplane}"
    return {"part": part, "state": "synced" if told["synced"] else "not synced", "detail": detail}


@netctl.command()
@click.argument("node", default="")
@click.option("--sessions", "what", flag_value="sessions", help="the connections that are translated at this moment")
@click.option("--faults", "what", flag_value="faults", help="what is wrong with services and endpoint slices")
@with_output
@click.pass_obj
def services(context: Context, node: str, what: str | None, own_output: str | None) -> None:
    """Addresses and ports of services with what answers them, on each node or on NODE alone."""
    wanted = what or "frontends"

    async def rows(etcd: Etcd) -> list[Row]:
        path = "services?sessions=1" if wanted == "sessions" else "services"
        told = [(agent.name, await _ask(agent, path)) for agent in await _agents(etcd, node)]
        found = [{"node": name} | row for name, each in told for row in each[wanted]]
        faults = sum(len(each["faults"]) for _, each in told)
        if faults and wanted != "faults":
            click.echo(f"{faults} faults: see netctl services --faults", err=True)
        return found

    found = _with_etcd(context, rows)
    if wanted == "frontends" and (own_output or context.output) == "table":
        found = [_frontend_row(each) for each in found]
    _show(context, own_output, found)


def _frontend_row(frontend: Row) -> Row:
    backends = frontend["backends"]
    shown = " ".join(backends[:BACKENDS_SHOWN])
    more = len(backends) - BACKENDS_SHOWN
    return {
        "node": frontend["node"],
        "service": frontend["service"],
        "from": frontend["from"].lower().replace("_", " "),
        "frontend": f"{frontend['address']}:{frontend['port']}/{frontend['protocol']}",
        "answer": frontend["answer"],
        "client": "hidden" if frontend["clientHidden"] else "seen",
        "backends": f"{shown} and {more} more" if more > 0 else shown,
    }


@netctl.command()
@click.argument("node", default="")
@click.option("--faults", "what", flag_value="faults", help="what is wrong with policies and pods")
@click.option("--lines", "what", flag_value="lines", help="the access lists, line by line, with the pods behind them")
@with_output
@click.pass_obj
def policies(context: Context, node: str, what: str | None, own_output: str | None) -> None:
    """How policies isolate the pods of each node or of NODE alone, and which policies do."""
    wanted = what or "pods"

    async def rows(etcd: Etcd) -> list[Row]:
        path = "policies?lines=1" if wanted == "lines" else "policies"
        told = [(agent.name, await _ask(agent, path)) for agent in await _agents(etcd, node)]
        for name, each in told:
            if not each["complete"]:
                click.echo(f"{name}: all pods are isolated until KSR has reflected the cluster", err=True)
        faults = max((len(each["faults"]) for _, each in told), default=0)
        if faults and wanted != "faults":
            click.echo(f"{faults} faults: see netctl policies --faults", err=True)
        return [{"node": name} | row for name, each in told for row in _policy_rows(each, wanted)]

    _show(context, own_output, _with_etcd(context, rows))


def _unknown(pod: Row) -> str:
    if pod["known"]:
        return ""
    return "(pod not known, presumed open)" if pod["presumed"] else " (pod not known yet)"


def _policy_rows(told: Row, wanted: str) -> list[Row]:
    """Rows of one node's report: pods, faults, or lines."""
    if wanted == "faults":
        return list(told["faults"])
    places = [(f"{pod['namespace']}/{pod['pod']}", pod) for pod in told["pods"]]
    if wanted == "pods":
        return [
            {
                "pod": name,
                "interface": pod["interface"],
                "isolated": " ".join(pod["isolated"]) + _unknown(pod),
                "policies": " ".join(pod["policies"]),
                "lines": sum(told["lists"][each] for each in (*pod["input"], *pod["output"])),
            }
            for name, pod in places
        ]
    places += list(told["interfaces"].items())
    return [
        {"on": name, "side": side, "list": each[:8], "number": number, "line": line}
        for name, place in places
        for side in ("input", "output")
        for each in place[side]
        for number, line in enumerate(told["lists"][each])
    ]


@netctl.command()
@click.argument("node")
@click.option("--last", default=50, show_default=True, help="how many")
@click.pass_obj
def events(context: Context, node: str, last: int) -> None:
    """What happened to NODE's agent lately: events, handlers, transactions and their outcome."""

    async def text(etcd: Etcd) -> str:
        (agent,) = await _agents(etcd, node)
        query = f"events?last={last}" + ("" if context.output == "json" else "&text=1")
        return (await _request(agent, "GET", query)).decode()

    click.echo(_with_etcd(context, text))


@netctl.command()
@click.argument("node")
@with_output
@click.pass_obj
def diff(context: Context, node: str, own_output: str | None) -> None:
    """What NODE's VPP and Linux hold otherwise than they should, per key; exit code 1 when there is something."""

    async def rows(etcd: Etcd) -> list[Row]:
        (agent,) = await _agents(etcd, node)
        told = await _ask(agent, "diff")
        found = list(told["operations"])
        return found + [{"verb": "waits", "key": f"{key} for {', '.join(n)}"} for key, n in told["pending"].items()]

    found = _with_etcd(context, rows)
    _show(context, own_output, found)
    sys.exit(1 if found else 0)


@netctl.command()
@click.argument("node")
@click.pass_obj
def resync(context: Context, node: str) -> None:
    """Have NODE compare its VPP and Linux with what they should hold, and mend the difference."""

    async def work(etcd: Etcd) -> str:
        (agent,) = await _agents(etcd, node)
        await _request(agent, "POST", "resync")
        return f"{node} is in sync"

    click.echo(_with_etcd(context, work))


async def _agents(etcd: Etcd, node: str) -> list[NodeStatus]:
    """The agents that are up, or the one of ``node``; ContivError when that one is not."""
    statuses = await _values(etcd, keys.NODE_STATUS, NodeStatus)
    if not node:
        return statuses
    for each in statuses:
        if node in (each.name, each.uplink.partition("/")[0], each.host_address):
            return [each]
    known = ", ".join(each.name for each in statuses) or "none"
    raise ContivError(f"node {node}: no agent of that name or address is up; up are: {known}")


async def _ask(agent: NodeStatus, path: str) -> Any:
    return msgspec.json.decode(await _request(agent, "GET", path))


async def _request(agent: NodeStatus, method: str, path: str) -> bytes:
    """One call on an agent's REST interface."""
    import aiohttp

    unix = agent.rest.startswith("unix:")
    connector = aiohttp.UnixConnector(agent.rest.removeprefix("unix:")) if unix else aiohttp.TCPConnector()
    base = "http://agent" if unix else agent.rest
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
    try:
        async with (
            aiohttp.ClientSession(connector=connector, timeout=timeout) as session,
            session.request(method, f"{base}/contiv/v1/{path}") as reply,
        ):
            body = await reply.read()
            if reply.status != 200:
                raise ContivError(f"agent {agent.name} answered {reply.status}: {body.decode(errors='replace')}")
            return body
    except (aiohttp.ClientError, TimeoutError) as error:
        raise ContivError(f"agent {agent.name} cannot be reached at {agent.rest}: {error}") from error


async def _values(etcd: Etcd, prefix: str, kind: Any) -> list[Any]:
    snapshot = await etcd.get_prefix(prefix)
    return [_decoded(record, kind) for _, record in sorted(snapshot.records.items())]


def _decoded(record: Record, kind: Any) -> Any:
    try:
        return msgspec.json.decode(record.value, type=kind)
    except msgspec.DecodeError as error:
        raise ContivError(f"{record.key} in etcd cannot be read: {error}; is it from another version?") from error


def _with_etcd(context: Context, work: Callable[[Etcd], Coroutine[Any, Any, Any]]) -> Any:
    async def run() -> Any:
        proof = credentials(context.etcd)
        async with await Etcd.connect(context.etcd.endpoints, **proof, timeout_s=TIMEOUT_S) as etcd:
            return await work(etcd)

    try:
        return asyncio.run(run())
    except StoreError as error:
        raise ContivError(f"{error} (name another etcd with --etcd or CONTIV_ETCD)") from error


def _show(context: Context, own_output: str | None, rows: list[Row]) -> None:
    if (own_output or context.output) == "json":
        click.echo(msgspec.json.format(msgspec.json.encode(rows), indent=2))
        return
    if not rows:
        return
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in rows[0]:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(str(row.get(column, "")) for column in rows[0]))
    console = Console(width=None if sys.stdout.isatty() else 200)
    console.print(table)


def main() -> None:
    """The console script ``netctl``."""
    guarded(netctl)


if __name__ == "__main__":
    main()
