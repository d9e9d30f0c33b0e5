"""What every client asks of the process itself: version, definitions, CLI, pings (memclnt.api, vlib.api, vpe.api)."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any, Final

from contiv.vpp.api import RECORD_VERSION, read_record

if TYPE_CHECKING:
    from contiv.emulator.vpp.handlers import Fields
    from contiv.emulator.vpp.serve.cli import Cli

VERSION: Final = f"{RECORD_VERSION}-emulated"


class SystemHandlers:
    """Handlers about the process."""

    def __init__(self, cli: Cli) -> None:
        self._cli = cli

    def control_ping(self, message: Any) -> Fields:
        return {"vpe_pid": os.getpid()}

    def memclnt_keepalive(self, message: Any) -> None:
        return None

    def show_version(self, message: Any) -> Fields:
        return {"program": "vpe", "version": VERSION, "build_date": "", "build_directory": "contiv.emulator.vpp"}

    def show_vpe_system_time(self, message: Any) -> None:
        return None

    def show_threads(self, message: Any) -> Fields:
        thread = {"id": 0, "name": "vpp_main", "type": "", "pid": os.getpid()}
        return {"count": 1, "thread_data": [thread]}

    def api_versions(self, message: Any) -> Fields:
        versions = []
        for name, version in sorted(read_record()["versions"].items()):
            major, minor, patch = ([int(part) for part in version.split(".")] + [0, 0, 0])[:3] if version else (0, 0, 0)
            versions.append({"name": name, "major": major, "minor": minor, "patch": patch})
        return {"count": len(versions), "api_versions": versions}

    def get_api_json(self, message: Any) -> Fields:
        return {"json": json.dumps([read_record()])}

    def cli_inband(self, message: Any) -> Fields:
        text, known = self._cli.answer(message.cmd)
        return {"retval": 0 if known else -1, "reply": text}
