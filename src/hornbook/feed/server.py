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
from typing import TYPE_CHECKING, Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response

from hornbook.errors import HornbookError
from hornbook.feed.bodies import Bodies, Format, Page, as_json, read_page
from hornbook.feed.config import FeedConfig
from hornbook.feed.cursors import ANONYMOUS, Cursors, Lease
from hornbook.feed.guard import Refusal, later
from hornbook.feed.log import LogWriter
from hornbook.feed.metrics import Metrics
from hornbook.gather.feed_log import Gone
from hornbook.tokens.feed_protocol import LEASE_HEADER, LEASE_SECONDS_HEADER

if TYPE_CHECKING:
    from hornbook.feed.archive import ArchiveProducer

Result = TypeVar("Result")

WAIT_SECONDS = 20.0
"""A long poll, at most; proxies in between close at 30 s or more."""
LEASE_POLL_SECONDS = 1.0
"""A consumer that waits looks this often for leases that expired."""


class Feed:
    """One feed, as its routes see it.

    Args:
        log: the log; it tells of new texts.
        cursors: the readers' places.
        config: limits of an answer.
        held_out: has the validation texts, where there is an archive.
        production: how producing goes, as JSON, for `/stats`; `problem` among it says why no texts
            are made.
    """

    def __init__(
        self,
        log: LogWriter,
        cursors: Cursors,
        config: FeedConfig,
        *,
        held_out: ArchiveProducer | None = None,
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
        self.held: str | None = None
        """Whose cursor keeps the log from being made shorter, so that production has to pause."""
        self._cursor_thread = ThreadPoolExecutor(1, thread_name_prefix="feed-cursors")
        self._noted = 0
        """The head that was written down last."""

    def start(self) -> None:
        """Begin, in the event loop that serves."""
        loop = asyncio.get_running_loop()
        self._grown: asyncio.Future[None] = loop.create_future()
        """Done, and another one in its place, when there are new texts (or the feed stops)."""

        def committed(head: int) -> None:  # in the log's thread
            with contextlib.suppress(RuntimeError):  # the server ended, and its loop with it
                loop.call_soon_threadsafe(self._wake)

        self.log.on_commit(committed)

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
        self, request: Request, cursor: int, n: int, wait: float, format: Format
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
        deadline = time.monotonic() + wait
        while self.log.head == cursor:
            await self._wait(request, deadline)
        most = self.config.max_response_bytes
        read = functools.partial(read_page, self.log, cursor, n, most, format)
        return await self.bodies.answer(read, request)

    async def by_lease(
        self, request: Request, consumer: str, n: int, seconds: float, wait: float, format: Format
    ) -> Response:
        """Texts that nobody else of this consumer's name gets while the lease lasts; what is given
        to `ANONYMOUS` is done with at once."""
        deadline = time.monotonic() + wait
        lease = functools.partial(self._lease, consumer, n, seconds, format)
        while (leased := await self.in_cursors(lease)) is None:
            await self._wait(request, deadline, LEASE_POLL_SECONDS)
        given, page = leased
        self.read_to = max(self.read_to, page.next)
        headers = {}
        if consumer != ANONYMOUS:
            headers = {LEASE_HEADER: given.id, LEASE_SECONDS_HEADER: f"{seconds:g}"}
        return await self.bodies.answer(lambda: page, request, headers)

    async def validation(self, request: Request, cursor: int, n: int) -> Response:
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

        return await self.bodies.answer(read, request)

    async def keep(self, name: str, following: int) -> None:
        """Keep the texts from a number on for a reader. Raises `Refusal`: they cannot be kept."""
        if following > self.log.head:
            raise Refusal(400, f"there is no text {following} yet", head=self.log.head)

        def register() -> None:  # segments are dropped in this thread too, so not in between
            first = self.log.first
            if following < first:
                raise Refusal(410, f"text {following} is no longer kept", first=first)
            self.cursors.set(name, following)

        await self.in_cursors(register)
        self.read_to = max(self.read_to, following)

    def note_head(self) -> None:
        """Write down which numbers may have been read, so that they are never given again, whatever
        happens to the log's end.

        Only what is durable is in the head, so this can never name a number that a crash takes
        away. Where it cannot be written, as on a full disk, reading goes on, and it is tried again.
        """
        head = self.log.head
        if head != self._noted:
            with contextlib.suppress(HornbookError):
                self.cursors.note_head(head)
                self._noted = head

    async def in_cursors(self, work: Callable[[], Result]) -> Result:
        """Do something with the cursors, which wait for the disk, in their thread."""
        return await asyncio.get_running_loop().run_in_executor(self._cursor_thread, work)

    def _lease(
        self, consumer: str, n: int, seconds: float, format: Format
    ) -> tuple[Lease, Page] | None:
        """A lease of just the texts in its page; None: there are none to be had now."""
        log, most, ask = self.log, self.config.max_response_bytes, n
        while lease := self.cursors.lease(consumer, log.first, log.head, ask, seconds):
            count = min(n, lease.next - lease.first)
            more = {} if consumer == ANONYMOUS else {"lease": lease.id, "lease_seconds": seconds}
            try:
                page = read_page(log, lease.first, count, most, format, **more)
            except Gone as gone:  # what is lost is done with: nobody need be given it again
                self.cursors.shorten(consumer, lease.id, gone.first)
                self.cursors.acknowledge(consumer, lease.id)
                ask = max(n, gone.first - lease.next)  # all of it at once: each lease is a sync
                continue
            except HornbookError:  # they were not sent, so whoever asks next gets them
                self.cursors.release(consumer, lease.id)
                raise
            self.cursors.shorten(consumer, lease.id, page.next)
            if consumer == ANONYMOUS:
                self.cursors.acknowledge(consumer, lease.id)
            return lease, page
        return None

    async def _wait(self, request: Request, deadline: float, most: float = WAIT_SECONDS) -> None:
        """Wait for the log to grow. Raises `Refusal` at the deadline, or when stopping, or when the
        client left: so those who wait are no more than the connections."""
        remaining = min(deadline - time.monotonic(), most)
        if self.stopping:
            raise later("the feed is stopping", 5)
        if remaining <= 0:
            raise later("no text yet", 1, self.production().get("problem") or "")
        left = asyncio.ensure_future(_until_gone(request))
        first = asyncio.FIRST_COMPLETED
        try:
            await asyncio.wait({self._grown, left}, timeout=remaining, return_when=first)
            if left.done():
                left.result()
                raise Refusal(499, "the client left")  # nginx's number for it; nobody receives it
        finally:
            left.cancel()

    def _wake(self) -> None:
        self._grown.set_result(None)
        self._grown = asyncio.get_running_loop().create_future()


async def _until_gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
