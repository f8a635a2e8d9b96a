"""Prompts: a pure function of (seed, number), each drawn once before one comes again."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hornbook.errors import HornbookError
from hornbook.feed.config import TeacherConfig
from hornbook.feed.prompts import AUDIENCES, KINDS, prompts


def config(**changes: object) -> TeacherConfig:
    return TeacherConfig(kind="openai", **changes)  # type: ignore[arg-type]


def listed(folder: Path, count: int) -> str:
    path = folder / "lines.txt"
    path.write_text("# a comment\n\n" + "".join(f"line {i} of {{many}}\n" for i in range(count)))
    return str(path)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 30))
def test_templates_are_drawn_without_replacement(
    tmp_path_factory: pytest.TempPathFactory, seed: int, topics: int
) -> None:
    file = listed(tmp_path_factory.mktemp("prompts"), topics)
    draw = prompts(config(prompts_file=file), seed, [])
    size = topics * len(KINDS) * len(AUDIENCES)
    first = [draw(number) for number in range(size)]
    again = [draw(size + number) for number in range(size)]
    assert len({prompt.request for prompt in first}) == size
    assert {each.request for each in first} == {each.request for each in again}
    if size > 16:
        assert [each.request for each in first] != [each.request for each in again]
    assert prompts(config(prompts_file=file), seed, [])(size - 1) == first[-1]


def test_another_seed_gives_another_order() -> None:
    one, other = (prompts(config(), seed, []) for seed in (1, 2))
    assert [one(k).request for k in range(9)] != [other(k).request for k in range(9)]


def test_our_own_topics_give_thousands_of_prompts_of_all_kinds() -> None:
    draw = prompts(config(), 7, [])
    drawn = [draw(number) for number in range(4_000)]
    assert len({prompt.request for prompt in drawn}) == 4_000
    assert {prompt.meta["prompt"] for prompt in drawn} == set(KINDS)
    first = drawn[0]
    assert first.meta["topic"] in first.request and first.meta["topic"] in first.beginning
    assert "{" not in first.request + first.beginning


def test_prompts_of_a_file_are_taken_as_they_are(tmp_path: Path) -> None:
    draw = prompts(config(prompts="file", prompts_file=listed(tmp_path, 50)), 1, [])
    drawn = [draw(number) for number in range(50)]
    assert {prompt.request for prompt in drawn} == {f"line {i} of {{many}}" for i in range(50)}
    assert all(prompt.request == prompt.beginning for prompt in drawn)


def test_vocabulary_prompts_are_random_words_of_the_model() -> None:
    vocabulary = [" red", " green", "blue", " grey"]
    draw = prompts(config(prompts="vocabulary"), 3, vocabulary)
    words = [word for number in range(100) for word in draw(number).beginning.split()]
    assert len(words) == 800
    assert {words.count(each.strip()) > 100 for each in vocabulary} == {True}
    assert draw(5) == prompts(config(prompts="vocabulary"), 3, vocabulary)(5)


def test_a_model_that_does_not_tell_its_vocabulary_gets_words_of_topics() -> None:
    assert len(set(prompts(config(prompts="vocabulary"), 3, [])(0).meta["words"].split())) > 4


def test_missing_and_empty_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(HornbookError, match="no file is named"):
        prompts(config(prompts="file"), 1, [])
    with pytest.raises(HornbookError, match="cannot be read"):
        prompts(config(prompts="file", prompts_file=str(tmp_path / "none.txt")), 1, [])
    with pytest.raises(HornbookError, match="has no prompts"):
        prompts(config(prompts="file", prompts_file=listed(tmp_path, 0)), 1, [])
