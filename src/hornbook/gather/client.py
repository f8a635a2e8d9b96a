"""The one HTTP client of all sources: polite to servers, and safe from them.

In: addresses. Out: whole pages, bounded; or the error that was met, in words. Polite: each host
has its own pace, Retry-After is obeyed, robots.txt where the source asks for it, and the
User-Agent says whom to write to. Safe: only http(s) to public addresses, sizes and times are
bounded, keys stay with the host they are for and out of every message.
"""

from __future__ import annotations

import contextlib
import json
import random
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

import httpx2

from hornbook import __version__
from hornbook.errors import HornbookError
from hornbook.gather.addresses import AddressRefused, CheckedTransport, check_literal
from hornbook.gather.answers import retry_after, unpacked
from hornbook.gather.download import DownloadError, shown
from hornbook.gather.pace import Clock, Pace, SystemClock
from hornbook.gather.robots import LARGEST_BYTES, Answer, Robots
from hornbook.gather.source import StopGathering
from hornbook.progress import say

TIMEOUT = httpx2.Timeout(60.0, connect=10.0)
"""Seconds without a byte."""

PAGE_SECONDS = 300.0
"""A page that takes longer is given up, however steadily its bytes drip in."""

MOST_REDIRECTS = 10
FIRST_WAIT_S, LONGEST_BACKOFF_S = 1.0, 60.0
TOLD_WAIT_S = 10.0
"""Longer waits are told to the user."""

_RETRIED = frozenset({429, 500, 502, 503, 504})
_TIMEOUTS: dict[type[Exception], str] = {
    httpx2.ConnectTimeout: "no connection within 10 seconds",
    httpx2.ReadTimeout: "no answer within 60 seconds",
}
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_ERROR_BODY = 64 * 1024
_ANY_HOST = frozenset({"accept", "accept-encoding", "accept-language", "range", "if-range"})
"""Headers that another host may see after a redirect; all others may hold keys."""

_T = TypeVar("_T")


@dataclass(frozen=True)
class Politeness:
    """How servers are treated.

    Args:
        contact: mail or web address of the operator, told to servers in the User-Agent.
        requests_per_minute: to one host.
        concurrency: requests to one host at a time.
        obey_robots: whether robots.txt decides; True for pages made for people, False for APIs.
        allow_private: whether addresses of this machine and of local networks are right.
        largest_bytes: of a page, decompressed.
        attempts: tries of a request before its error counts.
        longest_wait_s: a server that asks for a longer wait (Retry-After) ends the gathering.
    """

    contact: str = ""
    requests_per_minute: float = 60
    concurrency: int = 2
    obey_robots: bool = False
    allow_private: bool = False
    largest_bytes: int = 32 * 2**20
    attempts: int = 6
    longest_wait_s: float = 600


class FetchError(DownloadError):
    """A request that did not work.

    Attributes:
        url: what was asked for, without query and password.
        status: HTTP status, where there was an answer.
        retryable: whether the same request may work later.
        body: the first 64 KB of the answer, as sent by the server.
        retry_after: seconds that the server asked to wait.
    """

    def __init__(
        self,
        what: str,
        *,
        url: str,
        status: int | None = None,
        retryable: bool = False,
        body: bytes = b"",
        retry_after: float | None = None,
    ):
        super().__init__(f"{what} ({url})")
        self.url, self.status, self.retryable = url, status, retryable
        self.body, self.retry_after = body, retry_after


class RobotsForbid(FetchError):
    """robots.txt forbids this page; it is never fetched all the same."""


@dataclass(frozen=True)
class Page:
    """An answer, whole.

    Args:
        url: where it was found, after redirects.
        headers: by any case of their names.
        content: decompressed.
        encoding: charset of the Content-Type, where it names one.
    """

    url: str
    headers: Mapping[str, str]
    content: bytes
    encoding: str | None


class PoliteClient:
    """A context manager; safe to use from several threads.

    Args:
        politeness: how servers are treated.
        secrets: words that no message may show, such as API keys.
        clock: what waiting is measured with.
        note: takes a line about a long wait.

    Attributes:
        politeness: as given.
        requests: requests sent so far, retries and redirects included.
        retries: of these, those that were sent again.
    """

    def __init__(
        self,
        politeness: Politeness,
        *,
        secrets: Sequence[str] = (),
        clock: Clock | None = None,
        note: Callable[[str], None] = say,
    ):
        self.requests = self.retries = 0
        self.politeness, self._note = politeness, note
        self._clock: Clock = clock or SystemClock()
        self._secrets = [secret for secret in secrets if secret]
        if not all(secret.isascii() and secret.isprintable() for secret in self._secrets):
            raise HornbookError(
                "a key has characters that keys do not have",
                hint="Look at the environment variable that holds it: is a line break in it?",
            )
        self._paces: dict[str, Pace] = {}
        self._lock = threading.Lock()
        self._robots = Robots(self._robots_file, self._clock) if politeness.obey_robots else None
        self._client = httpx2.Client(
            transport=CheckedTransport(
                httpx2.create_ssl_context(), allow_private=politeness.allow_private
            ),
            headers={"User-Agent": user_agent(politeness.contact), "Accept-Encoding": "gzip"},
            timeout=TIMEOUT,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections, and wake the threads that wait for their turn: they fail."""
        self._clock.stop()
        self._client.close()

    def get(
        self,
        url: str,
        *,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        accept: str = "*/*",
    ) -> Page:
        """GET a whole page.

        Raises:
            FetchError: no page, after as many attempts as are worth it.
            StopGathering: the server asks to wait for very long, or its robots.txt fails.
        """
        if params:  # an address without is sent as it stands: a query is not written anew
            with self._network_errors(url):
                url = str(httpx2.URL(url).copy_merge_params(params))

        def once() -> Page:
            with contextlib.ExitStack() as held:
                sent = {"Accept": accept, **(headers or {})}
                response = self._follow("GET", url, sent, held, self._robots)
                if not response.is_success:
                    raise self._status_error(response)
                return Page(
                    url=str(response.url),
                    headers=response.headers,
                    content=self._read(response, self.politeness.largest_bytes),
                    encoding=response.charset_encoding,
                )

        return self._retried(once)

    def json(
        self,
        url: str,
        *,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """GET a page of JSON. Raises as `get`, and `FetchError` when it is no JSON."""
        return self.parsed(self.get(url, params=params, headers=headers, accept="application/json"))

    def parsed(self, page: Page) -> Any:
        """The JSON of a page. Raises `FetchError` when it is none."""
        try:
            return json.loads(page.content)
        except (ValueError, RecursionError) as error:
            begin = self._clean(page.content[:80].decode("utf-8", "replace"))
            what = f"the answer is not JSON: {begin!r}"
            raise FetchError(what, url=self._shown(page.url)) from error

    @contextlib.contextmanager
    def stream(
        self, method: str, url: str, *, headers: Mapping[str, str] | None = None
    ) -> Iterator[httpx2.Response]:
        """An answer whose body the caller reads, of any size; `download` does. Raises as `get`, but
        for status 416 (nothing is left of the range asked for)."""
        with contextlib.ExitStack() as held:

            def once() -> httpx2.Response:
                held.close()
                response = self._follow(method, url, headers or {}, held, self._robots)
                if not response.is_success and response.status_code != 416:
                    raise self._status_error(response)
                return response

            yield self._retried(once)

    def check_named(self, *urls: str) -> None:
        """Refuse addresses that the user named and that are this machine's or a local network's,
        before one is counted as a file that cannot be had: with `--allow-private` it can.

        Names are not looked up here; a request does that.

        Raises:
            HornbookError: `--allow-private` was not given, and one of them needs it.
        """
        for url in () if self.politeness.allow_private else urls:
            try:
                check_literal(urlsplit(url).hostname or "")
            except AddressRefused as error:
                raise HornbookError(str(error), where=self._shown(url)) from error

    def pause(self, url: str, seconds: float) -> None:
        """Let the host of `url` rest, as it asked in its own way (MediaWiki's `maxlag`).

        Raises:
            StopGathering: for longer than `longest_wait_s`.
        """
        host = _host(url)
        if seconds > self.politeness.longest_wait_s:
            raise StopGathering(
                f"the server asks to wait for {seconds / 60:,.0f} minutes",
                where=host,
                hint="Run the same command again after that: it goes on from here",
            )
        if seconds >= TOLD_WAIT_S:
            self._note(f"{host}: waiting {seconds:,.0f} s before the next try")
        self._pace(url).pause(seconds)

    def _retried(self, once: Callable[[], _T]) -> _T:
        """The result of `once`, tried again where that may help, after the host had its rest."""
        for attempt in range(1, self.politeness.attempts):
            try:
                return once()
            except FetchError as error:
                if not error.retryable:
                    raise
                seconds = error.retry_after
                if seconds is None:  # full jitter (Brooker, AWS 2015)
                    longest = min(LONGEST_BACKOFF_S, FIRST_WAIT_S * 2 ** (attempt - 1))
                    seconds = random.uniform(0, longest)
                self.pause(error.url, seconds)
                with self._lock:
                    self.retries += 1
        return once()

    def _follow(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        held: contextlib.ExitStack,
        robots: Robots | None,
    ) -> httpx2.Response:
        """Send a request and follow redirects; `held` keeps the answer open and the turn taken.

        Every hop is checked as if it had been asked for: scheme, robots.txt, pace, address.
        """
        for _ in range(MOST_REDIRECTS + 1):
            with self._network_errors(url):
                target = httpx2.URL(url)
            url = str(target)  # in its normal form
            if target.scheme not in ("http", "https") or not target.host:
                raise FetchError("is not an http or https address", url=self._shown(url))
            if robots is not None:
                self._obey(robots, url)
            response = self._send(method, url, headers, held)
            location = response.headers.get("Location")
            if response.status_code not in _REDIRECTS or not location:
                if response.status_code in _RETRIED:
                    raise self._status_error(response)
                return response
            held.close()
            with self._network_errors(url):
                following = target.join(location)
            if (target.scheme, following.scheme) == ("https", "http"):
                raise FetchError("redirects from https to http", url=self._shown(url))
            if (following.scheme, following.netloc) != (target.scheme, target.netloc):
                headers = {k: v for k, v in headers.items() if k.lower() in _ANY_HOST}
            url = str(following)
        raise FetchError(f"more than {MOST_REDIRECTS} redirects", url=self._shown(url))

    def _obey(self, robots: Robots, url: str) -> None:
        if not robots.allows(url):
            raise RobotsForbid("robots.txt forbids this page", url=self._shown(url))
        if delay := robots.delay(url):
            self._pace(url).slow_down(delay)

    def _send(
        self, method: str, url: str, headers: Mapping[str, str], held: contextlib.ExitStack
    ) -> httpx2.Response:
        with self._network_errors(url):
            request = self._client.build_request(method, url, headers=dict(headers))
            held.enter_context(self._pace(url).turn())
            with self._lock:
                self.requests += 1
            response = self._client.send(request, stream=True)
            held.callback(response.close)
            return response

    def _read(self, response: httpx2.Response, largest: int, *, cut: bool = False) -> bytes:
        """The whole body, decompressed, within `PAGE_SECONDS`; a larger one is refused or cut."""
        url = str(response.url)
        deadline = self._clock.now() + PAGE_SECONDS
        content = bytearray()
        with self._network_errors(url):
            for block in unpacked(response):
                content += block
                if len(content) > largest and cut:
                    break
                if len(content) > largest:
                    what = f"the page is larger than {largest:,} bytes"
                    raise FetchError(what, url=self._shown(url))
                if self._clock.now() > deadline:
                    what = f"the page took longer than {PAGE_SECONDS:.0f} s"
                    raise FetchError(what, url=self._shown(url), retryable=True)
        return bytes(content[:largest])

    def _status_error(self, response: httpx2.Response) -> FetchError:
        body = b""
        with contextlib.suppress(FetchError):
            body = self._read(response, _ERROR_BODY, cut=True)
        return FetchError(
            f"HTTP {response.status_code} {response.reason_phrase}".rstrip(),
            url=self._shown(str(response.url)),
            status=response.status_code,
            retryable=response.status_code in _RETRIED,
            body=body,
            retry_after=retry_after(response.headers),
        )

    def _robots_file(self, url: str) -> Answer:
        def once() -> Answer:
            with contextlib.ExitStack() as held:
                response = self._follow("GET", url, {}, held, None)
                return response.status_code, self._read(response, LARGEST_BYTES, cut=True)

        try:
            return self._retried(once)
        except FetchError as error:
            if not error.retryable:
                raise
            return error.status, b""

    def _pace(self, url: str) -> Pace:
        host = _host(url)
        with self._lock:
            if host not in self._paces:
                manners = self.politeness
                self._paces[host] = Pace(
                    manners.requests_per_minute, manners.concurrency, self._clock
                )
            return self._paces[host]

    @contextlib.contextmanager
    def _network_errors(self, url: str) -> Iterator[None]:
        try:
            yield
        except AddressRefused as error:
            raise FetchError(str(error), url=self._shown(url)) from error
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise FetchError(
                _TIMEOUTS.get(type(error)) or self._clean(str(error)) or type(error).__name__,
                url=self._shown(url),
                retryable=isinstance(error, (httpx2.TransportError, httpx2.DecodingError))
                and not isinstance(error, httpx2.LocalProtocolError),
            ) from error

    def _shown(self, url: str) -> str:
        """`url` for messages: without password, query and secrets."""
        try:
            return self._clean(urlsplit(shown(url))._replace(query="", fragment="").geturl())
        except ValueError:
            return "an address that cannot be read"

    def _clean(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text


def _host(url: str) -> str:
    """Host and port of an address, without a password."""
    return urlsplit(url).netloc.rpartition("@")[2].lower()


def user_agent(contact: str) -> str:
    """The name that servers are told.

    Raises:
        HornbookError: the contact cannot stand in a header.
    """
    if not (contact.isascii() and contact.isprintable()) or set(contact) & set("()"):
        raise HornbookError(
            "must be a mail or web address in plain ASCII", where="--contact", hint=repr(contact)
        )
    about = f" ({contact})" if contact else ""
    return f"hornbook/{__version__}{about} python-httpx2/{httpx2.__version__}"
