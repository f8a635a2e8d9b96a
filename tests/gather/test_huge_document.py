"""A document of 1 GB: cut or left out and counted, in bounded memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

resource = pytest.importorskip("resource")

READ = """
import json, resource, sys
import pyarrow.parquet, charset_normalizer  # before the limit: their libraries are address space
from hornbook.gather.readers import Reading, read_with_cursor
limit = int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
counts = {}
reading = Reading(count=lambda what, n: counts.__setitem__(what, counts.get(what, 0) + n))
found = [(len(d.text), d.meta) for d, _ in read_with_cursor([sys.argv[1]], reading)]
print(json.dumps({"found": found, "counts": counts}))
"""

LINE = b"to be or not to be, that is the question; "


def read(path: Path, limit: int = 2 * 2**30) -> dict[str, object]:
    """What a process with at most `limit` bytes of address space reads."""
    run = [sys.executable, "-c", READ, str(path), str(limit)]
    ended = subprocess.run(run, capture_output=True, text=True, timeout=600)
    assert ended.returncode == 0, ended.stderr[-2000:]
    answer: dict[str, object] = json.loads(ended.stdout)
    return answer


def write(path: Path, size: int, before: bytes, after: bytes) -> int:
    """A file of `size` bytes of text in one line; returns its characters."""
    block = LINE * (2**20 // len(LINE))
    with open(path, "wb") as file:
        file.write(before)
        for _ in range(size // len(block)):
            file.write(block)
        file.write(after)
    return size // len(block) * len(block)


def both_sides(path: Path, size: int) -> None:
    row = json.dumps({"text": "small"}).encode() + b"\n"
    write(path, size, row + b'{"text": "', b'"}\n' + row)


@pytest.mark.long
def test_one_line_of_1_gb(tmp_path: Path) -> None:
    both_sides(tmp_path / "a.jsonl", 2**30)
    answer = read(tmp_path / "a.jsonl")
    assert answer == {"found": [[5, {}], [5, {}]], "counts": {"too long": 1}}


@pytest.mark.long
def test_one_line_that_is_just_short_enough(tmp_path: Path) -> None:
    both_sides(tmp_path / "a.jsonl", 127 * 2**20)
    answer = read(tmp_path / "a.jsonl")
    found = answer["found"]
    assert isinstance(found, list) and len(found) == 3 and found[1][0] > 120 * 2**20


@pytest.mark.long
def test_a_text_file_of_1_gb_in_one_line_is_cut(tmp_path: Path) -> None:
    characters = write(tmp_path / "a.txt", 2**30, b"", b"")
    answer = read(tmp_path / "a.txt")
    found = answer["found"]
    assert isinstance(found, list) and sum(length for length, _ in found) == characters
    assert all(length <= 16 * 2**20 for length, _ in found) and len(found) >= 64


@pytest.mark.long
def test_a_csv_field_of_1_gb_is_one_clear_error(tmp_path: Path) -> None:
    write(tmp_path / "a.csv", 2**30, b'text\n"', b'"\n')
    run = [sys.executable, "-c", READ, str(tmp_path / "a.csv"), str(2 * 2**30)]
    ended = subprocess.run(run, capture_output=True, text=True, timeout=600)
    assert "a.csv, line 2: has a field of more than 64 MB" in ended.stderr


@pytest.mark.long
def test_a_parquet_cell_of_1_gb(tmp_path: Path) -> None:
    # Its page has to be decompressed whole by Arrow, twice: more memory than a line needs.
    big = (LINE * (2**30 // len(LINE))).decode()
    table = pa.table({"text": pa.array(["small", big, "small"], pa.large_string())})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=1)
    del table, big
    answer = read(tmp_path / "a.parquet", 6 * 2**30)
    assert answer == {"found": [[5, {}], [5, {}]], "counts": {"too long": 1}}
