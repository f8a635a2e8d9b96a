"""C4's rules cut lines and drop pages, FineWeb's count lines; each can be switched off."""

from __future__ import annotations

import dataclasses

import pytest

from hornbook.corpus.batch import Batch, Outcome
from hornbook.corpus.config import C4Config, FinewebConfig
from hornbook.corpus.quality import limits_of
from hornbook.corpus.quality_lines import C4Step, FinewebStep, count_sentences
from hornbook.documents import Document

LINE = "The sea was calm that day. "
PAGE = "\n".join([LINE.strip()] * 6)
UNIQUE = "\n".join(f"The sea was calm on that day, which was the {n}th day." for n in range(9))


def c4(text: str, **changes: object) -> Outcome:
    config = dataclasses.replace(C4Config(), **changes)  # type: ignore[arg-type]
    return C4Step(config)(Batch([Document(text)]))


@pytest.mark.parametrize(
    ("line", "setting", "off"),
    [
        ("Home page", "min_words_line", None),
        ("Please switch on JavaScript to read on.", "javascript", False),
        ("By going on you accept our Privacy Policy.", "policy", False),
        ("A word of " + "a" * 1001 + " is here.", "max_word_length", None),
    ],
)
def test_c4_cuts_a_line(line: str, setting: str, off: object) -> None:
    text = f"{PAGE}\n{line}\n{LINE.strip()}"
    outcome = c4(text)
    assert outcome.documents[0].text == f"{PAGE}\n{LINE.strip()}"
    assert outcome.dropped == [None]
    assert outcome.counts == {f"c4.lines.{setting}": 1}
    assert c4(text, **{setting: off}).documents[0].text == text


def test_c4_cuts_lines_without_an_end_only_where_asked() -> None:
    text = f"{PAGE}\nA heading without an end\nIt goes on and on..."
    assert c4(text).documents[0].text == text
    assert c4(text, terminal_punctuation=True).documents[0].text == PAGE


@pytest.mark.parametrize(
    ("text", "rule", "setting", "off"),
    [
        (f"{PAGE}\nLorem ipsum dolor sit amet.", "lorem_ipsum", "lorem_ipsum", False),
        (f"{PAGE}\nif (a > b) {{ return c; }}", "curly_bracket", "curly_bracket", False),
        (LINE * 4, "min_sentences", "min_sentences", None),
    ],
)
def test_c4_drops_a_page(text: str, rule: str, setting: str, off: object) -> None:
    outcome = c4(text)
    assert outcome.dropped == [f"c4.{rule}"]
    assert outcome.documents[0].text == text
    assert c4(text, **{setting: off}).dropped == [None]


def test_c4_takes_citations_out() -> None:
    text = PAGE.replace("day.", "day[12], it is said[citation needed].")
    assert c4(text).documents[0].text == PAGE.replace("day.", "day, it is said.")
    assert c4(text, remove_citations=False).documents[0].text == text


def test_a_page_that_c4_does_not_change_is_the_same_object() -> None:
    document = Document(PAGE)
    assert C4Step(C4Config())(Batch([document])).documents[0] is document


@pytest.mark.parametrize(
    ("line", "sentences"),
    [
        ("", 0),
        ("No end", 1),
        ("One. Two! Three?", 3),
        ("He said “Stop.” Then he left", 2),
        ("Version 3.14 of e.g. this program.", 1),
        ("Wait... what? Yes", 2),
        ("一。二！三", 3),
    ],
)
def test_sentences_are_counted(line: str, sentences: int) -> None:
    assert count_sentences(line) == sentences


def fineweb(text: str, **changes: object) -> str | None:
    config = dataclasses.replace(FinewebConfig(), **changes)  # type: ignore[arg-type]
    return FinewebStep(config)(Batch([Document(text)])).dropped[0]


BAD = {
    "min_punctuated_lines": UNIQUE.replace("day.", "day"),
    "max_short_lines": "\n".join(f"Here a short line: {n}." for n in range(9)),
    "max_duplicate_line_characters": f"{UNIQUE}\n{UNIQUE}",
    "max_newlines_per_word": "\n".join(f"{'verylongword' * 4}{n}." for n in range(9)),
}


def test_fineweb_keeps_prose() -> None:
    assert fineweb(UNIQUE) is None


@pytest.mark.parametrize("name", limits_of(FinewebConfig))
def test_a_rule_of_fineweb_drops_and_can_be_switched_off(name: str) -> None:
    assert fineweb(BAD[name]) == f"fineweb.{name}"
    assert fineweb(BAD[name], **{name: None}) is None


def test_the_number_of_words_matters_just_at_the_limit() -> None:
    # 3 line ends for 10 words are 0.3, and for 9 words more.
    ten = "Many long words stand here\nin these lines\nof text\n."
    assert len(ten.split()) == 11
    settings = dict.fromkeys(limits_of(FinewebConfig))
    assert fineweb(ten, **{**settings, "max_newlines_per_word": 3 / 11}) is None
    assert fineweb(ten, **{**settings, "max_newlines_per_word": 3 / 12}) is not None
    assert fineweb(ten, **{**settings, "max_newlines_per_word": 0.0}) is not None


def test_empty_texts_break_nothing() -> None:
    assert fineweb("") == "fineweb.min_punctuated_lines"
    assert c4("", min_sentences=None).dropped == [None]
