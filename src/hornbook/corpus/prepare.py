"""The prepare stage: read, clean, drop, split, write.

In: files, folders and built-in sources. Out: `train/`, `validation/` (and `test/`), folders of
document shards, and `prepare.json`, which is written last: where it is, everything before it is
whole. The same inputs and settings give the same bytes, with any number of workers.

Four passes, over a folder `work` that is removed at the end: documents are cleaned into a spool
(`clean.py`), duplicates and the split are decided from arrays (`decide.py`), shards are written
(`write.py`), and the report. Killed at any moment and run again, it goes on: after the last whole
segment of the spool, at the beginning of deciding, or after the last whole shard.

Memory does not grow with the text: a few batches of 4 MB for each worker, `memory_megabytes` for
sorting, and 3 bytes a document.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields
from pathlib import Path

from hornbook import __version__
from hornbook.corpus import split
from hornbook.corpus.clean import Cleaner, clean
from hornbook.corpus.config import PrepareConfig
from hornbook.corpus.decide import Plan, decide, steps_of
from hornbook.corpus.ledger import check_ledger
from hornbook.corpus.pool import ordered_map
from hornbook.corpus.prepare_report import Count, PassageReport, PrepareReport, Tally
from hornbook.corpus.signatures import algorithm
from hornbook.corpus.spool import Part, Spool, read_parts, read_spool
from hornbook.corpus.steps import build_steps
from hornbook.corpus.write import ShardWriter, extend_ledger
from hornbook.documents import byte_length, document_writer, remove_shards
from hornbook.errors import HornbookError, check_limits
from hornbook.files import disk_errors, write_text
from hornbook.gather.cache import user_cache
from hornbook.gather.inputs import find_inputs
from hornbook.gather.readers import Reading, read_with_cursor
from hornbook.processes import usable_cores
from hornbook.progress import bar, say, warn

SHAKESPEARE = "shakespeare"
"""The built-in source; a folder of this name is read as `./shakespeare`."""

WORK = "work"
"""Folder inside the output for what is not finished."""

_LEAST_TO_SHARE = 64 * 10**6
"""Bytes of text that are worth several processes when they are written."""


def prepare(config: PrepareConfig, out: Path) -> PrepareReport:
    """Run the stage into the folder `out`. What an earlier run left there is removed first; what a
    run of the same inputs and settings left unfinished is gone on with.

    Raises:
        HornbookError: nothing to read, something unreadable, or too little text to hold any out.
    """
    inputs = begin(config, out)
    read_part(config, inputs, Part(out / WORK, 0))
    spool = read_spool(out / WORK)
    with bar("finding duplicates", steps_of(config)) as progress:
        plan = decide(config, out / WORK, spool, progress.advance)
    return finish(config, out, spool, plan)


def begin(config: PrepareConfig, out: Path, parts: int = 1) -> list[Path]:
    """Check the settings, and make `out` ready for a spool of `parts`: new, or as an unfinished run
    of the same inputs and settings left it. Gives back the paths of the inputs."""
    check_settings(config)
    inputs = [_built_in(name) for name in config.inputs]
    ledger = _ledger(config)
    if ledger and ledger.exists():
        check_ledger(ledger, _algorithm(config))
    work, fingerprint = out / WORK, _fingerprint(config, inputs, parts)
    with disk_errors(out):
        (out / "prepare.json").unlink(missing_ok=True)
        written = work / "settings"
        if written.exists() and written.read_text(encoding="utf-8") == fingerprint:
            return inputs
        _discard(work)
        for name in (split.TRAIN, split.VALIDATION, split.TEST):
            remove_shards(out / name)
        work.mkdir(parents=True)
        if ledger and ledger.exists():
            # What this run adds must not be taken for known if it is killed and run again.
            shutil.copyfile(ledger, work / "ledger.before")
    write_text(written, fingerprint)
    return inputs


def read_part(
    config: PrepareConfig, inputs: Sequence[str | Path], part: Part, files: range | None = None
) -> None:
    """Clean documents of the inputs into a part of the spool, or those that are missing there.

    Args:
        config: the settings.
        inputs: files and folders.
        part: where they go; whole afterwards.
        files: numbers of the files to read, over all inputs; None: all.
    """
    if part.is_whole:
        return
    sizes = [file.bytes for each in find_inputs(inputs) for file in each.files]
    files = files or range(len(sizes))
    messages: list[str] = []
    with bar("preparing", sum(sizes[files.start : files.stop])) as progress:
        reading = Reading(
            text_column=config.text_column,
            encoding=config.encoding,
            refuse_undecodable=True,
            option="--prepare.",
            warn=_kept(messages, warn),
            on_bytes=progress.advance,
        )
        stream = read_with_cursor(inputs, reading, {"file": files.start, "documents": 0})
        mine = itertools.takewhile(lambda found: found[1]["file"] < files.stop, stream)
        # Read again, as fast as the disk is, rather than from a place that would have to be
        # remembered: so everything that is said on the way is said again.
        done = sum(segment.read for segment in part.segments())
        rest = itertools.islice((document for document, _ in mine), done, None)
        clean(rest, cleaner(config), part, messages, config.workers)


def cleaner(config: PrepareConfig) -> Cleaner:
    """All that is done with each document on its own."""
    near = config.near if config.runs(config.near) else None
    return Cleaner(tuple(build_steps(config)), near, config.split_salt)


def finish(config: PrepareConfig, out: Path, spool: Spool, plan: Plan) -> PrepareReport:
    """Write what the plan says, the ledger and the report; remove the work folder."""
    work = out / WORK
    report = PrepareReport(steps=[step.name for step in build_steps(config)])
    report.messages = [message for part in read_parts(work) for message in part.messages]
    for segment in spool.segments:
        report.include(segment.tally())
    report.splits = {split.TRAIN: Count(), split.VALIDATION: Count()}
    writer = ShardWriter(spool, work, out)
    for name in (split.TRAIN, split.VALIDATION):
        (out / name).mkdir(exist_ok=True)
    if plan.passages:
        _write_passages(writer, config, plan.kept, report)
    else:
        # Half as many as clean: a writer holds a row group in several forms, 200 MB, where a worker
        # that cleans needs 120 (measured).
        workers = (config.workers or usable_cores()) // 2 if spool.bytes >= _LEAST_TO_SHARE else 1
        with bar("writing shards", len(plan.shards)) as progress:
            for shard, tally in ordered_map(writer, plan.shards, max(workers, 1)):
                report.include(tally)
                report.splits.setdefault(shard.split, Count()).include(tally.kept)
                progress.advance()
    report.finish()
    _conclude(report, out)
    if ledger := _ledger(config):
        extend_ledger(ledger, config.split_salt, work, spool, _algorithm(config))
    report.write(out / "prepare.json")
    _discard(work)
    return report


def check_settings(config: PrepareConfig) -> None:
    """Refuse settings that have no meaning. Raises `HornbookError`."""
    held_out, near = config.validation_share + config.test_share, config.near
    if not 0 < config.validation_share < 1:
        raise HornbookError(
            f"must be above 0 and below 1, not {config.validation_share}",
            where="--prepare.validation_share",
            hint="0.05 holds out every twentieth document",
        )
    check_limits(
        config,
        "prepare",
        [
            ("test_share", config.test_share >= 0 and held_out < 1, "from 0 to what is left"),
            ("workers", config.workers >= 0, "0 or more"),
            ("memory_megabytes", config.memory_megabytes >= 1, "1 or more"),
        ],
    )
    most_rows = near.permutations // max(near.bands, 1)
    check_limits(
        near,
        "prepare.near",
        [
            ("permutations", 1 <= near.permutations <= 2**16, "1 to 65,536"),
            ("bands", 1 <= near.bands <= near.permutations, "1 to the number of permutations"),
            ("rows", 1 <= near.rows <= most_rows, "at least 1, and bands x rows <= permutations"),
            ("threshold", 0 < near.threshold <= 1, "above 0 and at most 1"),
            ("shingle", near.shingle >= 1, "1 or more"),
        ],
    )
    if config.passages == "always" and (config.ledger or config.test_share):
        raise HornbookError(
            "a ledger and a test split are of whole documents, not of passages",
            where="--prepare.passages",
            hint="Use `never`, or leave out `ledger` and `test_share`",
        )


def _built_in(name: str) -> Path:
    if name == SHAKESPEARE:
        from hornbook.gather.shakespeare import fetch_shakespeare  # takes 0.1 s to import

        return fetch_shakespeare(user_cache() / SHAKESPEARE)
    return _own(name)


def _own(name: str) -> Path:
    return Path(name).expanduser()


def _ledger(config: PrepareConfig) -> Path | None:
    return _own(config.ledger) if config.ledger else None


def _fingerprint(config: PrepareConfig, inputs: Sequence[Path], parts: int) -> str:
    """Of what decides the output: settings, and sizes and times of the files."""
    every = asdict(config)
    decisive = [each.name for each in fields(config) if not each.metadata.get("horizon")]
    settings = {name: every[name] for name in decisive}
    evaluation = [path for path in map(_own, config.decontaminate) if path.exists()]
    states = [
        [str(file.path.resolve()), file.state]
        for each in find_inputs([*inputs, *evaluation])
        for file in each.files
    ]
    known = json.dumps([__version__, settings, states, parts], sort_keys=True)
    return hashlib.blake2b(known.encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()


def _discard(work: Path) -> None:
    # First what says that it can be gone on with: this may be killed, too.
    (work / "settings").unlink(missing_ok=True)
    shutil.rmtree(work, ignore_errors=True)


def _algorithm(config: PrepareConfig) -> str:
    near = config.near
    if not config.runs(near):
        return ""
    return algorithm(near.shingle, near.permutations, near.seed)


def _write_passages(
    writer: ShardWriter, config: PrepareConfig, kept: int, report: PrepareReport
) -> None:
    """Cut documents into passages and write those. Of few documents, all passages are planned
    together."""
    report.passages = True
    share, salt = config.validation_share, config.split_salt
    if kept < split.FEW_DOCUMENTS:
        plan = split.plan_passages(lambda: writer.stay(Tally()), share, salt)
        report.passage_plan = PassageReport(
            plan.size, sum(map(len, plan.spans)), sum(map(sum, plan.held_out))
        )
        parts = plan.split(writer.stay(report))
    else:
        parts = split.split_passages(writer.stay(report), share, salt)
    size = config.shard_megabytes * 10**6
    with (
        document_writer(writer.out / split.TRAIN, size) as train,
        document_writer(writer.out / split.VALIDATION, size) as validation,
    ):
        writers = {split.TRAIN: train, split.VALIDATION: validation}
        for name, document in parts:
            writers[name].add(document)
            report.splits[name].add(byte_length(document.text))


def _conclude(report: PrepareReport, out: Path) -> None:
    """Say what was done. A split with an empty side is an error."""
    train, validation = report.splits[split.TRAIN], report.splits[split.VALIDATION]
    if not report.kept.documents:
        dropped = ", ".join(f"{name} {count.documents:,}" for name, count in report.dropped.items())
        raise HornbookError(
            f"no text is left of {report.read.documents:,} documents (dropped: {dropped})",
            where=out,
            hint="Look at what was read: is --prepare.text_column right?",
        )
    if not train.documents or not validation.documents:
        raise HornbookError(
            f"{report.kept.documents:,} documents cannot be split: nothing is left to "
            f"{'train on' if not train.documents else 'validate on'}",
            where="--prepare.passages",
            hint="Use `--prepare.passages auto`, or add text",
        )
    tell = _kept(report.messages, say)
    for reason, count in report.dropped.items():
        tell(f"dropped as {reason}: {count.documents:,} documents, {count.bytes:,} bytes")
    for name, number in report.counts.items():
        if number:
            tell(f"{name}: {number:,}")
    if plan := report.passage_plan:
        tell(
            f"fewer than {split.FEW_DOCUMENTS} documents ({report.kept.documents:,}), so they were "
            f"cut at blank lines into {plan.count:,} passages of up to {plan.size:,} characters; "
            f"{plan.held_out:,} passages from all over the text are held out"
        )
    test = report.splits.get(split.TEST)
    tell(
        f"documents prepared: {report.kept.documents:,}; {train.bytes:,} bytes to train on, "
        f"{validation.bytes:,} bytes ({report.validation_bytes_share:.1%}) held out"
        + (f", {test.bytes:,} bytes for a final test" if test else "")
    )


def _kept(messages: list[str], show: Callable[[str], None]) -> Callable[[str], None]:
    """`show`, remembering what was shown."""

    def told(message: str) -> None:
        messages.append(message)
        show(message)

    return told
