"""The tunnel behind its protocol; the foreign programs themselves cannot run in a test."""

from __future__ import annotations

import contextlib
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from hornbook.errors import HornbookError
from hornbook.feed import tunnel as tunnels
from hornbook.feed.config import FeedConfig
from hornbook.feed.serve import FeedServer, serve
from hornbook.feed.tunnel import open_tunnel


class FakeTunnel:
    """Notes what is asked of it."""

    def __init__(self) -> None:
        self.problem: Exception | None = None
        self.port, self.calls = 0, list[str]()

    @contextlib.contextmanager
    def __call__(self, port: int) -> Iterator[str]:
        self.port = port
        self.calls.append("started")
        if self.problem is not None:
            raise self.problem
        yield "https://feed.example"
        self.calls.append("stopped")


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FeedConfig:
    """Settings of a feed with a text and a tunnel; the environment has a token."""
    monkeypatch.setenv("HORNBOOK_FEED_TOKEN", "token-of-the-tunnel")
    archive = tmp_path / "texts.jsonl"
    archive.write_text("".join('{"text": "some text"}\n' for _ in range(50)))
    return FeedConfig(
        folder=str(tmp_path / "feed"), port=0, tunnel="ngrok", archive=str(archive), ahead_texts=10
    )


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeTunnel:
    """Stands for ngrok."""
    made = FakeTunnel()
    monkeypatch.setitem(tunnels.TUNNELS, "ngrok", made)
    return made


def test_no_tunnel_without_a_token(
    config: FeedConfig, fake: FakeTunnel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HORNBOOK_FEED_TOKEN")
    with pytest.raises(HornbookError, match="without a token there is no tunnel"):
        serve(config)
    assert fake.calls == []


def test_no_tunnel_to_where_nobody_listens(config: FeedConfig, fake: FakeTunnel) -> None:
    config.host = "127.0.0.9"
    with pytest.raises(HornbookError, match=r"leads to 127\.0\.0\.1"):
        serve(config)
    assert fake.calls == []


def test_it_leads_to_the_server_and_ends_with_it(
    config: FeedConfig,
    fake: FakeTunnel,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run_feed = FeedServer.run_feed

    async def reached(self: FeedServer, *work: Any) -> None:
        async def through() -> None:
            async with httpx2.AsyncClient() as client:
                answer = await client.get(f"http://127.0.0.1:{fake.port}/healthz")
            fake.calls.append(f"answered {answer.status_code}")
            self.should_exit = True

        await run_feed(self, *work, through())

    monkeypatch.setattr(FeedServer, "run_feed", reached)
    serve(config)
    assert fake.calls == ["started", "answered 200", "stopped"]
    assert "https://feed.example" in capsys.readouterr().err


def test_one_that_does_not_start_ends_the_feed(config: FeedConfig, fake: FakeTunnel) -> None:
    fake.problem = RuntimeError("no account")
    with pytest.raises(HornbookError, match=r"ngrok: the tunnel did not start .*no account"):
        serve(config)
    assert fake.calls == ["started"]


@pytest.mark.parametrize(("name", "library"), [("ngrok", "pyngrok"), ("cloudflared",) * 2])
def test_a_library_that_is_missing_is_named(
    config: FeedConfig, name: Any, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for each in ("pyngrok", "pycloudflared"):
        monkeypatch.setitem(sys.modules, each, None)
    config.tunnel = name
    with pytest.raises(HornbookError, match=rf"needs .*{library}.*pip install hornbook\[tunnel\]"):
        serve(config)


def test_what_is_asked_of_the_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[object, ...]] = []

    def noted(name: str, result: object = None) -> object:
        return lambda *args, **options: (calls.append((name, *args, *options.items())), result)[1]

    public = types.SimpleNamespace(public_url="https://a.example", tunnel="https://b.example")
    ngrok = types.SimpleNamespace(connect=noted("connect", public), kill=noted("kill"))
    monkeypatch.setitem(sys.modules, "pyngrok", types.SimpleNamespace(ngrok=ngrok))

    class Cloudflare:
        __call__ = staticmethod(noted("cloudflare", public))
        terminate = staticmethod(noted("terminate"))

    module = types.SimpleNamespace(try_cloudflare=Cloudflare())
    monkeypatch.setitem(sys.modules, "pycloudflared", module)
    for name, address in (("ngrok", "https://a.example"), ("cloudflared", "https://b.example")):
        with open_tunnel(name, 8765) as found:
            assert found == address
            calls.append(("open",))
    assert calls == [
        ("connect", "127.0.0.1:8765", "http"), ("open",), ("kill",),
        ("cloudflare", ("port", 8765), ("verbose", False)), ("open",), ("terminate", 8765),
    ]  # fmt: skip
