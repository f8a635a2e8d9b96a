"""Answers with texts: read from the log, compressed, and sent in pieces.

In: a cursor, a number of texts, what the client accepts. Out: a response that holds its bytes until
they have left. Reading and compressing happen in threads, so that the event loop stays free; the
bytes of all answers together are bounded.
"""

from __future__ import annotations

import asyncio
import json
import zlib
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa
from starlette.requests import Request
from starlette.responses import Response

from hornbook.feed.guard import Message, Receive, Send, later
from hornbook.feed.metrics import Metrics
from hornbook.gather.feed_log import FeedLog
from hornbook.tokens.feed_protocol import (
    COUNT_HEADER,
    FIRST_HEADER,
    HEAD_HEADER,
    NEXT_HEADER,
    PROTOCOL,
)

Format = Literal["array", "object"]
Encoding = Literal["zstd", "gzip", ""]

MAX_IN_FLIGHT = 256 * 10**6
"""Bytes of answers that wait to be sent, over all connections; more are answered 503."""

PIECE = 64 * 1024
"""Bytes handed to a connection at a time."""

READERS = 2
"""Threads that read and compress: one with a large answer does not hold up the small ones."""

NO_HEADERS: Mapping[str, str] = {}

COMPRESS_FROM = 1024
"""Bytes from which an answer is compressed."""


@dataclass(frozen=True)
class Page:
    """Texts of the log as JSON, before compression."""

    first: int
    next: int
    count: int
    head: int
    """Number that the next text to be made will have."""
    content: bytes


def read_page(
    log: FeedLog, cursor: int, n: int, most_bytes: int, format: Format, **more: Any
) -> Page:
    """Read up to `n` texts from `cursor` on, at least one.

    Args:
        log: where they are.
        cursor: number of the first; below the log's head.
        n: texts, at most.
        most_bytes: bytes of JSON, at most, unless one text alone has more.
        format: `array`, of strings; or `object`, with each text's number, source, licence ...
        more: further keys of the object.

    Raises:
        Gone: the log no longer has the text `cursor`.
    """
    if format == "array":
        count, content = log.texts(cursor, n, most_bytes)
        return Page(cursor, cursor + count, count, log.head, content)
    records = log.records(cursor, n, most_bytes)
    following, head = cursor + len(records), log.head
    names = {"protocol": PROTOCOL, "log": log.id, "first": cursor, "next": following, "head": head}
    return Page(cursor, following, len(records), head, as_json({**names, **more, "texts": records}))


def as_json(value: Any) -> bytes:
    """A value as JSON in UTF-8."""
    return json.dumps(value, ensure_ascii=False).encode()


def choose_encoding(accept: str | None) -> Encoding:
    """zstd where a client takes it, else gzip, else nothing, from its `Accept-Encoding`."""
    offers = [offer.replace(" ", "").lower() for offer in (accept or "").split(",")]
    taken = {name for name, _, weight in (offer.partition(";q=") for offer in offers)
             if weight.strip("0.") or not weight}  # fmt: skip
    return "zstd" if "zstd" in taken else "gzip" if "gzip" in taken else ""


def compress(content: bytes, encoding: Encoding, codec: pa.Codec) -> tuple[bytes, Encoding]:
    """Compress where it pays, at level 1 (the links are faster than the higher ones); one frame."""
    if len(content) < COMPRESS_FROM or not encoding:
        return content, ""
    if encoding == "zstd":
        return codec.compress(content, asbytes=True), encoding
    return zlib.compress(content, 1, wbits=31), encoding


class Bodies:
    """Makes the answers of one server."""

    def __init__(self, metrics: Metrics):
        self._metrics = metrics
        self._codec = pa.Codec("zstd", compression_level=1)
        self._reader = ThreadPoolExecutor(READERS, thread_name_prefix="feed-reader")
        self.in_flight = 0
        """Bytes of answers that have not left yet; changed in the event loop alone."""

    async def answer(
        self, read: Callable[[], Page], request: Request, headers: Mapping[str, str] = NO_HEADERS
    ) -> Response:
        """The response with what `read` (called in a reader's thread) returns, in an encoding that
        the request accepts.

        Raises:
            Refusal: 503, since too many bytes wait to be sent.
        """
        accepted = choose_encoding(request.headers.get("accept-encoding"))
        loop = asyncio.get_running_loop()
        page, body, used = await loop.run_in_executor(self._reader, self._made, read, accepted)
        self.in_flight += len(body)
        self._metrics.texts += page.count
        self._metrics.text_bytes += len(page.content)
        self._metrics.sent_bytes += len(body)
        headers = {
            FIRST_HEADER: str(page.first),
            COUNT_HEADER: str(page.count),
            NEXT_HEADER: str(page.next),
            HEAD_HEADER: str(page.head),
            "Vary": "Accept-Encoding",
            **headers,
        }
        if used:
            headers["Content-Encoding"] = used
        return _Pieces(body, headers, self._sent)

    def close(self) -> None:
        """End the threads."""
        self._reader.shutdown(cancel_futures=True)

    def _made(self, read: Callable[[], Page], encoding: Encoding) -> tuple[Page, bytes, Encoding]:
        if self.in_flight >= MAX_IN_FLIGHT:
            raise later("too many answers wait to be sent", 5, "Slow readers hold them")
        page = read()
        return page, *compress(page.content, encoding, self._codec)

    def _sent(self, size: int) -> None:
        self.in_flight -= size


class _Pieces(Response):
    """A JSON body that leaves in pieces, each when the one before has left."""

    media_type = "application/json"

    def __init__(self, content: bytes, headers: dict[str, str], sent: Callable[[int], None]):
        super().__init__(content, headers=headers)
        self._sent = sent

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        body = memoryview(self.body)
        start = {"status": self.status_code, "headers": self.raw_headers}
        try:
            await send({"type": "http.response.start", **start})
            for begin in range(0, len(body), PIECE):
                more = begin + PIECE < len(body)
                piece = bytes(body[begin : begin + PIECE])
                await send({"type": "http.response.body", "body": piece, "more_body": more})
        finally:
            self._sent(len(body))
