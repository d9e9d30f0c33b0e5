"""The container runtime's side of CNI: run the plugin as the specification says (CNI 1.1, sections 2 and 3).

In: a configuration list, a command, the environment's values. Out: the plugin's result, or ``CniError`` with
its code. Plugins of a list run one after another on ADD, each given the result of the one before; backwards
on DEL.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from contiv.errors import CniError
from contiv.processes import send_signal

TIMEOUT_S: Final = 120.0
"""What CRI-O and containerd allow a sandbox's network at most, in the same order of magnitude."""
TRY_AGAIN_LATER: Final = 11
UNREADABLE: Final = 6


class Sandbox(msgspec.Struct, frozen=True, kw_only=True):
    """What the environment says of a pod's sandbox."""

    container_id: str
    netns: str
    namespace: str
    name: str
    uid: str
    ifname: str = "eth0"

    @property
    def arguments(self) -> str:
        """CNI_ARGS as containerd and CRI-O write it."""
        pairs = {
            "IgnoreUnknown": "1",
            "K8S_POD_NAMESPACE": self.namespace,
            "K8S_POD_NAME": self.name,
            "K8S_POD_INFRA_CONTAINER_ID": self.container_id,
            "K8S_POD_UID": self.uid,
        }
        return ";".join(f"{key}={value}" for key, value in pairs.items())


class Network:
    """One configuration list and where its plugins are."""

    def __init__(self, conflist: dict[str, Any], plugins: Sequence[Path]) -> None:
        self._list = conflist
        self._path = os.pathsep.join(str(directory) for directory in plugins)

    async def status(self) -> None:
        """STATUS; CniError when the network cannot serve an ADD now (codes 50, 51, 11)."""
        for plugin in self._list["plugins"]:
            await self._run(plugin, {"CNI_COMMAND": "STATUS"})

    async def add(self, sandbox: Sandbox) -> dict[str, Any]:
        """ADD; the last plugin's result."""
        result: dict[str, Any] | None = None
        for plugin in self._list["plugins"]:
            result = await self._run(plugin, _environment("ADD", sandbox), previous=result)
        return result or {}

    async def check(self, sandbox: Sandbox, result: dict[str, Any]) -> None:
        """CHECK against the result of ADD; CniError when the sandbox is not as it should be."""
        for plugin in self._list["plugins"]:
            await self._run(plugin, _environment("CHECK", sandbox), previous=result)

    async def remove(self, sandbox: Sandbox, result: dict[str, Any] | None = None) -> None:
        """DEL; success when nothing is there."""
        for plugin in reversed(self._list["plugins"]):
            await self._run(plugin, _environment("DEL", sandbox), previous=result)

    async def _run(
        self, plugin: dict[str, Any], environment: dict[str, str], *, previous: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        config = {"cniVersion": self._list["cniVersion"], "name": self._list["name"], **plugin}
        if previous is not None:
            config["prevResult"] = previous
        child = await asyncio.create_subprocess_exec(
            self._executable(plugin["type"]),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={"PATH": os.environ.get("PATH", ""), "CNI_PATH": self._path, **environment},
        )
        try:
            async with asyncio.timeout(TIMEOUT_S):
                output, complaint = await child.communicate(msgspec.json.encode(config))
        except TimeoutError:
            raise CniError(UNREADABLE, f"{plugin['type']}: no answer within {TIMEOUT_S:g} s") from None
        finally:
            send_signal(child, signal.SIGKILL)
            await child.wait()
        return _answer(plugin["type"], child.returncode or 0, output, complaint)

    def _executable(self, kind: str) -> str:
        for directory in self._path.split(os.pathsep):
            candidate = Path(directory) / kind
            if os.access(candidate, os.X_OK):
                return str(candidate)
        raise CniError(UNREADABLE, f"plugin {kind}: not in {self._path}; build or install it")


def _environment(command: str, sandbox: Sandbox) -> dict[str, str]:
    return {
        "CNI_COMMAND": command,
        "CNI_CONTAINERID": sandbox.container_id,
        "CNI_NETNS": sandbox.netns,
        "CNI_IFNAME": sandbox.ifname,
        "CNI_ARGS": sandbox.arguments,
    }


def _answer(kind: str, code: int, output: bytes, complaint: bytes) -> dict[str, Any]:
    """The result on standard output; after a failure the error that stands there, or else what it complained
    of.
    """
    try:
        said = msgspec.json.decode(output) if output.strip() else {}
    except msgspec.DecodeError:
        said = None
    if not isinstance(said, dict):
        text = output[:200].decode(errors="replace")
        raise CniError(UNREADABLE, f"{kind}: no JSON on standard output", details=text)
    if code:
        words = complaint.decode(errors="replace").strip()
        message = said.get("msg") or words or f"exit code {code}"
        raise CniError(int(said.get("code", 999)), f"{kind}: {message}", details=said.get("details", ""))
    return said
