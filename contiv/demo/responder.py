"""What runs in the demo's pods: answers on the given ports. Run as a file with Python alone, a small process each.

``python -I -S responder.py NAME tcp/8080 udp/8080 …``. A line over TCP that starts with ``GET `` gets an HTTP answer that
names the pod and the client, so that ``curl`` shows who answered whom; all else comes back as it was sent.
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
        selector.register(server, selectors.EVENT_READ, "accept" if protocol == "tcp" else "datagram")
    while True:
        for key, _ in selector.select():
            try:
                serve(selector, key, name)
            except OSError:  # the client has gone, or cannot take more: it loses its connection, nobody else does
                if key.data == "stream":
                    selector.unregister(key.fileobj)
                    key.fileobj.close()


def serve(selector: selectors.DefaultSelector, key: selectors.SelectorKey, name: str) -> None:
    """One readable socket."""
    if key.data == "datagram":
        data, client = key.fileobj.recvfrom(CHUNK)
        key.fileobj.sendto(data, client)
    elif key.data == "accept":
        connection, _ = key.fileobj.accept()
        if len(selector.get_map()) > CLIENTS_MAX:
            connection.close()
            return
        connection.setblocking(False)
        selector.register(connection, selectors.EVENT_READ, "stream")
    else:
        answer(selector, key.fileobj, name)


def answer(selector: selectors.DefaultSelector, connection: socket.socket, name: str) -> None:
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
    selector.unregister(connection)
    connection.close()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
