"""What teachers are asked: the prompt of each number, as a pure function of (seed, number).

In: a teacher's settings, the seed, the words that its model knows. Out: `Prompt`s. All prompts of
templates and files are drawn before one comes again; from then on in another order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from hornbook.errors import HornbookError
from hornbook.feed.config import TeacherConfig
from hornbook.files import read_list
from hornbook.tokens.order import Key, derive_key, permute, scatter

WORDS = 8
"""Random words of a `vocabulary` prompt."""

AUDIENCES = ("children", "beginners", "students", "experts")

KINDS = {
    "textbook": (
        "Write a section of a textbook on {topic} for {audience}. Explain the ideas in order, with "
        "examples.",
        "A textbook for {audience}\n\nChapter 1: {topic}\n\n",
    ),
    "story": (
        "Write a story for {audience} about {topic}. Let things happen, and let people talk.",
        "A story for {audience} about {topic}\n\n",
    ),
    "how-to": (
        "Write a practical guide for {audience} to something useful that has to do with {topic}, "
        "step by step.",
        "A practical guide for {audience}: {topic}, step by step\n\n1.",
    ),
    "questions": (
        "Write five questions that {audience} may have about {topic}, each with a full answer.",
        "Questions of {audience} about {topic}, and their answers\n\nQuestion:",
    ),
}
"""Of each kind of text the request to a model that follows instructions, and the beginning that a
base model continues."""


@dataclass(frozen=True)
class Prompt:
    """One request for a text.

    Args:
        number: of the draw.
        request: for a model that follows instructions.
        beginning: for a model that only continues text.
        meta: what the text's `meta` says of it.
    """

    number: int
    request: str
    beginning: str
    meta: dict[str, Any]


Draw = Callable[[int], Prompt]
"""The prompt of a number, from 0 without end."""


def prompts(config: TeacherConfig, seed: int, vocabulary: Sequence[str]) -> Draw:
    """The prompts of a teacher.

    Args:
        config: which kind, and the file of prompts or topics.
        seed: of the order.
        vocabulary: pieces of text that the teacher's model knows; none: not known, so that the
            words of our topics stand in for it.
    """
    if config.prompts == "file":
        return _from_file(_lines(config), seed)
    topics = _lines(config) if config.prompts_file else _topics()
    if config.prompts == "templates":
        return _from_templates(topics, seed)
    words = sorted({word for topic in topics for word in topic.split()})
    return _from_vocabulary(vocabulary or words, seed)


def _from_file(lines: Sequence[str], seed: int) -> Draw:
    def draw(number: int) -> Prompt:
        line = _without_replacement(number, len(lines), seed, "file")
        return Prompt(number, lines[line], lines[line], {"prompt": "file", "line": line})

    return draw


def _from_templates(topics: Sequence[str], seed: int) -> Draw:
    def draw(number: int) -> Prompt:
        size = len(topics) * len(AUDIENCES) * len(KINDS)
        rest, kind = divmod(_without_replacement(number, size, seed, "templates"), len(KINDS))
        rest, audience = divmod(rest, len(AUDIENCES))
        name = list(KINDS)[kind]
        words = {"topic": topics[rest], "audience": AUDIENCES[audience]}
        request, beginning = (template.format(**words) for template in KINDS[name])
        return Prompt(number, request, beginning, {"prompt": name, **words})

    return draw


def _from_vocabulary(vocabulary: Sequence[str], seed: int) -> Draw:
    key = derive_key(seed, "vocabulary")

    def draw(number: int) -> Prompt:
        places = scatter(np.arange(number * WORDS, (number + 1) * WORDS), len(vocabulary), key)
        pieces = [vocabulary[place] for place in places]
        listed = ", ".join(piece.strip() for piece in pieces)
        meta = {"prompt": "vocabulary", "words": listed}
        return Prompt(number, f"Write a text with these words in it: {listed}",
                      "".join(piece if piece[:1].isspace() else f" {piece}" for piece in pieces),
                      meta)  # fmt: skip

    return draw


def _without_replacement(number: int, size: int, seed: int, label: str) -> int:
    epoch, place = divmod(number, size)
    key: Key = derive_key(seed, label, epoch)
    return int(permute(np.array([place]), size, key)[0])


def _lines(config: TeacherConfig) -> list[str]:
    where = "feed.teachers.prompts_file"
    if config.prompts_file is None:
        raise HornbookError(
            "no file is named", where=where, hint="Name one with a prompt a line, or use templates"
        )
    lines = read_list(Path(config.prompts_file))
    if not lines:
        raise HornbookError("has no prompts", where=config.prompts_file, hint="Write one a line")
    return lines


def _topics() -> list[str]:
    text = resources.files("hornbook.feed").joinpath("assets/topics.txt").read_text("utf-8")
    return text.split("\n")[:-1]
