"""The source `url`: files by address, with and without a hash; what is left out, what stops it."""

from __future__ import annotations

import gzip
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from pytest_httpserver import HTTPServer
from tests.gather.kill_source import gather_in_child, shards
from werkzeug import Request, Response

from hornbook.documents import read_documents
from hornbook.errors import HornbookError
from hornbook.gather.collect import GatherReport, collect
from hornbook.gather.config import GatherConfig, NetworkConfig, UrlConfig
from hornbook.gather.source import StopGathering
from hornbook.gather.url import UrlSource

BOOK = "A book.\n\nIt has two paragraphs.\n"


@pytest.fixture(autouse=True)
def quick_and_allowed(monkeypatch: pytest.MonkeyPatch, httpserver: HTTPServer) -> None:
    monkeypatch.setattr("hornbook.gather.client.LONGEST_BACKOFF_S", 0.0)
    httpserver.expect_request("/robots.txt").respond_with_data("User-agent: *\nDisallow: /secret")


def gather(out: Path, *urls: str, **settings: Any) -> GatherReport:
    network = NetworkConfig(allow_private=True, requests_per_minute=60_000)
    config = UrlConfig(urls=list(urls), **settings)
    return collect(UrlSource(config), GatherConfig(network=network), out)


def test_files_of_several_kinds(httpserver: HTTPServer, tmp_path: Path) -> None:
    lines = "\n".join(json.dumps({"body": f"line {n}", "url": f"u:{n}"}) for n in range(3))
    httpserver.expect_request("/book.txt").respond_with_data(BOOK)
    httpserver.expect_request("/rows").respond_with_data(gzip.compress(lines.encode()))
    sha256 = hashlib.sha256(BOOK.encode()).hexdigest().upper()
    list_file = tmp_path / "list.txt"
    list_file.write_text(f"# rows\n{httpserver.url_for('/rows?v=2')}\n")
    book = httpserver.url_for("/book.txt")
    gather(tmp_path / "out", f"{book} sha256={sha256}", list_file=str(list_file))
    documents = list(read_documents(tmp_path / "out"))
    assert [document.text for document in documents] == [BOOK, "line 0", "line 1", "line 2"]
    assert documents[0].url == book and documents[0].title == "book"
    assert documents[1].url == "u:0" and {each.source for each in documents} == {"localhost"}


def test_a_long_name(httpserver: HTTPServer, tmp_path: Path) -> None:
    """Names may have 255 bytes, which are 85 characters of Chinese."""
    name = "長" * 120 + ".txt"
    httpserver.expect_request(f"/{name}").respond_with_data(BOOK)
    gather(tmp_path, httpserver.url_for(f"/{name}"))
    (document,) = read_documents(tmp_path)
    assert document.text == BOOK and document.title == "長" * 56


def test_a_missing_file_is_left_out(httpserver: HTTPServer, tmp_path: Path) -> None:
    httpserver.expect_request("/a.txt").respond_with_data(BOOK)
    httpserver.expect_request("/gone.txt").respond_with_data("", status=410)
    addresses = [httpserver.url_for(path) for path in ("/gone.txt", "/secret.txt", "/a.txt")]
    report = gather(tmp_path, *addresses)
    assert [document.text for document in read_documents(tmp_path)] == [BOOK]
    assert report.counts["files left out"] == 2
    kept = (tmp_path / "quarantine.jsonl").read_text()
    assert "HTTP 410" in kept and "robots.txt forbids" in kept
    with pytest.raises(HornbookError, match=r"HTTP 410.*mistake in the address"):
        gather(tmp_path / "b", addresses[0])


def test_a_private_address_counts_as_none_that_is_missing(
    httpserver: HTTPServer, tmp_path: Path
) -> None:
    """Without --allow-private nothing begins, so that with it nothing is left out."""
    for path in ("/a.txt", "/b.txt"):
        httpserver.expect_request(path).respond_with_data(BOOK + path)
    urls = [httpserver.url_for(path) for path in ("/a.txt", "/b.txt")]
    with pytest.raises(HornbookError, match=r"a\.txt: localhost .*--allow-private"):
        collect(UrlSource(UrlConfig(urls=urls)), GatherConfig(), tmp_path)
    assert gather(tmp_path, *urls).documents == 2


def test_wrong_bytes(httpserver: HTTPServer, tmp_path: Path) -> None:
    httpserver.expect_request("/a.txt").respond_with_data(BOOK)
    with pytest.raises(HornbookError, match=r"the bytes have sha256 .*Is the hash right"):
        gather(tmp_path, f"{httpserver.url_for('/a.txt')} sha256={'0' * 64}")


def test_stopped_and_gone_on_with(httpserver: HTTPServer, tmp_path: Path) -> None:
    """The second file's server is down; later the first is not fetched again."""
    broken = [True]

    def answer(request: Request) -> Response:
        return Response("", 503) if broken[0] else Response("Other text.")

    httpserver.expect_request("/a.txt").respond_with_data(BOOK)
    httpserver.expect_request("/b.txt").respond_with_handler(answer)
    addresses = [httpserver.url_for("/a.txt"), httpserver.url_for("/b.txt")]
    with pytest.raises(StopGathering, match=r"HTTP 503.*Run the same command again"):
        gather(tmp_path, *addresses)
    broken[0] = False
    gather(tmp_path, *addresses)
    texts = [document.text for document in read_documents(tmp_path)]
    assert texts == [BOOK, "Other text."]
    assert [request.path for request, _ in httpserver.log].count("/a.txt") == 1


def test_a_dead_host_does_not_stop_the_others(httpserver: HTTPServer, tmp_path: Path) -> None:
    """What it has comes last, when it works again, and nothing twice."""
    dead = ["/b.txt", "/d.txt"]

    def answer(request: Request) -> Response:
        return Response("", 503) if request.path in dead else Response(f"Text of {request.path}.")

    for name in "abcde":
        httpserver.expect_request(f"/{name}.txt").respond_with_handler(answer)
    addresses = [httpserver.url_for(f"/{name}.txt") for name in "abcde"]
    words = r"HTTP 503 .*b\.txt\); 1 more could not be had either\. All others are gathered"
    with pytest.raises(StopGathering, match=words):
        gather(tmp_path / "out", *addresses)
    had = [document.text for document in read_documents(tmp_path / "out")]
    assert had == [f"Text of /{name}.txt." for name in "ace"]
    dead.remove("/b.txt")
    with pytest.raises(StopGathering, match=r"HTTP 503 .*d\.txt\)\. All others are gathered"):
        gather(tmp_path / "out", *addresses)
    dead.clear()
    report = gather(tmp_path / "out", *addresses)
    had = [document.text for document in read_documents(tmp_path / "out")]
    assert sorted(had) == [f"Text of /{name}.txt." for name in "abcde"]
    assert report.documents == 5 and "files left out" not in report.counts
    asked = [request.path for request, answer in httpserver.log if answer.status_code == 200]
    assert all(asked.count(f"/{name}.txt") == 1 for name in "abcde")


def test_a_host_that_stays_dead_is_left_out_when_told(
    httpserver: HTTPServer, tmp_path: Path
) -> None:
    httpserver.expect_request("/a.txt").respond_with_data(BOOK)
    httpserver.expect_request("/b.txt").respond_with_data("", status=503)
    addresses = [httpserver.url_for("/b.txt"), httpserver.url_for("/a.txt")]
    with pytest.raises(StopGathering, match="--leave-out-failing true"):
        gather(tmp_path, *addresses)
    report = gather(tmp_path, *addresses, leave_out_failing=True)
    assert report.documents == 1 and report.counts["files left out"] == 1
    assert "HTTP 503" in (tmp_path / "quarantine.jsonl").read_text()
    with pytest.raises(HornbookError, match=r"HTTP 503.*mistake in the address"):
        gather(tmp_path / "none", addresses[0], leave_out_failing=True)


def test_what_other_settings_downloaded_is_not_read(httpserver: HTTPServer, tmp_path: Path) -> None:
    """Nothing was written yet, so other addresses are right; a file of the same name is theirs."""
    httpserver.expect_request("/1/a.txt").respond_with_data(BOOK)
    httpserver.expect_request("/b.txt").respond_with_data("", status=503)
    httpserver.expect_request("/2/a.txt").respond_with_data("Other text.")
    with pytest.raises(StopGathering):
        gather(tmp_path, httpserver.url_for("/1/a.txt"), httpserver.url_for("/b.txt"))
    gather(tmp_path, httpserver.url_for("/2/a.txt"))
    assert [document.text for document in read_documents(tmp_path)] == ["Other text."]


def test_killed(httpserver: HTTPServer, tmp_path: Path) -> None:
    """Each run dies a little later; a file without a hash is not fetched twice either."""
    rows = "\n".join(json.dumps({"text": f"{n} " + "words " * 2000}) for n in range(150))
    for path in ("/a.jsonl", "/b.jsonl"):
        httpserver.expect_request(path).respond_with_data(rows)
    settings = {"urls": [httpserver.url_for("/a.jsonl"), httpserver.url_for("/b.jsonl")]}
    assert gather_in_child("url", settings, tmp_path / "whole") == 0
    httpserver.clear_log()
    for kill_at in (5, 140, 100):
        assert gather_in_child("url", settings, tmp_path / "killed", kill_at) == -9
    assert gather_in_child("url", settings, tmp_path / "killed") == 0
    assert len(shards(tmp_path / "whole")) >= 3
    assert shards(tmp_path / "whole") == shards(tmp_path / "killed")
    assert [request.path for request, _ in httpserver.log].count("/a.jsonl") == 1


def test_passwords_are_not_kept(httpserver: HTTPServer, tmp_path: Path) -> None:
    httpserver.expect_request("/a.txt").respond_with_data(BOOK)
    gather(tmp_path, httpserver.url_for("/a.txt").replace("//", "//me:sesame@"))
    for path in tmp_path.iterdir():
        assert b"sesame" not in path.read_bytes()


@pytest.mark.parametrize(
    "line",
    [
        "",
        "ftp://x/y",
        "http://",
        "http://[::1",
        "http://me:sesame@[::1",
        "a.txt",
        "http://x/y md5=12",
        "http://x/y sha256=1",
    ],
)
def test_addresses_that_are_none(line: str, tmp_path: Path) -> None:
    with pytest.raises(
        HornbookError, match=r"is not an http\(s\) address|no address is named"
    ) as met:
        UrlSource(UrlConfig(urls=[line]))
    assert "sesame" not in str(met.value)
    with pytest.raises(HornbookError, match="cannot be read"):
        UrlSource(UrlConfig(list_file=str(tmp_path / "none")))
