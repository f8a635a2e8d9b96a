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
from hornbook.gather.config import GatherConfig
from hornbook.gather.inputs import find_inputs
from hornbook.gather.source import StopGathering

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


def _gather_slowly(out: Path) -> None:
    collect(
        ScriptedSource([9] * 10_000, False, before_step=lambda n: time.sleep(0.01)), CONFIG, out
    )


def _pending(out: Path) -> tuple[int, str]:
    """Documents that wait in the journal, and the cursor."""
    try:
        connection = sqlite3.connect(f"file:{out / 'journal.sqlite'}?mode=ro", uri=True)
        with contextlib.closing(connection):
            (pending,) = connection.execute("SELECT COUNT(*) FROM pending").fetchone()
            cursors = connection.execute("SELECT value FROM state WHERE key = 'cursor'").fetchall()
    except sqlite3.OperationalError:  # it is not there yet
        return 0, ""
    return pending, cursors[0][0] if cursors else ""


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGTERM")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_keeps_what_was_gathered(tmp_path: Path, number: int) -> None:
    process = multiprocessing.get_context("spawn").Process(target=_gather_slowly, args=(tmp_path,))
    process.start()
    while _pending(tmp_path)[0] == 0:
        assert process.is_alive()
        time.sleep(0.1)
    assert process.pid is not None
    os.kill(process.pid, number)
    process.join(20)
    assert process.exitcode == 1, "KeyboardInterrupt"
    pending, cursor = _pending(tmp_path)
    assert cursor == f'{{"next": {pending}}}'


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
