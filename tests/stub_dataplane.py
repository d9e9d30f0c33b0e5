"""A stand-in for VPP in tests of ``contiv init``: ``bin/vpp -c startup.conf`` listens on its API socket, no more.

It writes its process ID into ``startup.pids`` beside the startup.conf; a file ``refuse`` there makes it end at once,
``deaf`` makes it run without a socket.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import sys
from pathlib import Path

CODE_REFUSED = 3


def main(conf: Path) -> int:
    """Serve until SIGTERM; the exit code."""
    with conf.with_suffix(".pids").open("a") as pids:
        pids.write(f"{os.getpid()}\n")
    if (conf.parent / "refuse").exists():
        print("stub: told to refuse", file=sys.stderr)
        return CODE_REFUSED
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    path = re.search(r"socket-name (\S*api\.sock)", conf.read_text())
    assert path is not None, "startup.conf names the API socket"
    listener = socket.socket(socket.AF_UNIX)
    if not (conf.parent / "deaf").exists():
        listener.bind(path[1])
        listener.listen()
    while True:
        signal.pause()


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[2])))
