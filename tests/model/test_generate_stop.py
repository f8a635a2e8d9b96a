"""Stop strings: found wherever the pieces are cut, never given out."""

from __future__ import annotations

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from hornbook.model.stop import StopFilter

letters = st.text(alphabet="abé", max_size=30)


def cut(text: str, places: list[int]) -> list[str]:
    edges = sorted({min(place, len(text)) for place in places} | {0, len(text)})
    return [text[a:b] for a, b in itertools.pairwise(edges)]


def through(pieces: list[str], stops: list[str]) -> tuple[str, bool, list[str]]:
    stop_filter = StopFilter(stops)
    out = [stop_filter.feed(piece) for piece in pieces]
    out.append(stop_filter.finish())
    return "".join(out), stop_filter.stopped, out


@settings(max_examples=300, deadline=None)
@given(letters, st.lists(st.text("abé", min_size=1, max_size=4), max_size=3),
       st.lists(st.integers(0, 30), max_size=10))  # fmt: skip
def test_result_does_not_depend_on_the_pieces(
    text: str, stops: list[str], places: list[int]
) -> None:
    got, stopped, _ = through(cut(text, places), stops)
    # Reference: the shortest prefix that ends in a stop string ends the text before it.
    ends = [end for end in range(len(text) + 1) if any(text[:end].endswith(s) for s in stops)]
    if ends:
        longest = max(len(s) for s in stops if text[: ends[0]].endswith(s))
        assert (got, stopped) == (text[: ends[0] - longest], True)
    else:
        assert (got, stopped) == (text, False)


def test_text_is_held_back_only_while_it_may_begin_a_stop_string() -> None:
    _, stopped, out = through(["one\n", "two\n", "\nUs", "er:", "more"], ["\nUser:"])
    assert stopped
    assert out == ["one", "\ntwo", "\n", "", "", ""]


def test_held_text_comes_out_at_the_end() -> None:
    assert through(["a", "\n"], ["\n\n"])[0] == "a\n"
