"""Servers that hang, lie, drip and cut off, on loopback; and a clock that nobody waits for."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import ssl
import threading
from collections.abc import Callable, Iterator

Answer = Callable[[socket.socket, str], None]
"""Given the connection and the request's head, sends whatever it likes."""


class FakeClock:
    """Time that passes only by sleeping, and by `tick` each time that someone looks."""

    def __init__(self, tick: float = 0.0):
        self.time, self.tick = 0.0, tick
        self.slept: list[float] = []
        self._lock = threading.Lock()

    def now(self) -> float:
        with self._lock:
            self.time += self.tick
            return self.time

    def sleep(self, seconds: float) -> None:
        with self._lock:
            self.slept.append(seconds)
            self.time += seconds

    def stop(self) -> None:
        pass


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # clients that turn away in the middle are what is tested


@contextlib.contextmanager
def raw_server(answers: dict[str, Answer], context: ssl.SSLContext | None = None) -> Iterator[str]:
    """Serve each path by its function, one request a connection; yields the server's address."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            connection = self.request
            if context is not None:
                connection = context.wrap_socket(connection, server_side=True)
            head = b""
            while b"\r\n\r\n" not in head:
                block = connection.recv(65536)
                if not block:
                    return
                head += block
            text = head.decode("latin-1")
            answers[text.split(" ")[1].partition("?")[0]](connection, text)
            connection.close()

    with _Server(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        scheme = "http" if context is None else "https"
        yield f"{scheme}://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def sends(head: str, body: bytes = b"") -> Answer:
    """Answer with this head (without the blank line) and body, whether they agree or not."""
    data = head.replace("\n", "\r\n").encode() + b"\r\n\r\n" + body
    return lambda connection, request: connection.sendall(data)


def hangs(connection: socket.socket, request: str) -> None:
    """Answer nothing until the client gives up."""
    connection.recv(1)


def endless(connection: socket.socket, request: str) -> None:
    """A body without end."""
    connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        connection.sendall(b"x" * 65536)
