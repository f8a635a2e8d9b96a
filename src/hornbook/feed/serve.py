"""`hornbook feed serve`: a log, its producers and its server, as one process with one event loop.

In: the settings. Out: a feed that serves until SIGINT or SIGTERM: then producing ends, what was
made is committed, whoever waits gets 503, and answers that are being sent have ten seconds to end.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import errno
import signal
import socket
import threading
from collections.abc import Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any

import uvicorn

from hornbook.errors import HornbookError
from hornbook.feed.archive import ArchiveProducer
from hornbook.feed.auth import Address, listening_addresses, server_token
from hornbook.feed.config import FeedConfig
from hornbook.feed.cursors import Cursors
from hornbook.feed.guard import ConnectionLimits, guarded
from hornbook.feed.log import LogWriter
from hornbook.feed.mixer import Mixer, open_producers
from hornbook.feed.produce import Producer
from hornbook.feed.retention import Retention, segment_bytes
from hornbook.feed.routes import application
from hornbook.feed.server import Feed
from hornbook.feed.tunnel import TUNNELS, Tunnel, start_tunnel
from hornbook.files import disk_errors
from hornbook.progress import say

IDLE_SECONDS = 75
"""A connection without requests is closed after this time: beyond a client's longest backoff."""
RETAIN_SECONDS = 1.0
"""The log's size is looked at this often."""
DRAIN_SECONDS = 10
"""Answers that are being sent when the server stops have this time."""


class FeedServer(uvicorn.Server):
    """uvicorn with a feed; `should_exit` ends it.

    Args:
        feed: what is served.
        token: the bearer token, or None.
        sockets: bound ones (`bind`).
        limits: of a connection.
    """

    def __init__(
        self,
        feed: Feed,
        token: str | None,
        sockets: Sequence[socket.socket],
        limits: ConnectionLimits | None = None,
    ):
        self._feed, self._sockets = feed, list(sockets)
        limits = limits or ConnectionLimits(feed.config.max_connections)
        super().__init__(
            uvicorn.Config(
                application(feed, token),
                http=guarded(limits),
                ws="none",
                lifespan="off",
                log_config=None,
                log_level="error",  # what a broken client sends is no news
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=IDLE_SECONDS,
                timeout_graceful_shutdown=DRAIN_SECONDS,
            )
        )
        feed.connections = lambda: len(self.server_state.connections)

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self._sockets[0].getsockname()[1])

    async def run_feed(
        self, *work: Coroutine[Any, Any, None], tunnel: tuple[str, Tunnel] | None = None
    ) -> None:
        """Serve until `should_exit`.

        Args:
            work: what goes on meanwhile, such as producing; cancelled when the server stops.
            tunnel: a name, and what makes the port public once the server listens.

        Raises:
            HornbookError: the work or the tunnel failed; the server is stopped then too.
        """
        self._feed.start()
        serving = asyncio.create_task(self.serve(self._sockets))
        self._work = [asyncio.create_task(each) for each in work]
        if tunnel is not None:
            opening = asyncio.to_thread(_open, *tunnel, self.port)
            self._work.append(asyncio.create_task(opening))
        for task in self._work:
            task.add_done_callback(self._stop_on_error)
        try:
            await serving
        finally:
            results = await asyncio.gather(*self._work, return_exceptions=True)
            if tunnel is not None:
                await asyncio.to_thread(tunnel[1].stop)
        for result in results:
            if isinstance(result, Exception):
                raise result

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End producing and the long polls, then let answers leave."""
        for task in self._work:
            task.cancel()
        self._feed.stop()
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """SIGINT and SIGTERM end the server. uvicorn's own raises them again afterwards, which
        would end the process before the log is closed."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        ends = (signal.SIGINT, signal.SIGTERM)
        before = {each: signal.signal(each, self.handle_exit) for each in ends}
        try:
            yield
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)

    def _stop_on_error(self, task: asyncio.Task[Any]) -> None:
        if not task.cancelled() and task.exception() is not None:
            self.should_exit = True


def serve(config: FeedConfig, tunnel: Tunnel | None = None) -> None:
    """Serve a feed until SIGINT or SIGTERM.

    Args:
        config: the settings.
        tunnel: another one than `config.tunnel` names.

    Raises:
        HornbookError: it may not listen there without a token, the folder is in use, the settings
            or the archive are wrong, or the disk failed.
    """
    token = server_token(config)
    addresses = listening_addresses(config, token)
    if config.tunnel and tunnel is None:
        tunnel = TUNNELS[config.tunnel]()
    folder = Path(config.folder)
    with contextlib.ExitStack() as held:
        sockets = bind(addresses, config.port)
        for each in sockets:
            held.callback(each.close)
        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        cursors = held.enter_context(Cursors(folder))
        log = LogWriter.create_or_open(
            folder, segment_bytes=segment_bytes(config.keep), delivered=cursors.highest()
        )
        held.callback(log.close)
        producers = open_producers(config, log)
        if not producers and log.head == log.first:
            raise HornbookError(
                "has no texts, and nothing that makes any is named",
                where=folder,
                hint="Name --feed.archive FILE, or feed.teachers in a recipe",
            )
        archives = [each for _, each in producers if isinstance(each, ArchiveProducer)]
        feed = Feed(log, cursors, config, held_out=archives[0] if archives else None)
        held.callback(feed.close)
        making = _Making(feed, producers)
        work = (making.mixer.run(), making.retain())
        server = FeedServer(feed, token, sockets)
        say(_greeting(feed, addresses, server.port, token))
        public = (config.tunnel, tunnel) if tunnel else None
        asyncio.run(server.run_feed(*work, tunnel=public))
    say("feed: stopped; everything that was made is in the log")


class _Making:
    """The producers, and what keeps the log near its size."""

    def __init__(self, feed: Feed, producers: list[tuple[float, Producer]]):
        self._feed = feed
        self._held: str | None = None
        self._retention = Retention(feed.log, feed.cursors, feed.config.keep)
        self.mixer = Mixer(
            feed.log, producers, feed.config, lambda: feed.read_to, lambda: self._held
        )
        feed.production = lambda: dataclasses.asdict(self.mixer.status())

    async def retain(self) -> None:
        """Until cancelled."""
        while True:
            self._held = await self._feed.in_cursors(self._retention.enforce)
            await asyncio.sleep(RETAIN_SECONDS)


def _greeting(feed: Feed, addresses: Sequence[Address], port: int, token: str | None) -> str:
    log = feed.log
    host = addresses[0][1]
    place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    needs = "; readers need the token" if token else ""
    return (
        f"feed: log {log.id}, texts {log.first:,} to {log.head:,}\n"
        f"feed: http://{place} (status page; /openapi.json documents the rest){needs}"
    )


def bind(addresses: Sequence[Address], port: int) -> list[socket.socket]:
    """Sockets at a port of each address; at port 0 any free one, the same for all."""
    sockets: list[socket.socket] = []
    with contextlib.ExitStack() as opened:
        for family, address in addresses:
            try:
                # asyncio switches off Nagle's delays (40 ms an answer) only where TCP is named.
                kind = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
                each = opened.enter_context(kind)
                each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    each.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                each.bind((address, port))
            except OSError as error:
                # A name such as localhost may have an address of a family that is switched off.
                if error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT) and len(addresses) > 1:
                    continue
                raise HornbookError(
                    f"cannot listen here ({error.strerror})",
                    where=f"{address} port {port}",
                    hint="Is another feed running? --feed.port 0 takes any free port",
                ) from error
            port = each.getsockname()[1]
            sockets.append(each)
        if not sockets:
            raise HornbookError("none of this machine's addresses", where=str(addresses))
        opened.pop_all()
    return sockets


def _open(name: str, tunnel: Tunnel, port: int) -> None:
    say(f"public address: {start_tunnel(name, tunnel, port)}  (trainers need the token)")
