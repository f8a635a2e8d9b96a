"""What the routes of a feed share: its log, its readers' places, and who waits for texts.

In: a log, cursors, the settings. Out: answers with texts, of which each has at least one. Reading
by `cursor` is exact and repeatable; reading as a `consumer` shares the texts between all who give
the same name: at least once, and in no order that could be repeated.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

from starlette.requests import Request
from starlette.responses import Response

from hornbook.feed.bodies import Bodies, Format, Page, as_json, read_page
from hornbook.feed.config import FeedConfig
from hornbook.feed.cursors import ANONYMOUS, Cursors, Lease
from hornbook.feed.guard import Refusal, later
from hornbook.feed.log import LogWriter
from hornbook.feed.metrics import Metrics
from hornbook.gather.feed_log import Gone
from hornbook.tokens.feed_protocol import LEASE_HEADER, LEASE_SECONDS_HEADER

Result = TypeVar("Result")

WAIT_SECONDS = 20.0
"""A long poll, at most; proxies in between close at 30 s or more."""
LEASE_POLL_SECONDS = 1.0
"""A consumer that waits looks this often for leases that expired."""


class HeldOut(Protocol):
    """The archive's validation texts, always in the same order (`archive.py`)."""

    held_out: int

    def validation(self, cursor: int, most_texts: int, most_bytes: int) -> tuple[int, list[str]]:
        """Texts from a number on, and the cursor after them."""
        ...


class Feed:
    """What the routes share: the log, its readers' places, and who waits for texts.

    Args:
        log: the log; it tells of new texts.
        cursors: the readers' places.
        config: limits of an answer, and how long a lease lasts.
        held_out: the validation texts, where there is an archive.
        production: how producing goes, as JSON, for `/stats`; `problem` among it says why no texts
            are made.
    """

    def __init__(
        self,
        log: LogWriter,
        cursors: Cursors,
        config: FeedConfig,
        *,
        held_out: HeldOut | None = None,
        production: Callable[[], dict[str, Any]] = dict,
    ):
        self.log, self.cursors, self.config = log, cursors, config
        self.held_out, self.production = held_out, production
        self.metrics = Metrics()
        self.bodies = Bodies(self.metrics)
        self.began = time.monotonic()
        self.connections: Callable[[], int] = int
        """How many there are; the server says."""
        self.stopping = False
        self.read_to = cursors.highest()
        """Number up to which the fastest reader has read: production is bounded by it."""
        self._waiting = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._commit = asyncio.Event()
        self._cursor_thread = ThreadPoolExecutor(1, thread_name_prefix="feed-cursors")
        log.on_commit(self._committed)

    def start(self) -> None:
        """Begin, in the event loop that serves."""
        self._loop = asyncio.get_running_loop()

    def stop(self) -> None:
        """Answer all who wait; no more texts are given out."""
        self.stopping = True
        self._wake()

    def close(self) -> None:
        """End the threads."""
        self._cursor_thread.shutdown()
        self.bodies.close()

    def problem(self) -> str | None:
        """Why there is nothing to read; None: there is something."""
        if self.stopping:
            return "the feed is stopping"
        if self.log.head == self.log.first:
            return self.production().get("problem") or "no text has been made yet"
        return None

    async def by_cursor(
        self, cursor: int, n: int, wait: float, format: Format, accept: str | None
    ) -> Response:
        """The texts from a number on, exactly."""
        if cursor > self.log.head:
            raise Refusal(
                400,
                f"there is no number {cursor} yet, nor the one before it",
                "Is this another feed's cursor?",
                head=self.log.head,
            )
        self.read_to = max(self.read_to, cursor)
        deadline = asyncio.get_running_loop().time() + wait
        while self.log.head == cursor:
            await self._wait(deadline)
        most = self.config.max_response_bytes
        read = functools.partial(read_page, self.log, cursor, n, most, format)
        return await self.bodies.answer(read, accept, {})

    async def by_lease(
        self, request: Request, consumer: str, n: int, seconds: float, wait: float, format: Format
    ) -> Response:
        """Texts that nobody else of this consumer's name gets while the lease lasts; what is given
        to `ANONYMOUS` is done with at once."""
        deadline = asyncio.get_running_loop().time() + wait
        lease = functools.partial(self._lease, consumer, n, seconds, format)
        while (leased := await self.in_cursors(lease)) is None:
            await self._wait(deadline, LEASE_POLL_SECONDS)
            if await request.is_disconnected():
                raise Refusal(400, "the client left")  # and gets no lease that must expire first
        given, page = leased
        self.read_to = max(self.read_to, page.next)
        headers = {}
        if consumer != ANONYMOUS:
            headers = {LEASE_HEADER: given.id, LEASE_SECONDS_HEADER: f"{seconds:g}"}
        return await self.bodies.answer(
            lambda: page, request.headers.get("accept-encoding"), headers
        )

    async def validation(self, cursor: int, n: int, accept: str | None) -> Response:
        """Texts of the validation set from a number on; their head is how many there are."""
        held_out = self.held_out
        if held_out is None or held_out.held_out == 0:
            raise Refusal(404, "this feed has no validation texts", "They are an archive's")
        most = self.config.max_response_bytes

        def read() -> Page:
            following, texts = held_out.validation(cursor, n, most)
            if not texts:
                raise Refusal(
                    400,
                    f"there are no validation texts from number {cursor} on",
                    f"There are {held_out.held_out}",
                    head=held_out.held_out,
                )
            # Broken texts have numbers too: those at the end must not look as if more came.
            if not held_out.validation(following, 1, most)[1]:
                following = held_out.held_out
            return Page(cursor, following, len(texts), held_out.held_out, as_json(texts))

        return await self.bodies.answer(read, accept, {})

    async def keep(self, name: str, following: int) -> None:
        """Keep the texts from a number on for a reader. Raises `Refusal`: they cannot be kept."""
        if following > self.log.head:
            raise Refusal(400, f"there is no text {following} yet", head=self.log.head)
        if following < self.log.first:
            first = self.log.first
            raise Refusal(410, f"text {following} is no longer kept", first=first)
        await self.in_cursors(lambda: self.cursors.set(name, following))
        self.read_to = max(self.read_to, following)

    async def in_cursors(self, work: Callable[[], Result]) -> Result:
        """Do something with the cursors, which wait for the disk, in their thread."""
        return await asyncio.get_running_loop().run_in_executor(self._cursor_thread, work)

    def _lease(
        self, consumer: str, n: int, seconds: float, format: Format
    ) -> tuple[Lease, Page] | None:
        """A lease of just the texts in its page; None: there are none to be had now."""
        log, most = self.log, self.config.max_response_bytes
        while lease := self.cursors.lease(consumer, log.first, log.head, n, seconds):
            count = lease.next - lease.first
            more = {} if consumer == ANONYMOUS else {"lease": lease.id, "lease_seconds": seconds}
            try:
                page = read_page(log, lease.first, count, most, format, **more)
            except Gone as gone:  # what is lost is done with: nobody need be given it again
                self._shorten(consumer, lease, gone.first)
                self.cursors.acknowledge(consumer, lease.id)
                continue
            self._shorten(consumer, lease, page.next)
            if consumer == ANONYMOUS:
                self.cursors.acknowledge(consumer, lease.id)
            return lease, page
        return None

    def _shorten(self, consumer: str, lease: Lease, following: int) -> None:
        """Only the numbers before `following` stay leased."""
        if following < lease.next:
            self.cursors.shorten(consumer, lease.id, following)

    async def _wait(self, deadline: float, most: float = WAIT_SECONDS) -> None:
        """Wait for the log to grow. Raises `Refusal` 503 at the deadline, or when stopping."""
        remaining = min(deadline - asyncio.get_running_loop().time(), most)
        if self.stopping:
            raise later("the feed is stopping", 5)
        if remaining <= 0:
            raise later("no text yet", 1, self.production().get("problem") or "")
        if self._waiting >= self.config.max_connections:
            raise later("too many wait for texts", 5)
        self._waiting += 1
        try:
            await asyncio.wait_for(self._commit.wait(), remaining)
        except TimeoutError:
            pass
        finally:
            self._waiting -= 1

    def _committed(self, head: int) -> None:
        """From the log's thread: texts up to `head` are on the disk."""
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the server ended, and its loop with it
                self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        self._commit.set()
        self._commit = asyncio.Event()
