"""CSV, tar, HTML, EPUB, bz2, xz, nested archives; and the cursor over all kinds."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import tarfile
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hornbook.documents import Document
from hornbook.errors import HornbookError
from hornbook.gather import readers, streams, tables
from hornbook.gather.readers import Reading, read_with_cursor

PAGE = """<!DOCTYPE html><html lang="en-GB"><head><title>A page | Site</title>
<meta property="og:title" content="A page">
<script type="application/ld+json">{"@graph": [{"@type": "Organization", "name": "Wrong"},
 {"@type": "NewsArticle", "headline": "The headline", "datePublished": "2020-01-02",
  "license": {"url": "https://creativecommons.org/licenses/by/4.0/"}}]}</script></head>
<body><nav><a href="/">Home</a> <a href="/about">About</a></nav><article><h1>The headline</h1>
<p>The first paragraph has enough words to be taken for the text of an article.</p>
<p>A second paragraph, with &amp; an entity and <b>bold</b> words.</p></article>
<footer>Imprint</footer></body></html>"""

CONTAINER = """<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>
<rootfile full-path="OEBPS/book.opf"/></rootfiles></container>"""

PACKAGE = """<package xmlns="http://www.idpf.org/2007/opf"><metadata
 xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:title>A Book</dc:title>
<dc:language>de</dc:language><dc:rights>Public domain</dc:rights><dc:date>1901</dc:date></metadata>
<manifest><item id="b" href="chapter%202.xhtml" media-type="application/xhtml+xml"/>
<item id="a" href="../one.xhtml" media-type="application/xhtml+xml"/>
<item id="css" href="style.css" media-type="text/css"/>
<item id="gone" href="../../etc/passwd" media-type="application/xhtml+xml"/></manifest>
<spine><itemref idref="a"/><itemref idref="css"/><itemref idref="b"/><itemref idref="gone"/></spine>
</package>"""


def zipped(members: dict[str, bytes | str]) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            kind = zipfile.ZIP_STORED if name == "mimetype" else None
            archive.writestr(name, content, kind)
    return sink.getvalue()


def tarred(members: dict[str, bytes], mode: Any = "w") -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode=mode) as archive:
        for name, content in members.items():
            header = tarfile.TarInfo(name)
            header.size = len(content)
            archive.addfile(header, io.BytesIO(content))
    return sink.getvalue()


def epub(**changes: str) -> bytes:
    return zipped(
        {
            "mimetype": "application/epub+zip",
            "META-INF/container.xml": CONTAINER,
            "OEBPS/book.opf": PACKAGE,
            "one.xhtml": "<html><body><h1>One</h1><p>Käse.</p></body></html>",
            "OEBPS/chapter 2.xhtml": "<html><body><p>Two.</p></body></html>",
            **changes,
        }
    )


def read(path: Path, **given: Any) -> list[Document]:
    return [document for document, _ in read_with_cursor([path], Reading(**given))]


def fails(path: Path, **given: Any) -> str:
    with pytest.raises(HornbookError) as caught:
        read(path, **given)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_csv_with_every_delimiter(tmp_path: Path, delimiter: str) -> None:
    rows = [["1", 'Two "quoted"\nlines, with; all\t the | signs', "T"], ["2", "", ""], ["3", "x"]]
    with open(tmp_path / "a.csv", "w", newline="", encoding="utf-8-sig") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerows([["id", "text", "title"], *rows])
    one, two, three = read(tmp_path / "a.csv")
    assert (one.text, one.title, one.meta["id"]) == (rows[0][1], "T", "1")
    assert two.text == "" and three.text == "x"


def test_csv_that_is_broken_names_the_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text,title\nfine,T\na,b,c\n")
    assert f"{path}, line 3: has 3 fields, but there are 2 columns" in fails(path)
    path.write_text('text,title\n"a "quoted" word",T\n')
    assert f"{path}, line 2: is not CSV" in fails(path)
    path.write_text('text\n"never closed\n' + "x" * 100)
    assert "is not CSV (unexpected end of data)" in fails(path)
    path.write_text("story,n\na,1\n")
    assert "no column is known to be text; its columns are: story, n" in fails(path)
    monkeypatch.setattr(tables, "LONGEST_FIELD", 1000)
    path.write_text('text\n"' + "some words\n" * 500)
    before = csv.field_size_limit()
    assert "has a field of more than" in fails(path) and "quotation mark missing" in fails(path)
    assert csv.field_size_limit() == before
    path.write_text("text\n" + "x" * 5000)
    assert f"{path}, line 2: has a field of more than" in fails(path)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\r\0")), max_size=6))
def test_csv_comes_back_as_it_was_written(texts: list[str]) -> None:
    sink = io.StringIO(newline="")
    csv.writer(sink, lineterminator="\n").writerows([["n", "text"], *([1, t] for t in texts)])
    rows = tables.csv_rows([sink.getvalue()], "a.csv", "a.csv")
    assert [row["text"] for row, _ in rows if row] == texts


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_tar_in_every_compression_by_content(tmp_path: Path, mode: str) -> None:
    members = {
        "b/one.txt": b"one",
        "a.jsonl.gz": gzip.compress(b'{"text": "two"}'),
        "../../evil.txt": b"three",
        "c.zip": zipped({"d.txt": "four"}),
        ".hidden.txt": b"no",
        "name": b"\x7fELF\0",
    }
    (tmp_path / "sample.mp4").write_bytes(tarred(members, mode))
    before = sorted(tmp_path.parent.rglob("*"))
    documents = read(tmp_path / "sample.mp4")
    assert [d.text for d in documents] == ["one", "two", "three", "four"]
    assert [d.meta["file"] for d in documents] == [
        "b/one.txt",
        "a.jsonl.gz",
        "evil.txt",
        "c.zip/d.txt",
    ]
    assert sorted(tmp_path.parent.rglob("*")) == before


def test_links_and_devices_in_a_tar_are_passed_over(tmp_path: Path) -> None:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as archive:
        for kind, name in [
            (tarfile.SYMTYPE, "link.txt"),
            (tarfile.LNKTYPE, "hard.txt"),
            (tarfile.CHRTYPE, "device.txt"),
            (tarfile.DIRTYPE, "folder"),
        ]:
            header = tarfile.TarInfo(name)
            header.type, header.linkname = kind, "/etc/passwd"
            archive.addfile(header)
        header = tarfile.TarInfo("good.txt")
        header.size = 4
        archive.addfile(header, io.BytesIO(b"good"))
    (tmp_path / "a.tar").write_bytes(sink.getvalue())
    assert [d.text for d in read(tmp_path / "a.tar")] == ["good"]


def test_a_tar_that_is_cut_off_or_garbled_is_told(tmp_path: Path) -> None:
    data = tarred({"a.txt": b"a" * 700, "b.txt": b"b" * 700})
    path = tmp_path / "a.tar"
    path.write_bytes(data[: 512 + 600])
    assert "a.tar > a.txt: is damaged" in fails(path)
    path.write_bytes(data[: 512 + 1024 + 100])
    assert "is not a readable tar archive" in fails(path)
    path.write_bytes(data[: 512 + 1024] + b"rubbish!" * 64 + data[512 + 1024 :])
    assert "is not a readable tar archive" in fails(path)
    path.write_bytes(data[: 512 + 1024])  # whole files, but no end
    warnings: list[str] = []
    assert len(read(path, warn=warnings.append)) == 1
    assert "ends without the end mark" in warnings[0]


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.XGLTYPE])
def test_a_tar_with_an_endless_name_is_refused(tmp_path: Path, kind: bytes) -> None:
    header = tarfile.TarInfo("a.txt")
    header.type, header.size = kind, 3 * 2**20
    data = header.tobuf() + b"x" * header.size + tarred({"a.txt": b"a"})
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(data))
    assert "not a readable tar archive (a name of 3,145,728 bytes)" in fails(tmp_path / "a.tar.gz")


@pytest.mark.parametrize("name", ["page.html", "page.php", "page"])
def test_html(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(PAGE)
    (document,) = read(tmp_path / name)
    assert document.text.startswith("The headline\n\nThe first paragraph has enough")
    assert "with & an entity and bold words." in document.text
    assert "Home" not in document.text and "Imprint" not in document.text
    assert (document.title, document.language) == ("The headline", "en-GB")
    assert document.created == "2020-01-02"
    assert document.licence == "https://creativecommons.org/licenses/by/4.0/"
    (whole,) = read(tmp_path / name, main_text=False)
    assert "Home" in whole.text and "Imprint" in whole.text


def test_html_in_the_encoding_it_declares(tmp_path: Path) -> None:
    page = '<html><head><meta charset="{}"></head><body><p>Straße “mit” Käse</p></body></html>'
    for declared, real in [("iso-8859-1", "cp1252"), ("utf-8", "utf-8"), ("made-up", "utf-8")]:
        (tmp_path / "a.html").write_bytes(page.format(declared).encode(real))
        assert "Straße “mit” Käse" in read(tmp_path / "a.html")[0].text


@pytest.mark.parametrize("tag", ["div", "ul", "ol><li", "section", "blockquote"])
def test_html_that_would_hang_the_extractor_gives_all_its_words(tmp_path: Path, tag: str) -> None:
    (tmp_path / "a.html").write_text("<html><body>" + f"<{tag}> a " * 50_000 + "deep words")
    text = read(tmp_path / "a.html")[0].text
    assert text.endswith("a deep words") and len(text) < 250_000


@pytest.mark.parametrize("name", ["book.epub", "book.zip", "sample.mp4"])
def test_epub_in_reading_order(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(epub())
    warnings: list[str] = []
    (document,) = read(tmp_path / name, warn=warnings.append)
    assert document.text == "One\n\nKäse.\n\nTwo."
    assert (document.title, document.language) == ("A Book", "de")
    assert (document.licence, document.created) == ("Public domain", "1901")
    assert len(warnings) == 1 and "the chapter ../etc/passwd is missing" in warnings[0]


def test_epub_that_is_no_book(tmp_path: Path) -> None:
    path = tmp_path / "a.epub"
    path.write_bytes(zipped({"a.txt": "a"}))
    assert "META-INF/container.xml is not in the archive" in fails(path)
    path.write_bytes(epub(**{"OEBPS/book.opf": "<package"}))
    assert "OEBPS/book.opf is not XML" in fails(path)
    encryption = '<encryption><CipherReference URI="one.xhtml"/></encryption>'
    path.write_bytes(epub(**{"META-INF/encryption.xml": encryption}))
    assert "is encrypted (copy protection)" in fails(path)
    laughs = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 12))
    bomb = f'<!DOCTYPE p [<!ENTITY l0 "lol">{laughs}]><package>&l11;</package>'
    path.write_bytes(epub(**{"OEBPS/book.opf": bomb}))
    assert "OEBPS/book.opf is not XML" in fails(path)


def test_bombs_are_counted_over_all_layers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "FREE_EXPANSION_BYTES", 2**20)
    layers = {
        "a.zip": zipped({f"{n}.txt.gz": gzip.compress(b"0" * 2**19) for n in range(6)}),
        "b.tar.bz2": bz2.compress(tarred({f"{n}.txt": b"0" * 2**19 for n in range(6)})),
        "c.txt.xz": lzma.compress(b"0" * 3 * 2**20),
        "d.epub": epub(**{"OEBPS/chapter 2.xhtml": "0" * 3 * 2**20}),
    }
    for name, data in layers.items():
        (tmp_path / name).write_bytes(data)
        assert f"{name}: grows to more than 200 times its size" in fails(tmp_path / name)


def write_all_kinds(folder: Path) -> None:
    rows = [{"text": f"row {number}"} for number in range(7)]
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    folder.mkdir()
    (folder / "a.jsonl").write_bytes(lines)
    (folder / "b.txt").write_text("a text")
    pq.write_table(pa.Table.from_pylist(rows), folder / "c.parquet", row_group_size=3)
    (folder / "d.tar.gz").write_bytes(tarred({"x.jsonl": lines, "y.txt": b"y"}, "w:gz"))
    table = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), table, row_group_size=2)
    (folder / "e.zip").write_bytes(zipped({"t.parquet": table.getvalue(), "u.txt": "u"}))
    (folder / "f.csv").write_text("text\none\ntwo\n")
    (folder / "g.html").write_text(PAGE)
    (folder / "h.epub").write_bytes(epub())


def test_the_cursor_goes_on_at_every_document(tmp_path: Path) -> None:
    write_all_kinds(tmp_path / "folder")
    (tmp_path / "last.txt").write_text("last")
    inputs = [tmp_path / "folder", tmp_path / "last.txt"]
    quiet = Reading(warn=lambda line: None)
    whole = list(read_with_cursor(inputs, quiet))
    assert len(whole) == 7 + 1 + 7 + 8 + 8 + 2 + 1 + 1 + 1
    for number, (_, cursor) in enumerate(whole, 1):
        cursor = json.loads(json.dumps(cursor))
        assert list(read_with_cursor(inputs, quiet, cursor)) == whole[number:]


def test_the_cursor_skips_files_and_row_groups_unread(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    path = tmp_path / "b.parquet"
    pq.write_table(pa.table({"text": [str(n) for n in range(9)]}), path, row_group_size=3)
    data = bytearray(path.read_bytes())
    data[4:20] = b"\xff" * 16  # the first row group is rubbish, and the first file is gone
    path.write_bytes(data)
    (tmp_path / "a.txt").write_bytes(b"\xff\0\xff")
    found = read_with_cursor([tmp_path], Reading(), {"file": 1, "documents": 4})
    assert [document.text for document, _ in found] == ["4", "5", "6", "7", "8"]


def test_what_was_counted_before_the_cursor_is_not_counted_again(tmp_path: Path) -> None:
    bad = "Käse und Käse ".encode() * 5 + b"\xff"
    row = b'{"text": "' + bad + b'"}\n'
    for number in range(3):
        (tmp_path / f"{number}.txt").write_bytes(bad)
        (tmp_path / f"{number}.zip").write_bytes(
            zipped({"a.txt": bad, "b.py": "code", "c.jsonl": row, "d.txt": ""})
        )
    counts: Counter[str] = Counter()
    reading = Reading(warn=lambda line: None, count=lambda what, n: counts.update({what: n}))
    so_far = []
    for document, cursor in read_with_cursor([tmp_path], reading):
        so_far.append((document, cursor, Counter(counts)))
    whole = Counter(counts)
    assert whole == {
        "undecodable bytes": 9,
        "files of kinds that are not read": 3,
        "empty files": 3,
    }
    for number, (_, cursor, before) in enumerate(so_far, 1):
        counts.clear()
        assert len(list(read_with_cursor([tmp_path], reading, cursor))) == len(so_far) - number
        assert before + counts == whole


def test_a_byte_order_mark_hides_no_kind(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"text": "a"}\n{"text": "b"}\n', encoding="utf-8-sig")
    (tmp_path / "page").write_text(PAGE, encoding="utf-8-sig")
    first, second, page = read(tmp_path)
    assert (first.text, second.text) == ("a", "b") and page.title == "The headline"


def test_a_parquet_file_without_rows(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "a.parquet")
    (tmp_path / "b.txt").write_text("b")
    assert [document.text for document in read(tmp_path)] == ["b"]


def test_rows_that_are_too_long_are_left_out_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "LONGEST_ROW", 1000)
    monkeypatch.setattr(tables.lines, "__defaults__", (1000,))
    texts = ["a", "x" * 2000, "b", "y" * 900, "z" * 5000]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
    column = pa.array([*texts, None])
    pq.write_table(pa.table({"text": column}), tmp_path / "b.parquet")
    pq.write_table(pa.table({"text": column.dictionary_encode()}), tmp_path / "c.parquet")
    counts: list[tuple[str, int]] = []
    warnings: list[str] = []
    reading = Reading(warn=warnings.append, count=lambda what, n: counts.append((what, n)))
    found = list(read_with_cursor([tmp_path], reading))
    kept = ["a", "b", "y" * 900]
    assert [d.text for d, _ in found] == [*kept, *kept, "", *kept, ""]
    assert counts == [("too long", 1)] * 6 and "a.jsonl, line 2: is too long" in warnings[0]
    counts.clear()
    for number, (_, cursor) in enumerate(found, 1):
        assert list(read_with_cursor([tmp_path], reading, cursor)) == found[number:]
    counts.clear()
    list(read_with_cursor([tmp_path], reading, found[1][1]))
    assert len(counts) == 5, "what was counted before the cursor is not counted again"


def test_long_text_files_are_still_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "PIECE_CHARACTERS", 2 * 2**20)
    (tmp_path / "a.txt").write_text("A paragraph.\n\n" * 300_000)
    found = list(read_with_cursor([tmp_path / "a.txt"], Reading()))
    assert [document.meta["part"] for document, _ in found] == [1, 2, 3]
