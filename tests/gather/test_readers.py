"""What read_inputs yields for good files of every kind."""

from __future__ import annotations

import gzip
import io
import json
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hornbook.documents import Document, write_documents
from hornbook.gather import readers
from hornbook.gather.readers import read_inputs
from hornbook.gather.tables import lines


def zstd(data: bytes) -> bytes:
    compressed: bytes = pa.compress(data, "zstd", asbytes=True)
    return compressed


def zipped(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def read(*paths: Path, **settings: Any) -> list[Document]:
    return list(read_inputs(paths, **settings))


def texts(*paths: Path, **settings: Any) -> list[str]:
    return [document.text for document in read(*paths, **settings)]


def test_text_file(tmp_path: Path) -> None:
    path = tmp_path / "my book.txt"
    path.write_bytes("Ein Käse\r\n".encode())
    (document,) = read(path)
    assert document.text == "Ein Käse\r\n"
    assert (document.source, document.title) == ("my book.txt", "my book")
    assert str(tmp_path) not in repr(document)


def test_folder_is_read_in_sorted_order_without_hidden_files(tmp_path: Path) -> None:
    for name in ("b/two.md", "a.txt", "b/one.txt", "b.txt", ".git/config.txt", ".hidden.txt"):
        (tmp_path / "lib" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "lib" / name).write_text(name)
    documents = read(tmp_path / "lib")
    assert [d.text for d in documents] == ["a.txt", "b.txt", "b/one.txt", "b/two.md"]
    assert {d.source for d in documents} == {"lib"}
    assert documents[2].meta == {"file": "b/one.txt"} and documents[2].title == "one"


def test_run_directories_in_a_folder_are_passed_over(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "mine"
    write_documents([Document("what an earlier run wrote")], run / "prepare" / "train")
    (run / "recipe.yaml").touch()
    (run / ".lock").touch()
    (tmp_path / "book.txt").write_text("a book")
    assert [d.text for d in read(tmp_path)] == ["a book"]
    assert [d.text for d in read(run / "prepare" / "train")] == ["what an earlier run wrote"]


@pytest.mark.parametrize("wrap", ["", ".gz", ".zst"])
def test_jsonl_keeps_where_it_is_from(tmp_path: Path, wrap: str) -> None:
    rows = [
        {"text": "one\ntwo", "id": "12", "url": "http://x/1", "title": "T", "license": "MIT"},
        {"text": "three", "source": "web", "language": "en", "licence": "CC0", "other": [1]},
        {"text": None},
        {"title": "no text at all"},
        {"text": "own", "id": "0123456789abcdef0123456789abcdef", "meta": {"k": 1}},
    ]
    data = "\n".join(json.dumps(row) for row in rows).encode()
    path = tmp_path / f"rows.jsonl{wrap}"
    path.write_bytes({"": bytes, ".gz": gzip.compress, ".zst": zstd}[wrap](data))
    one, three, null, without, own = read(path)
    assert (one.text, one.url, one.title, one.licence) == ("one\ntwo", "http://x/1", "T", "MIT")
    assert one.source == path.name and one.meta == {"id": "12"} and len(one.id) == 32
    assert (three.source, three.language, three.licence) == ("web", "en", "CC0")
    assert null.text == without.text == ""
    assert own.id == "0123456789abcdef0123456789abcdef" and own.meta == {"k": 1}


def test_text_column_is_found_or_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"content": "a", "summary": "b"}\n')
    assert texts(path) == ["a"]
    assert texts(path, text_column="summary") == ["b"]


def test_parquet(tmp_path: Path) -> None:
    table = pa.table(
        {
            "text": pa.array(["a", "b", None]).dictionary_encode(),
            "url": ["u1", "u2", "u3"],
            "n": [1, 2, 3],
        }
    )
    pq.write_table(table, tmp_path / "rows.parquet")
    documents = read(tmp_path / "rows.parquet")
    assert [(d.text, d.url) for d in documents] == [("a", "u1"), ("b", "u2"), ("", "u3")]


def test_our_own_shards_come_back_as_they_were(tmp_path: Path) -> None:
    documents = [Document("a", "s", "u", "t", "l", "en", "2026", {"k": [1]}), Document("b", "s")]
    write_documents(documents, tmp_path / "shards")
    back = read(tmp_path / "shards")
    assert back == documents


def test_zip_with_all_kinds_in_sorted_order(tmp_path: Path) -> None:
    table = io.BytesIO()
    pq.write_table(pa.table({"text": ["parquet"]}), table)
    path = zipped(
        tmp_path / "all.zip",
        {
            "z/plain.txt": b"plain",
            "a.jsonl": b'{"text": "json"}',
            "b.txt.gz": gzip.compress(b"gz"),
            "c.jsonl.zst": zstd(b'{"text": "zst"}'),
            "d.parquet": table.getvalue(),
            "__MACOSX/z/._plain.txt": b"rubbish",
            "empty/": b"",
        },
    )
    documents = read(path)
    assert [d.text for d in documents] == ["json", "gz", "zst", "parquet", "plain"]
    assert documents[-1].source == "all.zip" and documents[-1].meta == {"file": "z/plain.txt"}


@pytest.mark.parametrize("in_folder", [False, True])
def test_archives_are_known_by_content_whatever_their_name(tmp_path: Path, in_folder: bool) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    zipped(folder / "sample.mp4", {"a.txt": b"from a zip"})
    (folder / "page.dat").write_bytes(gzip.compress(b'{"text": "from gzip"}\n'))
    pq.write_table(pa.table({"text": ["from parquet"]}), folder / "table.bin")
    warnings: list[str] = []
    if in_folder:  # the name inside the gzip says nothing, so in a folder it is passed over
        assert texts(folder, warn=warnings.append) == ["from a zip", "from parquet"]
        assert "files that are not read were skipped: 1 (.dat 1)" in warnings[0]
    else:
        files = sorted(folder.iterdir())
        assert texts(*files) == ["from gzip", "from a zip", "from parquet"]


def test_member_names_are_only_names(tmp_path: Path) -> None:
    path = zipped(tmp_path / "tricks.zip", {"..\\../evil.txt": b"a", "/etc/evil.txt": b"b"})
    before = sorted(tmp_path.rglob("*"))
    assert sorted(texts(path)) == ["a", "b"]
    assert sorted(tmp_path.rglob("*")) == before and not (tmp_path.parent / "evil.txt").exists()
    assert {d.meta["file"] for d in read(path)} == {"evil.txt", "etc/evil.txt"}


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32", "utf-16-be"])
def test_a_byte_order_mark_wins(tmp_path: Path, encoding: str) -> None:
    mark = "\ufeff" if encoding.endswith("be") else ""
    path = tmp_path / "a.txt"
    path.write_bytes(f"{mark}Grüße, мир".encode(encoding))
    assert texts(path) == ["Grüße, мир"]
    rows = tmp_path / "a.jsonl"
    rows.write_bytes(f'{mark}{{"text": "é"}}\n{{"text": "b"}}'.encode(encoding))
    assert texts(rows) == ["é", "b"]


def test_other_encodings_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("Käse".encode("latin-1"))
    assert texts(path, encoding="latin-1") == ["Käse"]
    path.write_bytes("Käse".encode("utf-16-le"))
    assert texts(path, encoding="utf-16-le") == ["Käse"]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text(st.sampled_from("ab\n\r\u2028")), max_size=8))
def test_lines_do_not_depend_on_blocks(blocks: list[str]) -> None:
    whole = "".join(blocks).split("\n")
    if whole[-1] == "":
        whole.pop()
    assert list(lines(blocks)) == whole


def test_one_enormous_line(tmp_path: Path) -> None:
    line = "to be or not to be " * 2_759_411  # 52 MB
    (tmp_path / "long.txt").write_text(line)
    assert "".join(texts(tmp_path / "long.txt")) == line
    with open(tmp_path / "long.jsonl", "w") as file:
        file.write(json.dumps({"text": line}))
    assert texts(tmp_path / "long.jsonl") == [line]


def test_a_long_text_file_is_read_in_pieces_of_bounded_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers, "PIECE_CHARACTERS", 2 * 2**20)
    paragraph = "A paragraph of some words.\n\n"
    (tmp_path / "long.txt").write_text(paragraph * 700_000)  # 20 MB
    tracemalloc.start()
    pieces = []
    for document in read_inputs([tmp_path / "long.txt"]):
        assert document.text.startswith("A para")
        assert document.text.removesuffix("\n").endswith("words.") or len(pieces) >= 9
        pieces.append((document.meta["part"], document.text.count("paragraph")))
        del document
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert [part for part, _ in pieces] == list(range(1, len(pieces) + 1)) and len(pieces) >= 9
    assert sum(count for _, count in pieces) == 700_000
    assert peak < 14 * 2**20, "not the size of the file"


def test_progress_counts_the_bytes_of_files(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x" * 3_000_000)
    pq.write_table(pa.table({"text": ["x" * 1000] * 1000}), tmp_path / "b.parquet")
    counted: list[int] = []
    read(tmp_path, on_bytes=counted.append)
    total = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert 0.9 * total < sum(counted) < 1.5 * total


@pytest.mark.shared
def test_real_files(shared_data: Path) -> None:
    rows = read(shared_data / "hellaswag_val.jsonl.zst", text_column="ctx")
    assert len(rows) == 10_042
    (document,) = read(shared_data / "tinyshakespeare.txt")
    assert len(document.text) == 1_115_394
