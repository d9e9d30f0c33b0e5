"""``contiv connectivity``, ``explain`` and ``trace``: what a cluster lets through and why, without a data plane.

Only wiring: objects from files, the API server or etcd, questions to ``contiv.analysis``, answers to standard output;
what is wrong with the objects goes to standard error, for the answer stands all the same.
"""

from __future__ import annotations

import asyncio
import fnmatch
import re
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
import msgspec
from click.core import ParameterSource

from contiv.errors import AnalysisError

if TYPE_CHECKING:
    from contiv.analysis.cluster import End
    from contiv.analysis.manifests import Objects
    from contiv.analysis.reach import Reach
    from contiv.analysis.services import ClusterServices
    from contiv.analysis.tables import ClusterTables
    from contiv.analysis.traffic import Traffic
    from contiv.model.ip import Address

DEFAULT_PORTS: Final = ("80/TCP",)
EXIT_DIFFERENT: Final = 1

Command = Callable[..., Any]


def _source_options(command: Command) -> Command:
    """Where the objects come from."""
    for option in (
        click.option("--config", "config_path", envvar="CONTIV_CONFIG", default=None, help="a node's configuration"),
        click.option(
            "--etcd", multiple=True, envvar="CONTIV_ETCD", help="endpoint of Contiv's etcd, the default source"
        ),
        click.option("--kubeconfig", default=None, help="read the cluster from its API server"),
        click.option(
            "-f",
            "--filename",
            "files",
            multiple=True,
            type=click.Path(path_type=Path),
            help="manifests: file or folder",
        ),
    ):
        command = option(command)
    return command


def _question_options(command: Command) -> Command:
    """What is asked."""
    for option in (
        click.option(
            "--family", type=click.Choice(["4", "6"]), default=None, help="IP version; default: the pods' first"
        ),
        click.option("--external", multiple=True, metavar="CIDR", help="a block outside of the cluster as a peer"),
        click.option("--to", "destinations", multiple=True, metavar="NS/POD", help="these alone; NS/* for a namespace"),
        click.option("--from", "sources", multiple=True, metavar="NS/POD", help="these alone; NS/* for a namespace"),
        click.option(
            "--port", "ports", multiple=True, metavar="PORT/PROTOCOL", help="80/TCP, 53/UDP, ICMP; default: 80/TCP"
        ),
    ):
        command = option(command)
    return command


@click.group("connectivity", invoke_without_command=True)
@_source_options
@_question_options
@click.option("-o", "--output", type=click.Choice(["table", "json", "dot", "csv"]), default="table", show_default=True)
@click.pass_context
def connectivity(
    context: click.Context,
    /,
    *,
    files: tuple[Path, ...],
    kubeconfig: str | None,
    etcd: tuple[str, ...],
    config_path: str | None,
    output: str,
    **question: Any,
) -> None:
    """Who reaches whom under the policies of manifests or of a live cluster."""
    if context.invoked_subcommand is not None:
        misplaced = [
            name for name in context.params if context.get_parameter_source(name) is ParameterSource.COMMANDLINE
        ]
        if misplaced:
            raise click.UsageError(f"options of {context.invoked_subcommand} stand behind it")
        return
    from contiv.analysis import present

    objects = _objects(files, kubeconfig, etcd, config_path)
    reach = _reach(objects, config_path, _traffic(question.pop("ports")), **question)
    write: dict[str, Callable[..., str]] = {
        "json": present.as_json,
        "csv": present.as_csv,
        "dot": present.as_dot,
        "table": lambda answer: present.as_table(answer, width=_width()),
    }
    click.echo(write[output](reach))


@connectivity.command("diff")
@click.argument("before", type=click.Path(path_type=Path), metavar="A")
@click.argument("after", type=click.Path(path_type=Path), metavar="B")
@_question_options
@click.option("--config", "config_path", envvar="CONTIV_CONFIG", default=None, help="a node's configuration")
@click.option("--exit-code", is_flag=True, help="end with 1 when there is a difference")
@click.option("-o", "--output", type=click.Choice(["table", "json", "csv"]), default="table", show_default=True)
def diff(*, before: Path, after: Path, config_path: str | None, exit_code: bool, output: str, **question: Any) -> None:
    """What the change from manifests A to manifests B opens and closes."""
    from contiv.analysis import difference, manifests, present

    traffic = _traffic(question.pop("ports"))
    found = difference.between(
        *(_reach(manifests.load([place]), config_path, traffic, **question) for place in (before, after))
    )
    write: dict[str, Callable[..., str]] = {
        "json": lambda answer: present.difference_as_json(answer, traffic),
        "csv": present.difference_as_csv,
        "table": lambda answer: present.difference_as_table(answer, width=_width()),
    }
    click.echo(write[output](found))
    if exit_code and found:
        sys.exit(EXIT_DIFFERENT)


@click.command("explain")
@click.argument("source", metavar="NS/POD|IP")
@click.argument("destination", metavar="NS/POD|IP")
@_source_options
@click.option("--port", metavar="PORT/PROTOCOL", default=DEFAULT_PORTS[0], show_default=True)
@click.option("--family", type=click.Choice(["4", "6"]), default=None, help="IP version; default: the source's first")
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
def explain(
    *,
    source: str,
    destination: str,
    files: tuple[Path, ...],
    kubeconfig: str | None,
    etcd: tuple[str, ...],
    config_path: str | None,
    port: str,
    family: str | None,
    output: str,
) -> None:
    """Why one pod may reach another or not: policies, rules, and the lines of access lists that decide."""
    from contiv.analysis import present
    from contiv.analysis.explain import explain as explained

    (traffic,) = _traffic((port,))
    objects = _objects(files, kubeconfig, etcd, config_path)
    tables = _tables(objects, config_path, [name for name in (source, destination) if "/" not in name])
    ends = [tables.cluster.end(name) if "/" in name else tables.cluster.at(name) for name in (source, destination)]
    found = explained(tables, ends[0], ends[1], traffic, family=int(family) if family else None)
    click.echo(present.explanation_as_json(found) if output == "json" else present.explanation_as_text(found))


@click.command("trace")
@_source_options
@click.option("--from", "source", required=True, metavar="NS/POD|IP", help="who opens the connection")
@click.option("--to", "destination", required=True, metavar="IP:PORT/PROTO", help="or NS/SERVICE:PORT/PROTO, IP/ICMP")
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
def trace(
    *,
    files: tuple[Path, ...],
    kubeconfig: str | None,
    etcd: tuple[str, ...],
    config_path: str | None,
    source: str,
    destination: str,
    output: str,
) -> None:
    """The way of a connection: service, backend, access lists, next hops, tunnel."""
    from contiv.analysis import present
    from contiv.analysis.trace import Tracer

    name, traffic = _target(destination)
    objects = _objects(files, kubeconfig, etcd, config_path)
    tables, services = _rendered(objects, config_path, [source] if "/" not in source else [])
    end = tables.cluster.end(source) if "/" in source else tables.cluster.at(source)
    found = Tracer(tables, services).trace(end, _address(name, tables, services), traffic)
    if output == "json":
        click.echo(present.trace_as_json(found))
    else:
        click.echo(present.trace_as_text(found, width=_width()))


# ---- parts -------------------------------------------------------------------------------------------------


def _objects(files: Sequence[Path], kubeconfig: str | None, etcd: Sequence[str], config_path: str | None) -> Objects:
    """The cluster's objects from the one source that is named; without any, from etcd as configured."""
    named = [option for option, given in (("-f", files), ("--kubeconfig", kubeconfig)) if given]
    if len(named) > 1:
        raise click.UsageError(f"{' and '.join(named)}: name one source")
    if files:
        from contiv.analysis import manifests

        return manifests.load(files)
    from contiv.analysis import live
    from contiv.log import configure

    configure("warning")  # to standard error: standard output is the answer's
    if kubeconfig:
        return asyncio.run(live.from_api(kubeconfig))
    from contiv.config import load

    configured = load(config_path).etcd
    return asyncio.run(
        live.from_etcd(msgspec.structs.replace(configured, endpoints=tuple(etcd) or configured.endpoints))
    )


def _traffic(ports: Sequence[str]) -> list[Traffic]:
    from contiv.analysis.traffic import Traffic

    try:
        return list(dict.fromkeys(Traffic.parse(text) for text in ports or DEFAULT_PORTS))
    except AnalysisError as error:
        raise click.UsageError(str(error)) from error


def _target(text: str) -> tuple[str, Traffic]:
    """``IP:PORT/PROTO`` taken apart; instead of the address a pod's or service's name."""
    found = re.fullmatch(r"\[?(?P<name>[^\]]+?)\]?(?::(?P<port>\d+))?/(?P<protocol>\w+)", text)
    if found is None:
        raise click.UsageError(f"--to {text}: write IP:PORT/PROTO, as 10.96.0.10:80/TCP")
    number = f"{found['port']}/{found['protocol']}" if found["port"] else found["protocol"]
    try:
        (traffic,) = _traffic((number,))
    except click.UsageError as error:
        raise click.UsageError(f"--to {text}: {error.message}") from error
    return found["name"], traffic


def _address(name: str, tables: ClusterTables, services: ClusterServices) -> Address:
    """An address, or that of the service or pod of a name."""
    from contiv.model.ip import Address

    texts = services.addresses(name) if "/" in name else (name,)
    if not texts:
        return tables.cluster.end(name).addresses[0]
    try:
        return Address.parse(texts[0])
    except ValueError as error:
        raise AnalysisError(f"--to {name}: {error}; write IP:PORT/PROTO") from error


def _tables(objects: Objects, config_path: str | None, external: Sequence[str]) -> ClusterTables:
    """The cluster's access lists."""
    return _rendered(objects, config_path, external)[0]


def _rendered(
    objects: Objects, config_path: str | None, external: Sequence[str]
) -> tuple[ClusterTables, ClusterServices]:
    """The cluster's access lists and services; what is wrong with its objects is said at once."""
    from contiv.analysis.cluster import build
    from contiv.analysis.services import ClusterServices
    from contiv.analysis.tables import ClusterTables
    from contiv.config import load

    config = load(config_path)
    cluster = build(objects, config, external=external)
    services = ClusterServices(cluster, config)
    tables = ClusterTables(cluster, services)
    wrong = [f"{fault.object}: {fault.field}: {fault.reason}" for fault in services.faults()]
    for note in (*cluster.notes, *tables.faults(), *wrong):
        click.echo(f"warning: {note}", err=True)
    return tables, services


def _reach(
    objects: Objects,
    config_path: str | None,
    traffic: Sequence[Traffic],
    *,
    sources: Sequence[str],
    destinations: Sequence[str],
    external: Sequence[str],
    family: str | None,
) -> Reach:
    from contiv.analysis.reach import compute

    tables = _tables(objects, config_path, external)
    return compute(
        tables,
        _chosen(tables, sources, "--from"),
        _chosen(tables, destinations, "--to"),
        traffic,
        family=int(family) if family else None,
    )


def _chosen(tables: ClusterTables, patterns: Sequence[str], option: str) -> list[End]:
    """The ends that an option names, in the cluster's order; all of them without it."""
    ends = tables.cluster.ends
    for pattern in patterns:
        if not any(fnmatch.fnmatchcase(end.name, pattern) for end in ends):
            try:
                tables.cluster.end(pattern)
            except AnalysisError as error:
                raise AnalysisError(f"{option} {error}") from error
    return [end for end in ends if not patterns or any(fnmatch.fnmatchcase(end.name, each) for each in patterns)]


def _width() -> int | None:
    """The terminal's, if it is one."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None
