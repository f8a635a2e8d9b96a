"""Gopher's quality rules: what each drops, and that each can be set and switched off."""

from __future__ import annotations

import dataclasses

import pytest

from hornbook.corpus.batch import Batch
from hornbook.corpus.config import GopherConfig
from hornbook.corpus.quality import GopherStep, limits_of
from hornbook.documents import Document

SENTENCE = "It is said that the sea and the land have met here to be at peace with the sky. "
PROSE = SENTENCE * 4


def rule(text: str, **settings: float | None) -> str | None:
    config = dataclasses.replace(GopherConfig(), **settings)  # type: ignore[arg-type]
    return GopherStep(config)(Batch([Document(text)])).dropped[0]


BAD = {
    "min_words": SENTENCE,
    "max_words": "the and " * 50_001,
    "min_mean_word_length": "to be " * 40,
    "max_mean_word_length": "the of and incomprehensibilities indistinguishablenesses " * 20,
    "max_symbol_word_ratio": PROSE.replace("sea", "#sea##"),
    "max_bullet_lines": "\n".join(f"- {SENTENCE}" for _ in range(5)),
    "max_ellipsis_lines": "\n".join(f"{SENTENCE}…" for _ in range(5)),
    "min_alphabetic_words": PROSE + "1234 " * 40,
    "min_stop_words": "some words without grammar follow here " * 20,
}


def test_prose_is_kept() -> None:
    assert rule(PROSE) is None


@pytest.mark.parametrize("name", limits_of(GopherConfig))
def test_a_rule_drops_and_can_be_switched_off(name: str) -> None:
    assert rule(BAD[name]) == f"gopher.{name}"
    assert rule(BAD[name], **{name: None}) is None


def test_a_threshold_can_be_set() -> None:
    assert rule(SENTENCE, min_words=10) is None
    assert rule(PROSE, min_words=1000) == "gopher.min_words"


def test_stop_words_are_found_behind_the_beginning() -> None:
    text = "word " * 600 + "the end of it"
    assert rule(text, min_stop_words=2) is None
    assert rule(text, min_stop_words=3) == "gopher.min_stop_words"


def test_words_of_punctuation_alone_are_not_counted() -> None:
    assert rule("the and of " * 16 + "... – — ( ) " * 3) == "gopher.min_words"


def test_an_empty_text_breaks_a_rule_and_not_the_program() -> None:
    assert rule("") == "gopher.min_words"
    assert rule(" \n", **dict.fromkeys(limits_of(GopherConfig))) is None
