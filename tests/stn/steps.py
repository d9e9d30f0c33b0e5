"""One call on a ``Theft`` in a process of its own, which kills itself after a step.

``JOURNAL take|back [STEP] [--nic NAME] [--driver NAME]``. Steps are those of ``contiv.stn.theft`` and, for a NIC on PCI
(``--driver`` is what VPP works with), the files of sysfs that are written: driver_override, unbind, drivers_probe.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from contiv.errors import ContivError
from contiv.stn.journal import Journal
from contiv.stn.pci import Bus
from contiv.stn.theft import Theft


class WatchedBus(Bus):
    """Tells what it has written."""

    def __init__(self, checkpoint: Callable[[str], None]) -> None:
        super().__init__()
        self._checkpoint = checkpoint

    def _write(self, place: Path, text: str) -> None:
        super()._write(place, text)
        self._checkpoint(place.name)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("journal", type=Path)
    parser.add_argument("verb", choices=("take", "back"))
    parser.add_argument("fatal", nargs="?", default="")
    parser.add_argument("--nic", default="nic0")
    parser.add_argument("--driver", default="")
    asked = parser.parse_args()

    def checkpoint(step: str) -> None:
        if step == asked.fatal:
            os.kill(os.getpid(), signal.SIGKILL)

    theft = Theft(Journal(asked.journal), bus=WatchedBus(checkpoint), checkpoint=checkpoint)
    try:
        match asked.verb:
            case "take":
                theft.take(asked.nic, vpp_socket="/nowhere", vpp_driver=asked.driver)
            case "back":
                theft.give_back()
    except ContivError as error:
        sys.exit(str(error))


main()
