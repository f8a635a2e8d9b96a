"""The trainer's end of a feed: texts from a number on, whatever happens in between.

In: a feed's address (`hornbook feed serve`) and a cursor. Out: the texts from there, in order. What
may pass (a feed that restarts, a network that is gone, nothing to read yet) is waited for, aloud,
up to a set time; what will not pass by itself (a wrong token, another log) is an error at once.
"""

from __future__ import annotations

import io
import json
import math
import random
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

import httpx2
import pyarrow as pa

from hornbook.errors import HornbookError
from hornbook.gather.answers import retry_after
from hornbook.progress import say, warn
from hornbook.tokens.feed_protocol import (
    FIRST_HEADER,
    HEAD_HEADER,
    LOG_HEADER,
    NEXT_HEADER,
    PROTOCOL,
    PROTOCOL_HEADER,
    TOKEN_VARIABLE,
    feed_token,
)

POLL_SECONDS = 10
"""How long the feed may keep a request open where it has nothing yet."""

FIRST_WAIT_S, LONGEST_WAIT_S = 0.25, 30.0
"""Waits between tries double from the first to the longest, each by chance between 0 and that
(full jitter: trainers that lost the same feed do not come back all at once)."""

TOLD_EVERY_S = 60.0
"""How often a wait that goes on is said again."""

LARGEST_ANSWER = 64 * 2**20
"""Bytes of an answer, unpacked. Feeds keep to a few megabytes and one text."""

TIMEOUT = httpx2.Timeout(POLL_SECONDS + 30.0, connect=10.0)


@dataclass(frozen=True)
class Delivery:
    """Texts number `first` to `next` - 1."""

    first: int
    next: int
    texts: list[str]


@dataclass(frozen=True)
class FeedInfo:
    """What a feed holds now: texts number `first` to `head` - 1 of the log `log`."""

    log: str
    first: int
    head: int


class FeedGone(HornbookError):
    """The feed gave nothing for the set time."""


class TextsLost(HornbookError):
    """Texts are not there any more (dropped or damaged).

    Attributes:
        first: the next number that is there.
    """

    def __init__(self, what: str, *, where: str, first: int, hint: str):
        super().__init__(what, where=where, hint=hint)
        self.first = first


class _NotNow(Exception):
    """What may pass.

    Attributes:
        wait: seconds that the feed asks for.
    """

    def __init__(self, what: str, wait: float | None = None):
        super().__init__(what)
        self.wait = wait


class FeedClient:
    """Reads a feed. Threads may share it."""

    def __init__(self, url: str, *, batch: int = 64, give_up_seconds: float = 1800.0):
        """
        Args:
            url: such as http://127.0.0.1:8765; the token comes from HORNBOOK_FEED_TOKEN.
            batch: texts asked for at a time.
            give_up_seconds: how long to wait for a feed that gives nothing.
        """
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise HornbookError(
                f"{url!r} is no address of a feed",
                where="data.feed",
                hint="It looks like http://127.0.0.1:8765",
            )
        if batch < 1:
            raise HornbookError(f"must be at least 1, not {batch}", where="data.feed_batch")
        if not (math.isfinite(give_up_seconds) and give_up_seconds > 0):
            raise HornbookError("must be above 0", where="data.feed_give_up_minutes")
        self.url = url.rstrip("/")
        self._batch, self._give_up = batch, give_up_seconds
        headers = {
            PROTOCOL_HEADER: str(PROTOCOL),
            "Accept-Encoding": "zstd",
            "ngrok-skip-browser-warning": "1",  # else its free tunnels answer with a page
        }
        token = feed_token()
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        self._http = httpx2.Client(base_url=self.url, headers=headers, timeout=TIMEOUT)
        self.waiting = ""
        """What the feed is waited for, if it is."""

    def read(self, log: str, cursor: int, stop: threading.Event) -> Delivery | None:
        """The texts from `cursor` on, at least one; None: `stop` was set meanwhile.

        Raises:
            FeedGone: nothing came for the set time.
            TextsLost: they are not there any more.
            HornbookError: this is not the feed, log or token that it should be.
        """
        asked = {"cursor": cursor, "n": self._batch, "wait": POLL_SECONDS}
        answer = self._ask("/generate", asked, stop, log)
        return None if answer is None else _delivery(answer, cursor, self.url)

    def info(self) -> FeedInfo:
        """What the feed holds now; waits for it like `read`."""
        answer = self._ask("/stats", {}, threading.Event())
        assert answer is not None
        found = _json(answer, self.url)
        try:
            return FeedInfo(str(found["log"]), int(found["first"]), int(found["head"]))
        except (KeyError, TypeError, ValueError):
            raise _not_a_feed(self.url, "its /stats lacks log, first or head") from None

    def validation(self) -> Iterator[str]:
        """The texts of the feed's archive that are held out for ever, in their order."""
        cursor = 0
        while True:
            asked = {"cursor": cursor, "n": self._batch}
            answer = self._ask("/validation", asked, threading.Event())
            assert answer is not None
            delivery = _delivery(answer, cursor, self.url, gaps=True)
            yield from delivery.texts
            cursor = delivery.next
            if cursor >= int(answer.headers[HEAD_HEADER]):
                return

    def keep_from(self, name: str, next: int) -> None:
        """Have the feed keep texts from `next` on for this reader; a failure is only said."""
        try:
            answer = self._http.put(f"/cursors/{quote(name, safe='')}", json={"next": next})
            problem = "" if answer.is_success else _reason(answer)
        except httpx2.HTTPError as error:
            problem = _first_line(error)
        if problem:
            warn(f"the feed at {self.url} was not told that text {next} is needed still: {problem}")

    def close(self) -> None:
        """End the connections."""
        self._http.close()

    def _ask(
        self, path: str, asked: dict[str, int], stop: threading.Event, log: str | None = None
    ) -> httpx2.Response | None:
        """GET until it works; None: `stop` was set."""
        begin = time.monotonic()
        told, backoff = begin - TOLD_EVERY_S + 2 * POLL_SECONDS, FIRST_WAIT_S
        while not stop.is_set():
            try:
                answer = self._get(path, asked, log)
            except _NotNow as problem:
                self.waiting = str(problem)
                silent = time.monotonic() - begin
                if silent >= self._give_up:
                    raise self._gone(silent) from None
                if time.monotonic() - told >= TOLD_EVERY_S:
                    told = time.monotonic()
                    left = (self._give_up - silent) / 60
                    say(
                        f"waiting for the feed at {self.url}: {problem}"
                        f" (given up in {left:.0f} minutes)"
                    )
                wait = problem.wait if problem.wait is not None else random.uniform(0, backoff)
                backoff = min(2 * backoff, LONGEST_WAIT_S)
                stop.wait(max(0.0, min(wait, LONGEST_WAIT_S, self._give_up - silent)))
            else:
                if told >= begin:
                    say(f"the feed is back after {time.monotonic() - begin:.0f} s")
                self.waiting = ""
                return answer
        return None

    def _gone(self, silent: float) -> FeedGone:
        time = f"{silent / 60:.0f} minutes" if silent >= 90 else f"{silent:.0f} seconds"
        return FeedGone(
            f"gave nothing for {time}: {self.waiting}",
            where=self.url,
            hint="Run the same command again when the feed is back: it goes on where it stopped",
        )

    def _get(self, path: str, asked: dict[str, int], log: str | None) -> httpx2.Response:
        headers = {} if log is None else {LOG_HEADER: log}
        try:
            with self._http.stream("GET", path, params=asked, headers=headers) as answer:
                content = _body(answer, self.url)
        except (httpx2.TransportError, httpx2.DecodingError) as error:
            raise _NotNow(_first_line(error)) from error
        known = answer.headers.get(PROTOCOL_HEADER)
        whole = httpx2.Response(answer.status_code, headers=_plain(answer), content=content)
        if known is None and not whole.is_success:  # a proxy or a tunnel, whose feed is not there
            raise _NotNow(f"HTTP {answer.status_code}, not from the feed")
        if known is None:
            raise _not_a_feed(self.url, f"it answers {_kind(answer)}")
        if known != str(PROTOCOL):
            raise HornbookError(
                f"speaks version {known[:20]} of the protocol, and this hornbook {PROTOCOL}",
                where=self.url,
                hint="Install the same version of hornbook on both sides",
            )
        if not whole.is_success:
            raise _refusal(whole, self.url)
        if log is not None and answer.headers.get(LOG_HEADER) != log:
            raise _other_log(self.url)
        return whole


def _body(answer: httpx2.Response, url: str) -> bytes:
    """The body, unpacked; never more than `LARGEST_ANSWER` in memory."""
    encoding = answer.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in ("zstd", "identity"):
        raise _not_a_feed(url, f"its answer is packed with {encoding!r}, which was not asked for")
    packed = bytearray()
    for block in answer.iter_raw():
        packed += block
        if len(packed) > LARGEST_ANSWER:
            raise _too_large(url)
    if encoding == "identity":
        return bytes(packed)
    try:
        with pa.CompressedInputStream(io.BytesIO(packed), "zstd") as stream:
            content: bytes = stream.read(LARGEST_ANSWER + 1)
    except OSError as error:
        raise httpx2.DecodingError(f"bad zstd ({_first_line(error)})") from error
    if len(content) > LARGEST_ANSWER:
        raise _too_large(url)
    return content


def _plain(answer: httpx2.Response) -> list[tuple[str, str]]:
    """The headers, less those about how the body was sent."""
    gone = ("content-encoding", "content-length", "transfer-encoding")
    return [(key, value) for key, value in answer.headers.items() if key.lower() not in gone]


def _delivery(answer: httpx2.Response, cursor: int, url: str, *, gaps: bool = False) -> Delivery:
    """The texts of an answer; with `gaps` some numbers may have none (they are broken)."""
    texts = _json(answer, url)
    if not (isinstance(texts, list) and texts and all(isinstance(text, str) for text in texts)):
        raise _not_a_feed(url, "its answer is no array of texts")
    try:
        first, next = int(answer.headers[FIRST_HEADER]), int(answer.headers[NEXT_HEADER])
    except (KeyError, ValueError):
        raise _not_a_feed(url, f"its answer lacks {FIRST_HEADER} or {NEXT_HEADER}") from None
    count = len(texts)
    if first != cursor or next < first + count or (next > first + count and not gaps):
        raise _not_a_feed(url, f"asked for text {cursor}, it gave {len(texts)} from {first} on")
    return Delivery(first, next, texts)


def _refusal(answer: httpx2.Response, url: str) -> Exception:
    """The feed's own no: what may pass, or what will not."""
    status, reason = answer.status_code, _reason(answer)
    if status in (429, 503) or status >= 500:
        return _NotNow(reason, retry_after(answer.headers))
    if status == 401:
        hint = f"Set {TOKEN_VARIABLE} to the token that the feed was started with"
        return HornbookError("refuses the token" if feed_token() else reason, where=url, hint=hint)
    if status == 409:
        return _other_log(url)
    if status == 410:
        found = _json(answer, url)
        first = found.get("first") if isinstance(found, dict) else None
        if isinstance(first, int):
            return TextsLost(
                reason,
                where=url,
                first=first,
                hint="`--data.feed-skip-lost true` goes on at the next text that is there",
            )
    if status == 404:
        return HornbookError(
            reason, where=url, hint="Serve an archive (--feed.archive), or prepare text of your own"
        )
    return HornbookError(f"HTTP {status}: {reason}", where=url)


def _other_log(url: str) -> HornbookError:
    return HornbookError(
        "serves another log than this run was begun with",
        where=url,
        hint="Serve the folder of the first time, or begin a new run (--run)",
    )


def _reason(answer: httpx2.Response) -> str:
    """What the feed says is wrong, in one line."""
    try:
        said = json.loads(answer.content)
        text = str(said["error"])
    except (ValueError, KeyError, TypeError):
        text = f"HTTP {answer.status_code}"
    return " ".join(text.split())[:200]


def _json(answer: httpx2.Response, url: str) -> Any:
    try:
        return json.loads(answer.content)
    except ValueError:
        raise _not_a_feed(url, f"it answers {_kind(answer)}") from None


def _kind(answer: httpx2.Response) -> str:
    return answer.headers.get("Content-Type", "nothing that says its kind").split(";")[0][:40]


def _not_a_feed(url: str, why: str) -> HornbookError:
    return HornbookError(
        f"is not a feed: {why}", where=url, hint="`hornbook feed serve` says its address"
    )


def _too_large(url: str) -> HornbookError:
    return HornbookError(
        f"sent more than {LARGEST_ANSWER // 2**20} MB at once",
        where=url,
        hint="Lower data.feed_batch",
    )


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:200]
