"""The tunnel behind its protocol; the foreign programs themselves cannot run in a test."""

from __future__ import annotations

import sys
import threading
import time
import types
from pathlib import Path

import httpx2
import pytest

from hornbook.errors import HornbookError
from hornbook.feed import tunnel as tunnels
from hornbook.feed.config import FeedConfig
from hornbook.feed.serve import FeedServer, serve
from hornbook.feed.tunnel import CloudflaredTunnel, NgrokTunnel


class FakeTunnel:
    """Notes what is asked of it."""

    def __init__(self, problem: Exception | None = None):
        self.problem, self.calls = problem, list[str]()

    def start(self, port: int) -> str:
        answer = httpx2.get(f"http://127.0.0.1:{port}/healthz")  # the server listens by now
        self.calls.append(f"started {answer.status_code}")
        if self.problem is not None:
            raise self.problem
        return "https://feed.example"

    def stop(self) -> None:
        self.calls.append("stopped")


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FeedConfig:
    """Settings of a feed with a text and a tunnel; the environment has a token."""
    monkeypatch.setenv("HORNBOOK_FEED_TOKEN", "token")
    archive = tmp_path / "texts.jsonl"
    archive.write_text("".join('{"text": "some text"}\n' for _ in range(50)))
    return FeedConfig(
        folder=str(tmp_path / "feed"), port=0, tunnel="ngrok", archive=str(archive), ahead_texts=10
    )


def test_no_tunnel_without_a_token(config: FeedConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HORNBOOK_FEED_TOKEN")
    fake = FakeTunnel()
    with pytest.raises(HornbookError, match="without a token there is no tunnel"):
        serve(config, fake)
    assert fake.calls == []


def test_it_starts_behind_the_server_and_ends_with_it(
    config: FeedConfig, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake, servers = FakeTunnel(), list[FeedServer]()
    original = FeedServer.__init__

    def noted(self: FeedServer, *args: object, **options: object) -> None:
        original(self, *args, **options)  # type: ignore[arg-type]
        servers.append(self)

    monkeypatch.setattr(FeedServer, "__init__", noted)
    thread = threading.Thread(target=serve, args=(config, fake))
    thread.start()
    while not fake.calls:
        time.sleep(0.02)
    servers[0].should_exit = True
    thread.join(30)
    assert fake.calls == ["started 200", "stopped"]
    assert "https://feed.example" in capsys.readouterr().err


def test_one_that_does_not_start_ends_the_feed(config: FeedConfig) -> None:
    fake = FakeTunnel(RuntimeError("no account"))
    with pytest.raises(HornbookError, match=r"ngrok: the tunnel did not start .*no account"):
        serve(config, fake)
    assert fake.calls == ["started 200", "stopped"]


def test_the_libraries_are_named_where_they_are_missing(
    config: FeedConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("pyngrok", "pycloudflared"):
        monkeypatch.setitem(sys.modules, name, None)
    for kind in (NgrokTunnel, CloudflaredTunnel):
        with pytest.raises(HornbookError, match=r"pip install hornbook\[tunnel\]"):
            kind()


def test_what_is_asked_of_the_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[object, ...]] = []

    def noted(name: str, result: object = None) -> object:
        return lambda *args, **options: (calls.append((name, *args, *options.items())), result)[1]

    ngrok = types.SimpleNamespace(
        connect=noted("connect", types.SimpleNamespace(public_url="https://a.example")),
        disconnect=noted("disconnect"), kill=noted("kill"),
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, "pyngrok", types.SimpleNamespace(ngrok=ngrok))

    class Cloudflare:
        def __call__(self, port: int, verbose: bool) -> object:
            calls.append(("cloudflare", port))
            return types.SimpleNamespace(tunnel="https://b.example")

        terminate = staticmethod(noted("terminate"))

    module = types.SimpleNamespace(try_cloudflare=Cloudflare())
    monkeypatch.setitem(sys.modules, "pycloudflared", module)
    assert [made().start(8765) for made in tunnels.TUNNELS.values()] == [
        "https://a.example", "https://b.example",
    ]  # fmt: skip
    for made in tunnels.TUNNELS.values():
        tunnel = made()
        tunnel.stop()  # never started: nothing to end
        tunnel.start(1)
        tunnel.stop()
    assert ("connect", "127.0.0.1:8765", "http") in calls
    assert [call[0] for call in calls[2:]] == [
        "connect", "disconnect", "kill", "cloudflare", "terminate",
    ]  # fmt: skip
