"""Limits of a request, an answer and the connections."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
from tests.feed.feed_process import FeedProcess
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


LIMITED = """
import resource, sys
from hornbook.errors import HornbookError
from hornbook.feed.descriptors import make_room
resource.setrlimit(resource.RLIMIT_NOFILE, (100, 500))
make_room(100)
print(resource.getrlimit(resource.RLIMIT_NOFILE))
make_room(3)
print(resource.getrlimit(resource.RLIMIT_NOFILE))
for connections in (126, 125):
    try:
        make_room(connections)
    except HornbookError as error:
        print(error)
resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))
try:
    make_room(1)
except HornbookError as error:
    print(error)
"""

posix = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limit")


@posix
def test_the_limit_of_open_files_is_raised_as_far_as_it_may_be() -> None:
    done = subprocess.run([sys.executable, "-c", LIMITED], capture_output=True, text=True)
    first, second, too_many, none = done.stdout.splitlines()
    assert first == second == "(450, 500)"
    assert too_many == (
        "feed.max_connections: 126 connections need 502 open files; this process may have 500. "
        "Raise the limit (`ulimit -n 502`), or take --feed.max_connections 125 at most"
    )
    assert none.endswith("Raise the limit (`ulimit -n 252`)")


@posix
def test_a_flood_of_connections_leaves_descriptors_for_the_feed(tmp_path: Path) -> None:
    archive, said = tmp_path / "texts.jsonl", tmp_path / "said"
    archive.write_text('{"text": "a text that is long enough"}\n' * 20)
    places = [f"--feed.folder={tmp_path / 'feed'}", f"--feed.archive={archive}"]
    feed = FeedProcess(*places, "--feed.max_connections=20", said=said)
    feed._command = ["sh", "-c", 'ulimit -n 300; exec "$@"', "sh", *feed._command]
    feed.start()
    try:
        held: list[socket.socket] = []
        ends = time.monotonic() + 3
        while time.monotonic() < ends:
            for _ in range(100):
                held.append(socket.socket())
                held[-1].setblocking(False)
                held[-1].connect_ex(("127.0.0.1", feed.port))
            while len(held) > 600:
                held.pop(0).close()
        for each in held:
            each.close()
        answers = []
        for _ in range(100):
            with contextlib.suppress(httpx2.TransportError):
                answers.append(httpx2.get(f"{feed.url}/healthz").status_code)
                if answers[-1] == 200:
                    break
            time.sleep(0.05)
        assert answers[-1] == 200
        assert feed.process is not None and feed.process.poll() is None
        assert "Traceback" not in said.read_text() and len(said.read_text()) < 2000
    finally:
        feed.kill()


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
