"""hornbook convert: no field is lost between the formats."""

from __future__ import annotations

import dataclasses
import datetime
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hornbook.cli import main
from hornbook.corpus.convert import convert
from hornbook.documents import Document, byte_length, mend_surrogates, write_documents
from hornbook.errors import HornbookError
from hornbook.gather.readers import Reading, read_with_cursor

TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=40)
JSON = st.dictionaries(TEXT, st.integers() | st.booleans() | TEXT, max_size=3)
DOCUMENTS = st.lists(
    st.builds(
        Document,
        text=TEXT | st.sampled_from(["a\r\nb", 'say "so"', "\n", " ", "\ufeffx", "a;b\tc"]),
        source=TEXT,
        url=TEXT,
        title=TEXT,
        licence=TEXT,
        language=TEXT,
        created=TEXT,
        meta=JSON,
    ),
    min_size=1,
    max_size=5,
)


def read(path: Path) -> list[Document]:
    return [document for document, _ in read_with_cursor([path], Reading(encoding="utf-8"))]


@settings(max_examples=60, deadline=None)
@given(DOCUMENTS, st.permutations(["jsonl", "csv", "parquet"]))
def test_every_field_comes_back(documents: list[Document], order: list[str]) -> None:
    with tempfile.TemporaryDirectory() as name:
        (before,) = write_documents(documents, Path(name, "shards"))
        for to in order:
            after = Path(name, f"out.{to}")
            count = convert([before], to, after)  # type: ignore[arg-type]
            before = after
        assert read(before) == documents
        assert count.documents == len(documents)
        assert count.bytes == sum(byte_length(document.text) for document in documents)


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    documents = [
        Document("One.\n", source="s", title="A/../title: one"),
        Document("Two,\nlines", source="s", meta={"a": [1]}),
    ]
    write_documents(documents, tmp_path / "shards")
    return tmp_path / "shards"


def test_text_is_one_file_a_document_or_one_file(shards: Path, tmp_path: Path) -> None:
    convert([shards], "text", tmp_path / "texts")
    texts = {path.name: path.read_text() for path in (tmp_path / "texts").iterdir()}
    assert texts == {"0000001-A-title-one.txt": "One.\n", "0000002.txt": "Two,\nlines"}
    convert([shards], "text", tmp_path / "all.txt", separator="----")
    assert (tmp_path / "all.txt").read_text() == "One.\n----\nTwo,\nlines\n"
    with pytest.raises(HornbookError, match="this folder has files in it"):
        convert([shards], "text", tmp_path / "texts")


def test_columns_that_documents_do_not_have_are_kept(tmp_path: Path) -> None:
    when = datetime.datetime(2020, 1, 2)
    row = {"review": "good", "stars": 5, "id": "7", "when": when, "tags": ["a"], "title": "T"}
    row["none"] = float("nan")
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "in.parquet")
    before = tmp_path / "in.parquet"
    for to in ("jsonl", "csv", "parquet"):
        after = tmp_path / f"out.{to}"
        convert([before], to, after, text_column="review" if to == "jsonl" else None)  # type: ignore[arg-type]
        (document,) = read(before := after)
        assert (document.text, document.title) == ("good", "T")
        meta = {"stars": 5, "id": "7", "when": "2020-01-02 00:00:00", "tags": ["a"], "none": None}
        assert document.meta == meta


@pytest.mark.parametrize("to", ["jsonl", "csv"])
@pytest.mark.parametrize("ending", ["gz", "zst"])
def test_compressed_by_name(shards: Path, tmp_path: Path, to: Any, ending: str) -> None:
    out = tmp_path / f"out.{to}.{ending}"
    convert([shards], to, out)
    once = out.read_bytes()
    assert once[:2] == {"gz": b"\x1f\x8b", "zst": b"\x28\xb5"}[ending]
    assert [document.text for document in read(out)] == ["One.\n", "Two,\nlines"]
    convert([shards], to, again := tmp_path / "again" / out.name)
    assert again.read_bytes() == once


def test_columns(shards: Path, tmp_path: Path) -> None:
    convert([shards], "csv", tmp_path / "out.csv", columns=["title", "text"])
    assert (tmp_path / "out.csv").read_text().startswith('"title","text"\n"A/../title: one","One.')
    convert([tmp_path / "out.csv"], "parquet", tmp_path / "out.parquet", columns=["text", "id"])
    (first, _) = read(tmp_path / "out.parquet")
    assert first.text == "One.\n" and first.title == ""
    with pytest.raises(HornbookError, match=r"no column 'titel'.*'title'"):
        convert([shards], "csv", tmp_path / "x.csv", columns=["titel"])


def test_refusals(shards: Path, tmp_path: Path) -> None:
    convert([shards], "jsonl", tmp_path / "out.jsonl")
    with pytest.raises(HornbookError, match="is among the files"):
        convert([tmp_path / "out.jsonl"], "csv", tmp_path / "out.jsonl")
    (tmp_path / "mine.csv").write_text("kept")
    for out in (tmp_path / "mine.csv", tmp_path):
        with pytest.raises(HornbookError, match="is there already"):
            convert([shards], "csv", out)
    with pytest.raises(HornbookError, match="is there already"):
        convert([shards], "text", tmp_path / "shards", separator="--")
    assert (tmp_path / "mine.csv").read_text() == "kept"
    (tmp_path / "cut.jsonl").write_text('{"text": "a"}\n{"text": ')
    with pytest.raises(HornbookError, match="line 2"):
        convert([tmp_path / "cut.jsonl"], "csv", tmp_path / "x.csv")
    assert not list(tmp_path.glob("x.csv*")), "nothing half-written is left"


def test_half_a_surrogate_pair(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text('{"text": "\\ud83d", "meta": {"a": "\\ud83d"}}\n')
    for to in ("jsonl", "csv", "parquet"):
        out = tmp_path / f"out.{to}"
        convert([tmp_path / "in.jsonl"], to, out)  # type: ignore[arg-type]
        (document,) = read(out)
        assert document.text == mend_surrogates("\ud83d")


def test_the_verb(shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.jsonl"
    assert main(["convert", str(shards), "--to", "jsonl", "--out", str(out)]) == 0
    assert "2 documents written" in capsys.readouterr().err
    assert [dataclasses.astuple(each)[0] for each in read(out)] == ["One.\n", "Two,\nlines"]
