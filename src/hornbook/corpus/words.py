"""The words of a text as arrays: where they are, what they are made of, a hash of each.

In: a text. Out: numpy arrays with one entry a word. Words are what `str.split` gives: runs of
characters that are not white space. Nothing here makes a Python string of a word, which is what
makes the rules on words fast (benchmarks/prepare_speed.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]

# What ends a sentence: Unicode's Sentence_Terminal (PropList.txt), less the one-dot leader and
# a few characters newer than Unicode 14, and with the Khmer marks; the same set as datatrove's.
_TERMINALS = (
    "21 2e 3f 589 61d-61f 6d4 700-702 7f9 837 839 83d-83e 964-965 104a-104b 1362 1367-1368 166e "
    "1735-1736 17d4-17d6 17d9-17da 1803 1809 1944-1945 1aa8-1aab 1b5a-1b5b 1b5e-1b5f 1b7d-1b7e "
    "1c3b-1c3c 1c7e-1c7f 203c-203d 2047-2049 2e2e 2e3c 2e53-2e54 3002 a4ff a60e-a60f a6f3 a6f7 "
    "a876-a877 a8ce-a8cf a92f a9c8-a9c9 aa5d-aa5f aaf0-aaf1 abeb fe52 fe56-fe57 ff01 ff0e ff1f "
    "ff61 10a56-10a57 10f55-10f59 10f86-10f89 11047-11048 110be-110c1 11141-11143 111c5-111c6 "
    "111cd 111de-111df 11238-11239 1123b-1123c 112a9 1144b-1144c 115c2-115c3 115c9-115d7 "
    "11641-11642 1173c-1173e 11944 11946 11a42-11a43 11a9b-11a9c 11c41-11c42 11ef7-11ef8 "
    "11f43-11f44 16a6e-16a6f 16af5 16b37-16b38 16b44 16e98 1bc9f 1da88"
)
# Beside them: ASCII's punctuation and symbols, control characters, and what CCNet counts as
# punctuation in web text (a fullwidth 1, U+FF11, stands in its list and in datatrove's too).
_OTHER_PUNCTUATION = (
    "0-8 b-1f 22-2d 2f 3a-3e 40 5b-60 7b-9f ab b4 bb 2013-2014 2019 201c-201e 2026 2236 2501 25ba "
    "3001 3008-300d 3010-3011 ff05 ff08-ff09 ff0c ff11 ff1a-ff1b ff5e"
)


def _characters(ranges: str) -> frozenset[str]:
    points = (part.split("-") for part in ranges.split())
    return frozenset(
        chr(point)
        for first, *rest in points
        for point in range(int(first, 16), int((rest or [first])[0], 16) + 1)
    )


SENTENCE_TERMINALS = _characters(_TERMINALS)
"""The characters that end a sentence, of all scripts."""

PUNCTUATION = SENTENCE_TERMINALS | _characters(_OTHER_PUNCTUATION)
"""The characters that do not make a word a word."""

SPACE, LETTER, NOT_PUNCTUATION = 1, 2, 4
"""Bits of a character's kind; a word's kind has the bits of all its characters."""

_NO_MORE_LETTERS = 0x40000
"""Behind it Unicode has tags and private characters: no letters, spaces, or punctuation."""

# The base of the polynomial hash: odd, so that it has an inverse, and with bits all over (the
# golden ratio's, as Knuth's multiplicative hashing has it).
BASE = 0x9E3779B97F4A7C15
_INVERSE = pow(BASE, -1, 2**64)

_BLOCK = 1 << 20
"""Characters hashed at a time: bounds the temporary arrays to about 40 MB."""


@dataclass(frozen=True)
class Words:
    """The words of one text.

    Args:
        codes: uint32 [characters], the code points of the text.
        starts: int64 [words], the first character of each word.
        lengths: int64 [words], in characters.
        kinds: uint8 [words], LETTER and NOT_PUNCTUATION of any of its characters.
    """

    codes: npt.NDArray[np.uint32]
    starts: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int64]
    kinds: npt.NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.starts)

    @cached_property
    def hashes(self) -> Hashes:
        """uint64 [words]: sum of code[k] * base^k over the word's characters, modulo 2^64.

        Words that are equal have equal hashes; those of others differ but for a chance of about
        2^-64.
        """
        hashes = np.empty(len(self), np.uint64)
        ends = self.starts + self.lengths
        first = 0
        while first < len(self):
            begin = self.starts[first]
            last = max(first + 1, int(np.searchsorted(ends, begin + _BLOCK, "right")))
            codes = self.codes[begin : ends[last - 1]]
            forth, back = _powers(len(codes))
            sums = np.zeros(len(codes) + 1, np.uint64)
            np.cumsum(codes * forth[: len(codes)], out=sums[1:])
            starts = self.starts[first:last] - begin
            hashes[first:last] = (sums[ends[first:last] - begin] - sums[starts]) * back[starts]
            first = last
        return hashes

    @cached_property
    def shifts(self) -> Hashes:
        """uint64 [words]: base^length; `hash(ab) = hash(a) + shift(a) * hash(b)`."""
        longest = int(self.lengths.max(initial=0))
        return _powers(longest + 1)[0][self.lengths]


def find_words(text: str) -> Words:
    """The words of `text`, as `text.split()` gives them."""
    codes = _codes(text)
    return _find(codes, _kinds().take(codes))


def plain_hashes(text: str) -> Hashes:
    """uint64 [words]: a hash of every word, in lower case and without its punctuation.

    Words of nothing but punctuation are left out. Sorted, cut or compared by any of its bits, the
    hash is as good as a random number.
    """
    codes = _codes(text.lower())
    kinds = _kinds().take(codes)
    kept = (kinds & (SPACE | NOT_PUNCTUATION)) != 0
    return mix(_find(codes[kept], kinds[kept]).hashes)


def mix(hashes: Hashes) -> Hashes:
    """Spread each number's bits over all 64 (the finaliser of splitmix64, Steele et al. 2014)."""
    mixed = (hashes ^ (hashes >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def _codes(text: str) -> npt.NDArray[np.uint32]:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


def _find(codes: npt.NDArray[np.uint32], kinds: npt.NDArray[np.uint8]) -> Words:
    spaces = np.full(len(kinds) + 2, SPACE, np.uint8)
    np.bitwise_and(kinds, SPACE, out=spaces[1:-1])
    edges = np.flatnonzero(spaces[1:] != spaces[:-1])
    starts, ends = edges[0::2], edges[1::2]
    # Each sum runs up to the next word, over white space, whose only bit is taken out again.
    merged = np.bitwise_or.reduceat(kinds, starts) if len(starts) else kinds[:0]
    return Words(codes, starts, ends - starts, merged & ~np.uint8(SPACE))


def _powers(count: int) -> tuple[Hashes, Hashes]:
    """base^k and base^-k, for k below `count` at least."""
    return _kept_powers() if count <= _BLOCK + 1 else _make_powers(count)


@cache
def _kept_powers() -> tuple[Hashes, Hashes]:
    return _make_powers(_BLOCK + 1)


def _make_powers(count: int) -> tuple[Hashes, Hashes]:
    forth, back = np.full(count, BASE, np.uint64), np.full(count, _INVERSE, np.uint64)
    forth[0] = back[0] = 1
    return np.cumprod(forth), np.cumprod(back)


@cache
def _kinds() -> npt.NDArray[np.uint8]:
    """Of each code point its kind; 1.1 MB, made in 0.05 s when first asked for."""
    kinds = np.full(0x110000, NOT_PUNCTUATION, np.uint8)
    kinds[:_NO_MORE_LETTERS] = [
        SPACE
        if character.isspace()
        else LETTER * character.isalpha() | NOT_PUNCTUATION * (character not in PUNCTUATION)
        for character in map(chr, range(_NO_MORE_LETTERS))
    ]
    return kinds
