"""Gathering: shards, budget, duplicates, long texts, refusals, signals, what errors leave."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sqlite3
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from tests.gather.scripted import ScriptedSource, shards_of

import hornbook.documents
from hornbook.documents import Document, read_documents, shard_paths
from hornbook.errors import HornbookError
from hornbook.files import read_json
from hornbook.gather import collect as collect_module
from hornbook.gather.collect import cap_text, collect
from hornbook.gather.config import GatherConfig, NetworkConfig
from hornbook.gather.inputs import find_inputs
from hornbook.gather.source import Gathered, StopGathering

CONFIG = GatherConfig(shard_megabytes=1)
both = pytest.mark.parametrize("replayable", [True, False])


@pytest.fixture(autouse=True)
def small_row_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hornbook.documents, "ROW_GROUP_BYTES", 100_000)


@both
def test_shards_and_report(tmp_path: Path, replayable: bool) -> None:
    report = collect(ScriptedSource([400_000] * 7, replayable), CONFIG, tmp_path)
    assert [shard.documents for shard in report.shards] == [3, 3, 1]
    assert [shard.number for shard in report.shards] == [0, 1, 2]
    assert (report.documents, report.bytes) == (7, 2_800_000)
    assert report.counts == {"steps": 7, "ends": 1}
    written = read_json(tmp_path / "gather.json")
    assert written["shards"][2]["documents"] == 1
    assert sum(1 for _ in read_documents(tmp_path)) == 7


@both
def test_again_on_a_finished_folder_says_so(
    tmp_path: Path, replayable: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    collect(ScriptedSource([9] * 3, replayable), CONFIG, tmp_path)
    before = (tmp_path / "gather.json").read_bytes()
    source = ScriptedSource([9] * 3, replayable)
    collect(source, CONFIG, tmp_path)
    assert not source.given and (tmp_path / "gather.json").read_bytes() == before
    assert "done already" in capsys.readouterr().err


@both
def test_the_budget_ends_it(tmp_path: Path, replayable: bool) -> None:
    config = GatherConfig(megabytes=0.001)
    assert collect(ScriptedSource([400] * 9, replayable), config, tmp_path).documents == 3


@both
def test_a_larger_budget_goes_on(tmp_path: Path, replayable: bool) -> None:
    sizes = [400] * 9
    collect(ScriptedSource(sizes, replayable), GatherConfig(megabytes=0.001), tmp_path / "a")
    source = ScriptedSource(sizes, replayable)
    report = collect(source, GatherConfig(megabytes=0.002), tmp_path / "a")
    assert (report.documents, report.bytes, source.given) == (5, 2000, [3, 4])
    assert report.settings["megabytes"] == 0.002
    again = ScriptedSource(sizes, replayable)
    collect(again, GatherConfig(megabytes=0.0015), tmp_path / "a")
    assert not again.given, "less than there is"
    report = collect(ScriptedSource(sizes, replayable), GatherConfig(), tmp_path / "a")
    collect(ScriptedSource(sizes, replayable), GatherConfig(), tmp_path / "b")
    assert [d.id for d in read_documents(tmp_path / "a")] == [
        d.id for d in read_documents(tmp_path / "b")
    ]
    assert report.counts == {"steps": 9, "ends": 1}
    again = ScriptedSource(sizes, replayable)
    collect(again, GatherConfig(megabytes=5), tmp_path / "a")
    assert not again.given, "there is no more"


@both
def test_nothing_to_gather(tmp_path: Path, replayable: bool) -> None:
    assert collect(ScriptedSource([0, 0], replayable), CONFIG, tmp_path).shards == []


def test_a_document_that_is_there_is_counted(tmp_path: Path) -> None:
    class Twice(ScriptedSource):
        def documents(self, cursor, gathering):  # type: ignore[no-untyped-def]
            for step in super().documents(cursor, gathering):
                yield step
                yield step

    report = collect(Twice([600_000] * 4, False), CONFIG, tmp_path)
    assert (report.documents, report.counts["already there"]) == (4, 4)


def test_other_settings_are_refused_and_named(tmp_path: Path) -> None:
    collect(ScriptedSource([9], True), CONFIG, tmp_path)
    with pytest.raises(HornbookError, match=r"lengths was \[9\], now \[9, 9\]"):
        collect(ScriptedSource([9, 9], True), CONFIG, tmp_path)


def test_a_start_that_was_refused_binds_to_nothing(tmp_path: Path) -> None:
    def refuse(number: int) -> None:
        raise HornbookError("no contact")

    with pytest.raises(HornbookError, match="no contact"):
        collect(ScriptedSource([9], False, before_step=refuse), CONFIG, tmp_path)
    assert collect(ScriptedSource([9, 9], False), CONFIG, tmp_path).documents == 2


def test_shards_of_something_else_are_not_touched(tmp_path: Path) -> None:
    (tmp_path / "documents-00000.parquet").write_bytes(b"of `convert`, or of another tool")
    with pytest.raises(HornbookError, match="has document shards that were not gathered"):
        collect(ScriptedSource([9], False), CONFIG, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["documents-00000.parquet"]


def test_a_folder_of_other_files_is_not_touched(tmp_path: Path) -> None:
    """A journal beside them would hide them from `prepare`: there only shards are documents."""
    (tmp_path / "novel.txt").write_text("mine")
    with pytest.raises(HornbookError, match=r"has other files in it, such as novel\.txt"):
        collect(ScriptedSource([9], False), CONFIG, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["novel.txt"]


def test_what_a_refused_start_counted_is_forgotten(tmp_path: Path) -> None:
    class Listing(ScriptedSource):
        def documents(self, cursor, gathering):  # type: ignore[no-untyped-def]
            gathering.count("channels that do not exist")
            yield Gathered(None, {})
            raise StopGathering("quota")

    with pytest.raises(StopGathering):
        collect(Listing([1], False), CONFIG, tmp_path)
    report = collect(ScriptedSource([9], False), CONFIG, tmp_path)
    assert report.counts == {"steps": 1, "ends": 1}


@pytest.mark.parametrize(
    "config",
    [
        GatherConfig(megabytes=-1),
        GatherConfig(shard_megabytes=0),
        GatherConfig(workers=-1),
        GatherConfig(network=NetworkConfig(requests_per_minute=-1)),
        GatherConfig(network=NetworkConfig(requests_per_minute=float("nan"))),
        GatherConfig(network=NetworkConfig(concurrency=-1)),
        GatherConfig(network=NetworkConfig(largest_megabytes=0)),
    ],
)
def test_settings_without_a_meaning(tmp_path: Path, config: GatherConfig) -> None:
    with pytest.raises(HornbookError, match=r"^gather\..*must be [01] or more"):
        collect(ScriptedSource([9], False), config, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_second_process_is_refused(tmp_path: Path) -> None:
    def second(number: int) -> None:
        with pytest.raises(HornbookError, match="another hornbook process"):
            collect(ScriptedSource([9], True), CONFIG, tmp_path)

    collect(ScriptedSource([9], True, before_step=second), CONFIG, tmp_path)


def test_damage_is_named(tmp_path: Path) -> None:
    collect(ScriptedSource([9], True), CONFIG, tmp_path)
    journal = tmp_path / "journal.sqlite"
    journal.write_bytes(b"not a database" * 1000)
    with pytest.raises(HornbookError, match=r"journal\.sqlite: is damaged"):
        collect(ScriptedSource([9], True), CONFIG, tmp_path)


def test_a_journal_of_another_version_is_refused(tmp_path: Path) -> None:
    collect(ScriptedSource([9], True), CONFIG, tmp_path)
    with sqlite3.connect(tmp_path / "journal.sqlite") as connection:
        connection.execute("PRAGMA user_version = 7")
    connection.close()
    with pytest.raises(HornbookError, match="a journal of version 7"):
        collect(ScriptedSource([9], True), CONFIG, tmp_path)


def test_a_missing_shard_is_missed_and_a_stray_one_removed(tmp_path: Path) -> None:
    collect(ScriptedSource([9], True), CONFIG, tmp_path)
    (tmp_path / "documents-00009.parquet").write_bytes(b"of an earlier run")
    collect(ScriptedSource([9], True), CONFIG, tmp_path)
    (shard,) = shard_paths(tmp_path)
    shard.unlink()
    with pytest.raises(HornbookError, match=r"documents-00000\.parquet: a shard that was gathered"):
        collect(ScriptedSource([9], True), CONFIG, tmp_path)


@both
@pytest.mark.parametrize("error", [StopGathering("blocked"), HornbookError("cut off")])
def test_an_error_keeps_what_was_gathered(
    tmp_path: Path, replayable: bool, error: HornbookError
) -> None:
    def fail(number: int) -> None:
        if number == 4:
            raise error

    source = ScriptedSource([400_000] * 6, replayable, before_step=fail)
    with pytest.raises(HornbookError, match=error.what):
        collect(source, CONFIG, tmp_path / "stopped")
    kept = sum(1 for _ in read_documents(tmp_path / "stopped"))
    assert kept == (4 if replayable else 3), "the others are in the journal"
    collect(ScriptedSource([400_000] * 6, replayable), CONFIG, tmp_path / "stopped")
    collect(ScriptedSource([400_000] * 6, replayable), CONFIG, tmp_path / "whole")
    assert shards_of(tmp_path / "stopped") == shards_of(tmp_path / "whole")


def test_a_disk_that_fills_is_said_and_nothing_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_soon(path: Path, **settings: Any) -> sqlite3.Connection:
        connection = connect(path, **settings)
        connection.execute("PRAGMA max_page_count = 200")  # SQLITE_FULL at 800 kB
        return connection

    connect, texts = sqlite3.connect, [300_000] * 9
    monkeypatch.setattr(collect_module, "COMMIT_SECONDS", 0.0)
    monkeypatch.setattr("hornbook.gather.journal.zlib.compress", lambda data, level: data)
    monkeypatch.setattr("hornbook.gather.journal.zlib.decompress", lambda data: data)
    with monkeypatch.context() as limited:
        limited.setattr(sqlite3, "connect", full_soon)
        with pytest.raises(HornbookError, match="the disk is full; nothing half-written"):
            collect(ScriptedSource(texts, False), CONFIG, tmp_path / "full")
    collect(ScriptedSource(texts, False), CONFIG, tmp_path / "full")
    collect(ScriptedSource(texts, False), CONFIG, tmp_path / "whole")
    assert shards_of(tmp_path / "full") == shards_of(tmp_path / "whole")


def _gather_slowly(out: Path, ready: Path) -> None:
    """Every step is committed; `ready` appears when some are."""

    def before_step(number: int) -> None:
        time.sleep(0.01)
        if number == 5:
            ready.touch()

    collect_module.COMMIT_SECONDS = 0.0
    collect(ScriptedSource([9] * 10_000, False, before_step=before_step), CONFIG, out)


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGTERM")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_keeps_what_was_gathered(tmp_path: Path, number: int) -> None:
    """The journal is read when the process has ended: a reader that is there while the journal is
    begun can keep SQLite from switching to its write-ahead log."""
    out, ready = tmp_path / "out", tmp_path / "ready"
    process = multiprocessing.get_context("spawn").Process(target=_gather_slowly, args=(out, ready))
    process.start()
    while not ready.exists():
        assert process.is_alive()
        time.sleep(0.05)
    assert process.pid is not None
    os.kill(process.pid, number)
    process.join(120)
    assert process.exitcode == 1, "KeyboardInterrupt"
    with contextlib.closing(sqlite3.connect(out / "journal.sqlite")) as journal:
        ((pending,),) = journal.execute("SELECT COUNT(*) FROM pending")
        ((cursor,),) = journal.execute("SELECT value FROM state WHERE key = 'cursor'")
    assert pending >= 5 and cursor == f'{{"next": {pending}}}'


def test_a_signal_while_the_size_is_asked_for(tmp_path: Path) -> None:
    """Finding out what there is may take minutes of waiting for a server."""

    class Slow(ScriptedSource):
        def size(self, gathering):  # type: ignore[no-untyped-def]
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0)
            raise AssertionError("not interrupted")

    with pytest.raises(KeyboardInterrupt):
        collect(Slow([9], False), CONFIG, tmp_path)


def test_a_text_too_long_becomes_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collect_module, "LONGEST_TEXT", 100)
    document = Document("word " * 60, source="s", url="u", meta={"a": 1})
    parts = cap_text(document)
    assert "".join(part.text for part in parts) == document.text
    assert [part.meta for part in parts] == [{"a": 1, "part": n} for n in range(1, len(parts) + 1)]
    assert len({part.id for part in parts}) == len(parts) > 2


@both
def test_half_a_surrogate_pair_is_mended(tmp_path: Path, replayable: bool) -> None:
    class Broken(ScriptedSource):
        def documents(self, cursor, gathering):  # type: ignore[no-untyped-def]
            for step in super().documents(cursor, gathering):
                step.document.text = "half \ud83d"
                step.document.meta = {"title": "\ud83d"}
                yield step

    collect(Broken([9], replayable), CONFIG, tmp_path)
    (document,) = read_documents(tmp_path)
    assert document.text == "half �"


def test_quarantine_is_kept_once_and_is_no_input(tmp_path: Path) -> None:
    class Bad(ScriptedSource):
        def documents(self, cursor, gathering):  # type: ignore[no-untyped-def]
            for step in super().documents(cursor, gathering):
                gathering.quarantine("page 1", "hangs", "[[")
                gathering.quarantine("page 1", "hangs", "[[")
                yield step

    report = collect(Bad([9], True), CONFIG, tmp_path)
    assert len((tmp_path / "quarantine.jsonl").read_text().splitlines()) == 1
    assert report.counts["quarantined"] == 2
    (found,) = find_inputs([tmp_path])
    assert [file.inside for file in found.files] == ["documents-00000.parquet"]
