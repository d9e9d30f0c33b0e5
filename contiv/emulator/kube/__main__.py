"""``python -m contiv.emulator.kube``: the emulated API server's command line; the CLI mounts ``command``."""

from __future__ import annotations

import asyncio

import click

from contiv.emulator.kube.cluster import SERVICE_CIDR
from contiv.emulator.kube.process import run
from contiv.emulator.kube.store import HISTORY_EVENTS_MAX
from contiv.errors import ContivError


@click.command("kube", help="Emulate a Kubernetes API server.")
@click.option("--listen", default="127.0.0.1:0", show_default=True, help="Address and port; port 0 picks a free one.")
@click.option("--data", type=click.Path(dir_okay=False), help="File that keeps the objects across restarts.")
@click.option("--service-cidr", default=SERVICE_CIDR, show_default=True, help="Range of cluster IPs.")
@click.option("--write-kubeconfig", type=click.Path(dir_okay=False), help="Where to write a kubeconfig.")
@click.option("--history-max", default=HISTORY_EVENTS_MAX, show_default=True, help="Events a kind remembers.")
@click.option("--bookmark-interval", "bookmark_interval_s", default=10.0, show_default=True, help="Seconds.")
@click.option("--die-with-parent", is_flag=True, help="Stop when the process that started this one ends.")
def command(
    *,
    listen: str,
    data: str | None,
    service_cidr: str,
    write_kubeconfig: str | None,
    history_max: int,
    bookmark_interval_s: float,
    die_with_parent: bool,
) -> None:
    """Serve until interrupted."""
    try:
        asyncio.run(
            run(
                listen=listen,
                data=data,
                service_cidr=service_cidr,
                write_kubeconfig=write_kubeconfig,
                history_max=history_max,
                bookmark_interval_s=bookmark_interval_s,
                die_with_parent=die_with_parent,
            )
        )
    except (ContivError, OSError, ValueError) as error:
        raise click.ClickException(str(error)) from error


if __name__ == "__main__":
    command(prog_name="contiv emulate kube")
