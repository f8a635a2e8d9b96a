"""The trainer's end of a feed: texts from a number on, whatever happens in between.

In: a feed's address (`hornbook feed serve`) and a cursor. Out: the texts from there, in order. What
may pass (a feed that restarts, a network that is gone, nothing to read yet) is waited for, aloud,
up to a set time; what will not pass by itself (a wrong token, another log) is an error at once.
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx2

from hornbook.errors import HornbookError
from hornbook.gather.answers import retry_after, unpacked
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
    other_protocol,
)

POLL_SECONDS = 10
"""How long the feed may keep a request open where it has nothing yet."""

FIRST_WAIT_S, LONGEST_WAIT_S = 0.25, 30.0
"""Waits between tries double from the first to the longest, each by chance between 0 and that
(full jitter: trainers that lost the same feed do not come back all at once)."""

FIRST_TOLD_S, TOLD_EVERY_S = 20.0, 60.0
"""When a wait is said, and how often again. A poll of 10 s that brings nothing is no news."""

LARGEST_ANSWER = 64 * 2**20
"""Bytes of an answer, unpacked. Feeds keep to a few megabytes and one text."""

TIMEOUT = httpx2.Timeout(POLL_SECONDS + 30.0, connect=10.0)
TELL_TIMEOUT = httpx2.Timeout(10.0)
"""For what the feed is only told: checkpoints and the end of a run wait for it."""


@dataclass(frozen=True)
class Delivery:
    """Texts number `first` to `next` - 1, of `head` that there are."""

    first: int
    next: int
    head: int
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

    def __init__(self, what: str, *, where: str, first: int):
        hint = f"`--data.feed-skip-lost true` goes on at text {first}, the next that is there"
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


@dataclass(frozen=True)
class _Answer:
    status: int
    headers: httpx2.Headers
    content: bytes

    def json(self) -> Any:
        """The content; None where it is no JSON, which no answer of a feed is."""
        try:
            return json.loads(self.content)
        except ValueError:
            return None


class FeedClient:
    """Reads a feed. Threads may share it."""

    def __init__(self, url: str, *, batch: int = 64, give_up_seconds: float = 1800.0):
        """
        Args:
            url: such as http://127.0.0.1:8765; the token comes from HORNBOOK_FEED_TOKEN.
            batch: texts asked for at a time.
            give_up_seconds: how long to wait for a feed that gives nothing.
        """
        check_address(url)
        self.url = url.rstrip("/")
        self._batch, self._give_up = batch, give_up_seconds
        headers = {
            PROTOCOL_HEADER: str(PROTOCOL),
            "Accept-Encoding": "gzip",
            "ngrok-skip-browser-warning": "1",  # else its free tunnels answer with a page
        }
        token = feed_token()
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        self._http = httpx2.Client(base_url=self.url, headers=headers, timeout=TIMEOUT)

    def read(self, log: str, cursor: int, stop: threading.Event) -> Delivery | None:
        """The texts from `cursor` on, at least one; None: `stop` was set meanwhile.

        Raises:
            FeedGone: nothing came for the set time.
            TextsLost: they are not there any more.
            HornbookError: this is not the feed, log or token that it should be.
        """
        asked = {"cursor": cursor, "n": self._batch, "wait": POLL_SECONDS}
        answer = self._wait_for("/generate", asked, log, stop)
        return None if answer is None else self._delivery(answer, cursor)

    def info(self) -> FeedInfo:
        """What the feed holds now; waits for it like `read`."""
        answer = self._wait_for("/stats", {}, None, threading.Event())
        assert answer is not None
        try:
            found = answer.json()
            return FeedInfo(str(found["log"]), int(found["first"]), int(found["head"]))
        except (KeyError, TypeError, ValueError):
            raise self._no_feed("its /stats lacks log, first or head") from None

    def validation(self, log: str) -> Iterator[str]:
        """The texts of the feed's archive that are held out for ever, in their order."""
        cursor = 0
        while True:
            asked = {"cursor": cursor, "n": self._batch}
            answer = self._wait_for("/validation", asked, log, threading.Event())
            assert answer is not None
            delivery = self._delivery(answer, cursor, gaps=True)
            yield from delivery.texts
            cursor = delivery.next
            if cursor >= delivery.head:
                return

    def keep_from(self, log: str, name: str, next: int) -> None:
        """Have the feed keep texts from `next` on, or those that are left of them, for the reader
        `name`; a failure is only said."""
        try:
            try:
                self._request("PUT", f"/cursors/{name}", log, json={"next": next})
            except TextsLost as lost:
                self._request("PUT", f"/cursors/{name}", log, json={"next": lost.first})
        except (HornbookError, _NotNow) as problem:
            warn(f"the feed at {self.url} was not told that text {next} is still needed: {problem}")

    def release(self, log: str, name: str) -> None:
        """Have the feed keep nothing for the reader `name` any more; a failure is only said."""
        try:
            self._request("DELETE", f"/cursors/{name}", log)
        except (HornbookError, _NotNow) as problem:
            warn(
                f"the feed at {self.url} goes on keeping texts for this run, until DELETE"
                f" /cursors/{name}: {problem}"
            )

    def close(self) -> None:
        """End the connections."""
        self._http.close()

    def _wait_for(
        self, path: str, asked: dict[str, int], log: str | None, stop: threading.Event
    ) -> _Answer | None:
        """GET until it works; None: `stop` was set."""
        begin = time.monotonic()
        tell_at, backoff = begin + FIRST_TOLD_S, FIRST_WAIT_S
        while not stop.is_set():
            try:
                answer = self._request("GET", path, log, params=asked, timeout=TIMEOUT)
            except _NotNow as problem:
                now = time.monotonic()
                left = self._give_up - (now - begin)
                if left <= 0:
                    raise FeedGone(
                        f"gave nothing for {self._give_up / 60:.3g} minutes: {problem}",
                        where=self.url,
                        hint="Run the same command again when it is back: it goes on from there",
                    ) from None
                if now >= tell_at:
                    tell_at = now + TOLD_EVERY_S
                    say(
                        f"waiting for the feed at {self.url}: {problem}"
                        f" (given up in {left / 60:.0f} minutes)"
                    )
                wait = problem.wait if problem.wait is not None else random.uniform(0, backoff)
                backoff = min(2 * backoff, LONGEST_WAIT_S)
                stop.wait(min(wait, LONGEST_WAIT_S, left))
            else:
                if tell_at > begin + FIRST_TOLD_S:
                    say(f"the feed is back after {time.monotonic() - begin:.0f} s")
                return answer
        return None

    def _request(
        self,
        method: str,
        path: str,
        log: str | None,
        *,
        timeout: httpx2.Timeout = TELL_TIMEOUT,
        **more: Any,
    ) -> _Answer:
        """Ask once, of this log where one is named. Raises `_NotNow` where that may pass."""
        headers = {} if log is None else {LOG_HEADER: log}
        content = bytearray()
        try:
            with self._http.stream(method, path, headers=headers, timeout=timeout, **more) as sent:
                for block in unpacked(sent):
                    content += block
                    if len(content) > LARGEST_ANSWER:
                        raise self._error("sends too much at once", "Lower data.feed_batch")
        except (httpx2.TransportError, httpx2.DecodingError) as error:
            raise _NotNow((str(error) or type(error).__name__).splitlines()[0][:200]) from error
        answer = _Answer(sent.status_code, sent.headers, bytes(content))
        self._check_sender(answer)
        if answer.status >= 400:
            raise self._refusal(answer)
        if log is not None and answer.headers.get(LOG_HEADER) != log:
            raise self._other_log()
        return answer

    def _check_sender(self, answer: _Answer) -> None:
        """It is a feed that answered, and speaks as we do."""
        known = answer.headers.get(PROTOCOL_HEADER)
        if known == str(PROTOCOL):
            return
        if known is not None:
            raise other_protocol(self.url, known)
        if answer.status >= 400:  # a proxy or a tunnel, whose feed is not there
            raise _NotNow(f"HTTP {answer.status}, not from the feed")
        if answer.status >= 300:
            raise self._no_feed(f"it points to {answer.headers.get('Location', 'nowhere')[:200]}")
        raise self._no_feed(f"it answers {answer.headers.get('Content-Type', '')[:40]}")

    def _delivery(self, answer: _Answer, cursor: int, *, gaps: bool = False) -> Delivery:
        """The texts of an answer; with `gaps` some numbers may have none (they are broken)."""
        texts = answer.json()
        if not (isinstance(texts, list) and texts and all(isinstance(text, str) for text in texts)):
            raise self._no_feed("its answer is no array of texts")
        try:
            names = (FIRST_HEADER, NEXT_HEADER, HEAD_HEADER)
            first, next, head = (int(answer.headers[name]) for name in names)
        except (KeyError, ValueError):
            raise self._no_feed("its answer does not say which texts these are") from None
        count = len(texts)
        if first != cursor or next < first + count or (next > first + count and not gaps):
            raise self._no_feed(f"asked for text {cursor}, it gave {count} from {first} on")
        return Delivery(first, next, head, texts)

    def _refusal(self, answer: _Answer) -> Exception:
        """The feed's own no: what may pass, or what will not."""
        status, said = answer.status, answer.json()
        said = said if isinstance(said, dict) else {}
        reason = " ".join(str(said.get("error", f"HTTP {status}")).split())[:200]
        if status == 429 or status >= 500:
            return _NotNow(reason, retry_after(answer.headers))
        if status == 409:
            return self._other_log()
        if status == 410 and isinstance(said.get("first"), int):
            return TextsLost(reason, where=self.url, first=said["first"])
        hint = None
        if status == 401:
            reason = "refuses the token" if feed_token() else reason
            hint = f"Set {TOKEN_VARIABLE} to the token that the feed was started with"
        elif status == 404:
            hint = "Serve an archive (--feed.archive), or prepare text of your own"
        return self._error(reason, hint)

    def _other_log(self) -> HornbookError:
        return self._error(
            "serves another log than this run was begun with",
            "Serve the folder of the first time, or begin a new run (--run)",
        )

    def _no_feed(self, why: str) -> HornbookError:
        return self._error(f"is not a feed: {why}", "`hornbook feed serve` says its address")

    def _error(self, what: str, hint: str | None) -> HornbookError:
        return HornbookError(what, where=self.url, hint=hint)


def check_address(url: str) -> None:
    """Refuse what is no address, and one that would put a password into recipes and messages."""
    if "@" in url:
        raise HornbookError(
            "an address takes no name and password",
            where="data.feed",
            hint=f"Set {TOKEN_VARIABLE}; it is kept nowhere",
        )
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # a port that is no number, half an address of IPv6
        good = False
    if not good or "?" in url or "#" in url:
        raise HornbookError(
            f"{url!r} is no address of a feed",
            where="data.feed",
            hint="It looks like http://127.0.0.1:8765",
        )
