"""Clients that are slow or broken: cut off in time, and no harm to a good one."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
import time
from collections.abc import Callable

import httpx2
import pytest
from tests.feed.serving import Served

from hornbook.feed.guard import ConnectionLimits
from hornbook.feed.log import LogWriter

Serve = Callable[..., Served]
SHORT = ConnectionLimits(request_seconds=0.5, stall_seconds=0.5)
REQUEST = b"GET /generate?cursor=0&n=1000 HTTP/1.1\r\nHost: x\r\n\r\n"


def connected(feed: Served) -> socket.socket:
    """A client that the system holds little for."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.settimeout(20)
    client.connect(("127.0.0.1", feed.port))
    return client


def is_cut(client: socket.socket) -> bool:
    """Whether the server ended the connection, within the socket's 20 s."""
    try:
        while client.recv(65536):
            pass
    except ConnectionError:
        return True
    except TimeoutError:
        return False
    return True


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET /generate HT",
        b"GET / HTTP/1.1\r\nHost: x\r\nX-Never-",
        b"POST /acknowledge HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{",
        b"POST /acknowledge HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{",
    ],
)
def test_half_a_request_ends_the_connection(log: LogWriter, served: Serve, sent: bytes) -> None:
    with connected(served(log, limits=SHORT)) as client:
        client.sendall(sent)
        assert is_cut(client)


def test_a_letter_at_a_time_is_no_way_to_stay(log: LogWriter, served: Serve) -> None:
    feed = served(log, limits=SHORT)
    with connected(feed) as client, contextlib.suppress(ConnectionError):
        for letter in REQUEST * 100:
            client.sendall(bytes([letter]))
            time.sleep(0.05)
        pytest.fail("it was not cut off")


def test_a_client_that_does_not_read_is_cut_off(log: LogWriter, served: Serve) -> None:
    feed = served(log, limits=SHORT, max_response_bytes=20_000_000)
    feed.add(*("x" * 1_000_000 for _ in range(12)))
    with connected(feed) as client:
        client.sendall(REQUEST)
        for _ in range(400):
            if feed.feed.bodies.in_flight == 0 and feed.feed.metrics.texts:
                break
            time.sleep(0.05)
        assert feed.feed.bodies.in_flight == 0
        assert is_cut(client)
        assert feed.get("/healthz").status_code == 200


def test_a_slow_one_that_goes_on_reading_gets_all(log: LogWriter, served: Serve) -> None:
    feed = served(log, limits=ConnectionLimits(stall_seconds=3.0))
    feed.add(*(f"{number} " * 20_000 for number in range(15)))
    with connected(feed) as client:
        client.sendall(REQUEST.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        received = 0
        while got := client.recv(100_000):
            received += len(got)
            time.sleep(0.005)
    assert received > 600_000


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS
        b"GET\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",  # no Host
        b"POST /acknowledge HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST /acknowledge HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"GET /" + b"a" * 5_000_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        REQUEST + b"\0\0garbage behind it\r\n\r\n",
    ],
)
def test_what_is_no_http_ends_the_connection(log: LogWriter, served: Serve, sent: bytes) -> None:
    feed = served(log, limits=SHORT)
    feed.add("one")
    with connected(feed) as client:
        with contextlib.suppress(ConnectionError):
            client.sendall(sent)
        assert is_cut(client)
    assert feed.get("/generate", cursor=0).json() == ["one"]


def test_fifty_bad_clients_do_not_hurt_a_good_one(log: LogWriter, served: Serve) -> None:
    feed = served(log, limits=ConnectionLimits(request_seconds=1, stall_seconds=1))
    feed.add(*(f"{number} " * 300 for number in range(2000)))
    over = threading.Event()

    def bad(kind: int) -> None:
        chance = random.Random(kind)
        while not over.is_set():
            with contextlib.suppress(OSError), connected(feed) as client:
                if kind % 5 == 0:  # reads a byte now and then
                    client.sendall(REQUEST)
                    while client.recv(1) and not over.wait(0.1):
                        pass
                elif kind % 5 == 1:  # half a request
                    client.sendall(REQUEST[: chance.randrange(len(REQUEST))])
                    over.wait(2)
                elif kind % 5 == 2:  # leaves in the middle
                    client.sendall(REQUEST)
                    client.recv(1)
                elif kind % 5 == 3:  # no HTTP
                    client.sendall(chance.randbytes(2000))
                    client.recv(1)
                # else: leaves at once
            over.wait(0.2)

    threads = [threading.Thread(target=bad, args=(kind,)) for kind in range(50)]
    for thread in threads:
        thread.start()
    found, cursor = [], 0
    with httpx2.Client(base_url=feed.url, timeout=60) as client:
        while cursor < 2000:
            answer = client.get("/generate", params={"cursor": cursor, "n": 64})
            assert answer.status_code == 200, answer.text
            found += answer.json()
            cursor = int(answer.headers["X-Feed-Next"])
    assert found == [f"{number} " * 300 for number in range(2000)]
    over.set()
    for thread in threads:
        thread.join(30)
    for _ in range(200):
        state = feed.get("/stats").json()
        if state["connections"] <= 1 and state["in_flight"] == 0:
            break
        time.sleep(0.05)
    assert state["connections"] <= 1 and state["in_flight"] == 0
