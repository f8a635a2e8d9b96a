"""The token, and where a feed without one listens."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
from tests.feed.serving import Served

from hornbook.errors import HornbookError
from hornbook.feed.auth import is_allowed, is_loopback, listening_addresses, server_token
from hornbook.feed.config import FeedConfig
from hornbook.feed.cursors import Cursors
from hornbook.feed.log import LogWriter
from hornbook.feed.serve import _greeting, listen, serve
from hornbook.feed.server import Feed
from hornbook.tokens.feed_protocol import check_token

TOKEN = "s3cret.token-of_this~test+/="


def test_all_but_the_page_and_healthz_needs_the_token(
    log: LogWriter, served: Callable[..., Served]
) -> None:
    feed = served(log, token=TOKEN)
    feed.add("one")
    for path in ("/generate?cursor=0", "/stats", "/metrics", "/readyz", "/cursors",
                 "/openapi.json", "/validation", "/nowhere"):  # fmt: skip
        answer = httpx2.get(feed.url + path)
        assert answer.status_code == 401, path
        assert answer.headers["WWW-Authenticate"] == "Bearer"
        assert "needs its token" in answer.json()["error"]
    assert httpx2.put(f"{feed.url}/cursors/a", json={"next": 0}).status_code == 401
    for wrong in ("Bearer wrong", f"Basic {TOKEN}", TOKEN, f"Bearer {TOKEN}x", "Bearer", "é"):
        given = {"Authorization": wrong.encode()}
        answer = httpx2.get(f"{feed.url}/stats", headers=given)
        assert answer.status_code == 401 and TOKEN not in answer.text
    assert httpx2.get(f"{feed.url}/healthz").status_code == 200
    assert httpx2.get(feed.url).status_code == 200
    assert feed.get("/generate", cursor=0).json() == ["one"]


def test_the_scheme_is_of_any_case() -> None:
    assert is_allowed(b"bearer abc", "abc") and is_allowed(b"Bearer  abc", "abc")
    assert not is_allowed(None, "abc") and not is_allowed(b"", "abc")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", ""])
def test_without_a_token_a_feed_is_for_this_machine(
    host: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HORNBOOK_FEED_TOKEN", raising=False)
    monkeypatch.setattr("hornbook.feed.serve.listen", lambda *_: pytest.fail("it was bound"))
    config = FeedConfig(folder=str(tmp_path / "feed"), host=host, port=0)
    with pytest.raises(HornbookError, match=r"without a token.*HORNBOOK_FEED_TOKEN"):
        serve(config)
    assert not (tmp_path / "feed").exists()
    assert listening_addresses(config, TOKEN)


@pytest.mark.parametrize("changed", [{"host": "0.0.0.0"}, {"tunnel": "ngrok"}])
def test_a_short_token_is_for_this_machine(changed: dict[str, Any]) -> None:
    assert listening_addresses(FeedConfig(), "short")
    said = r"the token has 5 characters, and 16 at least.*secrets\.token_urlsafe"
    with pytest.raises(HornbookError, match=said):
        listening_addresses(FeedConfig(**changed), "short")
    assert check_token(secrets.token_urlsafe(), "")  # what the hint makes is one


@pytest.mark.parametrize(
    ("host", "family", "said"),
    [
        ("127.0.0.1", socket.AF_INET, "http://127.0.0.1:8765 ("),
        ("0.0.0.0", socket.AF_INET, "http://127.0.0.1:8765 or http://"),
        ("::", socket.AF_INET6, "http://[::1]:8765 or http://"),
    ],
)
def test_the_greeting_has_addresses_that_can_be_asked(
    log: LogWriter, tmp_path: Path, host: str, family: socket.AddressFamily, said: str
) -> None:
    with Cursors(tmp_path / "feed") as cursors:
        feed = Feed(log, cursors, FeedConfig())
        assert said in _greeting(feed, [(family, host)], 8765, None)
        feed.close()


def test_every_address_of_a_name_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    def resolved(*_: object, **__: object) -> list[object]:
        ends = [("127.0.0.1", 0), ("192.0.2.7", 0)]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", end) for end in ends]

    monkeypatch.setattr(socket, "getaddrinfo", resolved)
    with pytest.raises(HornbookError, match=r"192\.0\.2\.7"):
        listening_addresses(FeedConfig(host="two.example"), None)


def test_addresses_of_this_machine() -> None:
    assert all(is_loopback(each) for each in ("127.0.0.1", "127.9.9.9", "::1"))
    assert not any(is_loopback(each) for each in ("0.0.0.0", "::", "10.0.0.1", "fe80::1%eth0"))
    assert listening_addresses(FeedConfig(host="localhost"), None)
    with pytest.raises(HornbookError, match="no address"):
        listening_addresses(FeedConfig(host="no.such.name.invalid"), None)


def test_the_token_comes_from_a_file_or_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HORNBOOK_FEED_TOKEN", " from-environment\n")
    assert server_token(FeedConfig()) == "from-environment"
    file = tmp_path / "token"
    config = FeedConfig(token_file=str(file))
    with pytest.raises(HornbookError, match="cannot be read"):
        server_token(config)
    file.write_text(f"{TOKEN}\n")
    assert server_token(config) == TOKEN
    for bad in ("", "two words", "ümlaut"):
        file.write_text(bad)
        with pytest.raises(HornbookError, match="token") as caught:
            server_token(config)
        assert not bad or bad not in str(caught.value)
    monkeypatch.delenv("HORNBOOK_FEED_TOKEN")
    assert server_token(FeedConfig()) is None


def test_a_port_that_is_taken(log: LogWriter, served: Callable[..., Served]) -> None:
    feed = served(log)
    addresses = listening_addresses(FeedConfig(), None)
    with pytest.raises(HornbookError, match=r"cannot listen.*--feed\.port"):
        listen(addresses, feed.port)
