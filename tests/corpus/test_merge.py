"""hornbook merge: every record once, in order, in files of the wanted size."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hornbook.cli import main
from hornbook.corpus import merge as merging
from hornbook.corpus.merge import merge
from hornbook.errors import HornbookError


def rows_of(out: Path, ending: str) -> list[dict[str, object]]:
    """All rows of the merged files."""
    rows: list[dict[str, object]] = []
    for path in sorted(out.glob(f"merged-*.{ending}")):
        if ending == "parquet":
            rows += pq.read_table(path).to_pylist()
        elif ending == "jsonl":
            rows += [json.loads(line) for line in path.read_text().splitlines()]
        else:
            with open(path, newline="") as file:
                rows += list(csv.DictReader(file))
    assert sorted(path.name for path in out.iterdir())[0] == f"merged-00000.{ending}"
    return rows


ROWS = [{"n": str(n), "text": f"text {n % 40}\nof two lines"} for n in range(100)]
UNIQUE = ROWS[:40]


@pytest.fixture
def parts(tmp_path: Path) -> dict[str, list[Path]]:
    """The rows in three files of each format, one of them compressed."""
    parts: dict[str, list[Path]] = {"jsonl": [], "csv": [], "parquet": []}
    for number, rows in enumerate((ROWS[:30], ROWS[30:31], ROWS[31:])):
        lines = "\n".join(json.dumps(row) for row in rows)  # no newline at the end
        path = tmp_path / f"{number}.jsonl"
        path.write_text(lines)
        if number == 2:
            path.rename(path := tmp_path / "2.jsonl.gz")
            path.write_bytes(gzip.compress(lines.encode()))
        parts["jsonl"].append(path)
        path = tmp_path / f"{number}.csv"
        with open(path, "w", newline="") as file:
            writer = csv.DictWriter(file, ["n", "text"], delimiter=";" if number else ",")
            writer.writeheader()
            writer.writerows(rows)
        parts["csv"].append(path)
        path = tmp_path / f"{number}.parquet"
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=7)
        parts["parquet"].append(path)
    return parts


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
@pytest.mark.parametrize("dedup", [False, True])
def test_records(tmp_path: Path, parts: dict[str, list[Path]], ending: str, dedup: bool) -> None:
    merged = merge(parts[ending], tmp_path / "out", megabytes=0.001, dedup=dedup)
    assert rows_of(tmp_path / "out", ending) == (UNIQUE if dedup else ROWS)
    assert (merged.records, merged.duplicates) == (100, 60 if dedup else 0)
    files = list((tmp_path / "out").iterdir())
    assert len(files) == merged.files > 1
    if ending != "parquet":
        assert all(path.stat().st_size <= 1000 for path in files)


def test_text_files(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name, text in {"a.txt": "one", "b.txt": "two\n", "c.txt": "one", "d.txt": ""}.items():
        (tmp_path / "in" / name).write_text(text)
    merge([tmp_path / "in"], tmp_path / "out", dedup=True)
    assert (tmp_path / "out" / "merged-00000.txt").read_text() == "one\n\ntwo\n"


def test_short_rows_of_csv_lose_no_column(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("a,b,c\n1,2\n3,4,5\n")
    merge([tmp_path / "a.csv"], tmp_path / "out")
    merged = (tmp_path / "out" / "merged-00000.csv").read_text()
    assert merged == '"a","b","c"\n"1","2",""\n"3","4","5"\n'


def test_byte_order_marks_of_json_lines(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.jsonl").write_text('{"text": "a"}\n', encoding="utf-8-sig")
    merge([tmp_path / "a.jsonl", tmp_path / "b.jsonl"], tmp_path / "out")
    merged = (tmp_path / "out" / "merged-00000.jsonl").read_bytes()
    assert merged == b'{"text": "a"}\n' * 2
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n', encoding="utf-16")
    with pytest.raises(HornbookError, match="is in UTF-16"):
        merge([tmp_path / "a.jsonl"], tmp_path / "new")


@pytest.mark.parametrize("dedup", [False, True])
def test_large_row_groups_are_read_in_parts(
    tmp_path: Path, dedup: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merging, "ROW_GROUP_BYTES", 10_000)
    rows = [{"text": f"{n} " * 300, "n": {"deep": [n]}} for n in range(100, 356)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet", use_dictionary=False)
    merge([tmp_path / "a.parquet"], tmp_path / "out", dedup=dedup)
    merged = pq.ParquetFile(tmp_path / "out" / "merged-00000.parquet")
    assert merged.read().to_pylist() == rows and merged.num_row_groups > 20


@pytest.mark.parametrize("dedup", [False, True])
def test_a_row_without_text_and_whole_chunks(tmp_path: Path, dedup: bool) -> None:
    lines = [json.dumps({"text": str(n)}) for n in range(255)] + [json.dumps({"other": 1})]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    assert merge([tmp_path / "a.jsonl"], tmp_path / "out", dedup=dedup).duplicates == 0


def test_columns_of_parquet_are_never_dropped_or_turned_into_numbers(tmp_path: Path) -> None:
    def merged(first: dict[str, list[Any]], later: dict[str, list[Any]]) -> Any:
        for name, columns in (("a", first), ("b", later)):
            pq.write_table(pa.table(columns), tmp_path / f"{name}.parquet")
        out = tmp_path / f"out{len(list(tmp_path.iterdir()))}"
        merge([tmp_path / "a.parquet", tmp_path / "b.parquet"], out)
        return pq.read_table(out / "merged-00000.parquet").to_pydict()

    for later in ({"n": [2], "more": ["x"]}, {"n": ["007"]}, {"n": [2.5]}, {"n": [[1]]}):
        with pytest.raises(HornbookError, match="the columns differ: n in the first file"):
            merged({"n": [1]}, later)
    with pytest.raises(HornbookError, match="the columns differ"):
        merged({"n": [1], "more": ["x"]}, {"n": [2]})
    assert merged({"n": [1], "t": ["x"]}, {"t": [None], "n": [2]}) == {
        "n": [1, 2],
        "t": ["x", None],
    }
    assert merged({"n": [1.5]}, {"n": [2]}) == {"n": [1.5, 2.0]}


def test_refusals(
    tmp_path: Path, parts: dict[str, list[Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(HornbookError, match="files of one format are merged"):
        merge([parts["csv"][0], parts["jsonl"][0]], tmp_path / "out")
    other = tmp_path / "other.csv"
    other.write_text("n,body\n1,2\n")
    with pytest.raises(HornbookError, match=r"columns differ: n, text .*, n, body later"):
        merge([parts["csv"][0], other], tmp_path / "out")
    assert not list(tmp_path.glob("out*")), "nothing half-written is left"
    monkeypatch.setattr(merging, "LONGEST_ROW", 1000)
    (tmp_path / "long.txt").write_text("word " * 500)
    with pytest.raises(HornbookError, match=r"long\.txt: is longer than"):
        merge([tmp_path / "long.txt"], tmp_path / "out")
    (tmp_path / "mixed.txt").write_bytes("Käse und Brötchen ".encode() * 9 + b"\xff")
    with pytest.raises(HornbookError, match=r"mixed\.txt: is not UTF-8 .* Save it as UTF-8"):
        merge([tmp_path / "mixed.txt"], tmp_path / "out")
    merge(parts["csv"], tmp_path / "out")
    with pytest.raises(HornbookError, match="has files in it"):
        merge(parts["csv"], tmp_path / "out")
    with pytest.raises(HornbookError, match="--megabytes: must be above 0"):
        merge(parts["csv"], tmp_path / "new", megabytes=0)


def test_the_verb(
    tmp_path: Path, parts: dict[str, list[Path]], capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*map(str, parts["jsonl"]), "--out", str(tmp_path / "out"), "--dedup"]
    assert main(["merge", *words, "--text-column", "text"]) == 0
    assert "40 records in 1 files" in capsys.readouterr().err
