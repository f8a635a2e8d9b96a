"""Gopher's quality rules: does a text look like prose that a person wrote?

In: documents. Out: for each the first rule it breaks, named after the setting: `gopher.min_words`.

Rae et al. 2021, "Scaling Language Models: Methods, Analysis & Insights from Training Gopher",
appendix A1.1. Words are split at white space, as the paper's examples have them; handed the same
words, datatrove 0.10 decides the same (tests/corpus/test_datatrove.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields

import numpy as np

from hornbook.corpus.batch import Batch, Outcome
from hornbook.corpus.config import GopherConfig
from hornbook.corpus.words import LETTER, NOT_PUNCTUATION, find_words

STOP_WORDS = frozenset({"the", "be", "to", "of", "and", "that", "have", "with"})

_FIRST_CHARACTERS = 2048
"""Where the stop words of English prose are found, nearly always."""


def limits_of(config: type) -> tuple[str, ...]:
    """The names of the settings that limit something: those that begin with min_ or max_."""
    names = (field.name for field in fields(config))
    return tuple(name for name in names if name.startswith(("min_", "max_")))


def first_broken(config: object, measures: Iterable[tuple[str, float]]) -> str | None:
    """The first of the (setting, value) whose value is beyond the setting; None: all are kept."""
    for name, value in measures:
        limit = getattr(config, name)
        if limit is None:
            continue
        if value < limit if name.startswith("min_") else value > limit:
            return name
    return None


@dataclass(frozen=True)
class GopherStep:
    """Drops documents that break one of Gopher's quality rules."""

    config: GopherConfig
    name = "gopher"
    rules = tuple(f"gopher.{name}" for name in limits_of(GopherConfig))

    def __call__(self, batch: Batch) -> Outcome:
        wanted = self.config.min_stop_words
        broken = [first_broken(self.config, _measures(d.text, wanted)) for d in batch.documents]
        return Outcome(batch.documents, [name and f"gopher.{name}" for name in broken])


def _measures(text: str, wanted_stop_words: int | None) -> Iterator[tuple[str, float]]:
    words = find_words(text)
    total = max(1, len(words))
    lengths = words.lengths[(words.kinds & NOT_PUNCTUATION) != 0]
    yield "min_words", len(lengths)
    yield "max_words", len(lengths)
    mean = int(lengths.sum()) / max(1, len(lengths))
    yield "min_mean_word_length", mean
    yield "max_mean_word_length", mean
    yield "max_symbol_word_ratio", text.count("#") / total
    yield "max_symbol_word_ratio", (text.count("...") + text.count("…")) / total
    lines = text.splitlines()
    bullets = sum(line.lstrip().startswith(("•", "-")) for line in lines)
    yield "max_bullet_lines", bullets / max(1, len(lines))
    ellipses = sum(line.rstrip().endswith(("...", "…")) for line in lines)
    yield "max_ellipsis_lines", ellipses / max(1, len(lines))
    yield "min_alphabetic_words", np.count_nonzero(words.kinds & LETTER) / total
    yield "min_stop_words", _stop_words(text, wanted_stop_words or 0)


def _stop_words(text: str, wanted: int) -> int:
    """How many of the stop words there are; the search ends where there are enough."""
    found = STOP_WORDS.intersection(text[:_FIRST_CHARACTERS].split()[:-1])  # the last may be cut
    return len(found) if len(found) >= wanted else len(STOP_WORDS.intersection(text.split()))
