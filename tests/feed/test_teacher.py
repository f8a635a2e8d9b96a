"""Each prompt of a teacher is answered once, in whatever order and however often it is stopped."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hornbook.errors import HornbookError
from hornbook.feed.config import TeacherConfig
from hornbook.feed.produce import Unavailable
from hornbook.feed.prompts import Prompt
from hornbook.feed.reject import Rejects
from hornbook.feed.teacher import Answers, Failure, TeacherProducer, open_teacher, teacher_names

CONFIG = TeacherConfig(kind="openai", model="m", url="http://127.0.0.1:1")


class Scripted:
    """Answers when it likes; fails where the number says so; is gone now and then."""

    def __init__(self, seed: int, at_once: int, group: int, gone: float = 0.0):
        self._chance = random.Random(seed)
        self.at_once, self.group, self._gone = at_once, group, gone
        self.answered: Counter[int] = Counter()
        self.closed = False

    async def vocabulary(self) -> Sequence[str]:
        return []

    async def generate(self, prompts: Sequence[Prompt]) -> Answers:
        for _ in range(self._chance.randrange(6)):
            await asyncio.sleep(0)
        if self._chance.random() < self._gone:
            raise Unavailable("gone", 0.0)
        return [self._answer(prompt.number) for prompt in prompts]

    def _answer(self, number: int) -> str | Failure:
        self.answered[number] += 1
        if number % 10 == 3:
            return Failure("400")
        if number % 10 == 7:
            return ""
        words = random.Random(number).sample(range(10_000), 40)
        return " ".join(f"w{word}" for word in words)

    async def close(self) -> None:
        self.closed = True


def producer(teacher: Scripted, rejects: Rejects | None = None) -> TeacherProducer:
    return TeacherProducer("teacher:m", teacher, CONFIG, 1, rejects or Rejects())


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 10**6), st.integers(1, 9), st.integers(1, 4), st.sampled_from([0.0, 0.3]),
    st.lists(st.integers(1, 12), min_size=1, max_size=5),
)  # fmt: skip
def test_every_prompt_is_answered_once_over_restarts(
    seed: int, at_once: int, group: int, gone: float, runs: list[int]
) -> None:
    kept: list[int] = []
    rejected: Counter[str] = Counter()

    async def run(batches: int, state: Any, seed: int) -> Any:
        teacher = Scripted(seed, at_once, group, gone)
        made_by = producer(teacher)
        while batches:
            try:
                made = await made_by.make(state)
            except Unavailable:
                continue
            kept.extend(document.meta["number"] for document in made.documents)
            rejected.update(made.rejected)
            state = json.loads(json.dumps(made.state))
            batches -= 1
        await made_by.close()
        assert teacher.closed
        return state

    state = None
    for number, batches in enumerate(runs):
        state = asyncio.run(run(batches, state, seed + number))
    assert len(kept) == len(set(kept)), "none came twice"
    done = set(range(state["next"])) | set(state["answered"])
    assert set(kept) == {number for number in done if number % 10 not in (3, 7)}
    assert rejected["failed"] == sum(number % 10 == 3 for number in done)
    assert rejected["empty"] == sum(number % 10 == 7 for number in done)


def test_a_document_says_where_it_came_from() -> None:
    made = asyncio.run(producer(Scripted(0, 1, 2)).make(None))
    meta = made.documents[0].meta
    assert meta["model"] == "m" and meta["temperature"] == 1.0 and meta["max_tokens"] == 512
    assert {"prompt", "topic", "audience", "number"} <= set(meta)
    assert made.documents[0].source == "teacher:m" and made.documents[0].created


def test_what_this_or_another_teacher_wrote_is_a_duplicate() -> None:
    rejects = Rejects()
    first = asyncio.run(producer(Scripted(0, 1, 9), rejects).make(None)).documents
    made = asyncio.run(producer(Scripted(0, 1, 9), rejects).make(None))
    assert made.documents == [] and made.rejected["duplicate"] == len(first)
    rejects = Rejects()
    for document in first:
        rejects.remember(document.text, near=False)
    made = asyncio.run(producer(Scripted(0, 1, 9), rejects).make(None))
    assert made.documents == [] and made.rejected["duplicate"] == len(first)


@pytest.mark.parametrize("wrong", [{"batch": 0}, {"max_tokens": 0}, {"temperature": -1.0}])
def test_settings_without_meaning_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(
        HornbookError, match=rf"feed.teachers.{next(iter(wrong))}: must be at least"
    ):
        open_teacher(replace(CONFIG, **wrong), "teacher:m", 1, Rejects())


@pytest.mark.parametrize(
    ("models", "names"),
    [
        (["a/phi-2", "b/phi-2", "phi-3"], ["teacher:phi-2", "teacher:phi-2#2", "teacher:phi-3"]),
        ([""], ["teacher:x"]),
    ],
)
def test_names_of_teachers_differ(models: list[str], names: list[str]) -> None:
    configs = [TeacherConfig(kind="openai", model=model, url="http://x") for model in models]
    assert teacher_names(configs) == names
