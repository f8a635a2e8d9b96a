"""Limits of a request, an answer and the connections."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable
from typing import Any

import httpx2
import pytest
from tests.feed.serving import Served

from hornbook.feed import bodies
from hornbook.feed.guard import MAX_BODY, ConnectionLimits
from hornbook.feed.log import LogWriter

Serve = Callable[..., Served]


def test_a_body_is_short(log: LogWriter, served: Serve) -> None:
    feed = served(log)
    long = b" " * (MAX_BODY + 1)

    def chunks() -> Any:
        yield from (long[:50_000], long[:50_000])

    with feed.client() as client:
        for content in (long, chunks()):
            answer = client.post("/acknowledge", content=content)
            assert answer.status_code == 413 and str(MAX_BODY) in answer.json()["error"]
        assert client.post("/acknowledge", content=b"{" * 100).status_code == 400
        assert client.get("/healthz").status_code == 200


def test_headers_are_short(log: LogWriter, served: Serve) -> None:
    feed = served(log)
    with contextlib.suppress(httpx2.TransportError):  # the answer is lost where more is being sent
        answer = httpx2.get(f"{feed.url}/healthz", headers={"X-Long": "x" * 5_000_000})
        assert answer.status_code == 400
    assert httpx2.get(f"{feed.url}/healthz").status_code == 200


def test_one_text_that_is_longer_than_an_answer(log: LogWriter, served: Serve) -> None:
    feed = served(log, max_response_bytes=1000)
    feed.add("short", "long " * 400_000, "short")
    assert feed.get("/generate", cursor=0, n=3).json() == ["short"]
    answer = feed.get("/generate", cursor=1, n=3)
    assert len(answer.json()) == 1 and len(answer.json()[0]) == 2_000_000


def test_connections_above_the_number_get_503(log: LogWriter, served: Serve) -> None:
    feed = served(log, limits=ConnectionLimits(connections=3))
    with contextlib.ExitStack() as held:
        for _ in range(3):
            held.enter_context(socket.create_connection(("127.0.0.1", feed.port)))
        answer = httpx2.get(f"{feed.url}/healthz")
        assert answer.status_code == 503 and answer.headers["Retry-After"]
        assert answer.headers["Connection"] == "close"
        for _ in range(3):
            held.enter_context(socket.create_connection(("127.0.0.1", feed.port)))
        with pytest.raises(httpx2.TransportError):  # far above it they are not even answered
            httpx2.get(f"{feed.url}/healthz")
    for _ in range(100):
        with contextlib.suppress(httpx2.TransportError):
            if httpx2.get(f"{feed.url}/healthz").status_code == 200:
                return
    pytest.fail("the feed did not recover")


def test_who_leaves_waits_no_longer(log: LogWriter, served: Serve) -> None:
    feed = served(log, max_connections=4)
    for path in ("/generate?cursor=0", "/generate?consumer=a"):
        for _ in range(20):
            with socket.create_connection(("127.0.0.1", feed.port)) as client:
                client.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
                while feed.feed.connections() == 0:
                    time.sleep(0.001)
                time.sleep(0.01)
    requests = feed.feed.metrics.requests
    for _ in range(100):
        if requests["/generate", 499] == 40:  # of 20 s each, were they still answered
            break
        time.sleep(0.02)
    assert requests["/generate", 499] == 40
    feed.add("one")
    assert feed.get("/generate", consumer="a").json() == ["one"]


def test_bytes_in_flight_are_limited(
    log: LogWriter, served: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "MAX_IN_FLIGHT", 4_000_000)
    feed = served(log)
    feed.add(*("x" * 500_000 for _ in range(20)))
    request = b"GET /generate?cursor=0&n=20 HTTP/1.1\r\nHost: x\r\n\r\n"
    with contextlib.ExitStack() as held:
        for _ in range(9):  # that never read; the system's own buffers take about 3 MB of each
            slow = held.enter_context(socket.socket())
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            slow.connect(("127.0.0.1", feed.port))
            slow.sendall(request)
        for _ in range(100):
            answer = feed.get("/generate", cursor=0, n=1)
            if answer.status_code == 503:
                break
        assert "wait to be sent" in answer.json()["error"] and answer.headers["Retry-After"]
    for _ in range(100):  # those that leave give their bytes back
        if feed.get("/generate", cursor=0, n=1).status_code == 200:
            break
    assert feed.get("/stats").json()["in_flight"] == 0
