"""A real server of a feed on a free port of loopback, in a thread of the test's process."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx2

from hornbook.documents import Document
from hornbook.feed.auth import listening_addresses
from hornbook.feed.config import FeedConfig
from hornbook.feed.cursors import Cursors
from hornbook.feed.guard import ConnectionLimits
from hornbook.feed.log import LogWriter
from hornbook.feed.serve import FeedServer, listen
from hornbook.feed.server import Feed


@dataclass
class Served:
    """A feed that is being served."""

    url: str
    port: int
    log: LogWriter
    cursors: Cursors
    feed: Feed
    server: FeedServer
    thread: threading.Thread
    token: str | None

    def client(self, **options: Any) -> httpx2.Client:
        """A client of it, with its token."""
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        headers |= options.pop("headers", {})
        return httpx2.Client(base_url=self.url, headers=headers, timeout=30, **options)

    def get(self, path: str, **params: Any) -> httpx2.Response:
        """GET, once."""
        with self.client() as client:
            return client.get(path, params=params)

    def add(self, *texts: str) -> int:
        """Append texts, and wait until they are on disk; the number of the first."""
        return self.log.append([Document(text) for text in texts], {}).result(30)

    def stop(self) -> None:
        """End the server gracefully; the log stays open."""
        self.server.should_exit = True
        self.thread.join(30)
        assert not self.thread.is_alive()
        self.feed.close()


@contextlib.contextmanager
def serving(
    log: LogWriter,
    *,
    token: str | None = None,
    port: int = 0,
    limits: ConnectionLimits | None = None,
    held_out: Any = None,
    production: Any = dict,
    **settings: Any,
) -> Iterator[Served]:
    """Serve a log. `settings` are those of `FeedConfig`."""
    config = FeedConfig(folder=str(log.folder), **settings)
    sockets = listen(listening_addresses(config, token), port)
    with Cursors(log.folder) as cursors:
        feed = Feed(log, cursors, config, held_out=held_out, production=production)
        server = FeedServer(feed, token, sockets, limits)
        thread = threading.Thread(target=lambda: asyncio.run(server.run_feed()), daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{server.port}"
        served = Served(url, server.port, log, cursors, feed, server, thread, token)
        for _ in range(500):
            with contextlib.suppress(httpx2.TransportError):
                if httpx2.get(f"{url}/healthz").status_code == 200:
                    break
            thread.join(0.02)
        try:
            yield served
        finally:
            if thread.is_alive():
                served.stop()
