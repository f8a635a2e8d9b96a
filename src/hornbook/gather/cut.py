"""Where a long text may be cut: at blank lines, else newlines, else sentence ends, else spaces.

In: a text and a size. Out: spans (start, end) in characters. Between two spans nothing is left
out but blank lines.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

_BLANK_LINES = re.compile(r"\n(?:[ \t\r]*\n)+")
_OTHER_ENDS = (
    re.compile(r"\n"),
    re.compile(r"[.!?][\"'”’)\]]*\s+|[。！？]"),
    re.compile(r"\s+"),
)


def cut(text: str, size: int) -> Iterator[tuple[int, int]]:
    """Yield spans of at most `size` characters, each as long as good places to cut allow.

    `text[start:end]` of all spans, one after the other, is the text without the blank lines at
    which it was cut. A span is a quarter of `size` long at least, but for the last one.
    """
    start = 0
    while len(text) - start > size:
        end, following = cut_point(text, start + max(1, size // 4), start + size)
        yield start, end
        start = following
    if start < len(text):
        yield start, len(text)


def cut_point(text: str, low: int, high: int) -> tuple[int, int]:
    """The best place to cut between `low` and `high`: (end of this part, start of the next).

    The two differ by the blank lines in between; every other separator stays at the end of the
    part before it. A text with no separator at all is cut at `high`.
    """
    if found := _last(_BLANK_LINES, text, low - 1, high):
        blank = _BLANK_LINES.match(text, found.start())  # again, as it may go on past `high`
        assert blank is not None
        return blank.start() + 1, blank.end()
    for pattern in _OTHER_ENDS:
        if end := _last(pattern, text, low - 1, high):
            return end.end(), end.end()
    return high, high


def _last(pattern: re.Pattern[str], text: str, low: int, high: int) -> re.Match[str] | None:
    last = None
    for match in pattern.finditer(text, low, high):
        last = match
    return last
