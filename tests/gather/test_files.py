"""The source `files` through the whole of gathering: counts, cursor, kill -9."""

from __future__ import annotations

import gzip
import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hornbook.documents import Document, read_documents, write_documents
from hornbook.errors import HornbookError
from hornbook.gather.collect import collect
from hornbook.gather.config import FilesConfig, GatherConfig
from hornbook.gather.files import FilesSource


def gather(folder: Path, out: Path, **settings: object) -> dict[str, object]:
    config = FilesConfig(inputs=[str(folder)], **settings)  # type: ignore[arg-type]
    collect(FilesSource(config), GatherConfig(shard_megabytes=16), out)
    report: dict[str, object] = json.loads((out / "gather.json").read_text())
    return report


def test_what_was_counted_is_in_the_report(tmp_path: Path) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "a.txt").write_bytes("Käse, Brötchen und Öl: ".encode() * 9 + b"\xff\xfe")
    (folder / "b.txt").write_bytes("Der Käse ist gut, sagte Jürgen.".encode("cp1252"))
    (folder / "c.py").write_text("no text")
    (folder / "d.txt").touch()
    report = gather(folder, tmp_path / "out")
    assert report["documents"] == 2
    counted = {"undecodable bytes": 2, "files of kinds that are not read": 1, "empty files": 1}
    assert report["counts"] == counted
    texts = [document.text for document in read_documents(tmp_path / "out")]
    assert texts[0].endswith("\ufffd\ufffd") and texts[1] == "Der Käse ist gut, sagte Jürgen."
    with pytest.raises(HornbookError, match="is not UTF-8 text"):
        gather(folder, tmp_path / "strict", undecodable="refuse")
    with pytest.raises(HornbookError, match="--encoding: no text encoding is called 'utf9'"):
        gather(folder, tmp_path / "wrong", encoding="utf9")


def test_out_inside_of_what_is_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    with pytest.raises(HornbookError, match="--out is inside this folder"):
        gather(tmp_path, tmp_path / "deep" / "out")
    gather(tmp_path, tmp_path / ".hidden" / "out")
    run = tmp_path / "run"
    run.mkdir()
    (run / "recipe.yaml").touch()
    (run / ".lock").touch()
    gather(tmp_path, run / "gather")
    gather(tmp_path, run / "gather")


def test_shards_smaller_than_a_row_group(tmp_path: Path) -> None:
    documents = [Document(f"{number} " * 50_000) for number in range(10, 20)]
    paths = write_documents(documents, tmp_path, shard_bytes=300_000)
    assert len(paths) == 5 and list(read_documents(tmp_path)) == documents


def write_corpus(folder: Path) -> None:
    """About 40 MB that hardly shrink, in Parquet, gzipped JSON lines and text files."""
    rng = random.Random(7)
    folder.mkdir()
    words = [rng.randbytes(6).hex() for _ in range(50_000)]

    def texts(count: int) -> list[str]:
        return [" ".join(rng.choices(words, k=400)) for _ in range(count)]

    pq.write_table(pa.table({"text": texts(2000)}), folder / "a.parquet", row_group_size=150)
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts(2000))
    (folder / "b.jsonl.gz").write_bytes(gzip.compress(lines.encode(), 1))
    for number in range(300):
        (folder / f"c{number:03}.txt").write_text(texts(1)[0])
    pq.write_table(pa.table({"text": texts(2000)}), folder / "d.parquet", row_group_size=150)


def test_killed_at_any_moment_the_shards_are_the_same(tmp_path: Path) -> None:
    folder, out = tmp_path / "texts", tmp_path / "killed"
    write_corpus(folder)
    report = gather(folder, tmp_path / "undisturbed")
    whole = sorted((tmp_path / "undisturbed").glob("documents-*.parquet"))
    assert report["documents"] == 6300 and len(whole) > 1
    words = ["gather", "files", str(folder), "--out", str(out), "--shard-megabytes", "16"]
    run = [sys.executable, "-m", "hornbook", *words]
    for shards in range(1, len(whole)):  # kill once so many shards are there
        child = subprocess.Popen(run, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while child.poll() is None and len(list(out.glob("documents-*.parquet"))) < shards:
            time.sleep(0.005)
        child.kill()
        assert child.wait(60) in (-signal.SIGKILL, 0)
    assert subprocess.run(run, capture_output=True).returncode == 0
    assert [path.name for path in sorted(out.glob("documents-*.parquet"))] == [
        p.name for p in whole
    ]
    for path in whole:
        assert path.read_bytes() == (out / path.name).read_bytes()
    assert json.loads((out / "gather.json").read_text())["documents"] == 6300
