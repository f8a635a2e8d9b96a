"""Words as arrays are those of `str.split`, and their hashes tell them apart."""

from __future__ import annotations

import string

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hornbook.corpus import words as words_module
from hornbook.corpus.words import LETTER, NOT_PUNCTUATION, PUNCTUATION, find_words, plain_hashes

TEXTS = st.text(
    st.one_of(st.characters(), st.sampled_from("ab.,- \t\n\r\x0b\x1c\x85\u00a0\u2003\u200b\u3000")),
    max_size=200,
)


@settings(max_examples=300, deadline=None)
@given(TEXTS)
def test_words_are_those_of_split(text: str) -> None:
    words = find_words(text)
    expected = text.split()
    spans = zip(words.starts, words.lengths, strict=True)
    assert [text[start : start + length] for start, length in spans] == expected
    for kind, word in zip(words.kinds, expected, strict=True):
        assert bool(kind & LETTER) == any(character.isalpha() for character in word)
        assert bool(kind & NOT_PUNCTUATION) == any(c not in PUNCTUATION for c in word)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.text("ab", min_size=1, max_size=6), max_size=40))
def test_equal_words_have_equal_hashes_and_others_do_not(words: list[str]) -> None:
    hashes = find_words(" \n".join(words)).hashes.tolist()
    assert len(hashes) == len(words)
    assert len(set(zip(words, hashes, strict=True))) == len(set(words)) == len(set(hashes))


def test_behind_the_last_letter_is_nothing_that_the_table_would_miss() -> None:
    rest = map(chr, range(words_module._NO_MORE_LETTERS, 0x110000))
    assert not any(c.isspace() or c.isalpha() or c in PUNCTUATION for c in rest)


def test_hashes_do_not_depend_on_where_blocks_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "one two " + "long" * 100 + " three four one " * 50
    whole = find_words(text).hashes
    monkeypatch.setattr(words_module, "_BLOCK", 64)
    monkeypatch.setattr(words_module, "_kept_powers", lambda: words_module._make_powers(65))
    assert np.array_equal(find_words(text).hashes, whole)


def test_hashes_of_joined_words_follow_from_those_of_each() -> None:
    words, joined = find_words("ab cde"), find_words("abcde")
    assert joined.hashes == words.hashes[:1] + words.shifts[:1] * words.hashes[1:]


def test_plain_words_have_neither_case_nor_punctuation() -> None:
    plain = plain_hashes("the cat doesnt sit")
    assert np.array_equal(plain, plain_hashes("The CAT, - “doesn't” (sit)!"))
    assert not len(plain_hashes("... -- “”"))
    assert not len(plain_hashes(""))


def test_plain_hashes_are_spread_over_all_bits() -> None:
    text = " ".join(a + b + c for a in string.ascii_lowercase for b in "aeiou" for c in "nrst")
    hashes = plain_hashes(text)
    for bit in range(64):
        ones = np.count_nonzero(hashes >> np.uint64(bit) & np.uint64(1)) / len(hashes)
        assert 0.4 < ones < 0.6, bit
