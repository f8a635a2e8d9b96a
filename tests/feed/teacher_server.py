"""A model server on loopback that speaks OpenAI's API, or fails as the test says."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Asked = dict[str, Any]


@dataclass
class Answer:
    """What the server sends back, after `delay` seconds; `cut`: only half of the body."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0
    cut: bool = False


def text(words: str, *, delay: float = 0.0) -> Answer:
    """A good answer to either endpoint."""
    choice = {"index": 0, "finish_reason": "stop", "text": words, "message": {"content": words}}
    body = json.dumps({"object": "x", "choices": [choice]}).encode()
    return Answer(200, body, {"Content-Type": "application/json"}, delay)


class TeacherServer:
    """Answers with `script(number of the request, path, what was asked)`."""

    def __init__(self, script: Callable[[int, str, Asked], Answer]):
        self.asked: list[tuple[str, Asked, dict[str, str]]] = []
        self.most_at_once = 0
        self._at_once = 0
        self._lock = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                length = int(self.headers["Content-Length"])
                asked = json.loads(self.rfile.read(length))
                with server._lock:
                    number = len(server.asked)
                    server.asked.append((self.path, asked, dict(self.headers)))
                    server._at_once += 1
                    server.most_at_once = max(server.most_at_once, server._at_once)
                answer = script(number, self.path, asked)
                time.sleep(answer.delay)
                with server._lock:
                    server._at_once -= 1
                with contextlib.suppress(ConnectionError):
                    self.send_response(answer.status)
                    for name, value in answer.headers.items():
                        self.send_header(name, value)
                    self.send_header("Content-Length", str(len(answer.body)))
                    self.end_headers()
                    sent = answer.body[: len(answer.body) // 2] if answer.cut else answer.body
                    self.wfile.write(sent)
                if answer.cut:
                    self.close_connection = True

            def log_message(self, *_: object) -> None:
                """Tests are quiet."""

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,))

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


@contextlib.contextmanager
def teacher_server(script: Callable[[int, str, Asked], Answer]) -> Iterator[TeacherServer]:
    server = TeacherServer(script)
    server.start()
    try:
        yield server
    finally:
        server.stop()
