"""What the report says of the text that a run was trained on.

In: prepare.json and the token manifest of a `Run`. Out: a `Dataset` of sentences, tables and
samples of what was dropped. Both files may be absent or lack fields: that part is left out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from hornbook.report.data import Run, number
from hornbook.report.facts import split_totals
from hornbook.report.samples import shorten
from hornbook.report.tables import Table
from hornbook.report.words import NOTHING, count, plain, share, size

MOST_SOURCES = 30
"""Rows of the tables of sources and licences; the rest is summed up in one."""

DROPPED_CHARACTERS = 400
"""Characters shown of a dropped document."""


@dataclass
class Dropped:
    """Documents left out for one reason, with a few of them."""

    title: str
    samples: list[str]


@dataclass
class Dataset:
    """The data section of one run, or of several with the same data."""

    heading: str = ""
    sentences: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    dropped: list[Dropped] = field(default_factory=list)


def datasets(runs: list[Run]) -> list[Dataset]:
    """The data of each run; runs with the same data share one."""
    groups: list[list[Run]] = []
    for run in runs:
        for group in groups:
            if (group[0].prepare, group[0].manifest) == (run.prepare, run.manifest):
                group.append(run)
                break
        else:
            groups.append([run])
    found = []
    for group in groups:
        dataset = describe(group[0])
        if len(groups) > 1:
            dataset.heading = ", ".join(run.name for run in group)
        found.append(dataset)
    return found


def describe(run: Run) -> Dataset:
    """The data section of one run."""
    dataset = Dataset()
    if not run.prepare and not run.manifest:
        dataset.sentences.append("Nothing is known of the data yet: no stage has described it.")
        return dataset
    dataset.sentences += [str(message) for message in _list(run.prepare.get("messages"))]
    dataset.tables += _split_table(run)
    if run.manifest:
        dataset.sentences.append(_tokenizer_words(run))
        train = split_totals(run, "train")
        dataset.tables += _shares("Training text by source", train, "sources", "Tokens")
        dataset.tables += _shares("Training text by licence", train, "licences", "Tokens")
    return dataset


def _split_table(run: Run) -> list[Table]:
    """Documents, bytes and tokens of each split."""
    rows = []
    prepared = _mapping(run.prepare.get("splits"))
    for split in ("train", "validation"):
        counted = {**_mapping(prepared.get(split)), **split_totals(run, split)}
        if counted:
            documents, text, tokens = (
                number(counted.get(key)) for key in ("documents", "bytes", "tokens")
            )
            ratio = text / tokens if tokens > 0 else math.nan
            rows.append([split, count(documents), size(text), count(tokens), plain(ratio)])
    columns = ["Split", "Documents", "Text", "Tokens", "Bytes per token"]
    return [Table("Split", columns, rows)] if rows else []


def _tokenizer_words(run: Run) -> str:
    vocabulary = number(run.manifest.get("vocabulary"))
    kind = _mapping(run.recipe.get("tokenize")).get("kind", "")
    words = f"The tokenizer ({kind}) has" if kind else "The tokenizer has"
    return f"{words} a vocabulary of {count(vocabulary)} tokens."


def _shares(title: str, totals: dict[str, Any], key: str, unit: str) -> list[Table]:
    """Counts by source or licence, the largest first."""
    counts = {str(name): number(value) for name, value in _mapping(totals.get(key)).items()}
    if not counts:
        return []
    whole = sum(counts.values())
    ranked = sorted(counts.items(), key=lambda item: -item[1])
    if len(ranked) > MOST_SOURCES:
        rest = ranked[MOST_SOURCES - 1 :]
        ranked = ranked[: MOST_SOURCES - 1]
        ranked.append((f"{len(rest)} others", sum(value for _, value in rest)))
    rows = [
        [name or "not stated", count(value), share(value / whole) if whole else NOTHING]
        for name, value in ranked
    ]
    return [Table(title, [key[:-1].capitalize(), unit, "Share"], rows)]


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
