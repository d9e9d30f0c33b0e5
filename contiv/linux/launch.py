"""A launcher: enter a network namespace, ask to die with the parent, become the command. Run as a file.

``python -I -S launch.py [--die-with-parent] NETNS|- COMMAND [ARGUMENT…]``. It imports next to nothing, so
that it costs a few milliseconds. Exit code 126 and one line on standard error when it cannot.
``netns.command_in`` writes its line.
"""

import ctypes
import os
import sys

PR_SET_PDEATHSIG = 1
SIGKILL = 9
CLONE_NEWNET = 0x40000000


def main(arguments: list[str]) -> None:
    """Do as the module says; returns only by an exception."""
    libc = ctypes.CDLL(None, use_errno=True)
    if arguments[0] == "--die-with-parent":
        parent = os.getppid()
        libc.prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0)
        if parent == 1:
            sys.exit("launch: the parent is already gone")
        del arguments[0]
    netns, command = arguments[0], arguments[1:]
    if netns != "-":
        descriptor = os.open(netns, os.O_RDONLY)
        if libc.setns(descriptor, CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"setns {netns}")
        os.close(descriptor)
    os.execvp(command[0], command)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except OSError as error:
        sys.stderr.write(f"launch: {error}\n")
        sys.exit(126)
