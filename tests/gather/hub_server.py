"""A stand-in for the Hugging Face hub on loopback: revisions, paged trees, files by redirect."""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

SHA = "5" * 40
PAGE = 3
"""Entries in a page of the tree."""


@dataclass
class Hub:
    """What the server holds, and what it was asked.

    Args:
        dataset: its name.
        files: content by path.
        token: needed where it is not empty.
        failures: statuses to answer with first, by a part of the path.
        retry_after: what a failure says.
        cut_off: files that break off after so many bytes, once.
        on_half: called when half of a file is sent.
        damaged: files that arrive with another last byte.
    """

    dataset: str
    files: dict[str, bytes]
    token: str = ""
    url: str = ""
    sha: str = SHA
    failures: dict[str, list[int]] = field(default_factory=dict)
    retry_after: str = "0"
    cut_off: dict[str, int] = field(default_factory=dict)
    on_half: Callable[[str], None] = lambda path: None
    damaged: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)
    tokens: list[tuple[str, str]] = field(default_factory=list)
    old_shas: set[str] = field(default_factory=set)
    ranges: dict[str, str] = field(default_factory=dict)
    revisions: list[str] = field(default_factory=list)


@contextlib.contextmanager
def serve_hub(hub: Hub) -> Iterator[Hub]:
    """Serve a hub until the end of the block; sets `hub.url`."""

    class Handler(_Handler):
        server_hub = hub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    server_hub: Hub
    protocol_version = "HTTP/1.1"

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):  # of clients that are killed
            super().handle()

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        hub = self.server_hub
        parts = urlsplit(self.path)
        path = unquote(parts.path)
        hub.asked.append(path)
        hub.tokens.append((path, self.headers.get("Authorization", "")))
        for word, statuses in hub.failures.items():
            if word in path and statuses:
                self._send(statuses.pop(0), b"busy", {"Retry-After": hub.retry_after})
                return
        if path.startswith("/cdn/"):
            self._file(path.removeprefix("/cdn/"))
            return
        if hub.token and self.headers.get("Authorization") != f"Bearer {hub.token}":
            self._send(401, b'{"error": "Invalid username or password."}')
        elif path.startswith(f"/api/datasets/{hub.dataset}/revision/"):
            hub.revisions.append(path.partition("/revision/")[2])
            about = {"sha": hub.sha, "cardData": {"license": "odc-by"}}
            self._send(200, json.dumps(about).encode())
        elif path.removeprefix(f"/api/datasets/{hub.dataset}/tree/") in {hub.sha, *hub.old_shas}:
            self._tree(int(parse_qs(parts.query).get("cursor", ["0"])[0]))
        elif path.startswith(f"/datasets/{hub.dataset}/resolve/"):
            target = self.path.partition("/resolve/")[2].partition("/")[2]
            self._send(302, b"", {"Location": f"{hub.url}/cdn/{target}"})
        else:
            self._send(404, b'{"error": "not found"}')

    def _tree(self, begin: int) -> None:
        hub = self.server_hub
        rows = [{"type": "directory", "path": "data", "size": 0}]
        for path, content in hub.files.items():
            sha256 = hashlib.sha256(content).hexdigest()
            lfs = {"lfs": {"oid": sha256, "size": len(content)}} if len(content) > 1000 else {}
            rows.append({"type": "file", "path": path, "size": len(content), **lfs})
        more = begin + PAGE < len(rows)
        here = f"{hub.url}/api/datasets/{hub.dataset}/tree/{hub.sha}"
        link = {"Link": f'<{here}?recursive=true&cursor={begin + PAGE}>; rel="next"'}
        self._send(200, json.dumps(rows[begin : begin + PAGE]).encode(), link if more else {})

    def _file(self, path: str) -> None:
        hub = self.server_hub
        content = hub.files[path]
        begin = int(self.headers.get("Range", "bytes=0-")[6:-1])
        hub.ranges[path] = self.headers.get("Range", "")
        body = content[begin:]
        if path in hub.damaged:
            body = body[:-1] + b"?"
        headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"'}
        if begin:
            headers["Content-Range"] = f"bytes {begin}-{len(content) - 1}/{len(content)}"
        if path in hub.cut_off:
            self.close_connection = True
            self._send(206 if begin else 200, body, headers, hub.cut_off.pop(path))
        else:
            self._send(206 if begin else 200, body, headers)

    def _send(
        self,
        status: int,
        body: bytes,
        headers: dict[str, str] | None = None,
        cut: int | None = None,
    ) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        body = body[:cut]
        self.wfile.write(body[: len(body) // 2])
        if self.path.startswith("/cdn/"):
            self.server_hub.on_half(self.path)
        self.wfile.write(body[len(body) // 2 :])
