"""Damaged and random archives: only ever documents or a `HornbookError`, and nothing written."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
import tempfile
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hornbook.errors import HornbookError
from hornbook.gather.readers import Reading, read_with_cursor

TEXT = b"Some words of text, and more of them.\n" * 20
ROWS = b'text,title\n"some, quoted ""words""\nand lines",T\nplain,U\n' * 5


def zipped(method: int) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", method) as archive:
        archive.writestr("a.txt", TEXT)
        archive.writestr("../b.csv", ROWS)
        archive.writestr("c.html", b"<html><body><p>words</p></body></html>")
    return sink.getvalue()


def tarred(kind: int) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=kind) as archive:
        for name in ("a.txt", "../" + "long/" * 60 + "ü.csv", "c.txt"):
            header = tarfile.TarInfo(name)
            header.size = len(TEXT)
            archive.addfile(header, io.BytesIO(TEXT))
    return sink.getvalue()


def epub() -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        archive.writestr("mimetype", "application/epub+zip")
        archive.writestr(
            "META-INF/container.xml", '<container><rootfile full-path="p.opf"/></container>'
        )
        archive.writestr(
            "p.opf",
            '<package><manifest><item id="a" href="a.xhtml" media-type="text/html"/></manifest>'
            '<spine><itemref idref="a"/></spine></package>',
        )
        archive.writestr("a.xhtml", "<html><body><p>words</p></body></html>")
    return sink.getvalue()


def parquet() -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table({"text": ["some words", "more words"] * 20}), sink)
    return sink.getvalue()


GOOD = {
    "zip-deflated": zipped(zipfile.ZIP_DEFLATED),
    "zip-lzma": zipped(zipfile.ZIP_LZMA),
    "zip-bzip2": zipped(zipfile.ZIP_BZIP2),
    "zip-stored": zipped(zipfile.ZIP_STORED),
    "tar-pax": tarred(tarfile.PAX_FORMAT),
    "tar-gnu": tarred(tarfile.GNU_FORMAT),
    "tar.gz": gzip.compress(tarred(tarfile.PAX_FORMAT)),
    "gz": gzip.compress(TEXT),
    "bz2": bz2.compress(TEXT),
    "xz": lzma.compress(TEXT),
    "zst": pa.compress(TEXT, "zstd", asbytes=True),
    "epub": epub(),
    "csv": ROWS,
    "parquet": parquet(),
}
ENDINGS = [".zip", ".tar", ".tar.gz", ".gz", ".epub", ".csv", ".html", ".jsonl", ".parquet", ".txt"]


def read(data: bytes, name: str, folder: Path) -> None:
    path = folder / name
    path.write_bytes(data)
    silent = Reading(warn=lambda line: None)
    try:
        for document, _ in read_with_cursor([path], silent):
            assert isinstance(document.text, str)
    except HornbookError as error:
        assert "\n" not in str(error)
    finally:
        path.unlink()


@pytest.fixture
def watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which only the file that is read is written, and that is where we are."""
    (tmp_path / "inside").mkdir()
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.chdir(tmp_path / "inside")
    return tmp_path


fuzzing = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.mark.parametrize("kind", GOOD)
@fuzzing
@given(data=st.data())
def test_damaged_archives(watched: Path, kind: str, data: st.DataObject) -> None:
    content = bytearray(GOOD[kind])
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content) - 1))
        match data.draw(st.sampled_from(["flip", "set", "cut", "insert", "copy"])):
            case "flip":
                content[place] ^= 1 << data.draw(st.integers(0, 7))
            case "set":
                content[place] = data.draw(st.sampled_from([0, 0xFF, 0x7F, 0x80, 0x22]))
            case "cut" if place:
                del content[place:]
            case "insert":
                content[place:place] = data.draw(st.binary(min_size=1, max_size=40))
            case "copy":
                begin = data.draw(st.integers(0, len(content) - 1))
                content[place:place] = content[begin : begin + 200]
    name = "a" + data.draw(st.sampled_from(["." + kind, ".mp4", *ENDINGS]))
    read(bytes(content), name, watched)
    left = [path for path in watched.rglob("*") if path.name not in ("inside", "temporary")]
    assert not left


@fuzzing
@given(
    magic=st.sampled_from(
        [b"", b"PK\x03\x04", b"PK\x05\x06", b"\x1f\x8b", b"BZh9", b"\xfd7zXZ\0", b"<html>", b"PAR1"]
    ),
    rest=st.binary(max_size=600),
    ending=st.sampled_from(ENDINGS),
)
def test_random_bytes(watched: Path, magic: bytes, rest: bytes, ending: str) -> None:
    read(magic + rest, f"a{ending}", watched)


@fuzzing
@given(st.text(st.sampled_from("<>/divpabr!-[]\"'= &;\0é"), max_size=400))
def test_random_html(watched: Path, html: str) -> None:
    read(f"<html>{html}".encode(), "a.html", watched)
