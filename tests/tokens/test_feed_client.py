"""The client against servers that are down, wrong, slow or no feed at all."""

from __future__ import annotations

import contextlib
import gzip
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from pytest_httpserver import HTTPServer
from tests.feed.serving import serving
from werkzeug import Response

from hornbook.errors import HornbookError
from hornbook.feed.log import LogWriter
from hornbook.tokens import feed_client
from hornbook.tokens.feed_client import FeedClient, FeedGone, TextsLost

RIGHT = {
    "X-Feed-Protocol": "1", "X-Feed-Log": "a",
    "X-Feed-First": "0", "X-Feed-Next": "1", "X-Feed-Head": "9",
}  # fmt: skip


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits are short."""
    monkeypatch.setattr(feed_client, "FIRST_WAIT_S", 0.02)
    monkeypatch.setattr(feed_client, "LONGEST_WAIT_S", 0.05)


def read(url: str, *, give_up: float = 0.3, cursor: int = 0) -> feed_client.Delivery:
    client = FeedClient(url, give_up_seconds=give_up)
    try:
        delivery = client.read("a", cursor, threading.Event())
    finally:
        client.close()
    assert delivery is not None
    return delivery


def answer(httpserver: HTTPServer, body: bytes, status: int = 200, **headers: str) -> str:
    given = {"X-Feed-Protocol": "1", **{k.replace("_", "-"): v for k, v in headers.items()}}
    given = {key: value for key, value in given.items() if value}
    httpserver.expect_request("/generate").respond_with_data(body, status, given)
    return httpserver.url_for("")


def test_texts_come_as_they_are(httpserver: HTTPServer) -> None:
    texts = ["one", "zwei \N{SNOWMAN} \x00", "\ud7ff\U0010ffff"]
    headers = {**RIGHT, "X-Feed-Next": "3", "Content-Encoding": "gzip"}
    body = gzip.compress(json.dumps(texts).encode())
    httpserver.expect_request("/generate").respond_with_data(body, headers=headers)
    assert read(httpserver.url_for("")) == feed_client.Delivery(0, 3, 9, texts)


@pytest.mark.parametrize(
    ("status", "body", "headers", "says"),
    [
        (200, b"<html>", {"X_Feed_Protocol": ""}, "is not a feed: it answers text/html"),
        (200, b"<html>", RIGHT, "is not a feed"),
        (200, b'["a"]', {**RIGHT, "X-Feed-Head": ""}, "does not say which texts"),
        (307, b"", {"X_Feed_Protocol": "", "Location": "https://h/"}, "it points to https://h/"),
        (200, b"[]", RIGHT, "no array of texts"),
        (200, b'["a"]', {**RIGHT, "X-Feed-First": "5"}, "asked for text 0"),
        (200, b'["a"]', {**RIGHT, "X-Feed-Log": "b"}, "another log"),
        (200, b'["a"]', {**RIGHT, "X-Feed-Protocol": "2"}, "speaks version 2"),
        (401, b'{"error": "no token"}', {}, "HORNBOOK_FEED_TOKEN"),
        (409, b"{}", {}, "another log"),
        (400, b'{"error": "n is at most 8"}', {}, "n is at most 8"),
        (410, b'{"error": "gone", "first": 7}', {}, "feed-skip-lost"),
    ],
)
def test_what_does_not_pass_is_an_error_at_once(
    httpserver: HTTPServer, status: int, body: bytes, headers: dict[str, str], says: str
) -> None:
    url = answer(httpserver, body, status, **{**headers, "Content-Type": "text/html"})
    with pytest.raises(HornbookError, match=says) as error:
        read(url)
    assert not isinstance(error.value, FeedGone)
    if status == 410:
        assert isinstance(error.value, TextsLost) and error.value.first == 7


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("status", "body", "headers", "says"),
    [
        (503, b'{"error": "nothing yet"}', {}, "nothing yet"),
        (502, b"<html>bad gateway", {"X_Feed_Protocol": ""}, "HTTP 502, not from the feed"),
        (404, b"no such tunnel", {"X_Feed_Protocol": ""}, "HTTP 404, not from the feed"),
        (200, gzip.compress(b'["a"]' * 9)[:-6], {**RIGHT, "Content-Encoding": "gzip"}, "cut off"),
    ],
    ids=["no text yet", "bad gateway", "no tunnel", "cut off"],
)
def test_what_may_pass_is_waited_for_and_then_given_up(
    httpserver: HTTPServer, status: int, body: bytes, headers: dict[str, str], says: str
) -> None:
    url = answer(httpserver, body, status, **headers)
    with pytest.raises(FeedGone, match=says):
        read(url)
    assert len(httpserver.log) > 2


@pytest.mark.usefixtures("quick")
def test_a_feed_that_comes_back_goes_on(httpserver: HTTPServer) -> None:
    answers: Iterator[Response] = iter(
        [
            Response("busy", 503, {"X-Feed-Protocol": "1", "Retry-After": "0"}),
            Response("<html>", 502),
            Response('["a"]', 200, RIGHT),
        ]
    )
    httpserver.expect_request("/generate").respond_with_handler(lambda _: next(answers))
    assert read(httpserver.url_for(""), give_up=60).texts == ["a"]


@pytest.mark.usefixtures("quick")
def test_nobody_there() -> None:
    with pytest.raises(FeedGone, match="it goes on from there"):
        read("http://127.0.0.1:9")


def test_an_answer_that_unpacks_to_too_much_is_refused(
    httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed_client, "LARGEST_ANSWER", 10**6)
    url = answer(httpserver, gzip.compress(b" " * 10**7), **RIGHT, Content_Encoding="gzip")
    with pytest.raises(HornbookError, match="feed_batch"):
        read(url)


@pytest.mark.parametrize(
    "url",
    [
        "127.0.0.1:8765", "ftp://feed", "", "http://", "http://feed:port", "http://feed:99999",
        "http://[::1", "http://feed?token=x", "http://me:secret@feed",
    ],
)  # fmt: skip
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(HornbookError, match=r"data\.feed") as error:
        FeedClient(url)
    assert "secret" not in str(error.value)


def test_a_token_that_no_header_takes_is_named_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HORNBOOK_FEED_TOKEN", "hidd\N{LATIN SMALL LETTER E WITH ACUTE}n")
    with pytest.raises(HornbookError, match="HORNBOOK_FEED_TOKEN") as error:
        FeedClient("http://127.0.0.1:9")
    assert "hidd" not in str(error.value)


def test_a_wait_ends_when_it_should_stop() -> None:
    client, stop = FeedClient("http://127.0.0.1:9"), threading.Event()
    threading.Timer(0.2, stop.set).start()
    begin = time.monotonic()
    assert client.read("a", 0, stop) is None
    assert time.monotonic() - begin < 20  # not the half hour


def test_a_real_feed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = "x" * 10_000_000
    log = LogWriter.create_or_open(tmp_path / "feed")
    with contextlib.closing(log), serving(log, token="secret") as feed:
        feed.add("a", long, "b")
        with pytest.raises(HornbookError, match="token"):
            FeedClient(feed.url, give_up_seconds=1).info()
        monkeypatch.setenv("HORNBOOK_FEED_TOKEN", "secret")
        client = FeedClient(feed.url, give_up_seconds=5)
        info = client.info()
        assert (info.first, info.head, info.log) == (0, 3, log.id)
        texts, cursor = [], 0
        while cursor < 3:
            delivery = client.read(log.id, cursor, threading.Event())
            assert delivery is not None
            texts += delivery.texts
            cursor = delivery.next
        assert texts == ["a", long, "b"]
        client.keep_from(log.id, "a-run", 2)
        assert feed.cursors.all() == {"a-run": 2}
        client.release("0" * 32, "a-run")
        client.keep_from("0" * 32, "other", 2)
        assert feed.cursors.all() == {"a-run": 2}, "another log has other numbers"
        client.release(log.id, "a-run")
        assert feed.cursors.all() == {}
        with pytest.raises(HornbookError, match="another log"):
            client.read("0" * 32, 0, threading.Event())
        with pytest.raises(HornbookError, match="archive"):
            list(client.validation(log.id))
