"""What the report says of the text that a run was trained on.

In: prepare.json and the token manifest of a `Run`. Out: a `Dataset` of sentences, tables and
samples of what was dropped. Both files may be absent or lack fields: that part is left out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from hornbook.report.data import Run, mapping, number, sequence
from hornbook.report.facts import split_totals
from hornbook.report.samples import shorten
from hornbook.report.tables import Table
from hornbook.report.words import NOTHING, count, plain, share, size

MOST_SOURCES = 30
"""Rows of the tables of sources and licences; the rest is summed up in one."""

SAMPLE_CHARACTERS = 400
"""Characters shown of a dropped document."""

DROPPED_WORDS = {
    "empty": "Empty (nothing but white space)",
    "duplicate": "Exact copy of an earlier document",
    "near.duplicate": "Almost a copy of an earlier document",
    "held_out": "Equal or near to a held-out document of the ledger",
}
"""Reasons as people say them; others are shown under their own name."""


@dataclass
class Dropped:
    """Documents left out for one reason, with the beginnings of a few of them."""

    reason: str
    documents: str
    samples: list[str]


@dataclass
class Dataset:
    """The data section of one run, or of several with the same data."""

    heading: str = ""
    sentences: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    dropped: list[Dropped] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)


def datasets(runs: list[Run]) -> list[Dataset]:
    """The data of each run; runs with the same data share one."""
    groups: list[list[Run]] = []
    for run in runs:
        for group in groups:
            if _same_data(group[0], run):
                group.append(run)
                break
        else:
            groups.append([run])
    found = []
    for group in groups:
        dataset = describe(group[0])
        if len(groups) > 1:
            dataset.heading = ", ".join(run.name for run in group)
        elif len(runs) > 1:
            dataset.sentences.insert(0, "All of these runs have the same data.")
        found.append(dataset)
    return found


def _same_data(one: Run, other: Run) -> bool:
    return all(
        getattr(one, name) == getattr(other, name) for name in ("prepare", "manifest", "mixture")
    )


def describe(run: Run) -> Dataset:
    """The data section of one run."""
    if not run.prepare and not run.manifest and not run.mixture:
        return Dataset(sentences=["Nothing is known of the data yet: no stage has described it."])
    sentences = []
    if not run.prepare:
        sentences.append("There is no prepare.json, so what was read and dropped is not known.")
    if run.prepare.get("passages"):
        sentences.append(
            "Documents were cut at blank lines into passages before the split, so that the"
            " held-out text comes from all over them."
        )
    sentences.append(_tokenizer_words(run))
    return Dataset(
        sentences=sentences,
        tables=[
            *_mixture_table(run),
            *_filter_table(run),
            *_change_table(run),
            *_split_table(run),
            *_origin_table(run, "source"),
            *_origin_table(run, "licence"),
            *(_origin_table(run, "language") if _languages_known(run) else []),
            *_length_table(run),
        ],
        dropped=[_dropped(reason, entry) for reason, entry in _entries(run.prepare, "dropped")],
        messages=[str(message) for message in sequence(run.prepare.get("messages"))],
    )


def _mixture_table(run: Run) -> list[Table]:
    """The folders of a mixture and their share of the training tokens."""
    whole = sum(source.weight for source in run.mixture)
    rows = []
    for source in run.mixture:
        totals = mapping(mapping(source.manifest.get("totals")).get("train"))
        text, tokens = number(totals.get("bytes")), number(totals.get("tokens"))
        part = share(source.weight / whole) if whole > 0 else NOTHING
        rows.append([source.path, part, size(text), count(tokens)])
    columns = ["Folder", "Share of the training", "Text", "Tokens"]
    return [Table("Mixture (at the start)", columns, rows)] if rows else []


def _filter_table(run: Run) -> list[Table]:
    """Documents and bytes that were read, dropped for each reason, and kept."""
    steps = [("Read", mapping(run.prepare.get("read")))]
    for reason, entry in _entries(run.prepare, "dropped"):
        steps.append((f"Dropped: {DROPPED_WORDS.get(reason, reason).lower()}", entry))
    steps.append(("Kept", mapping(run.prepare.get("kept"))))
    rows = [
        [name, count(number(entry.get("documents"))), size(number(entry.get("bytes")))]
        for name, entry in steps
        if entry
    ]
    return [Table("Preparation", ["", "Documents", "Text"], rows)] if rows else []


def _change_table(run: Run) -> list[Table]:
    """What the steps changed in documents that stayed."""
    counts = mapping(run.prepare.get("counts"))
    rows = [[str(name), count(number(made))] for name, made in counts.items() if number(made) > 0]
    return [Table("Changes", ["", "Number"], rows)] if rows else []


def _languages_known(run: Run) -> bool:
    return any(name for name, _ in _entries(run.prepare, "languages"))


def _length_table(run: Run) -> list[Table]:
    """Documents and bytes by length: a histogram by powers of two."""
    rows = [
        [
            f"{int(low):,} to {2 * int(low) - 1:,} bytes",
            count(number(entry.get("documents"))),
            size(number(entry.get("bytes"))),
        ]
        for low, entry in _entries(run.prepare, "lengths")
        if low.isdecimal()
    ]
    return [Table("By length", ["", "Documents", "Text"], rows)] if rows else []


def _split_table(run: Run) -> list[Table]:
    """Documents, bytes and tokens of each split."""
    rows = []
    prepared = {
        split: {**mapping(mapping(run.prepare.get("splits")).get(split)), **totals}
        for split in ("train", "validation", "test")
        if (totals := split_totals(run, split)) or split in mapping(run.prepare.get("splits"))
    }
    whole = sum(number(counted.get("bytes")) for counted in prepared.values())
    for split, counted in prepared.items():
        documents, text, tokens = (
            number(counted.get(key)) for key in ("documents", "bytes", "tokens")
        )
        rows.append(
            [
                {"train": "Training", "validation": "Held out", "test": "Final test"}[split],
                count(documents),
                size(text),
                share(text / whole) if whole > 0 else NOTHING,
                count(tokens),
                plain(text / tokens) if tokens > 0 else NOTHING,
            ]
        )
    columns = ["", "Documents", "Text", "Share", "Tokens", "Bytes per token"]
    return [Table("Split", columns, rows)] if rows else []


def _origin_table(run: Run, kind: str) -> list[Table]:
    """Documents, bytes and training tokens by source or licence, the largest first."""
    prepared = dict(_entries(run.prepare, f"{kind}s"))
    tokens = mapping(split_totals(run, "train").get(f"{kind}s"))
    names = dict.fromkeys([*prepared, *map(str, tokens)])
    rows = [
        (
            number(mapping(prepared.get(name)).get("documents")),
            number(mapping(prepared.get(name)).get("bytes")),
            number(tokens.get(name)),
            name or "not stated",
        )
        for name in names
    ]
    rows.sort(key=lambda row: [-value if math.isfinite(value) else 0.0 for value in row[1:3]])
    if len(rows) > MOST_SOURCES:
        rest = rows[MOST_SOURCES - 1 :]
        sums = [sum(value for value in column if math.isfinite(value))
                for column in list(zip(*rest, strict=True))[:3]]  # fmt: skip
        rows = [*rows[: MOST_SOURCES - 1], (sums[0], sums[1], sums[2], f"{len(rest)} others")]
    cells = [[name, count(a), size(b), count(c)] for a, b, c, name in rows]
    columns = [kind.capitalize(), "Documents", "Text", "Training tokens"]
    return [Table(f"By {kind}", columns, cells)] if cells else []


def _tokenizer_words(run: Run) -> str:
    vocabulary = number(run.manifest.get("vocabulary"))
    if not math.isfinite(vocabulary):
        return "The text has not been turned into tokens yet."
    kind = mapping(run.recipe.get("tokenize")).get("kind")
    hash_words = str(run.manifest.get("tokenizer_sha256", ""))[:12]
    return (
        f"The tokenizer{f' ({kind})' if kind else ''} has a vocabulary of {vocabulary:,.0f} tokens"
        + (f"; the sha256 of its file begins with {hash_words}." if hash_words else ".")
    )


def _dropped(reason: str, entry: dict[str, Any]) -> Dropped:
    samples = []
    for sample in sequence(entry.get("samples")):
        text = sample.get("text", "") if isinstance(sample, dict) else sample
        samples.append(shorten(str(text), SAMPLE_CHARACTERS))
    return Dropped(
        DROPPED_WORDS.get(reason, reason),
        count(number(entry.get("documents"))),
        [text for text in samples if text.strip()],
    )


def _entries(prepare: dict[str, Any], key: str) -> list[tuple[str, dict[str, Any]]]:
    """The objects in an object of prepare.json, by name."""
    found = mapping(prepare.get(key)).items()
    return [(str(name), entry) for name, entry in found if isinstance(entry, dict)]
