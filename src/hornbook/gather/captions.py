"""Captions of a video to running text.

In: snippets with times. Out: text without what rolling captions say twice, without `[Music]`; a
long pause begins a new line.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

PAUSE_SECONDS = 3.0
"""Silence after which a new line begins."""

_NOT_SPEECH = re.compile(r"\[[^\[\]\n]{0,40}\]|[♪♫]|^\s*(?:>>+|-)\s*", re.MULTILINE)
"""Sounds and speakers in brackets (`[Music]`, `[ __ ]`), notes, marks of another speaker."""


@dataclass(frozen=True)
class Snippet:
    """What is on the screen from `start` for `duration` seconds, in one or more lines."""

    text: str
    start: float
    duration: float


def join_captions(snippets: Sequence[Snippet]) -> str:
    """The text of a video's captions.

    Rolling captions show the last lines again above each new one, or a line word by word as it is
    spoken. Where at least every second snippet begins with what the one before ended with, they
    are taken for that, and what is repeated is left out. Elsewhere nothing is left out: a refrain
    is sung twice.
    """
    shown = [(_lines(snippet.text), snippet) for snippet in snippets]
    shown = [(lines, snippet) for lines, snippet in shown if lines]
    repeated = [0]  # words at the beginning of each snippet that the one before has
    for (before, _), (lines, _) in pairwise(shown):
        repeated.append(_overlap(before, lines))
    is_rolling = 2 * sum(map(bool, repeated)) >= len(shown) - 1
    text = ""
    end = 0.0
    for (lines, snippet), count in zip(shown, repeated, strict=False):
        words = " ".join(lines).split()[count if is_rolling else 0 :]
        if words:
            gap = "\n" if snippet.start - end >= PAUSE_SECONDS else " "
            text += (gap if text else "") + " ".join(words)
        end = max(end, snippet.start + snippet.duration)
    return text


def _lines(text: str) -> list[str]:
    lines = (" ".join(line.split()) for line in _NOT_SPEECH.sub(" ", text).split("\n"))
    return [line for line in lines if line]


def _overlap(before: list[str], lines: list[str]) -> int:
    """How many words of `lines` are there again: the most last lines of `before` that `lines`
    begins with, or all of `before` where `lines` goes on with its words."""
    for count in range(min(len(before), len(lines)), 0, -1):
        if before[-count:] == lines[:count]:
            return len(" ".join(lines[:count]).split())
    new = " ".join(lines).split()
    for first in range(len(before)):  # the last line may have grown
        old = " ".join(before[first:]).split()
        if new[: len(old)] == old:
            return len(old)
    return 0
