"""Gathering: documents of a source into shards, each exactly once, whenever it is killed.

In: a source and a folder. Out: `OUT/documents-00000.parquet`, ..., and `gather.json`, written
last. Where a shard ends depends on the documents alone, so that a gathering that was killed and
run again gives the same files, byte for byte.

A source that cannot be replayed cheaply (network) has each document kept in the journal until its
shard is written. One that can (files) is written straight to its shard, and goes on from the
cursor at the end of the last whole one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import shutil
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from rich.table import Table

from hornbook.documents import (
    Document,
    byte_length,
    document_id,
    document_writer,
    shard_path,
)
from hornbook.errors import HornbookError, check_limits
from hornbook.files import TEMPORARY, lock_folder, sha256_of, write_json
from hornbook.gather.config import GatherConfig
from hornbook.gather.cut import cut
from hornbook.gather.inputs import JOURNAL
from hornbook.gather.journal import WORK, Journal, ShardRow
from hornbook.gather.source import Gathered, Source
from hornbook.gather.tools import Tools
from hornbook.progress import Bar, bar, console, say

LONGEST_TEXT = 16 * 2**20
"""Characters; a longer text becomes several documents, as in reading files."""

COMMIT_SECONDS = 2.0
COMMIT_CHARACTERS = 8 * 2**20
"""How much work a killed gathering of the network does again, at most."""

SHOWN_COUNTS = 20
"""Lines of the closing table that say what else happened, the largest; a dump has hundreds of
templates whose words are lost."""

BUDGET, END = "budget", "end"
"""Why a gathering is finished: so much was asked for, or there is no more."""

_ALL = 2**62


@dataclass
class GatherReport:
    """What was gathered; `gather.json`.

    Args:
        source: name of the source.
        settings: that decide the documents.
        documents: how many were written.
        bytes: of their text, in UTF-8.
        counts: what else happened: documents that were there already, pages that were skipped ...
        shards: number, documents, bytes and sha256 of each file.
    """

    source: str
    settings: dict[str, Any]
    documents: int
    bytes: int
    counts: dict[str, int]
    shards: list[ShardRow]


def collect(source: Source, config: GatherConfig, out: Path) -> GatherReport:
    """Gather a source into the folder `out`, or go on with it.

    A folder that ended at its budget goes on where `config.megabytes` is now more, in new shards.

    Raises:
        HornbookError: the folder was begun with other settings, has files of something else, or
            another process works in it; or the source cannot be read. What was gathered until then
            is kept.
    """
    fingerprint = {
        "source": source.name,
        **source.fingerprint(),
        "shard_megabytes": config.shard_megabytes,
    }
    _check_limits(config)
    _check_folder(out)
    with lock_folder(out), Journal.open(out, fingerprint) as journal:
        _check_shards(journal, out)
        finished = journal.get("finished")
        if finished == BUDGET and not _is_enough(config, journal.get("progress")):
            journal.set("finished", finished := None)  # more is asked for than then
        if finished:
            size = journal.get("progress")["bytes"] / 1e6
            say(f"gather: done already, {size:,.1f} MB of text in {out}")
        else:
            with Tools(config, out, journal) as tools:
                _Collecting(source, config, out, journal, tools).run()
        progress, counts = journal.get("progress"), journal.get("counts")
        documents, size = progress["documents"], progress["bytes"]
        settings = {**fingerprint, "megabytes": config.megabytes}
        report = GatherReport(source.name, settings, documents, size, counts, journal.shards)
        write_json(out / "gather.json", dataclasses.asdict(report))
        shutil.rmtree(out / WORK, ignore_errors=True)
    return report


def _is_enough(config: GatherConfig, progress: dict[str, int]) -> bool:
    """Whether the budget of bytes is used up; 0 means that there is none."""
    return 0 < config.megabytes * 10**6 <= progress["bytes"]


def _check_limits(config: GatherConfig) -> None:
    for settings, section, name, least in (
        (config, "gather", "megabytes", 0),
        (config, "gather", "shard_megabytes", 1),
        (config, "gather", "workers", 0),
        (config.network, "gather.network", "requests_per_minute", 0),
        (config.network, "gather.network", "concurrency", 0),
        (config.network, "gather.network", "largest_megabytes", 1),
    ):
        right = getattr(settings, name) >= least
        check_limits(settings, section, [(name, right, f"{least} or more")])


def _check_folder(out: Path) -> None:
    """Refuse a folder of something else. Where a journal lies only shards count as documents, so
    texts of the user's own beside it would be passed over from then on."""
    if not out.is_dir() or (out / JOURNAL).exists():
        return
    if any(out.glob("documents-*.parquet")):
        what = "has document shards that were not gathered"
    else:
        names = sorted(path.name for path in out.iterdir() if not path.name.startswith("."))
        others = [name for name in names if name != "stage.json"]  # a run writes that one first
        if not others:
            return
        what = f"has other files in it, such as {others[0]}"
    raise HornbookError(what, where=out, hint="Choose another folder with --out")


def _check_shards(journal: Journal, out: Path) -> None:
    """Miss shards that the journal knows, and remove those that it does not."""
    known = {shard_path(out, shard.number): shard.bytes for shard in journal.shards}
    for path, size in known.items():
        if not path.is_file() or path.stat().st_size != size:
            raise HornbookError(
                "a shard that was gathered is missing or changed",
                where=path,
                hint="Put it back, or remove the folder and gather again",
            )
    for path in [*out.glob("documents-*.parquet"), *out.glob(f"documents-*{TEMPORARY}")]:
        if path not in known:
            path.unlink()


class _Collecting:
    """One run of a gathering."""

    def __init__(
        self, source: Source, config: GatherConfig, out: Path, journal: Journal, tools: Tools
    ):
        self._source, self._out, self._journal, self._tools = source, out, journal, tools
        self._config = config
        self._shard_characters = config.shard_megabytes * 10**6
        self._cursor = journal.cursor
        self._progress = {"documents": 0, "bytes": 0, "consumed": 0}
        self._progress |= journal.get("progress") or {}
        tools.counts.update(journal.get("counts") or {})
        self._counts = dict(tools.counts)
        self._in_source = self._stopping = False
        self._committed = time.monotonic()

    def run(self) -> None:
        """Gather until the source ends; sets `finished`."""
        started, ended = time.monotonic(), False
        try:
            with _signals(self._signalled), bar(f"gathering {self._source.name}", None) as shown:
                self._tools.note = shown.say
                if self._source.replayable:
                    self._stream(shown)
                else:
                    self._fetch(shown)
            ended = True
        finally:
            # A start that was refused has nothing to show, and its error is easier to find alone.
            if ended or self._progress["documents"] or self._tools.counts:
                self._show(time.monotonic() - started)

    def _show(self, seconds: float) -> None:
        """The closing table: what is in the folder, what else happened, what this run took."""
        table = Table(title=f"gathered from {self._source.name}", show_header=False)
        table.add_column()
        table.add_column(justify="right")
        table.add_row("documents", f"{self._progress['documents']:,}")
        table.add_row("text, MB", f"{self._progress['bytes'] / 1e6:,.1f}")
        counts = sorted(self._tools.counts.items(), key=lambda each: -each[1])
        shown, others = counts[:SHOWN_COUNTS], counts[SHOWN_COUNTS:]
        for what, count in sorted(shown):
            table.add_row(what, f"{count:,}")
        if others:
            more = sum(count for _, count in others)
            table.add_row(f"{len(others)} more, see gather.json", f"{more:,}")
        if clients := self._tools.clients:
            table.add_row("requests", f"{sum(client.requests for client in clients):,}")
            table.add_row("requests again", f"{sum(client.retries for client in clients):,}")
        table.add_row("time", str(datetime.timedelta(seconds=round(seconds))))
        console().print(table)

    def _signalled(self) -> None:
        """Leave at once while the source works (it may wait for a server), else after the step."""
        self._stopping = True
        if self._in_source:
            raise KeyboardInterrupt

    @contextlib.contextmanager
    def _source_works(self) -> Iterator[None]:
        try:
            self._in_source = True
            if self._stopping:
                raise KeyboardInterrupt
            yield
        finally:
            self._in_source = False

    def _steps(self, shown: Bar) -> Iterator[Gathered]:
        """The source's steps, until the budget of bytes is used up."""
        with self._source_works():
            size = self._source.size(self._tools)
        total, unit = size.bytes, "consumed"
        if self._config.megabytes:
            total, unit = int(self._config.megabytes * 10**6), "bytes"
        elif total is None:
            total, unit = size.documents, "documents"
        shown.restart(self._progress[unit], total)
        steps = self._source.documents(self._cursor, self._tools)
        while not _is_enough(self._config, self._progress):
            before = self._progress[unit]
            with self._source_works():
                step = next(steps, None)
            if step is None:
                return
            self._progress["consumed"] += step.bytes
            yield step
            done = self._progress
            note = f"{done['documents']:,} documents, {done['bytes'] / 1e6:,.1f} MB"
            shown.advance(done[unit] - before, note)

    def _keep(self, step: Gathered) -> None:
        """What is to be committed next goes up to this step."""
        self._cursor = step.cursor
        self._counts = dict(self._tools.counts)

    def _finish(self) -> None:
        """What is to be committed next is all there is, with what was counted after the last step;
        or all that was asked for, from which a larger budget goes on."""
        if _is_enough(self._config, self._progress):
            self._journal.set("finished", BUDGET)
        else:
            self._counts = dict(self._tools.counts)
            self._journal.set("finished", END)

    def _commit(self) -> None:
        self._journal.set("cursor", self._cursor)
        self._journal.set("counts", self._counts)
        self._journal.set("progress", self._progress)
        self._journal.commit()
        self._committed = time.monotonic()

    def _count(self, parts: list[Document]) -> None:
        self._progress["documents"] += len(parts)
        self._progress["bytes"] += sum(byte_length(part.text) for part in parts)

    def _stream(self, shown: Bar) -> None:
        """Write documents straight to shards; only whole shards are in the journal.

        Where the source fails, what it gave since the last whole shard stays readable as a shard
        of its own. The next run, which goes on from that whole shard, writes it again.
        """
        documents_before = self._progress["documents"]
        journalled = True

        def end_shard(number: int, path: Path) -> None:
            nonlocal documents_before
            if not journalled:
                return
            documents = self._progress["documents"] - documents_before
            self._journal.add_shard(_shard_row(number, path, documents))
            self._commit()
            documents_before += documents

        first = len(self._journal.shards)
        with document_writer(
            self._out, self._shard_characters, first=first, on_shard=end_shard
        ) as writer:
            try:
                for number, step in enumerate(self._steps(shown)):
                    self._keep(step)
                    parts = cap_text(step.document) if step.document else []
                    self._count(parts)
                    writer.add(*parts)
                    if not parts and writer.is_empty and (number == 0 or self._is_late()):
                        self._commit()
            except HornbookError:
                journalled = False
                writer.flush()
                writer.close_shard()
                raise
            self._finish()
            writer.flush()
            writer.close_shard()
        self._commit()

    def _fetch(self, shown: Bar) -> None:
        """Keep each document in the journal until there are enough for a shard.

        Whatever stops this, the steps of the source that were whole are kept.
        """
        held = self._journal.pending_characters()
        if held >= self._shard_characters:  # it was killed before the shard was written
            held = self._write_pending()
        uncommitted = 0
        try:
            for step in self._steps(shown):
                added = self._add_pending(step)
                self._keep(step)
                self._journal.step()
                held, uncommitted = held + added, uncommitted + added
                full = held >= self._shard_characters
                if full or self._is_late() or uncommitted > COMMIT_CHARACTERS:
                    self._commit()
                    uncommitted = 0
                if full:
                    held = self._write_pending()
        except sqlite3.Error:
            raise  # of the journal itself: there is nothing that could be kept in it
        except BaseException:
            self._journal.undo()
            self._commit()
            raise
        self._commit()
        self._finish()
        if held:
            self._write_pending()
        self._commit()

    def _add_pending(self, step: Gathered) -> int:
        """Keep a step's document, unless one of its id is there; returns its characters."""
        parts = cap_text(step.document) if step.document else []
        new = [part for part in parts if not self._journal.knows(part)]
        for part in new:
            self._journal.add_pending(part)
        if len(new) < len(parts):
            self._tools.count("already there", len(parts) - len(new))
        self._count(new)
        return sum(len(part.text) for part in new)

    def _write_pending(self) -> int:
        """Write what waits as one shard; returns 0, what waits now.

        Killed between the renaming and the commit, the next run writes the same file again.
        """
        before = sum(shard.documents for shard in self._journal.shards)
        rows: list[ShardRow] = []

        def end_shard(number: int, path: Path) -> None:
            rows.append(_shard_row(number, path, self._progress["documents"] - before))

        first = len(self._journal.shards)
        with document_writer(self._out, _ALL, first=first, on_shard=end_shard) as writer:
            for document in self._journal.pending():
                writer.add(document)
        (row,) = rows
        self._journal.add_shard(row)
        self._journal.empty_pending()
        self._commit()
        return 0

    def _is_late(self) -> bool:
        return time.monotonic() - self._committed > COMMIT_SECONDS


def cap_text(document: Document) -> list[Document]:
    """The document, or its parts where the text is longer than `LONGEST_TEXT`."""
    text = document.text
    if len(text) <= LONGEST_TEXT:
        return [document]
    return [
        dataclasses.replace(
            document,
            text=text[start:end],
            meta={**document.meta, "part": number},
            id=document_id(f"{document.id} {number}"),
        )
        for number, (start, end) in enumerate(cut(text, LONGEST_TEXT), 1)
    ]


def _shard_row(number: int, path: Path, documents: int) -> ShardRow:
    return ShardRow(number, documents, path.stat().st_size, sha256_of(path))


@contextlib.contextmanager
def _signals(handle: Callable[[], None]) -> Iterator[None]:
    """Ctrl-C and SIGTERM call `handle`; only the main thread can be told of signals."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handler(number: int, frame: FrameType | None) -> None:
        handle()

    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)
