"""Normalising: what goes, what stays, and that doing it twice changes nothing."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hornbook.corpus import normalise as normalise_module
from hornbook.corpus.normalise import mend_surrogates, normalise

NASTY = st.text(
    st.one_of(
        st.characters(),
        st.sampled_from("aeZ \t\n\r\0\x0b\x0c\x7f\x85\u00ad\u0301\u0323\u200b\u200c\u200d\u2028"),
        st.sampled_from("\ud83d\udc69\ufeff\u094d\u0915\u06cc\u0645\uac00\u1100\u1161☕️👩💻"),
    )
)


@settings(max_examples=500, deadline=None)
@given(NASTY)
def test_twice_is_once_and_the_result_is_clean(text: str) -> None:
    once = normalise(text)
    assert normalise(once) == once
    assert unicodedata.is_normalized("NFC", once)
    once.encode("utf-8")
    assert not any(unicodedata.category(c) == "Cc" and c not in "\t\n" for c in once)
    assert not set(once) & set("\u200b\ufeff\u2060\u2028\u2029\u00ad")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cafe\u0301", "café"),
        ("a\r\nb\rc\u2028d\u0085e", "a\nb\nc\nd\ne"),
        ("end\x0cCHAPTER II", "end\nCHAPTER II"),
        ("tab\tstays\n  indentation too ", "tab\tstays\n  indentation too "),
        ("\ufeffmark, \x00zero, \x1b[31mescape", "mark, zero, [31mescape"),
        ("hy\u00adphen, no\u200bspace", "hyphen, nospace"),
        ("half \ud83d pair", "half \ufffd pair"),
        ("whole \ud83d\ude00 pair", "whole 😀 pair"),
        ("latin\u200c\u200dletters", "latinletters"),
        ("\u200dleading", "leading"),
        ("“quoted”\u200d", "“quoted”"),
    ],
)
def test_what_goes(text: str, expected: str) -> None:
    assert normalise(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "می\u200cخواهم",  # Persian: the non-joiner is part of the spelling
        "ক্\u200dষ and ত্\u200d ",  # Bengali half forms, also at the end of a word
        "👩\u200d💻 👨\u200d👩\u200d👧 ❤️\u200d🔥 👩🏽\u200d🚀",  # emoji sequences
        "שלום \u200fABC\u200e",  # direction marks
        "ﬁ ½ Å ① ｆ",  # NFC, not NFKC: compatibility characters stay what they are
    ],
)
def test_what_stays(text: str) -> None:
    assert normalise(text) == unicodedata.normalize("NFC", text)


def test_the_one_class_is_all_of_them_together() -> None:
    patterns = (normalise_module._NEWLINES, normalise_module._INVISIBLE, normalise_module._JOINERS)
    for character in map(chr, range(0x110000)):
        some = any(pattern.match(character) for pattern in patterns)
        assert bool(normalise_module._ANY.match(character)) == some, hex(ord(character))


def test_surrogates_are_mended_even_where_nothing_else_is() -> None:
    assert mend_surrogates("\ud83d\ude00 \udfff\r") == "😀 \ufffd\r"
