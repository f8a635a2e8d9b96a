"""Bad input: each kind gives one clear line that says what, where, and what to try."""

from __future__ import annotations

import gzip
import io
import json
import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hornbook.errors import HornbookError
from hornbook.gather import streams
from hornbook.gather.readers import read_inputs


def fails(*paths: Path | str, **settings: Any) -> str:
    with pytest.raises(HornbookError) as caught:
        list(read_inputs(paths, **settings))
    message = str(caught.value)
    assert "\n" not in message
    return message


def stored(members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return sink.getvalue()


def test_nothing_named() -> None:
    assert "nothing was named to read" in fails()


def test_missing_path(tmp_path: Path) -> None:
    assert f"{tmp_path}/nowhere: no such file or folder" in fails(tmp_path / "nowhere")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_neither_file_nor_folder(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "neither a file nor a folder" in fails(tmp_path / "pipe")


def test_empty_folder(tmp_path: Path) -> None:
    message = fails(tmp_path)
    assert "there is no text in here" in message and ".txt .md .jsonl .csv .parquet" in message


def test_folder_without_readable_files(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"\xff\xd8\xff\xe0\0\x10JFIF")
    (tmp_path / "b.py").write_text("print()")
    message = fails(tmp_path)
    assert "only kinds that are not read (.jpg 1, .py 1)" in message
    (tmp_path / "good.txt").write_text("good")
    warnings: list[str] = []
    assert len(list(read_inputs([tmp_path], warn=warnings.append))) == 1
    assert len(warnings) == 1 and "files that are not read were skipped: 2 (" in warnings[0]


def test_binary_file_named_directly(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\x7fELF\2\1\1\0\0\0\0")
    message = fails(tmp_path / "a.txt")
    assert "a.txt: is not text, and no archive that is read" in message


def test_unknown_ending_named_directly_is_read_aloud(tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("hello")
    warnings: list[str] = []
    (document,) = read_inputs([tmp_path / "notes"], warn=warnings.append)
    assert document.text == "hello" and "read as plain text" in warnings[0]


@pytest.mark.parametrize("ending", [".txt", ".jsonl", ".txt.gz"])
def test_not_utf8_names_file_and_offset(tmp_path: Path, ending: str) -> None:
    data = b'{"text": "' + b"x" * 3_000_000 + "caf\xe9".encode("latin-1") + b'"}'
    path = tmp_path / f"a{ending}"
    path.write_bytes(gzip.compress(data) if ending.endswith(".gz") else data)
    message = fails(path)
    assert f"a{ending}: is not UTF-8 text: byte 0xe9 at offset 3,000,013" in message
    assert "--prepare.encoding latin-1" in message


@pytest.mark.parametrize("shift", range(4))
def test_offset_is_right_across_blocks(tmp_path: Path, shift: int) -> None:
    before = "é".encode() * (streams.BLOCK // 2 - 1) + b"a" * shift
    (tmp_path / "a.txt").write_bytes(before + b"\xc3" + b"(" * 10)
    assert f"byte 0xc3 at offset {len(before):,} " in fails(tmp_path / "a.txt")
    (tmp_path / "cut.txt").write_bytes(b"a" * (streams.BLOCK - 2) + "€".encode()[:2])
    assert f"byte 0xe2 at offset {streams.BLOCK - 2:,} " in fails(tmp_path / "cut.txt")


def test_unknown_encoding(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    assert "no text encoding is called 'utf8000'" in fails(tmp_path / "a.txt", encoding="utf8000")
    assert "no text encoding is called 'hex'" in fails(tmp_path / "a.txt", encoding="hex")


def test_empty_file(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").touch()
    assert "empty.txt: is empty (0 bytes)" in fails(tmp_path / "empty.txt")
    assert "is empty (0 bytes)" in fails(tmp_path)
    (tmp_path / "full.txt").write_text("full")
    for inputs in ([tmp_path], [tmp_path / "empty.txt", tmp_path / "full.txt"]):
        warnings: list[str] = []
        assert len(list(read_inputs(inputs, warn=warnings.append))) == 1
        assert warnings == [f"{tmp_path}/empty.txt: is empty (0 bytes), skipped"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[: len(data) // 2],
        lambda data: b"PK\x03\x04" + b"rubbish" * 10,
        lambda data: data[:-30],
    ],
)
def test_corrupt_zip(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    (tmp_path / "a.zip").write_bytes(damage(stored({"a.txt": b"hello " * 1000})))
    assert "a.zip: is not a readable zip archive" in fails(tmp_path / "a.zip")


def test_zip_with_a_damaged_member(tmp_path: Path) -> None:
    data = bytearray(stored({"a.txt": b"hello " * 1000}, zipfile.ZIP_STORED))
    data[200] ^= 1
    (tmp_path / "a.zip").write_bytes(data)
    message = fails(tmp_path / "a.zip")
    assert "a.zip > a.txt: is damaged" in message and "CRC" in message


def test_not_a_zip_at_all(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_text("<html>404</html>")
    assert "a.zip: is not a readable zip archive" in fails(tmp_path / "a.zip")


def test_encrypted_zip(tmp_path: Path) -> None:
    data = bytearray(stored({"a.txt": b"secret"}))
    data[6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "a.zip").write_bytes(data)
    assert "a.zip > a.txt: cannot be unpacked" in fails(tmp_path / "a.zip")


def test_zip_bomb_by_what_it_says(tmp_path: Path) -> None:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(3):
            with archive.open(f"{number}.txt", "w") as member:
                for _ in range(100):
                    member.write(b"0" * 2**20)
    (tmp_path / "bomb.zip").write_bytes(sink.getvalue())
    assert "grows to more than 200 times its size" in fails(tmp_path / "bomb.zip")


def test_bombs_are_stopped_by_what_they_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "FREE_EXPANSION_BYTES", 2**20)
    (tmp_path / "bomb.txt.gz").write_bytes(gzip.compress(b"0" * 20 * 2**20))
    assert "grows to more than 200 times its size" in fails(tmp_path / "bomb.txt.gz")
    (tmp_path / "fine.txt.gz").write_bytes(gzip.compress(os.urandom(2**20).hex().encode()))
    assert list(read_inputs([tmp_path / "fine.txt.gz"]))


def test_zip_in_zip_and_endless_wrapping(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(stored({"b.zip": stored({"c.txt": b"c"})}))
    assert [d.text for d in read_inputs([tmp_path / "a.zip"])] == ["c"]
    data = b"text"
    for _ in range(5):
        data = gzip.compress(data)
    (tmp_path / "a.txt.gz").write_bytes(data)
    assert "wrapped more than four times" in fails(tmp_path / "a.txt.gz")


def test_tar_is_not_taken_for_text(tmp_path: Path) -> None:
    header = b"a.txt" + b"\0" * 252 + b"ustar" + b"\0" * 250
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(header))
    assert "is not a readable tar archive (bad checksum)" in fails(tmp_path / "a.tar.gz")


@pytest.mark.parametrize("ending", [".gz", ".zst"])
def test_truncated_compression(tmp_path: Path, ending: str) -> None:
    text = json.dumps({"text": os.urandom(50_000).hex()}).encode()
    if ending == ".gz":
        data = gzip.compress(text)
    else:
        data = pa.compress(text, "zstd", asbytes=True)
    (tmp_path / f"a.jsonl{ending}").write_bytes(data[: len(data) // 2])
    assert "is damaged: it does not decompress" in fails(tmp_path / f"a.jsonl{ending}")


def test_corrupt_parquet(tmp_path: Path) -> None:
    sink = io.BytesIO()
    pq.write_table(pa.table({"text": [os.urandom(100).hex() for _ in range(1000)]}), sink)
    data = bytearray(sink.getvalue())
    path = tmp_path / "a.parquet"
    path.write_bytes(data[: len(data) // 2])
    assert "a.parquet: is not a readable Parquet file" in fails(path)
    path.write_bytes(b"<html>not found</html>")
    assert "a.parquet: is not a readable Parquet file" in fails(path)
    data[4:200] = struct.pack("<49I", *range(2**31, 2**31 + 49))
    path.write_bytes(data)
    assert "a.parquet: is not a readable Parquet file" in fails(path)


def test_bad_json_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a"}\n\n{"text": "b"}\n{"text": "cut o')
    assert f"{path}, line 4: is not JSON" in fails(path)
    path.write_text('{"text": "a"}\n["b"]\n')
    assert f"{path}, line 2: is a JSON list, not an object" in fails(path)
    path.write_text('{"text": "a"}\n{"text": ["b"]}\n')
    assert f"{path}, line 2: column 'text' holds list, not text" in fails(path)
    path.write_text("[" * 100_000)
    assert "line 1: is not JSON" in fails(path)


def test_json_that_is_no_jsonl(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('[\n  {"text": "a"}\n]')
    assert "is JSON, but not one object a line" in fails(tmp_path / "a.json")
    (tmp_path / "b.json").write_text('{"text": "b"}\n{"text": "c"}\n')
    assert len(list(read_inputs([tmp_path / "b.json"]))) == 2


def test_text_column_not_found(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"story": "a", "title": "b"}\n')
    message = fails(path)
    assert "no column is known to be text; its columns are: story, title" in message
    assert "--prepare.text_column story" in message
    message = fails(path, text_column="stroy")
    assert "has no column 'stroy'" in message and "Did you mean 'story'?" in message
    path.write_text('{"content": "a", "body": "b"}\n')
    assert "several columns may be the text" in fails(path)


def test_parquet_whose_column_is_damaged_in_the_footer(tmp_path: Path) -> None:
    """Read by pyarrow it raises; asked for the column's metadata, pyarrow ended the process."""
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["some words", "more words"] * 20}), path)
    content = path.read_bytes()
    optional = content.rindex(b"\x15\x0c\x25\x02\x18\x04text")  # byte array, optional, its name
    path.write_bytes(content[: optional + 3] + b"\x00" + content[optional + 4 :])
    # Required now, where the column's statistics are those of an optional one.
    assert pq.read_metadata(path).schema.column(0).max_definition_level == 0
    assert "a.parquet: is not a readable Parquet file" in fails(path)


def test_parquet_column_not_found(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": [1, 2], "story": ["a", "b"]}), path)
    message = fails(path)
    assert "no column is known to be text; its columns are: story; without" in message
    assert "without text: text (int64)" in message
    assert "has no column 'stori'" in fails(path, text_column="stori")
    twice = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["text", "text"])
    pq.write_table(twice, path)
    assert "without text: text (more than once), text (more than once)" in fails(path)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads all")
def test_unreadable_file(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "a.txt").chmod(0)
    assert "cannot be read (Permission denied)" in fails(tmp_path / "a.txt")


@pytest.mark.shared
def test_real_preference_pairs_have_no_text(shared_data: Path) -> None:
    message = fails(shared_data / "hh-rlhf-harmless-base-test.jsonl.gz")
    assert "its columns are: chosen, rejected" in message
    assert "is JSON, but not one object a line" in fails(shared_data / "instruction-data.json")
