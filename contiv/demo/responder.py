"""What runs in the demo's pods: answers on the given ports. Run as a file with Python alone, a small process
each.

``python -I -S responder.py NAME tcp/8080 udp/8080 …``. A line over TCP that starts with ``GET `` gets an HTTP
answer that names the pod and the client, so that ``curl`` shows who answered whom; all else comes back as it
was sent.
"""

import selectors
import socket
import sys

CHUNK = 65536
CLIENTS_MAX = 512


def main(name: str, ports: list[str]) -> None:
    """Serve for ever."""
    selector = selectors.DefaultSelector()
    for port in ports:
        protocol, number = port.split("/")
        kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
        server = socket.socket(socket.AF_INET, kind)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(("", int(number)))
        server.setblocking(False)
        if protocol == "tcp":
            server.listen(64)
        role = accept if protocol == "tcp" else echo
        selector.register(server, selectors.EVENT_READ, (role, server))
    print("serving", flush=True)
    while True:
        for key, _ in selector.select():
            role, connection = key.data
            try:
                role(selector, connection, name)
            except OSError:  # the client has gone, or cannot take more: it loses its connection, nobody else does
                if role is answer:
                    close(selector, connection)


def echo(_: selectors.BaseSelector, server: socket.socket, __: str) -> None:
    """One datagram goes back."""
    data, client = server.recvfrom(CHUNK)
    server.sendto(data, client)


def accept(selector: selectors.BaseSelector, server: socket.socket, _: str) -> None:
    """A new TCP connection, while there are not too many."""
    connection, _client = server.accept()
    if len(selector.get_map()) > CLIENTS_MAX:
        connection.close()
        return
    connection.setblocking(False)
    selector.register(connection, selectors.EVENT_READ, (answer, connection))


def answer(selector: selectors.BaseSelector, connection: socket.socket, name: str) -> None:
    """Data or the end of one TCP connection."""
    data = connection.recv(CHUNK)
    if data.startswith(b"GET "):
        client, own = connection.getpeername()[0], connection.getsockname()[0]
        body = f"{name} ({own}) to {client}: hello\n".encode()
        head = f"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)
    elif data:
        connection.sendall(data)
        return
    close(selector, connection)


def close(selector: selectors.BaseSelector, connection: socket.socket) -> None:
    """Forget the connection."""
    selector.unregister(connection)
    connection.close()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
