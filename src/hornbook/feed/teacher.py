"""Texts that a model writes: prompts out, answers in, what is worth keeping handed on.

In: a `Teacher`, which answers prompts in any order. Out: batches of documents, with a state that
says which prompts were answered, so that none is asked twice and none is left out.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import PurePath
from typing import Any, Protocol
from urllib.parse import urlsplit

from hornbook.documents import Document, mend_surrogates
from hornbook.errors import HornbookError, check_limits
from hornbook.feed.config import TeacherConfig
from hornbook.feed.produce import Made, Unavailable
from hornbook.feed.prompts import Draw, Prompt, prompts
from hornbook.feed.reject import Rejects
from hornbook.progress import warn


@dataclass(frozen=True)
class Failure:
    """A prompt that the teacher cannot answer, though others are."""

    why: str


Answers = list[str | Failure]
_Call = tuple[list[Prompt], Answers | Unavailable]


class Teacher(Protocol):
    """A model that answers prompts."""

    @property
    def at_once(self) -> int:
        """How many calls of `generate` may be under way."""
        ...

    @property
    def group(self) -> int:
        """How many prompts a call takes."""
        ...

    async def vocabulary(self) -> Sequence[str]:
        """Pieces of text that the model knows; none where that is not known."""
        ...

    async def generate(self, prompts: Sequence[Prompt]) -> Answers:
        """An answer to each prompt. Raises `Unavailable`: none now, the prompts stay as they
        are."""
        ...

    async def close(self) -> None:
        """End what it started."""
        ...


class TeacherProducer:
    """Asks a teacher for one text after the other, several at a time.

    Its state is the lowest prompt without an answer, and those above it that have one.

    Args:
        name: of the producer.
        teacher: the model.
        config: its settings.
        seed: of the prompts.
        rejects: decides which texts are kept; the same for all teachers.
    """

    def __init__(
        self, name: str, teacher: Teacher, config: TeacherConfig, seed: int, rejects: Rejects
    ):
        self.name = name
        self._teacher, self._config, self._seed, self._rejects = teacher, config, seed, rejects
        self._draw: Draw | None = None
        self._lowest = 0
        self._answered: set[int] = set()
        self._asked: set[int] = set()
        self._calls: set[asyncio.Task[_Call]] = set()
        self._has_failed = False

    async def make(self, state: Any) -> Made:
        """What has been answered since the last batch, at least one call. See `Producer`."""
        draw = self._draw or await self._begin(state)
        while len(self._calls) < self._teacher.at_once:
            wanted = [draw(self._number()) for _ in range(self._teacher.group)]
            self._calls.add(asyncio.create_task(self._ask(wanted)))
        done, self._calls = await asyncio.wait(self._calls, return_when=asyncio.FIRST_COMPLETED)
        answered: list[tuple[Prompt, str | Failure]] = []
        gone: list[Unavailable] = []
        for asked, answers in [task.result() for task in done]:
            self._asked -= {prompt.number for prompt in asked}
            if isinstance(answers, Unavailable):
                gone.append(answers)  # its prompts are asked again
            else:
                answered += zip(asked, answers, strict=True)
        if not answered:
            raise max(gone, key=lambda error: error.seconds)
        return await asyncio.to_thread(self._judge, answered)

    async def close(self) -> None:
        """Drop the calls that are under way, and end the teacher."""
        for task in self._calls:
            task.cancel()
        await asyncio.gather(*self._calls, return_exceptions=True)
        await self._teacher.close()

    async def _begin(self, state: Any) -> Draw:
        if state is not None:
            self._lowest = state["next"]
            self._answered = set(state["answered"])
        is_needed = self._config.prompts == "vocabulary"
        vocabulary = await self._teacher.vocabulary() if is_needed else []
        self._draw = prompts(self._config, self._seed, vocabulary)
        return self._draw

    def _number(self) -> int:
        """The lowest prompt that has no answer, nor is being asked."""
        number = self._lowest
        while number in self._answered or number in self._asked:
            number += 1
        self._asked.add(number)
        return number

    async def _ask(self, wanted: list[Prompt]) -> _Call:
        try:
            return wanted, await self._teacher.generate(wanted)
        except Unavailable as error:
            return wanted, error

    def _judge(self, answers: list[tuple[Prompt, str | Failure]]) -> Made:
        documents: list[Document] = []
        rejected: Counter[str] = Counter()
        for prompt, answer in answers:
            self._answered.add(prompt.number)
            if isinstance(answer, Failure):
                rejected["failed"] += 1
                self._tell(answer)
                continue
            text = mend_surrogates(answer.strip())
            if reason := self._rejects.reason(text):
                rejected[reason] += 1
            else:
                documents.append(self._document(prompt, text))
        while self._lowest in self._answered:
            self._answered.remove(self._lowest)
            self._lowest += 1
        state = {"next": self._lowest, "answered": sorted(self._answered)}
        return Made(documents, state, rejected)

    def _tell(self, failure: Failure) -> None:
        if not self._has_failed:
            self._has_failed = True
            warn(f"feed: {self.name} fails at a prompt: {failure.why}; further ones are counted")

    def _document(self, prompt: Prompt, text: str) -> Document:
        parameters = ("model", "temperature", "max_tokens")
        made_by = {name: getattr(self._config, name) for name in parameters}
        return Document(
            text,
            source=self.name,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            meta={**made_by, "number": prompt.number, **prompt.meta},
        )


def check_teacher(config: TeacherConfig, where: str = "feed.teachers") -> None:
    """Raises `HornbookError`: a setting of the teacher at `where` in a recipe has no meaning."""
    check_limits(
        config,
        where,
        [
            ("batch", config.batch >= 1, "at least 1"),
            ("max_tokens", config.max_tokens >= 1, "at least 1"),
            ("temperature", config.temperature >= 0, "at least 0"),
        ],
    )
    if not config.model and config.kind != "openai":  # a server may have one model only
        raise HornbookError(
            f"a teacher of the kind {config.kind} has no model",
            where=f"{where}.model",
            hint="Name its folder, file or run as `model`",
        )


def open_teacher(config: TeacherConfig, name: str, seed: int, rejects: Rejects) -> TeacherProducer:
    """The producer of one of `feed.teachers`."""
    check_teacher(config)
    teacher: Teacher
    if config.kind == "openai":
        from hornbook.feed.openai_teacher import OpenAITeacher

        teacher = OpenAITeacher(config)
    else:
        from hornbook.feed.local_teacher import LocalTeacher

        teacher = LocalTeacher(config, seed)
    return TeacherProducer(name, teacher, config, seed, rejects)


def teacher_names(configs: Sequence[TeacherConfig]) -> list[str]:
    """A name for each teacher: its model's or host's, with a number where two have the same."""
    names: list[str] = []
    for config in configs:
        name = f"teacher:{PurePath(config.model).name or urlsplit(config.url).hostname}"
        again = sum(each == name or each.startswith(f"{name}#") for each in names)
        names.append(f"{name}#{again + 1}" if again else name)
    return names
