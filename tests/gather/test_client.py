"""The client against servers that throttle, lie, hang, cut off and redirect; no test waits."""

from __future__ import annotations

import gzip
import json
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import pytest
from pytest_httpserver import HTTPServer
from tests.gather.hostile_server import FakeClock, endless, hangs, raw_server, sends
from werkzeug import Request, Response

from hornbook.errors import HornbookError
from hornbook.gather import client as client_module
from hornbook.gather.answers import retry_after
from hornbook.gather.client import FetchError, PoliteClient, Politeness
from hornbook.gather.download import download
from hornbook.gather.pace import Pace, Stopped
from hornbook.gather.source import StopGathering

KEY = "sesame-7f3a"


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def opened(clock: FakeClock) -> Iterator[Callable[..., PoliteClient]]:
    """Opens clients that may visit loopback."""
    clients = []

    def opened(**manners: object) -> PoliteClient:
        politeness = Politeness(**{"allow_private": True, **manners})  # type: ignore[arg-type]
        clients.append(PoliteClient(politeness, secrets=[KEY], clock=clock, note=notes.append))
        return clients[-1]

    notes: list[str] = []
    opened.notes = notes  # type: ignore[attr-defined]
    yield opened
    for client in clients:
        client.close()


Open = Callable[..., PoliteClient]


def test_token_bucket(clock: FakeClock) -> None:
    pace = Pace(60, 2, clock)
    began = []
    for _ in range(9):
        with pace.turn():
            began.append(clock.time)
    assert began == [0, 0, 0, 0, 0, 1, 2, 3, 4]
    clock.time += 2.5  # quiet for a while: as many tokens came back
    for _ in range(4):
        with pace.turn():
            began.append(clock.time)
    assert began[9:] == [6.5, 6.5, 7, 8]
    pace.pause(30)
    with pace.turn():
        assert clock.time == 38
    pace.slow_down(10)
    with pace.turn():
        pass
    with pace.turn():
        assert clock.time >= 48


def test_requests_at_a_time(opened: Open) -> None:
    running, most = 0, 0
    lock, two = threading.Lock(), threading.Barrier(2)

    def answer(connection: socket.socket, request: str) -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        two.wait(10)  # two of them have to be here together
        with lock:
            running -= 1
        sends("HTTP/1.1 200 OK\nContent-Length: 1\nConnection: close", b"x")(connection, request)

    with raw_server({"/": answer}) as url:
        client = opened(concurrency=2)
        threads = [threading.Thread(target=client.get, args=(url + "/",)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert most == 2 and client.requests == 8 and client.retries == 0


def test_name_and_answer(httpserver: HTTPServer, opened: Open) -> None:
    seen: list[Request] = []

    def answer(request: Request) -> Response:
        seen.append(request)
        body = gzip.compress("grüße".encode())
        return Response(
            body, headers={"Content-Encoding": "gzip", "Content-Type": "text/x; charset=utf-8"}
        )

    httpserver.expect_request("/a").respond_with_handler(answer)
    client = opened(contact="me@example.org")
    page = client.get(httpserver.url_for("/a?x=1"), params={"q": "ä b"}, headers={"X-Own": "1"})
    assert page.content.decode() == "grüße" and page.encoding == "utf-8"
    assert page.headers["content-type"].startswith("text/x")
    assert dict(seen[0].args) == {"x": "1", "q": "ä b"}
    agent = seen[0].headers["User-Agent"]
    assert agent.startswith("hornbook/") and "(me@example.org) python-httpx2/" in agent
    assert seen[0].headers["Accept-Encoding"] == "gzip" and seen[0].headers["X-Own"] == "1"
    with pytest.raises(HornbookError, match="--contact"):
        opened(contact="a\r\nX-Evil: 1")


@pytest.mark.parametrize(
    ("said", "waits"),
    [
        ({"Retry-After": "7"}, [7.0]),
        (
            {
                "Retry-After": "Sun, 22 Nov 2026 12:00:30 GMT",
                "Date": "Sun, 22 Nov 2026 12:00:00 GMT",
            },
            [30.0],
        ),
        ({"Retry-After": "soon"}, None),
        ({}, None),
    ],
)
@pytest.mark.parametrize("status", [429, 503])
def test_waits_as_long_as_asked(
    opened: Open, clock: FakeClock, said: dict[str, str], waits: list[float] | None, status: int
) -> None:
    answered = []

    def answer(connection: socket.socket, request: str) -> None:
        answered.append(clock.time)
        lines = "".join(f"{name}: {value}\n" for name, value in said.items())
        body = b"fine" if len(answered) > 1 else b""
        code = "200 OK" if len(answered) > 1 else f"{status} Wait"
        head = f"HTTP/1.1 {code}\n{lines}Content-Length: {len(body)}\nConnection: close"
        sends(head, body)(connection, request)

    with raw_server({"/": answer}) as url:
        client = opened()
        assert client.get(url + "/").content == b"fine"
    assert client.retries == 1 and client.requests == 2
    if waits is not None:
        assert clock.slept == waits
    else:
        assert sum(clock.slept) <= 1.0  # full jitter below the first second


def test_long_waits(httpserver: HTTPServer, opened: Open) -> None:
    httpserver.expect_ordered_request("/").respond_with_data(
        status=429, headers={"Retry-After": "90"}
    )
    httpserver.expect_ordered_request("/").respond_with_data(
        status=429, headers={"Retry-After": "7200"}
    )
    with pytest.raises(StopGathering, match="asks to wait for 120 minutes"):
        opened().get(httpserver.url_for("/"))
    assert len(opened.notes) == 1 and "waiting 90 s" in opened.notes[0]  # type: ignore[attr-defined]


def test_errors_that_stay_and_errors_that_pass(httpserver: HTTPServer, opened: Open) -> None:
    httpserver.expect_request("/gone").respond_with_data("no such page", status=404)
    httpserver.expect_request("/down").respond_with_data("busy", status=502)
    client = opened(attempts=4)
    with pytest.raises(FetchError, match=r"HTTP 404 NOT FOUND \(http://.*/gone\)") as met:
        client.get(httpserver.url_for("/gone?key=1"))
    assert met.value.status == 404 and met.value.body == b"no such page"
    assert not met.value.retryable and client.requests == 1
    with pytest.raises(FetchError, match="HTTP 502") as met:
        client.get(httpserver.url_for("/down"))
    assert met.value.retryable and client.requests == 5 and client.retries == 3


@pytest.mark.parametrize(
    ("answer", "message", "tries"),
    [
        (sends("HTTP/1.1 200 OK\nContent-Length: 100", b"short"), "closed connection", 2),
        (sends("HTTP/1.1 200 OK\nTransfer-Encoding: chunked", b"5\r\nhel"), "closed connection", 2),
        (sends("HTTP/1.1 200 OK\nContent-Encoding: gzip", b"no gzip"), "bad gzip", 2),
        (
            sends("HTTP/1.1 200 OK\nContent-Encoding: gzip", gzip.compress(b"x" * 999)[:-9]),
            "the gzip body is cut off",
            2,
        ),
        (
            sends("HTTP/1.1 200 OK\nContent-Encoding: gzip", gzip.compress(bytes(2**24))),
            "larger than 10,000 bytes",
            1,
        ),
        (sends("HTTP/1.1 200 OK\nContent-Encoding: br", b"???"), "packed with 'br', not gzip", 2),
        (endless, "larger than 10,000 bytes", 1),
        (hangs, "no answer within 60 seconds", 2),
        (sends("nonsense", b"nonsense"), "nonsense", 2),
        (sends("HTTP/1.1 301 X\nLocation: file:///etc/hostname"), "not an http or https", 1),
        (sends("HTTP/1.1 301 X\nLocation: ftp://127.0.0.1/x"), "not an http or https", 1),
        (sends("HTTP/1.1 301 X\nLocation: http://[::1"), "Invalid", 1),
        (sends("HTTP/1.1 302 X\nLocation: /"), "more than 10 redirects", 11),
    ],
)
def test_bad_servers(
    opened: Open,
    monkeypatch: pytest.MonkeyPatch,
    answer: Callable[..., None],
    message: str,
    tries: int,
) -> None:
    monkeypatch.setattr(client_module, "TIMEOUT", httpx2.Timeout(0.3))
    with raw_server({"/": answer}) as url:
        client = opened(attempts=2, largest_bytes=10_000)
        with pytest.raises(FetchError, match=message):
            client.get(url + "/")
        assert client.requests == tries


def test_an_address_is_asked_for_as_it_was_written(httpserver: HTTPServer, opened: Open) -> None:
    httpserver.expect_request("/a").respond_with_data("x")
    opened().get(httpserver.url_for("/a?x&y=a%20b"))
    assert httpserver.log[0][0].query_string == b"x&y=a%20b"


def test_several_gzip_members_are_one_body(opened: Open) -> None:
    members = b"".join(gzip.compress(part) for part in (b"one ", b"", b"two"))
    with raw_server({"/": sends("HTTP/1.1 200 OK\nContent-Encoding: gzip", members)}) as url:
        assert opened().get(url + "/").content == b"one two"


def test_closing_ends_a_long_wait(httpserver: HTTPServer) -> None:
    """A thread that was told to wait for 500 s does not keep the process from ending."""
    httpserver.expect_request("/").respond_with_data(status=503, headers={"Retry-After": "500"})
    told = threading.Event()
    client = PoliteClient(Politeness(allow_private=True), note=lambda line: told.set())
    errors: list[BaseException] = []

    def work() -> None:
        with pytest.raises(Stopped) as met:
            client.get(httpserver.url_for("/"))
        errors.append(met.value)

    thread = threading.Thread(target=work)
    thread.start()
    assert told.wait(60)
    client.close()
    thread.join()
    assert errors


def test_content_length_shorter_than_the_body(opened: Open) -> None:
    with raw_server({"/": sends("HTTP/1.1 200 OK\nContent-Length: 8", b'{"a": 1}, [')}) as url:
        assert opened().json(url + "/") == {"a": 1}


def test_a_slow_drip_ends(opened: Open) -> None:
    def drips(connection: socket.socket, request: str) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            connection.sendall(b"x")

    slow = FakeClock(tick=1.0)  # each look at it is a second later
    manners = Politeness(allow_private=True, attempts=1)
    with (
        raw_server({"/": drips}) as url,
        PoliteClient(manners, clock=slow) as client,
        pytest.raises(FetchError, match="took longer than 300 s"),
    ):
        client.get(url + "/")


def test_not_json(httpserver: HTTPServer, opened: Open) -> None:
    httpserver.expect_request("/").respond_with_data(f"<html>{KEY}")
    with pytest.raises(FetchError, match="not JSON: '<html>") as met:
        opened().json(httpserver.url_for("/"))
    assert KEY not in str(met.value)
    httpserver.expect_request("/deep").respond_with_data("[" * 100_000)
    with pytest.raises(FetchError, match="not JSON"):
        opened().json(httpserver.url_for("/deep"))


def test_redirects_check_every_hop(httpserver: HTTPServer, opened: Open) -> None:
    """Keys stay with their host; each host has its own pace."""
    seen: dict[str, dict[str, str]] = {}

    def answer(connection: socket.socket, request: str) -> None:
        seen["other"] = dict(
            line.split(": ", 1) for line in request.split("\r\n")[1:] if ": " in line
        )
        sends("HTTP/1.1 200 OK\nContent-Length: 2", b"ok")(connection, request)

    with raw_server({"/end": answer}) as other:

        def redirect(request: Request) -> Response:
            seen["first"] = dict(request.headers)
            return Response(status=302, headers={"Location": f"{other}/end"})

        httpserver.expect_request("/hop").respond_with_handler(redirect)
        httpserver.expect_request("/start").respond_with_data(
            status=301, headers={"Location": "/hop"}
        )
        page = opened().get(
            httpserver.url_for("/start"),
            headers={"Authorization": KEY, "X-Goog-Api-Key": KEY, "Range": "bytes=0-"},
        )
    assert page.content == b"ok" and page.url == f"{other}/end"
    assert seen["first"]["Authorization"] == KEY
    assert KEY not in str(seen["other"]) and seen["other"]["Range"] == "bytes=0-"


def test_https_never_becomes_http(monkeypatch: pytest.MonkeyPatch, opened: Open) -> None:
    client = opened()
    answer = httpx2.Response(301, headers={"Location": "http://example.org/"})
    monkeypatch.setattr(
        client._client._transport, "handle_request", lambda request: answer, raising=True
    )
    with pytest.raises(FetchError, match="redirects from https to http"):
        client.get("https://example.org/")


def test_keys_are_in_no_message(httpserver: HTTPServer, opened: Open) -> None:
    httpserver.expect_request(f"/{KEY}").respond_with_data("no", status=403)
    client = opened(attempts=1)
    messages = []
    for url in (
        httpserver.url_for(f"/{KEY}?key={KEY}"),
        f"http://user:{KEY}@127.0.0.1:1/x?key={KEY}#{KEY}",
        f"ftp://{KEY}.example.org",
        f"http://[{KEY}",
    ):
        with pytest.raises(FetchError) as met:
            client.get(url)
        messages.append(str(met.value) + met.value.url)
    assert not [message for message in messages if KEY in message]
    assert "/***" in messages[0] and "127.0.0.1:1/x" in messages[1]


def test_downloads(
    httpserver: HTTPServer, opened: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A download through the polite client: throttled once, redirected, broken and taken up."""
    monkeypatch.setattr("hornbook.gather.download.time.sleep", lambda seconds: None)
    data = bytes(range(256)) * 2000
    asked = []

    def file(connection: socket.socket, request: str) -> None:
        begin = int(request.partition("Range: bytes=")[2].partition("-")[0] or 0)
        asked.append((begin, "If-Range" in request))
        status = "206 Partial" if begin else "200 OK"
        head = f'HTTP/1.1 {status}\nETag: "v1"\nContent-Length: {len(data) - begin}'
        part = data[begin:] if begin else data[:200_000]
        sends(head, part)(connection, request)

    with raw_server({"/file": file}) as other:
        httpserver.expect_ordered_request("/f").respond_with_data(
            status=429, headers={"Retry-After": "0"}
        )
        for _ in range(2):
            httpserver.expect_ordered_request("/f").respond_with_data(
                status=302, headers={"Location": f"{other}/file"}
            )
        client = opened()
        download(client, httpserver.url_for("/f"), tmp_path / "f", label=None, largest=10**6)
    assert (tmp_path / "f").read_bytes() == data and [p.name for p in tmp_path.iterdir()] == ["f"]
    assert asked[0] == (0, False) and asked[1][0] > 0 and asked[1][1]
    assert client.retries == 1


def test_a_file_that_changed_is_not_patched_together(
    httpserver: HTTPServer, opened: Open, tmp_path: Path
) -> None:
    """A part of version 1 is left; the server has version 2, and honours If-Range."""
    (tmp_path / "f.part").write_bytes(b"old " * 10)
    (tmp_path / "f.part.json").write_text(json.dumps('"v1"'))

    def answer(request: Request) -> Response:
        same = request.headers.get("If-Range") == '"v2"'
        assert request.headers["Range"] == "bytes=40-"
        return Response(b"new " * 20, status=206 if same else 200, headers={"ETag": '"v2"'})

    httpserver.expect_request("/f").respond_with_handler(answer)
    download(opened(), httpserver.url_for("/f"), tmp_path / "f", label="f", largest=10**6)
    assert (tmp_path / "f").read_bytes() == b"new " * 20


def test_a_key_that_cannot_be_one() -> None:
    with pytest.raises(HornbookError, match="characters that keys do not have") as met:
        PoliteClient(Politeness(), secrets=[KEY + "\n"])
    assert KEY not in str(met.value)


@pytest.mark.parametrize(
    ("value", "date", "seconds"),
    [
        ("120", "", 120.0),
        ("0", "", 0.0),
        ("-3", "", None),
        ("1e3", "", None),
        ("٣", "", None),
        ("9" * 400, "", 999999999999.0),
        ("Sun, 22 Nov 2026 12:00:30 GMT", "", None),
        ("Sun, 22 Nov 2026 12:00:30 GMT", "Sun, 22 Nov 2026 12:01:00 GMT", 0.0),
        ("Sun, 22 Nov 2026 12:00:30", "Sun, 22 Nov 2026 12:00:00 GMT", None),
    ],
)
def test_retry_after(value: str, date: str, seconds: float | None) -> None:
    assert retry_after({"Retry-After": value, "Date": date}) == seconds
