"""Gopher's rules on repetition: lines, paragraphs and word n-grams that come again in one text.

In: documents. Out: for each the first rule it breaks. Rae et al. 2021, table A1; counted as
datatrove 0.10 counts, with which it agrees when handed the same words
(tests/corpus/test_datatrove.py).

N-grams are told apart by 64-bit hashes (`Words.hashes`): that two of a text's million n-grams
share one has a chance of 3 in 10^8.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hornbook.corpus.batch import Batch
from hornbook.corpus.config import RepetitionConfig
from hornbook.corpus.quality import first_broken, limits_of
from hornbook.corpus.quality_lines import duplicates
from hornbook.corpus.step import Outcome
from hornbook.corpus.words import BASE, Words, find_words

_PARAGRAPHS = re.compile(r"\n{2,}")
_LINES = re.compile(r"\n+")


@dataclass(frozen=True)
class RepetitionStep:
    """Drops documents that repeat themselves."""

    config: RepetitionConfig
    name = "repetition"
    rules = tuple(f"repetition.{name}" for name in limits_of(RepetitionConfig))

    def __call__(self, batch: Batch) -> Outcome:
        broken = [self._broken(document.text) for document in batch.documents]
        return Outcome(batch.documents, [name and f"repetition.{name}" for name in broken])

    def _broken(self, text: str) -> str | None:
        return first_broken(self.config, _line_measures(text)) or self._ngrams_broken(text)

    def _ngrams_broken(self, text: str) -> str | None:
        words = find_words(text)
        for n, share in self.config.max_top_ngram.items():
            if _top_ngram(text, words, n) > share:
                return "max_top_ngram"
        for n, share in self.config.max_duplicate_ngrams.items():
            if _duplicate_ngrams(text, words, n, share) > share:
                return "max_duplicate_ngrams"
        return None


def _line_measures(text: str) -> Iterator[tuple[str, float]]:
    for kind, parts in ("paragraph", _PARAGRAPHS.split(text.strip())), ("line", _LINES.split(text)):
        count, characters = duplicates(parts)
        yield f"max_duplicate_{kind}s", count / len(parts)
        yield f"max_duplicate_{kind}_characters", characters / max(1, len(text))


def _top_ngram(text: str, words: Words, n: int) -> float:
    """Share of characters in the most frequent n-gram with its blanks.

    Of several equally frequent ones the first counts.
    """
    grams = _ngram_hashes(words, n, blanks=True)
    if not len(grams):
        return 0.0
    ordered = np.sort(grams)
    firsts = np.flatnonzero(np.diff(ordered, prepend=~ordered[:1]))
    counts = np.diff(firsts, append=len(ordered))
    most = int(counts.max())
    place = int(np.isin(grams, ordered[firsts[counts == most]]).argmax())
    return most * int(words.lengths[place : place + n].sum() + n - 1) / len(text)


def _duplicate_ngrams(text: str, words: Words, n: int, limit: float) -> float:
    """Share of characters in n-grams, without blanks, that were there before.

    Counted from left to right: behind an n-gram that was there before, the next one begins. Where
    the number of those that come again shows that the share is up to `limit`, 0 is answered.
    """
    grams = _ngram_hashes(words, n, blanks=False)
    ordered = np.sort(grams)
    again = ordered[1:][ordered[1:] == ordered[:-1]]
    ends = np.concatenate([[0], np.cumsum(words.lengths)])
    lengths = ends[n:] - ends[:-n]
    if not len(again) or len(again) * int(lengths.max()) / len(text) <= limit:
        return 0.0
    places = np.flatnonzero(np.isin(grams, again))
    seen: set[int] = set()
    characters = free = 0
    for place, gram in zip(places.tolist(), grams[places].tolist(), strict=True):
        if place < free:
            continue
        if gram in seen:
            characters += int(lengths[place])
            free = place + n
        seen.add(gram)
    return characters / len(text)


def _ngram_hashes(words: Words, n: int, *, blanks: bool) -> npt.NDArray[np.uint64]:
    """A hash of each n-gram's words run together, with a blank behind each word or without."""
    hashes, shifts = words.hashes, words.shifts
    if blanks:
        hashes, shifts = hashes + shifts * np.uint64(ord(" ")), shifts * np.uint64(BASE)
    count = max(0, len(words) - n + 1)
    # From the last word to the first: hash(ab) = hash(a) + shift(a) * hash(b).
    grams = hashes[n - 1 :][:count]
    for word in range(n - 2, -1, -1):
        grams = hashes[word : word + count] + shifts[word : word + count] * grams
    return grams
