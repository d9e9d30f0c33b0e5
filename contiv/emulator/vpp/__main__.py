"""``python -m contiv.emulator.vpp -c startup.conf``: the composition root of the emulated VPP.

Puts machine, handlers, sockets and loop together and serves until SIGTERM or SIGINT. The API's socket appears when
it answers; a line in the log says so. Everything is gone when it ends: sockets, TAPs, raw sockets.
"""

from __future__ import annotations

import argparse
import gc
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from contiv.emulator.vpp.dhcp import DhcpClients
from contiv.emulator.vpp.handlers import collect
from contiv.emulator.vpp.handlers.acl import AclHandlers
from contiv.emulator.vpp.handlers.classify import ClassifyHandlers
from contiv.emulator.vpp.handlers.devices import Device, DeviceHandlers
from contiv.emulator.vpp.handlers.dhcp import DhcpHandlers
from contiv.emulator.vpp.handlers.interfaces import InterfaceHandlers
from contiv.emulator.vpp.handlers.ip import IpHandlers
from contiv.emulator.vpp.handlers.l2 import L2Handlers
from contiv.emulator.vpp.handlers.nat44 import Nat44Handlers
from contiv.emulator.vpp.handlers.punt import PuntHandlers
from contiv.emulator.vpp.handlers.system import SystemHandlers
from contiv.emulator.vpp.machine import Machine
from contiv.emulator.vpp.serve import startup
from contiv.emulator.vpp.serve.api import ApiServer
from contiv.emulator.vpp.serve.cli import Cli
from contiv.emulator.vpp.serve.cli_socket import CliServer
from contiv.emulator.vpp.serve.loop import Loop
from contiv.errors import ContivError
from contiv.log import get_logger
from contiv.vpp.api import builtin_schema

if TYPE_CHECKING:
    from collections.abc import Sequence

log = get_logger(__name__)

GC_THRESHOLD: Final = 50_000
"""Objects between collections of cycles: packets make none, and a pause shows in every ping."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run until a signal; the exit code."""
    parser = argparse.ArgumentParser(prog="contiv.emulator.vpp", description="an emulated VPP")
    parser.add_argument("-c", dest="conf", metavar="FILE", required=True, help="startup.conf, as for VPP")
    options = parser.parse_args(argv)
    try:
        config = startup.parse(Path(options.conf).read_text())
        serve(config)
    except (ContivError, OSError) as error:
        print(f"contiv.emulator.vpp: {error}", file=sys.stderr)
        return 1
    return 0


def serve(config: startup.Startup) -> None:
    """Build everything, answer until told to stop, clean up."""
    loop = Loop()
    machine = Machine(time.monotonic)
    machine.graph.acl.reclassify = config.reclassify_sessions
    cli = Cli(machine)
    api = ApiServer(loop)
    machine.on_interface = api.interface_event

    def watch(device: Device) -> None:
        loop.watch_device(device, device.receive)

    devices = DeviceHandlers(machine, watch=watch, unwatch=loop.forget)
    interfaces = InterfaceHandlers(machine, devices.hosts)
    parts = (SystemHandlers(cli), devices, interfaces, IpHandlers(machine), L2Handlers(machine), AclHandlers(machine))
    dhcp = DhcpClients(machine)
    more = (PuntHandlers(machine), DhcpHandlers(machine, dhcp), Nat44Handlers(machine), ClassifyHandlers(machine))
    api.serve_handlers(collect((*parts, *more), builtin_schema().messages))
    loop.ticks.append(lambda: machine.graph.bridges.age(machine.clock()))
    loop.ticks.append(lambda: machine.graph.acl.sessions.work(machine.clock()))
    loop.ticks.append(lambda: dhcp.work(machine.clock()))
    loop.after_control = machine.graph.vxlan.probe
    cli_server = CliServer(loop, cli)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: loop.stop())
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD)
    Path(config.runtime_dir).mkdir(parents=True, exist_ok=True)
    try:
        cli_server.serve(config.cli_socket)
        api.serve(config.api_socket)
        log.info("ready", api=config.api_socket, cli=config.cli_socket, pid=os.getpid())
        loop.run()
    finally:
        api.close()
        cli_server.close()
        devices.close()
        loop.close()
        log.info("stopped")


if __name__ == "__main__":
    sys.exit(main())
