"""Cutting loses nothing; the split is a pure function of ids."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hornbook.corpus.split import (
    LARGEST_PASSAGE,
    MINIMUM_BYTES,
    SMALLEST_PASSAGE,
    TRAIN,
    VALIDATION,
    byte_length,
    is_held_out,
    passage_size,
    plan_passages,
    split_passages,
)
from hornbook.documents import Document, document_id
from hornbook.errors import HornbookError
from hornbook.gather.cut import cut

WORDS = [
    "the",
    "king",
    "of",
    "France",
    "is",
    "here",
    "and",
    "there",
    "was",
    "a",
    "horse",
    "a",
    "horse",
    "my",
    "kingdom",
]


def prose(paragraphs: int, seed: int = 0) -> str:
    """Paragraphs of random words, with blank lines between them."""
    draw = random.Random(seed)
    return "\n\n".join(
        " ".join(draw.choices(WORDS, k=draw.randint(5, 60))) + f" {number}."
        for number in range(paragraphs)
    )


@settings(max_examples=300, deadline=None)
@given(st.text(st.sampled_from("ab.? \n\t。é")), st.integers(1, 40))
def test_spans_are_the_text_without_blank_lines(text: str, size: int) -> None:
    spans = list(cut(text, size))
    end_before = 0
    for start, end in spans:
        assert start < end <= start + size
        assert not text[end_before:start].strip(), "only blank lines may be left out"
        assert start == end_before or text[:end_before].endswith("\n")
        end_before = end
    assert not text[end_before:].strip()
    if text and not text.isspace():
        assert spans[0][0] == 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("one two.\nthree\n\n \n\nfour five six", ["one two.\nthree\n", "four five six"]),
        ("one two\nthree. four five", ["one two\n", "three. four five"]),
        ("one two? three four five", ["one two? ", "three four five"]),
        ("one two three four", ["one two three ", "four"]),
        ("o" * 30, ["o" * 16, "o" * 14]),
    ],
)
def test_the_best_place_is_taken(text: str, expected: list[str]) -> None:
    assert [text[start:end] for start, end in cut(text, 16)] == expected


def test_a_long_line_is_cut_at_sentences_then_spaces() -> None:
    spans = list(cut("word " * 10_000 + "x" * 9_000, 4096))
    assert all(end - start <= 4096 for start, end in spans)
    assert spans[-1][1] == 59_000


def test_few_documents_hold_out_at_least_the_share_all_over_the_text() -> None:
    documents = [Document(text=prose(2000, seed)) for seed in range(3)]
    plan = plan_passages(lambda: documents, 0.05, "hornbook")
    parts = list(plan.split(documents))
    held_out = sum(byte_length(d.text) for name, d in parts if name == VALIDATION)
    total = sum(byte_length(d.text) for _, d in parts)
    assert 0.05 <= held_out / total < 0.07
    places = [d.meta["passages"][0] for name, d in parts if name == VALIDATION]
    assert len(places) >= 15
    assert {d.meta["parent"] for name, d in parts if name == VALIDATION} == {
        d.id for d in documents
    }
    for document in documents:
        own = [d for _, d in parts if d.meta["parent"] == document.id]
        assert "".join(d.text for d in own).replace("\n\n", "\n") == document.text.replace(
            "\n\n", "\n"
        )
        numbers = [number for d in own for number in d.meta["passages"]]
        assert numbers == sorted(numbers)
    names = [(d.meta["parent"], name) for name, d in parts]
    assert all(a != b for a, b in itertools.pairwise(names)), "neighbours stay together"


@pytest.mark.parametrize("seed", range(5))
def test_adding_a_file_to_few_moves_only_what_was_added_to_the_share(seed: int) -> None:
    documents = [Document(text=prose(200, 5 * seed + number)) for number in range(5)]

    def held_out(of: list[Document]) -> set[str]:
        plan = plan_passages(lambda: of, 0.05, "hornbook")
        return {
            of[number].text[start:end]
            for number, spans in enumerate(plan.spans)
            for (start, end), held in zip(spans, plan.held_out[number], strict=True)
            if held
        }

    before, after = held_out(documents[:4]), held_out(documents)
    assert not any(is_held_out(document_id(text), 0.05, "hornbook") for text in before - after)
    new = after - before
    assert sum(any(text in document.text for document in documents[:4]) for text in new) <= 3


def test_passages_grow_with_the_text() -> None:
    assert passage_size(1_000) == SMALLEST_PASSAGE
    assert passage_size(1_115_394) == 2048
    assert passage_size(10**9) == LARGEST_PASSAGE


def test_too_little_text_is_an_error_and_the_minimum_is_not() -> None:
    with pytest.raises(HornbookError, match=r"1,023 bytes of text are too little .* 1,024"):
        plan_passages(lambda: [Document(text="x" * (MINIMUM_BYTES - 1))], 0.05, "hornbook")
    enough = [Document(text="x" * MINIMUM_BYTES)]
    parts = plan_passages(lambda: enough, 0.05, "hornbook").split(enough)
    assert {name for name, _ in parts} == {TRAIN, VALIDATION}


def test_a_text_that_repeats_itself_is_not_held_out_as_a_whole() -> None:
    plan = plan_passages(lambda: [Document("again and again\n\n" * 100_000)], 0.05, "hornbook")
    assert 0.04 < sum(plan.held_out[0]) / len(plan.held_out[0]) < 0.11


def test_something_is_left_to_train_on() -> None:
    documents = [Document(text=prose(100))]
    plan = plan_passages(lambda: documents, 0.9999, "hornbook")
    assert {name for name, _ in plan.split(documents)} == {TRAIN, VALIDATION}


def test_passages_of_many_documents_go_by_their_hash_alone() -> None:
    documents = [Document(text=prose(60, seed)) for seed in range(120)]
    parts = list(split_passages(documents, 0.1, "hornbook"))
    share = sum(len(d.text) for name, d in parts if name == VALIDATION) / sum(
        len(d.text) for _, d in parts
    )
    assert 0.05 < share < 0.15
    again = list(split_passages(documents[50:], 0.1, "hornbook"))
    assert [d.text for _, d in again] == [d.text for _, d in parts][-len(again) :]
