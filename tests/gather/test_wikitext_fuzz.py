"""Wikitext that nobody would write: nothing raises, and the work grows as the text does."""

from __future__ import annotations

import contextlib
import re
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hornbook.gather.wikitext import Unsure, fast_text, to_text

_PIECES = """
{{ }} {{{ }}} [[ ]] [ ] | = == {| |} |- ! * # '' ''' ---- ( ) ; , < > &amp; &lt; &#65; <ref> </ref>
<ref/> <nowiki> </nowiki> <!-- --> <br> <div> </div> <math> </math> <table> </table> <pre> </pre>
http://x.y word File:a convert lang small quote __TOC__
"""
_UNITS = """
{{small| [[a| <ref </ref <a {{{{ }}}} <ref></ref> <ref/> [[a]] {{small|x}} [// [//x [mailto:a &a __A
<b></b> {{small|[[a]]}}
"""
PIECES = [*_PIECES.split(), "\n", " ", "\ufdd3"]
UNITS = [
    *PIECES,
    *_UNITS.split(),
    "<ref name=",
    "<!-- ",
    "<table ",
    "[http://x ",
    " (",
    "( ;",
    " \n",
]
UNITS += ["<ref name=", "\n{|", "\n|", "\n=", "\n: ", "\n{|\n|}", "' ", "'''' ", "'''a '' "]
soup = st.lists(st.sampled_from(PIECES), max_size=60).map("".join)

# Without `=`: it would name an argument, for MediaWiki and us also inside a tag in a template.
words = st.sampled_from(["a", "b c", "word, word.", "é", "(z)"])
nested = st.recursive(
    words,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=4).map(" ".join),
        inner.map(lambda text: f"[[Page|{text}]]"),
        inner.map(lambda text: f"{{{{small|{text}}}}}"),
        inner.map(lambda text: f"{{{{quote|1={text}|2=b}}}}"),
        inner.map(lambda text: f"{{{{unknown|{text}|n={text}}}}}"),
        inner.map(lambda text: f"<small>{text}</small>"),
        words.map(lambda text: f"x<ref>{text}</ref>"),  # they do not nest
        inner.map(lambda text: f"\n* ''{text}''\n"),
    ),
    max_leaves=12,
)
balanced = st.lists(  # the bars of a table would be those of a template around it
    st.one_of(
        nested,
        nested.map(lambda text: f"\n{{|\n| {text}\n|}}\n"),
        words.map(lambda text: f"\n== {text} ==\n"),
    ),
    max_size=4,
).map("".join)


@settings(max_examples=400, deadline=None)
@given(soup)
def test_nothing_raises_on_any_soup(wikitext: str) -> None:
    text = to_text(wikitext).text
    assert not re.search("[\ufdd0-\ufdef]", text)


@settings(max_examples=300, deadline=None)
@given(balanced)
def test_balanced_wikitext_leaves_no_brackets_and_both_readers_agree(wikitext: str) -> None:
    fast = fast_text(wikitext)
    assert "[[" not in fast.text and "{{" not in fast.text and "]]" not in fast.text
    slow = to_text(wikitext, parser="mwparserfromhell")
    assert fast.text.split() == slow.text.split()


@settings(max_examples=300, deadline=None)
@given(st.text(st.characters(exclude_characters="'[]{}|<>=*#:;_(&- \t\n", codec="utf-8")))
def test_plain_text_stays_as_it_is(text: str) -> None:
    clean = re.sub("[\ufdd0-\ufdef]", "", text).replace("\u00a0", " ").strip(" \t\n")
    assert to_text(text).text == clean


@pytest.mark.parametrize("unit", UNITS)
def test_work_grows_as_the_text_does(unit: str) -> None:
    """Twice the text takes at most 2.5 times the bytecodes, and the patterns little time at all.

    What a pattern does inside one call counts as one; that is bounded by letting it finish: the
    quadratic ones that were tried took minutes at this size.
    """
    counts = [instructions(unit * times) for times in (100, 200)]
    assert counts[1] <= 2.5 * counts[0] + 1000
    read_fast(unit * 50_000)


@pytest.mark.parametrize("opening", UNITS)
def test_what_is_opened_and_goes_on_for_long_takes_little_time(opening: str) -> None:
    """A pattern that gives back what it took, a character at a time, would take minutes."""
    for filling in ("a", " ", "'", "a ", "|", ";", "&", "\t", "=", "(;", "a=", "é", "://"):
        read_fast(opening + filling * 100_000)


def read_fast(wikitext: str) -> None:
    with contextlib.suppress(Unsure):
        fast_text(wikitext)


def instructions(wikitext: str) -> int:
    """Lines of Python that reading takes."""
    count = 0

    def trace(frame: object, event: str, argument: object) -> object:
        nonlocal count
        count += 1
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        read_fast(wikitext)
    finally:
        sys.settrace(before)
    return count
