"""The prepare stage: read, normalise, drop, split, write.

In: files, folders and built-in sources. Out: `train/` and `validation/`, folders of document
shards, and `prepare.json`, which is written last: where it is, everything before it is whole.
The same inputs and settings give the same bytes.

Memory: many documents stream through, with about 110 bytes remembered of each to find
duplicates. Up to `FEW_DOCUMENTS` documents are held, because their number decides how they are
split.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from hornbook.corpus import split
from hornbook.corpus.config import PrepareConfig
from hornbook.corpus.deduplicate import SeenTexts
from hornbook.corpus.inputs import find_inputs
from hornbook.corpus.normalise import mend_surrogates, normalise
from hornbook.corpus.prepare_report import Count, PassageReport, PrepareReport
from hornbook.corpus.readers import read_inputs
from hornbook.documents import Document, document_writer, remove_shards
from hornbook.errors import HornbookError
from hornbook.files import disk_errors
from hornbook.gather.cache import user_cache
from hornbook.gather.shakespeare import fetch_shakespeare
from hornbook.progress import bar, say, warn

SHAKESPEARE = "shakespeare"
"""The built-in source; a folder of this name is read as `./shakespeare`."""


def prepare(config: PrepareConfig, out: Path) -> PrepareReport:
    """Run the stage into the folder `out`; what an earlier run left there is removed first.

    Raises:
        HornbookError: nothing to read, something unreadable, or too little text to hold any out.
    """
    if not 0 < config.validation_share < 1:
        raise HornbookError(
            f"must be above 0 and below 1, not {config.validation_share}",
            where="--prepare.validation_share",
            hint="0.05 holds out every twentieth document",
        )
    inputs = [_built_in(name) for name in config.inputs]
    total = sum(file.bytes for each in find_inputs(inputs) for file in each.files)
    _clear(out)
    report = PrepareReport()
    with bar("preparing", total) as progress:
        documents = read_inputs(
            inputs,
            text_column=config.text_column,
            encoding=config.encoding,
            warn=lambda message: _warn(message, report),
            on_bytes=progress.advance,
        )
        kept = _clean(documents, config, report)
        _write(_split(kept, config, report), config, out, report)
    report.finish()
    _conclude(report, out)
    report.write(out / "prepare.json")
    return report


def _built_in(name: str) -> str | Path:
    return fetch_shakespeare(user_cache() / SHAKESPEARE) if name == SHAKESPEARE else name


def _clear(out: Path) -> None:
    with disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        (out / "prepare.json").unlink(missing_ok=True)
        for name in (split.TRAIN, split.VALIDATION):
            (out / name).mkdir(exist_ok=True)
            remove_shards(out / name)


def _clean(
    documents: Iterable[Document], config: PrepareConfig, report: PrepareReport
) -> Iterator[Document]:
    """Normalise documents, and leave out the empty ones and those seen before."""
    seen = SeenTexts()
    clean = normalise if config.normalise else mend_surrogates
    for document in documents:
        document = replace(document, text=mend_surrogates(document.text))
        report.read.add(split.byte_length(document.text))
        document = replace(document, text=clean(document.text))
        if not document.text.strip():
            report.drop(document, "empty")
        elif config.deduplicate and not seen.add(document.text):
            report.drop(document, "duplicate")
        else:
            report.keep(document)
            yield document


def _split(
    documents: Iterator[Document], config: PrepareConfig, report: PrepareReport
) -> Iterator[tuple[str, Document]]:
    """Choose how to split, which the number of documents decides, and say so."""
    share, salt = config.validation_share, config.split_salt
    first = list(itertools.islice(documents, split.FEW_DOCUMENTS))
    few = len(first) < split.FEW_DOCUMENTS
    if first and few and config.passages != "never":
        plan = split.plan_passages(first, share, salt)
        report.passages = True
        report.passage_plan = PassageReport(
            plan.size, sum(map(len, plan.spans)), sum(map(sum, plan.held_out))
        )
        return plan.split()
    everything = itertools.chain(_drain(first), documents)
    if config.passages == "always":
        report.passages = True
        return split.split_passages(everything, share, salt)
    return split.split_documents(everything, share, salt)


def _drain(documents: list[Document]) -> Iterator[Document]:
    """Hand over a list's documents without keeping them."""
    documents.reverse()
    while documents:
        yield documents.pop()


def _write(
    parts: Iterable[tuple[str, Document]],
    config: PrepareConfig,
    out: Path,
    report: PrepareReport,
) -> None:
    size = config.shard_megabytes * 10**6
    report.splits = {split.TRAIN: Count(), split.VALIDATION: Count()}
    with (
        document_writer(out / split.TRAIN, size) as train,
        document_writer(out / split.VALIDATION, size) as validation,
    ):
        writers = {split.TRAIN: train, split.VALIDATION: validation}
        for name, document in parts:
            writers[name].add(document)
            report.splits[name].add(split.byte_length(document.text))


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
    for reason, count in report.dropped.items():
        _say(f"dropped as {reason}: {count.documents:,} documents, {count.bytes:,} bytes", report)
    if plan := report.passage_plan:
        _say(
            f"fewer than {split.FEW_DOCUMENTS} documents ({report.kept.documents:,}), so they were "
            f"cut at blank lines into {plan.count:,} passages of up to {plan.size:,} characters; "
            f"{plan.held_out:,} passages from all over the text are held out",
            report,
        )
    _say(
        f"documents prepared: {report.kept.documents:,}; {train.bytes:,} bytes to train on, "
        f"{validation.bytes:,} bytes ({report.validation_bytes_share:.1%}) held out",
        report,
    )


def _say(message: str, report: PrepareReport) -> None:
    report.messages.append(message)
    say(message)


def _warn(message: str, report: PrepareReport) -> None:
    report.messages.append(message)
    warn(message)
