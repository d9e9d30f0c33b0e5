"""One TCP stream for a measurement. Run as a file with Python alone, inside a namespace.

``traffic.py receive ADDRESS PORT SECONDS`` prints ``ready``, takes one connection, counts what arrives from
its first byte on for that time, prints bytes and seconds, and hangs up. ``traffic.py send ADDRESS PORT
SECONDS`` sends until then. The receiver decides the end, so that a slow path with full buffers takes no
longer than a fast one.
"""

import socket
import sys
import time

BLOCK = 256 * 1024
PATIENCE_S = 5.0


def receive(address: str, port: int, seconds: float) -> None:
    """Take one connection and count."""
    server = socket.create_server((address, port))
    server.settimeout(PATIENCE_S)
    print("ready", flush=True)
    connection, _ = server.accept()
    connection.settimeout(PATIENCE_S)
    buffer = bytearray(BLOCK)
    count = connection.recv_into(buffer, 1)
    started = time.perf_counter()
    while (elapsed := time.perf_counter() - started) < seconds:
        got = connection.recv_into(buffer)
        if not got:
            break
        count += got
    print(count, elapsed, flush=True)


def send(address: str, port: int, seconds: float) -> None:
    """Send until the receiver hangs up."""
    block = bytes(BLOCK)
    deadline = time.perf_counter() + seconds + 2 * PATIENCE_S
    with socket.create_connection((address, port), timeout=PATIENCE_S) as connection:
        try:
            while time.perf_counter() < deadline:
                connection.sendall(block)
        except (BrokenPipeError, ConnectionResetError):
            return


if __name__ == "__main__":
    {"receive": receive, "send": send}[sys.argv[1]](sys.argv[2], int(sys.argv[3]), float(sys.argv[4]))
