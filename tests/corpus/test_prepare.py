"""The prepare stage as a whole."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tracemalloc
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from hornbook import documents as shard_writer
from hornbook.corpus.config import GopherConfig, PrepareConfig
from hornbook.corpus.prepare import prepare, read_part
from hornbook.corpus.prepare_report import PrepareReport, Tally
from hornbook.corpus.spool import Part
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


def split_of(folder: Path, documents: int, **more: Any) -> dict[str, str]:
    """The split of each text, of whole documents."""
    rows = [json.dumps({"text": f"text {number}"}) for number in range(documents)]
    folder.mkdir()
    (folder / "rows.jsonl").write_text("\n".join(rows))
    prepare(config(folder / "rows.jsonl", **more), folder / "out")
    return {
        document.text: split
        for split in ("train", "validation")
        for document in read_documents(folder / "out" / split)
    }


def test_the_share_is_held_and_adding_documents_moves_nothing(tmp_path: Path) -> None:
    few = split_of(tmp_path / "few", 3_000)
    held_out = {text for text, split in few.items() if split == "validation"}
    assert 0.04 < len(held_out) / len(few) < 0.06
    many = split_of(tmp_path / "many", 4_000)
    assert few.items() <= many.items()
    more = split_of(tmp_path / "more", 3_000, validation_share=0.1)
    assert held_out < {text for text, split in more.items() if split == "validation"}
    other = split_of(tmp_path / "other", 3_000, split_salt="b")
    assert held_out != {text for text, split in other.items() if split == "validation"}


def test_something_is_held_out_even_of_a_tiny_share(tmp_path: Path) -> None:
    splits = split_of(tmp_path / "in", 150, validation_share=0.0001)
    assert list(splits.values()).count("validation") == 1 and len(splits) == 150


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


@pytest.mark.long
def test_few_large_documents_are_never_held_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard_writer, "ROW_GROUP_BYTES", 10**6)

    def peak(count: int) -> int:
        folder = tmp_path / str(count)
        folder.mkdir()
        for number in range(count):
            (folder / f"{number}.txt").write_text(f"{number} word " * 150_000)
        tracemalloc.start()
        prepare(config(folder, workers=1), tmp_path / f"out-{count}")
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    assert peak(30) - peak(10) < 7 * 10**6, "a third of the 21 MB that the text grew by"


def test_a_kill_costs_little_where_nearly_all_is_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hornbook.corpus.batch.MOST_DOCUMENTS", 10)
    monkeypatch.setattr("hornbook.corpus.spool.SEGMENT_BYTES", 10_000)
    write_rows(tmp_path / "rows.jsonl", 300)
    part = Part(tmp_path / "work", 0)
    settings = config(tmp_path / "rows.jsonl", gopher=GopherConfig(on=True, min_words=1000))
    read_part(settings, settings.inputs, part)
    assert [each.documents for each in part.segments()] == [0] * len(part.segments())
    assert len(part.segments()) > 1 and sum(each.read for each in part.segments()) == 300


def test_a_source_for_each_document_does_not_grow_the_tally(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("hornbook.corpus.prepare_report._MOST_COUNTED", 50)
    whole = PrepareReport()
    for number in range(1_000):
        tally = Tally()
        tally.keep(Document("text", f"page {number}"))
        tally.keep(Document("a longer text", "the large one"))
        whole.include(tally)
        assert len(whole.sources) <= 101
    assert sum(count.documents for count in whole.sources.values()) == 2_000
    assert whole.sources["the large one"].documents == 1_000


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

    monkeypatch.setattr("hornbook.gather.shakespeare.fetch_shakespeare", fetch)
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
