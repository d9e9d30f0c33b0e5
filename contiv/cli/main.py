"""``contiv``: one subcommand a process of the system. Only wiring: options in, a composition root's ``run`` called.

Errors of ours end with one line on standard error and exit code 1, as do those of the operating system (a directory
that cannot be written); a wrong configuration or option ends with 2. Heavy modules are imported by the subcommand that
needs them.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

import click

from contiv import __version__
from contiv.cli.connectivity import connectivity, explain, trace
from contiv.errors import ConfigError, ContivError

if TYPE_CHECKING:
    from contiv.config import EtcdConfig

EXIT_FAILED: Final = 1
EXIT_CONFIG: Final = 2

config_option = click.option(
    "--config", "config_path", type=click.Path(), default=None, help="configuration file (YAML)"
)
node_option = click.option("--node", default=socket.gethostname, help="this node's name in Kubernetes")
log_option = click.option(
    "--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info", show_default=True
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "-V", "--version")
def contiv() -> None:
    """Contiv/VPP: a Kubernetes network plugin whose data plane is FD.io VPP."""


contiv.add_command(connectivity)
contiv.add_command(explain)
contiv.add_command(trace)


def execute(work: Coroutine[Any, Any, int | None], *, log_level: str = "info") -> None:
    """Run a composition root to its end; its return value is the exit code."""
    from contiv.log import configure

    configure(log_level)
    sys.exit(asyncio.run(work) or 0)


@contiv.command("agent")
@config_option
@node_option
@log_option
def agent_command(config_path: str | None, node: str, log_level: str) -> None:
    """Program this node's VPP and Linux; serve the CNI plugin."""
    from contiv.agent.main import run
    from contiv.config import load

    execute(run(load(config_path), node=node), log_level=log_level)


@contiv.command("init")
@config_option
@node_option
@log_option
def init_command(config_path: str | None, node: str, log_level: str) -> None:
    """Start the data plane and the agent, and keep them running."""
    from contiv.config import load
    from contiv.init import run

    execute(run(load(config_path), config_path=config_path, node=node), log_level=log_level)


@contiv.command("stn")
@click.option("--release", is_flag=True, help="give a stolen NIC back to the kernel and end, as an uninstallation does")
@config_option
@log_option
def stn_command(release: bool, config_path: str | None, log_level: str) -> None:
    """Lend this node's only NIC to the data plane, and take it back when that is gone."""
    from contiv.config import load
    from contiv.stn import main as stn

    config = load(config_path)
    execute(stn.release(config) if release else stn.run(config), log_level=log_level)


def with_api_and_etcd(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of those who stand between the Kubernetes API and etcd."""
    for option in (
        log_option,
        config_option,
        click.option("--metrics", "metrics_address", default=None, help="host:port or unix:/path to serve metrics on"),
        click.option("--etcd", multiple=True, help="endpoint of Contiv's etcd; default: from the configuration"),
        click.option("--kubeconfig", default=None, help="default: KUBECONFIG, service account, ~/.kube/config"),
    ):
        command = option(command)
    return command


@contiv.command("ksr")
@with_api_and_etcd
def ksr_command(config_path: str | None, log_level: str, **given: Any) -> None:
    """Reflect Kubernetes state into etcd; one instance of several is active."""
    from contiv.config import load
    from contiv.ksr.main import run

    execute(until_terminated(run(**candidate(load(config_path).etcd, **given))), log_level=log_level)


@contiv.command("crd")
@with_api_and_etcd
def crd_command(config_path: str | None, log_level: str, **given: Any) -> None:
    """Bring custom resources into etcd, and their status back; one instance of several is active."""
    from contiv.config import load
    from contiv.crd.main import run

    config = load(config_path)
    execute(until_terminated(run(config, **candidate(config.etcd, **given))), log_level=log_level)


def candidate(
    config: EtcdConfig, *, kubeconfig: str | None, etcd: tuple[str, ...], metrics_address: str | None
) -> dict[str, Any]:
    """How one that may lead reaches API server and etcd (``contiv.reflection.leading.Candidate``)."""
    from contiv.credentials import credentials

    secrets = credentials(config)
    return {
        "kubeconfig": kubeconfig,
        "etcd_endpoints": etcd or config.endpoints,
        "etcd_tls": secrets.get("tls"),
        "etcd_auth": secrets.get("auth"),
        "metrics_address": metrics_address,
    }


@contiv.command("demo")
@click.option("--nodes", default=2, show_default=True, help="nodes to build")
@click.option("--dataplane", type=click.Choice(["auto", "vpp", "emulator"]), default="auto", show_default=True)
@click.option(
    "--nics",
    type=click.Choice(["two", "one", "dhcp"]),
    default="two",
    show_default=True,
    help="nodes with a NIC for the data plane alone, with one NIC, which is stolen, or with one addressed by DHCP",
)
@click.option(
    "--transport",
    type=click.Choice(["vxlan", "nooverlay", "auto"]),
    default="vxlan",
    show_default=True,
    help="between nodes; auto: no overlay, for all of the demo's nodes share a subnet",
)
@click.option("--manifests", type=click.Path(exists=True, path_type=Path), default=None, help="folder or file")
@click.option("--keep", is_flag=True, help="leave the cluster running until Ctrl-C")
@click.option("--kubeconfig", default=None, help="use this real API server instead of the emulated one")
@click.option("--directory", type=click.Path(path_type=Path), default=None, help="run directory")
def demo_command(**options: Any) -> None:
    """Build a cluster on this machine, show that its pods talk, leave nothing behind."""
    from contiv.demo.main import demo

    sys.exit(demo(**options))


class _Lazy(click.Group):
    """Subcommands whose modules are imported only when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, the lazy one included."""
        return sorted([*super().list_commands(ctx), "kube"])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of a name."""
        if cmd_name == "kube":
            from contiv.emulator.kube.__main__ import command

            return command
        return super().get_command(ctx, cmd_name)


@contiv.group(cls=_Lazy)
def emulate() -> None:
    """Stand-ins for machines without VPP or Kubernetes."""


@emulate.command("vpp", context_settings={"ignore_unknown_options": True, "help_option_names": []})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def emulate_vpp(arguments: tuple[str, ...]) -> None:
    """VPP's binary API over a forwarding plane of our own (--help for its options)."""
    from contiv.emulator.vpp.__main__ import main as serve

    sys.exit(serve(list(arguments)))


async def until_terminated(work: Coroutine[Any, Any, None]) -> None:
    """Run ``work`` until it ends or SIGTERM cancels it, so that what it holds (a leadership) is given back."""
    task = asyncio.ensure_future(work)
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await task


def main() -> None:
    """The console script ``contiv``."""
    guarded(contiv)


def agent() -> None:
    """The console script ``contiv-agent``."""
    guarded(agent_command)


def ksr() -> None:
    """The console script ``contiv-ksr``."""
    guarded(ksr_command)


def crd() -> None:
    """The console script ``contiv-crd``."""
    guarded(crd_command)


def stn() -> None:
    """The console script ``contiv-stn``."""
    guarded(stn_command)


def init() -> None:
    """The console script ``contiv-init``."""
    guarded(init_command)


def guarded(command: click.Command) -> None:
    """Run a command; what it cannot help becomes one line and an exit code, a bug of ours stays a traceback."""
    try:
        command()
    except (ContivError, OSError) as error:
        _end(error)
    except ExceptionGroup as group:
        expected, bugs = group.split((ContivError, OSError))
        if bugs is not None or expected is None:
            raise
        _end(_first(expected))


def _end(error: Exception) -> NoReturn:
    wrong_config = isinstance(error, ConfigError)
    click.echo(f"{'configuration' if wrong_config else 'error'}: {str(error) or type(error).__name__}", err=True)
    sys.exit(EXIT_CONFIG if wrong_config else EXIT_FAILED)


def _first(group: ExceptionGroup[Exception]) -> Exception:
    first = group.exceptions[0]
    return _first(first) if isinstance(first, ExceptionGroup) else first


if __name__ == "__main__":
    main()
