"""The prepare stage as a whole."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from hornbook import documents as shard_writer
from hornbook.corpus import prepare as prepare_module
from hornbook.corpus.config import PrepareConfig
from hornbook.corpus.prepare import prepare
from hornbook.documents import Document, read_documents, write_documents
from hornbook.errors import HornbookError
from hornbook.files import read_json

WORDS = [
    "now",
    "is",
    "the",
    "winter",
    "of",
    "our",
    "discontent",
    "made",
    "glorious",
    "summer",
    "by",
    "this",
    "sun",
    "of",
    "York",
]


def prose(seed: int, paragraphs: int = 40) -> str:
    draw = random.Random(seed)
    return "\n\n".join(" ".join(draw.choices(WORDS, k=30)) + "." for _ in range(paragraphs))


def write_rows(path: Path, count: int, **more: Any) -> Path:
    with open(path, "w") as file:
        for number in range(count):
            file.write(json.dumps({"text": prose(number, 3), **more}) + "\n")
    return path


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def config(*inputs: Path, **more: Any) -> PrepareConfig:
    return PrepareConfig(inputs=[str(path) for path in inputs], **more)


def test_one_text_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "book.txt").write_text(prose(1, 400).replace("\n", "\r\n"))
    report = prepare(config(tmp_path / "book.txt"), tmp_path / "out")
    assert report.passages and report.validation_bytes_share >= 0.05
    validation = list(read_documents(tmp_path / "out/validation"))
    train = list(read_documents(tmp_path / "out/train"))
    assert len(validation) >= 5 and all(d.source == "book.txt" for d in validation + train)
    assert not any("\r" in d.text for d in train)
    held_out = "\n".join(d.text for d in validation)
    assert not any(d.text in held_out for d in train), "nothing is in both"
    out = capsys.readouterr().err
    assert "cut at blank lines into" in out and "held out" in out
    stored = read_json(tmp_path / "out/prepare.json")
    assert stored == asdict(report) and stored["passages"] is True
    assert any("cut at blank lines" in message for message in stored["messages"])


def test_many_documents_are_split_whole(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl", 400, licence="CC0", source="web")
    report = prepare(config(tmp_path / "rows.jsonl"), tmp_path / "out")
    assert not report.passages and report.passage_plan is None
    assert report.kept.documents == 400 == sum(c.documents for c in report.splits.values())
    assert 5 < report.splits["validation"].documents < 40
    assert list(report.sources) == ["web"] and list(report.licences) == ["CC0"]
    before = {d.id for d in read_documents(tmp_path / "out/validation")}
    write_rows(tmp_path / "rows.jsonl", 500)
    prepare(config(tmp_path / "rows.jsonl"), tmp_path / "out")
    after = {d.id for d in read_documents(tmp_path / "out/validation")}
    assert before < after


def test_what_is_dropped_is_counted_with_samples(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.txt").write_text(prose(1))
    (folder / "b.txt").write_text(prose(2).replace("\n", "\r\n"))
    for number in range(5):
        (folder / f"copy{number}.txt").write_text(prose(2))
    (folder / "space.txt").write_text(" \n\ufeff\u200b\n")
    (folder / "zero.txt").touch()
    report = prepare(config(folder), tmp_path / "out")
    assert report.read.documents == 8 and report.kept.documents == 2
    assert report.dropped["duplicate"].documents == 5 and report.dropped["empty"].documents == 1
    assert len(report.dropped["duplicate"].samples) == 3
    assert report.dropped["duplicate"].samples[0]["title"] == "copy0"
    assert any("zero.txt: is empty (0 bytes), skipped" in m for m in report.messages)
    report = prepare(config(folder, deduplicate=False, normalise=False), tmp_path / "out")
    assert report.kept.documents == 8 and not report.dropped


@pytest.mark.parametrize("count", [20, 150])
def test_the_same_input_gives_the_same_bytes(tmp_path: Path, count: int) -> None:
    write_rows(tmp_path / "rows.jsonl", count)
    for name in ("one", "two", "two"):  # also over what is there already
        prepare(config(tmp_path / "rows.jsonl"), tmp_path / name)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_shards_of_an_earlier_run_are_removed(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl", 150)
    write_documents([Document("old")], tmp_path / "out/train")
    (tmp_path / "out/train/documents-00007.parquet").write_bytes(b"stale")
    (tmp_path / "out/train/documents-00008.parquet.tmp").write_bytes(b"half")
    prepare(config(tmp_path / "rows.jsonl"), tmp_path / "out")
    assert set(contents(tmp_path / "out")) == {
        "prepare.json",
        "train/documents-00000.parquet",
        "validation/documents-00000.parquet",
    }


def test_several_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_writer, "ROW_GROUP_BYTES", 100_000)
    (tmp_path / "rows.jsonl").write_text(
        "\n".join(json.dumps({"text": prose(number)}) for number in range(500))
    )
    report = prepare(config(tmp_path / "rows.jsonl", shard_megabytes=1), tmp_path / "out")
    assert len(list((tmp_path / "out/train").glob("*.parquet"))) == 3
    train = list(read_documents(tmp_path / "out/train"))
    assert len(train) == report.splits["train"].documents


@pytest.mark.parametrize("passages", ["always", "never"])
def test_the_choice_can_be_made_by_hand(tmp_path: Path, passages: Any) -> None:
    write_rows(tmp_path / "many.jsonl", 150)
    report = prepare(config(tmp_path / "many.jsonl", passages=passages), tmp_path / "out")
    assert report.passages == (passages == "always")
    write_rows(tmp_path / "few.jsonl", 10)
    report = prepare(config(tmp_path / "few.jsonl", passages=passages), tmp_path / "out")
    assert report.passages == (passages == "always")
    assert report.splits["validation"].documents >= 1


def test_too_little_to_split(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("To be, or not to be.")
    with pytest.raises(HornbookError, match="20 bytes of text are too little to hold any out"):
        prepare(config(tmp_path / "a.txt"), tmp_path / "out")
    (tmp_path / "a.txt").write_text(prose(1))
    with pytest.raises(HornbookError, match="nothing is left to train on"):
        prepare(config(tmp_path / "a.txt", passages="never"), tmp_path / "out")
    (tmp_path / "a.txt").write_text(" \n")
    with pytest.raises(HornbookError, match=r"no text is left of 1 documents \(dropped: empty 1\)"):
        prepare(config(tmp_path / "a.txt"), tmp_path / "out")
    with pytest.raises(HornbookError, match=r"above 0 and below 1, not 1\.5"):
        prepare(config(tmp_path / "a.txt", validation_share=1.5), tmp_path / "out")
    assert not (tmp_path / "out/prepare.json").exists()


@pytest.mark.parametrize("text", ["word " * 2_000_000, "x" * 3_000_000])
def test_one_enormous_line_can_be_split(tmp_path: Path, text: str) -> None:
    (tmp_path / "line.txt").write_text(text)
    report = prepare(config(tmp_path / "line.txt"), tmp_path / "out")
    assert 0.05 <= report.validation_bytes_share < 0.11, "at most twice the share and a passage"
    assert sum(count.bytes for count in report.splits.values()) == len(text)


def test_lone_surrogates_in_json_reach_the_shards_as_valid_text(tmp_path: Path) -> None:
    rows = [json.dumps({"text": prose(number) + " \ud83d"}) for number in range(3)]
    (tmp_path / "a.jsonl").write_text("\n".join(rows))
    for normalise in (True, False):
        prepare(config(tmp_path / "a.jsonl", normalise=normalise), tmp_path / "out")
        text = "".join(d.text for d in read_documents(tmp_path / "out/train"))
        assert "\ufffd" in text


def test_shakespeare_is_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(folder: Path) -> Path:
        write_documents([Document(prose(1), "shakespeare", licence="public domain")], folder)
        return folder

    monkeypatch.setattr(prepare_module, "fetch_shakespeare", fetch)
    monkeypatch.setenv("HORNBOOK_CACHE", str(tmp_path / "cache"))
    report = prepare(PrepareConfig(inputs=["shakespeare"]), tmp_path / "out")
    assert list(report.licences) == ["public domain"]
    assert (tmp_path / "cache/shakespeare/documents-00000.parquet").exists()


def test_killed_at_any_row_group_it_is_redone_to_the_same_bytes(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl", 300)
    prepare(config(tmp_path / "rows.jsonl"), tmp_path / "undisturbed")
    script = """
import os, signal, sys
from pathlib import Path
from hornbook import documents as shard_writer
from hornbook.corpus.config import PrepareConfig
from hornbook.corpus.prepare import prepare
shard_writer.ROW_GROUP_BYTES = 20_000
flush, left = shard_writer.DocumentWriter.flush, int(sys.argv[1])
def killed(self):
    global left
    flush(self)
    left -= 1
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
shard_writer.DocumentWriter.flush = killed
prepare(PrepareConfig(inputs=[sys.argv[2]], shard_megabytes=0), Path(sys.argv[3]))
"""
    for flushes in (1, 5):
        arguments = [str(flushes), str(tmp_path / "rows.jsonl"), str(tmp_path / "out")]
        done = subprocess.run(
            [sys.executable, "-c", script, *arguments], capture_output=True, timeout=120
        )
        assert done.returncode == -9, done.stderr
        assert not (tmp_path / "out/prepare.json").exists()
        for shard in (tmp_path / "out").rglob("*.parquet"):
            assert list(read_documents(shard.parent)), "a shard is whole or absent"
    prepare(config(tmp_path / "rows.jsonl"), tmp_path / "out")
    assert contents(tmp_path / "out") == contents(tmp_path / "undisturbed")


def test_full_disk_leaves_nothing_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_rows(tmp_path / "rows.jsonl", 300)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(HornbookError, match="the disk is full"):
        prepare(config(tmp_path / "rows.jsonl"), tmp_path / "out")
    assert contents(tmp_path / "out") == {}


@pytest.mark.shared
def test_tiny_shakespeare(shared_data: Path, tmp_path: Path) -> None:
    report = prepare(config(shared_data / "tinyshakespeare.txt"), tmp_path)
    assert report.passage_plan is not None and report.passage_plan.size == 2048
    assert 0.05 <= report.validation_bytes_share < 0.07


@pytest.mark.shared
@pytest.mark.long
def test_wikipedia(shared_data: Path, tmp_path: Path) -> None:
    report = prepare(config(shared_data / "wikipedia-en-sample.jsonl.zst"), tmp_path)
    assert report.kept.documents == 6_696 and list(report.licences) == ["CC-BY-SA-3.0"]
    assert 0.04 < report.validation_bytes_share < 0.06
