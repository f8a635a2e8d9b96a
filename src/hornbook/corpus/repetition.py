"""Gopher's rules on repetition: lines, paragraphs and word n-grams that come again in one text.

In: documents. Out: for each the first rule it breaks. Rae et al. 2021, table A1; counted as
datatrove 0.10 counts, with which it agrees when handed the same words
(tests/corpus/test_datatrove.py).

N-grams are told apart by 64-bit hashes (`Words.hashes`): that two of a text's million n-grams
share one has a chance of 3 in 10^8.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hornbook.corpus.batch import Batch, Outcome
from hornbook.corpus.config import RepetitionConfig
from hornbook.corpus.quality import first_broken, limits_of
from hornbook.corpus.quality_lines import duplicates
from hornbook.corpus.words import BASE, Hashes, Words, find_words

Numbers = npt.NDArray[np.int64]

_TABLE_BITS = 20
"""Bits at most of a place in the table that finds repeated hashes: 4 MB."""


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
        if not len(words):
            return None
        for limit, grams, lengths, _ in _ngrams(words, self.config.max_top_ngram, blanks=True):
            most = 1 + _longest_run(_perhaps_repeated(grams))
            if most * int(lengths.max(initial=0)) / len(text) <= limit:
                continue  # so few are equal that they cannot be too much: nearly always
            if _top_ngram(grams, lengths, len(text)) > limit:
                return "max_top_ngram"
        for limit, grams, lengths, n in _ngrams(words, self.config.max_duplicate_ngrams):
            again = len(_perhaps_repeated(grams))
            if again * int(lengths.max(initial=0)) / len(text) <= limit:
                continue
            if _duplicate_ngrams(grams, lengths, n, len(text)) > limit:
                return "max_duplicate_ngrams"
        return None


def _line_measures(text: str) -> Iterator[tuple[str, float]]:
    # As re.split(r"\n{2,}", text.strip()) and re.split(r"\n+", text) have it, five times as fast.
    paragraphs = [part.lstrip("\n") for part in text.strip().split("\n\n") if part]
    first, *lines = text.split("\n")
    lines = [first, *filter(None, lines[:-1]), *lines[-1:]]
    for kind, parts in ("paragraph", paragraphs or [""]), ("line", lines):
        count, characters = duplicates(parts)
        yield f"max_duplicate_{kind}s", count / len(parts)
        yield f"max_duplicate_{kind}_characters", characters / max(1, len(text))


def _ngrams(
    words: Words, limits: dict[int, float], *, blanks: bool = False
) -> Iterator[tuple[float, Hashes, Numbers, int]]:
    """For each length n that has a limit: the limit; of each n-gram a hash and the characters of
    its words run together, with a blank behind each word or without; and n."""
    hashes, shifts, lengths = words.hashes, words.shifts, words.lengths
    if blanks:
        hashes, shifts = hashes + shifts * np.uint64(ord(" ")), shifts * np.uint64(BASE)
        lengths = lengths + 1
    ends = np.concatenate([[0], np.cumsum(lengths)])
    grams, shift = hashes, shifts
    for n in range(1, max(limits, default=0) + 1):
        if n > 1:  # each takes in the next word: hash(ab) = hash(a) + shift(a) * hash(b)
            grams, shift = grams[:-1] + shift[:-1] * hashes[n - 1 :], shift[:-1] * shifts[n - 1 :]
        if n in limits:
            yield limits[n], grams, ends[n:] - ends[:-n], n


def _perhaps_repeated(hashes: Hashes) -> Hashes:
    """All those that come again later, and a few (about 1 in 300) that do not.

    Each writes its number into a table at a place that its first bits name; one that finds another
    number there afterwards is not the last of that place. A quarter of the time of sorting.
    """
    bits = min(len(hashes).bit_length() + 7, _TABLE_BITS)
    places = (hashes >> np.uint64(64 - bits)).astype(np.int64)
    numbers = np.arange(len(hashes), dtype=np.int32)
    table = np.empty(1 << bits, np.int32)
    table[places] = numbers
    again: Hashes = hashes[table[places] != numbers]
    return again


def _longest_run(hashes: Hashes) -> int:
    """How often the most frequent one is there."""
    return int(np.diff(_runs(np.sort(hashes)), append=len(hashes)).max(initial=0))


def _runs(ordered: Hashes) -> Numbers:
    """Where a new value begins."""
    return np.concatenate([[0], np.flatnonzero(ordered[1:] != ordered[:-1]) + 1])


def _top_ngram(grams: Hashes, lengths: Numbers, characters: int) -> float:
    """Share of characters in the most frequent n-gram and the blanks in it.

    Of several equally frequent ones the first counts.
    """
    if not len(grams):
        return 0.0
    ordered = np.sort(grams)
    begins = _runs(ordered)
    counts = np.diff(begins, append=len(ordered))
    most = int(counts.max())
    first = int(np.isin(grams, ordered[begins[counts == most]]).argmax())
    return most * (int(lengths[first]) - 1) / characters


def _duplicate_ngrams(grams: Hashes, lengths: Numbers, n: int, characters: int) -> float:
    """Share of characters in n-grams, without blanks, that were there before.

    Counted from left to right: behind an n-gram that was there before, the next one begins.
    """
    if not len(grams):
        return 0.0
    places = np.flatnonzero(np.isin(grams, _perhaps_repeated(grams)))
    seen: set[int] = set()
    found = free = 0
    for place, gram in zip(places.tolist(), grams[places].tolist(), strict=True):
        if place < free:
            continue
        if gram in seen:
            found += int(lengths[place])
            free = place + n
        seen.add(gram)
    return found / characters
