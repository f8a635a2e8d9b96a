"""`hornbook feed serve`: a log, its producers and its server, as one process with one event loop.

In: the settings. Out: a feed that serves until SIGINT or SIGTERM: then producing ends, what was
made is committed, whoever waits gets 503, and answers that are being sent have ten seconds to end.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import errno
import ipaddress
import os
import signal
import socket
from collections.abc import Coroutine, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn

from hornbook.errors import HornbookError, check_limits
from hornbook.feed.archive import ArchiveProducer, archive_path
from hornbook.feed.auth import Address, listening_addresses, server_token
from hornbook.feed.config import FeedConfig
from hornbook.feed.cursors import Cursors
from hornbook.feed.descriptors import ACCEPTED_AT_ONCE, make_room
from hornbook.feed.guard import ConnectionLimits, guarded
from hornbook.feed.log import INSTEAD, LogWriter
from hornbook.feed.mixer import Mixer, open_producers
from hornbook.feed.reject import Languages
from hornbook.feed.retention import Retention, most_bytes, segment_bytes, size_in_bytes
from hornbook.feed.routes import application
from hornbook.feed.server import Feed
from hornbook.feed.teacher import check_teacher
from hornbook.feed.tunnel import open_tunnel
from hornbook.files import make_folder
from hornbook.gather.feed_log import is_feed
from hornbook.progress import say

IDLE_SECONDS = 75
"""A connection without requests is closed after this time: beyond a client's longest backoff."""
RETAIN_SECONDS = 1.0
"""The log's size is looked at, and its head written down, this often."""
WAITING = 1024
"""Connections that wait to be accepted, at most."""
DRAIN_SECONDS = 10
"""Answers that are being sent when the server stops have this time."""


class FeedServer(uvicorn.Server):
    """uvicorn with a feed; `should_exit` ends it.

    Args:
        feed: what is served.
        token: the bearer token, or None.
        sockets: listening ones (`listen`).
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
                backlog=ACCEPTED_AT_ONCE,
            )
        )
        feed.connections = lambda: len(self.server_state.connections)

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self._sockets[0].getsockname()[1])

    async def run_feed(self, *work: Coroutine[Any, Any, None]) -> None:
        """Serve until `should_exit`.

        Args:
            work: what goes on meanwhile, such as producing; cancelled when the server stops.

        Raises:
            HornbookError: the work failed; the server is stopped then too.
        """
        self._feed.start()
        self._work = [asyncio.create_task(each) for each in work]
        for task in self._work:
            task.add_done_callback(self._stop_on_error)
        await self.serve(self._sockets)
        for result in await asyncio.gather(*self._work, return_exceptions=True):
            if isinstance(result, Exception):
                raise result

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen. asyncio accepts as many connections at once as may wait to be accepted,
        which is more than there are descriptors: so the latter are told to the system alone."""
        await super().startup(sockets)
        for each in self._sockets:
            each.listen(WAITING)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End producing and the long polls, then let answers leave."""
        for task in self._work:
            task.cancel()
        self._feed.stop()
        # Not uvicorn's own limit, which prints where in the code each answer was.
        late = asyncio.get_running_loop().call_later(DRAIN_SECONDS, self._cut_off)
        await super().shutdown(sockets)
        late.cancel()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """SIGINT and SIGTERM end the server. uvicorn's own would raise them again afterwards, which
        would end the process before the log is closed."""
        self.force_exit = self.should_exit and sig == signal.SIGINT
        self.should_exit = True

    def _cut_off(self) -> None:
        for connection in list(self.server_state.connections):
            connection.transport.abort()

    def _stop_on_error(self, task: asyncio.Task[Any]) -> None:
        if not task.cancelled() and task.exception() is not None:
            self.should_exit = True


def serve(config: FeedConfig) -> None:
    """Serve a feed until SIGINT or SIGTERM.

    Raises:
        HornbookError: it may not listen there without a token, the folder is in use, the settings
            or the archive are wrong, the tunnel does not start, or the disk failed.
    """
    check_settings(config)
    make_room(config.max_connections)
    token = server_token(config)
    addresses = listening_addresses(config, token)
    folder = Path(config.folder)
    # What is refused must leave no empty feed behind.
    if archive_path(config) is None and not config.teachers and not is_feed(folder):
        raise _no_texts(folder)
    with contextlib.ExitStack() as held:
        sockets = listen(addresses, config.port)
        for each in sockets:
            held.callback(each.close)
        make_folder(folder, INSTEAD)
        cursors = held.enter_context(Cursors(folder))
        log = LogWriter.create_or_open(
            folder, segment_bytes=segment_bytes(config.keep), delivered=cursors.delivered()
        )
        held.callback(log.close)
        producers = open_producers(config, log)
        if not producers and log.head == log.first:
            raise _no_texts(folder)
        archives = [each for _, each in producers if isinstance(each, ArchiveProducer)]
        feed = Feed(log, cursors, config, held_out=archives[0] if archives else None)
        held.callback(feed.close)
        held.callback(feed.note_head)  # texts of the last second
        mixer = Mixer(
            log, producers, config, lambda: feed.read_to, lambda: feed.held,
            served=lambda: feed.metrics.texts,
        )  # fmt: skip
        feed.production = lambda: dataclasses.asdict(mixer.status())
        server = FeedServer(feed, token, sockets)
        say(_greeting(feed, addresses, server.port, token))
        if config.tunnel:
            public = held.enter_context(open_tunnel(config.tunnel, server.port))
            say(f"feed: {public} is its public address")
        asyncio.run(server.run_feed(mixer.run(), _retain(feed)))
    left = "the disk is full: what had no number yet is made again" if log.failure else ""
    say(f"feed: stopped; {left or 'everything that was made is in the log'}")


def _no_texts(folder: Path) -> HornbookError:
    return HornbookError(
        "has no texts, and nothing that makes any is named",
        where=folder,
        hint="Name --feed.archive FILE, or feed.teachers in a recipe",
    )


def check_settings(config: FeedConfig) -> None:
    """Raises `HornbookError`: a setting of serving has no meaning."""
    ahead_bytes = size_in_bytes(config.ahead_bytes, "feed.ahead_bytes")
    positive = ("max_n", "max_response_bytes", "max_connections", "ahead_texts")
    check_limits(
        config,
        "feed",
        [
            *((name, getattr(config, name) >= 1, "at least 1") for name in positive),
            ("ahead_bytes", ahead_bytes >= 1, "at least 1"),
            ("validation_texts", config.validation_texts >= 0, "at least 0"),
            ("port", 0 <= config.port <= 65535, "between 0 and 65535"),
        ],
    )
    most_bytes(config.keep)
    for number, teacher in enumerate(config.teachers):
        check_teacher(teacher, f"feed.teachers[{number}]")
    Languages(config.languages)


async def _retain(feed: Feed) -> None:
    """Keep the log near its size, and note how far it may have been read, until cancelled."""
    retention = Retention(feed.log, feed.cursors, feed.config.keep)
    while True:
        feed.held = await feed.in_cursors(retention.enforce)
        await feed.in_cursors(feed.note_head)
        await asyncio.sleep(RETAIN_SECONDS)


def _greeting(feed: Feed, addresses: Sequence[Address], port: int, token: str | None) -> str:
    log = feed.log
    hosts = [addresses[0][1]]
    if ipaddress.ip_address(hosts[0].partition("%")[0]).is_unspecified:  # that is, all of them
        hosts = ["::1" if ":" in hosts[0] else "127.0.0.1", socket.gethostname()]
    named = [f"[{host}]" if ":" in host else host for host in hosts]
    places = " or ".join(f"http://{host}:{port}" for host in named)
    needs = "; readers need the token" if token else ""
    texts = f"texts {log.first:,} to {log.head - 1:,}" if log.head > log.first else "no texts yet"
    return (
        f"feed: log {log.id}, {texts}\n"
        f"feed: {places} (status page; /openapi.json documents the rest){needs}"
    )


def listen(addresses: Sequence[Address], port: int) -> list[socket.socket]:
    """Sockets that listen at a port of each address; at port 0 any free one, the same for all."""
    sockets: list[socket.socket] = []
    with contextlib.ExitStack() as opened:
        for family, address in addresses:
            try:
                each = opened.enter_context(socket.create_server((address, port), family=family))
            except OSError as error:
                # A name such as localhost may have an address of a family that is switched off.
                if error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT) and len(addresses) > 1:
                    continue
                raise HornbookError(
                    f"cannot listen here ({os.strerror(error.errno or 0)})",
                    where=f"{address} port {port}",
                    hint="Is another feed running? --feed.port 0 takes any free port",
                ) from error
            port = each.getsockname()[1]
            sockets.append(each)
        if not sockets:
            raise HornbookError("none of this machine's addresses", where=str(addresses))
        opened.pop_all()
    return sockets
