"""Captions to text: rolling ones lose no word and repeat none; others are kept as they are."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from hornbook.gather.captions import Snippet, join_captions

lines = st.lists(
    st.lists(st.sampled_from(["a", "b", "it's", "who?"]), min_size=1, max_size=5).map(" ".join),
    min_size=1,
    max_size=12,
)


def snippets(*texts: str, seconds: float = 2) -> list[Snippet]:
    return [Snippet(text, number * seconds, seconds) for number, text in enumerate(texts)]


@settings(max_examples=300, deadline=None)
@given(lines=lines, window=st.integers(2, 3))
def test_lines_that_roll_up(lines: list[str], window: int) -> None:
    # Equal lines beside each other cannot be told from one that is still on the screen.
    assume(all(lines[n] not in lines[n + 1 : n + window] for n in range(len(lines))))
    shown = ["\n".join(lines[max(0, n - window + 1) : n + 1]) for n in range(len(lines))]
    assert join_captions(snippets(*shown)) == " ".join(lines)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=40), st.integers(1, 6))
def test_a_line_that_grows_word_by_word(numbers: list[int], size: int) -> None:
    words = [f"w{number}" for number in dict.fromkeys(numbers)]
    shown = []
    for begin in range(0, len(words), size):
        line = words[begin : begin + size]
        shown += [" ".join(line[:count]) for count in range(1, len(line) + 1)]
    assume(size > 2 or len(words) < 3)  # else most snippets are new lines, and nothing rolls
    assert join_captions(snippets(*shown)) == " ".join(words)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(["a b", "c", "d e f", "g"]), max_size=20))
def test_what_does_not_roll_loses_nothing(texts: list[str]) -> None:
    rolls = sum(a == b for a, b in pairwise(texts))
    assume(2 * rolls < len(texts) - 1 or len(texts) < 2)
    assert join_captions(snippets(*texts)) == " ".join(texts)


def test_a_refrain_is_kept() -> None:
    song = ["row row row", "row row row", "your boat", "gently", "down the stream", "merrily"]
    assert join_captions(snippets(*song)) == " ".join(song)


def test_generated_captions_that_overlap_in_time_only() -> None:
    shown = [Snippet("so today we", 0.1, 4.0), Snippet("will talk", 1.9, 4.0)]
    assert join_captions(shown) == "so today we will talk"


def test_sounds_speakers_and_pauses() -> None:
    shown = [
        Snippet("[Music]", 0, 3),
        Snippet(">> Hello [Applause] there,\n- and [ __ ] you.", 3, 2),
        Snippet("♪ la la ♪", 6, 1),
        Snippet("After a pause [1] (laughs).", 20, 2),
        Snippet("  ", 22, 1),
    ]
    assert join_captions(shown) == "Hello there, and you. la la\nAfter a pause (laughs)."
    assert join_captions([]) == "" and join_captions(shown[:1]) == ""
