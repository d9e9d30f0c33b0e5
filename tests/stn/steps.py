"""One call on a ``Theft`` in a process of its own, which kills itself after a step: ``JOURNAL take|back [STEP]``."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from contiv.errors import ContivError
from contiv.stn.journal import Journal
from contiv.stn.theft import Theft


def main() -> None:
    journal, verb, fatal = Path(sys.argv[1]), sys.argv[2], sys.argv[3] if len(sys.argv) > 3 else ""

    def checkpoint(step: str) -> None:
        if step == fatal:
            os.kill(os.getpid(), signal.SIGKILL)

    theft = Theft(Journal(journal), checkpoint=checkpoint)
    try:
        match verb:
            case "take":
                theft.take("nic0", vpp_socket="/nowhere")
            case "back":
                theft.give_back()
    except ContivError as error:
        sys.exit(str(error))


main()
