"""Downloads against a real server on loopback: whole, resumed, bounded, or refused."""

from __future__ import annotations

import hashlib
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from hornbook.errors import HornbookError
from hornbook.gather import download as download_module
from hornbook.gather.download import DownloadError, download, fetch_page, open_client, shown

DATA = os.urandom(300_000)
SHA256 = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def client() -> Iterator[httpx2.Client]:
    with open_client() as client:
        yield client


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download_module.time, "sleep", lambda seconds: None)


def get(
    client: httpx2.Client, url: str, path: Path, sha256: str | None = SHA256, largest: int = 10**6
) -> None:
    download(client, url, path, label="test", largest=largest, sha256=sha256)


def ranged(request: Request) -> Response:
    """What servers do with `Range: bytes=N-`."""
    begin = int(request.headers.get("Range", "bytes=0-")[6:-1])
    if begin >= len(DATA):
        return Response(status=416, headers={"Content-Range": f"bytes */{len(DATA)}"})
    return Response(DATA[begin:], status=206 if begin else 200)


def test_whole_with_a_name_of_its_own(
    httpserver: HTTPServer, client: httpx2.Client, tmp_path: Path
) -> None:
    seen = []

    def answer(request: Request) -> Response:
        seen.append(request.headers)
        return Response(DATA)

    httpserver.expect_request("/f").respond_with_handler(answer)
    get(client, httpserver.url_for("/f"), tmp_path / "deep/f")
    assert (tmp_path / "deep/f").read_bytes() == DATA
    assert seen[0]["User-Agent"].startswith("hornbook/")
    assert seen[0]["Accept-Encoding"] == "identity"
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["f"]


def test_taken_up_where_a_killed_process_left_it(
    httpserver: HTTPServer, client: httpx2.Client, tmp_path: Path
) -> None:
    ranges = []

    def answer(request: Request) -> Response:
        ranges.append(request.headers.get("Range"))
        return ranged(request)

    httpserver.expect_request("/f").respond_with_handler(answer)
    (tmp_path / "f.part").write_bytes(DATA[:100_000])
    get(client, httpserver.url_for("/f"), tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == DATA and ranges == ["bytes=100000-"]
    (tmp_path / "f.part").write_bytes(DATA)  # killed between the last byte and the rename
    get(client, httpserver.url_for("/f"), tmp_path / "f")
    (tmp_path / "f.part").write_bytes(b"x" * 50)
    with pytest.raises(DownloadError, match="the bytes have sha256"):
        get(client, httpserver.url_for("/f"), tmp_path / "f")
    get(client, httpserver.url_for("/f"), tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == DATA


def test_a_server_that_sends_less_than_the_rest_is_asked_again(
    httpserver: HTTPServer, client: httpx2.Client, tmp_path: Path
) -> None:
    """RFC 9110, 15.3.7: a 206 may hold a part of the range that was asked for."""

    def answer(request: Request) -> Response:
        begin = int(request.headers["Range"][6:-1])
        end = min(begin + 100_000, len(DATA))
        said = {"Content-Range": f"bytes {begin}-{end - 1}/{len(DATA)}", "ETag": '"1"'}
        return Response(DATA[begin:end], status=206, headers=said)

    httpserver.expect_request("/f").respond_with_handler(answer)
    (tmp_path / "f.part").write_bytes(DATA[:50_000])
    (tmp_path / "f.part.json").write_text('"\\"1\\""')
    get(client, httpserver.url_for("/f"), tmp_path / "f", sha256=None)
    assert (tmp_path / "f").read_bytes() == DATA


def test_without_a_hash_an_old_part_is_not_trusted(
    httpserver: HTTPServer, client: httpx2.Client, tmp_path: Path
) -> None:
    httpserver.expect_request("/f").respond_with_handler(ranged)
    (tmp_path / "f.part").write_bytes(b"other")
    get(client, httpserver.url_for("/f"), tmp_path / "f", sha256=None)
    assert (tmp_path / "f").read_bytes() == DATA


def test_a_server_without_ranges_starts_anew(
    httpserver: HTTPServer, client: httpx2.Client, tmp_path: Path
) -> None:
    httpserver.expect_request("/f").respond_with_data(DATA)
    (tmp_path / "f.part").write_bytes(DATA[:100])
    get(client, httpserver.url_for("/f"), tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == DATA


def test_a_broken_connection_is_taken_up(client: httpx2.Client, tmp_path: Path) -> None:
    """A socket that closes after 1/3, then after 2/3 of the bytes."""
    server = socket.create_server(("127.0.0.1", 0))
    asked = []

    def serve() -> None:
        for end in (100_000, 200_000, 300_000):
            connection, _ = server.accept()
            with connection:
                request = connection.recv(65536).decode()
                begin = (
                    int(request.lower().split("range: bytes=")[1].split("-")[0])
                    if ("range: bytes=" in request.lower())
                    else 0
                )
                asked.append(begin)
                head = f"HTTP/1.1 {206 if begin else 200} OK\r\nContent-Length: {len(DATA) - begin}"
                connection.sendall(f"{head}\r\n\r\n".encode() + DATA[begin:end])

    thread = threading.Thread(target=serve)
    thread.start()
    get(client, f"http://127.0.0.1:{server.getsockname()[1]}/f", tmp_path / "f")
    thread.join()
    server.close()
    assert (tmp_path / "f").read_bytes() == DATA
    assert asked[0] == 0 and asked[1] > 0 and asked[2] >= asked[1]


def test_refused(httpserver: HTTPServer, client: httpx2.Client, tmp_path: Path) -> None:
    httpserver.expect_request("/f").respond_with_data(DATA)
    httpserver.expect_request("/stream").respond_with_handler(
        lambda request: Response(DATA[:50_000] for _ in range(6))
    )
    with pytest.raises(DownloadError, match="HTTP 500"):
        get(client, httpserver.url_for("/none"), tmp_path / "f")
    with pytest.raises(DownloadError, match="300,000 bytes are more than the 1,000 expected"):
        get(client, httpserver.url_for("/f"), tmp_path / "f", largest=1_000)
    with pytest.raises(DownloadError, match="more than the 1,000 bytes expected"):
        get(client, httpserver.url_for("/stream"), tmp_path / "f", largest=1_000)
    with pytest.raises(DownloadError, match=r"sha256 .* not 0000"):
        get(client, httpserver.url_for("/f"), tmp_path / "g", sha256="0" * 64)
    assert not (tmp_path / "f").exists() and not (tmp_path / "g").exists()


@pytest.mark.parametrize("target", ["file:///etc/hostname", "ftp://127.0.0.1/f"])
def test_redirects_lead_to_http_only(
    httpserver: HTTPServer, client: httpx2.Client, tmp_path: Path, target: str
) -> None:
    httpserver.expect_request("/f").respond_with_data(b"", status=302, headers={"Location": target})
    with pytest.raises(DownloadError):
        get(client, httpserver.url_for("/f"), tmp_path / "f", sha256=None)
    assert not (tmp_path / "f").exists()


def test_redirects_are_followed(
    httpserver: HTTPServer, client: httpx2.Client, tmp_path: Path
) -> None:
    httpserver.expect_request("/old").respond_with_data(
        b"", status=302, headers={"Location": "/new"}
    )
    httpserver.expect_request("/new").respond_with_data(DATA)
    get(client, httpserver.url_for("/old"), tmp_path / "f")
    httpserver.expect_request("/loop").respond_with_data(
        b"", status=302, headers={"Location": "/loop"}
    )
    with pytest.raises(DownloadError, match="redirects"):
        get(client, httpserver.url_for("/loop"), tmp_path / "g")


def test_nobody_answers(client: httpx2.Client, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(DownloadError, match="refused"):
        get(client, f"http://127.0.0.1:{port}/f", tmp_path / "f")


def test_pages_are_bounded(
    httpserver: HTTPServer, client: httpx2.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    httpserver.expect_request("/page").respond_with_data("é", content_type="text/html")
    page = fetch_page(client, httpserver.url_for("/page"))
    assert page.text == "é" and page.headers["Content-Type"].startswith("text/html")
    monkeypatch.setattr(download_module, "LARGEST_PAGE", 1)
    with pytest.raises(DownloadError, match="larger than 1 bytes"):
        fetch_page(client, httpserver.url_for("/page"))


def test_bad_certificate_file(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("nonsense")
    with pytest.raises(HornbookError, match=r"ca\.pem: is not readable as certificates"):
        open_client(tmp_path / "ca.pem")
    with pytest.raises(HornbookError, match="is not readable as certificates"):
        open_client(tmp_path / "missing.pem")


def test_passwords_are_not_shown() -> None:
    assert shown("https://user:secret@host:8080/simple?x=1") == "https://host:8080/simple?x=1"
