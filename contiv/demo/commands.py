"""The command lines of what the demo starts, and the configuration files that they read. Nothing else knows
options.

In: places and names. Out: argument lists and mappings for YAML.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any, Final

from contiv.demo.wire import UPLINK
from contiv.errors import DemoError

PYTHON: Final = (sys.executable, "-m")
CONTIV: Final = (*PYTHON, "contiv.cli.main")
LOOPBACK: Final = "127.0.0.1:0"
NETWORK: Final = "contiv"
CNI_VERSION: Final = "1.1.0"
PLUGIN: Final = "contiv-cni"
PLUGIN_PATH_VARIABLE: Final = "CONTIV_CNI_PATH"
PREPARED_INTERFACES: Final = 16
NICS: Final = ("two", "one", "dhcp")
"""A second NIC for VPP alone; the host's only one, stolen; a second one, addressed by DHCP."""
INSTALLED_PLUGINS: Final = Path("/opt/cni/bin")


def emulated_api(*, kubeconfig: Path) -> list[str]:
    """The emulated API server on a free loopback port; it writes ``kubeconfig`` once it serves."""
    return [*PYTHON, "contiv.emulator.kube", "--listen", LOOPBACK, "--write-kubeconfig", str(kubeconfig)]


def ksr(*, kubeconfig: str, etcd: str) -> list[str]:
    """The one KSR."""
    return [*CONTIV, "ksr", "--kubeconfig", kubeconfig, "--etcd", etcd]


def crd(*, kubeconfig: str, etcd: str, config: Path) -> list[str]:
    """The one crd."""
    return [*CONTIV, "crd", "--kubeconfig", kubeconfig, "--etcd", etcd, "--config", str(config)]


def definitions() -> list[Path]:
    """The custom resources' definitions, where the demo runs from a source tree; elsewhere nobody needs crd."""
    return sorted((Path(__file__).parents[2] / "deploy" / "crds").glob("*.yaml"))


def init(*, config: Path, node: str) -> list[str]:
    """A node's data plane and agent, kept running."""
    return [*CONTIV, "init", "--config", str(config), "--node", node]


def stn(*, config: Path) -> list[str]:
    """A node's STN daemon."""
    return [*CONTIV, "stn", "--config", str(config)]


def node_config(
    directory: Path, *, node: str, etcd: str, dataplane: str, nics: str = "two", gateway: str = ""
) -> dict[str, Any]:
    """What differs from the defaults on a node of the demo. ``nics``: one of ``NICS``."""
    section: dict[str, Any] = {"nodeName": node}
    if nics == "one":
        section |= {"stealInterface": UPLINK}
    else:
        section |= {"mainVPPInterface": {"interfaceName": UPLINK, "useDHCP": nics == "dhcp"}}
    if gateway and nics == "two":
        section |= {"gateway": gateway}
    return {
        "etcd": {"endpoints": [etcd]},
        "vpp": {"dataplane": dataplane, "runDir": str(directory / "vpp")},
        "runDir": str(directory / "run"),
        "stateDir": str(directory / "state"),
        "restListen": f"unix:{directory / 'run' / 'rest.sock'}",
        "preparedInterfaces": PREPARED_INTERFACES,
        "stnSocketFile": str(directory / "run" / "stn.sock"),
        "nodeConfig": [section],
    }


def cni_socket(directory: Path) -> Path:
    """Where the agent of the node in ``directory`` serves the plugin."""
    return directory / "run" / "cni.sock"


def conflist(directory: Path) -> dict[str, Any]:
    """The CNI configuration list of the node in ``directory``."""
    plugin = {
        "type": PLUGIN,
        "agentSocket": str(cni_socket(directory)),
        "logFile": str(directory / "cni.log"),
    }
    return {"cniVersion": CNI_VERSION, "name": NETWORK, "plugins": [plugin]}


def plugin_directories() -> list[Path]:
    """Where the CNI plugin is: named by the environment, built in this source tree, or installed."""
    named = os.environ.get(PLUGIN_PATH_VARIABLE, "")
    built = Path(__file__).parents[2] / "cni"
    candidates = [Path(part) for part in named.split(os.pathsep) if part] + [built, INSTALLED_PLUGINS]
    found = [place for place in candidates if shutil.which(PLUGIN, path=str(place))]
    if not found:
        looked = ", ".join(map(str, candidates))
        raise DemoError(f"plugin {PLUGIN}: not in {looked}; build it with 'make install'")
    return found
