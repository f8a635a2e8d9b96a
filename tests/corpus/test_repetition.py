"""Gopher's repetition rules: what each drops, that each can be switched off, and that counting by
hashes counts the same as comparing words."""

from __future__ import annotations

import dataclasses
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hornbook.corpus.batch import Batch
from hornbook.corpus.config import RepetitionConfig
from hornbook.corpus.repetition import RepetitionStep, _duplicate_ngrams, _ngrams, _top_ngram
from hornbook.corpus.words import find_words
from hornbook.documents import Document

OFF: dict[str, object] = {
    "max_duplicate_lines": None,
    "max_duplicate_paragraphs": None,
    "max_duplicate_line_characters": None,
    "max_duplicate_paragraph_characters": None,
    "max_top_ngram": {},
    "max_duplicate_ngrams": {},
}
UNIQUE = " ".join(f"w{n}" for n in range(400))


def rule(text: str, **changes: object) -> str | None:
    config = dataclasses.replace(RepetitionConfig(), **changes)  # type: ignore[arg-type]
    return RepetitionStep(config)(Batch([Document(text)])).dropped[0]


def lines(count: int, start: int = 0, words: int = 8) -> list[str]:
    numbers = range(start, start + count)
    return [" ".join(f"word{n}x{k}" for k in range(words)) for n in numbers]


BAD = {
    "max_duplicate_lines": "\n".join([*lines(20), *["again"] * 12]),
    "max_duplicate_paragraphs": "\n\n".join([*lines(20), *["again"] * 12]),
    "max_duplicate_line_characters": "\n".join([*lines(20), *lines(6)]),
    "max_duplicate_paragraph_characters": "\n\n".join([*lines(20), *lines(6)]),
    "max_top_ngram": " ".join(f"alpha beta gamma n{n}" for n in range(50)),
    "max_duplicate_ngrams": f"{UNIQUE} " + UNIQUE[:400],
}


def test_prose_is_kept() -> None:
    assert rule(UNIQUE) is None
    assert rule("\n\n".join(lines(20))) is None


@pytest.mark.parametrize("name", OFF)
def test_a_rule_drops_and_can_be_switched_off(name: str) -> None:
    alone = {key: value for key, value in OFF.items() if key != name}
    assert rule(BAD[name], **alone) == f"repetition.{name}"
    assert rule(BAD[name], **OFF) is None


def test_the_rules_for_each_length_can_be_set() -> None:
    assert rule("one two one two " + UNIQUE, **{**OFF, "max_top_ngram": {2: 0.001}}) is not None
    assert rule(BAD["max_duplicate_ngrams"], **{**OFF, "max_duplicate_ngrams": {5: 0.9}}) is None


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(["a", "ab", "b", "ba", "of", "the"]), min_size=1, max_size=60))
def test_counting_by_hashes_is_counting(chosen: list[str]) -> None:
    text = " ".join(chosen)
    words = find_words(text)
    with_blanks = _ngrams(words, dict.fromkeys((1, 2, 3, 5), 0.0), blanks=True)
    without = _ngrams(words, dict.fromkeys((1, 2, 3, 5), 0.0))
    for (_, spaced_hashes, spans, n), (_, hashes, lengths, _) in zip(
        with_blanks, without, strict=True
    ):
        grams = [chosen[i : i + n] for i in range(len(chosen) - n + 1)]
        spaced, joined = [" ".join(gram) for gram in grams], ["".join(gram) for gram in grams]
        gram, count = Counter(spaced).most_common(1)[0] if spaced else ("", 0)
        top = _top_ngram(spaced_hashes, spans, len(text))
        assert top == len(gram) * count / len(text)
        seen: set[str] = set()
        repeated = place = 0
        while place < len(joined):
            if joined[place] in seen:
                repeated += len(joined[place])
                place += n
            else:
                seen.add(joined[place])
                place += 1
        assert _duplicate_ngrams(hashes, lengths, n, len(text)) == repeated / len(text)


@pytest.mark.parametrize("text", ["", " \n ", "one", "\n\n\n"])
def test_texts_without_words_break_nothing(text: str) -> None:
    assert rule(text, **{**OFF, "max_duplicate_ngrams": {5: 0.1}}) is None
