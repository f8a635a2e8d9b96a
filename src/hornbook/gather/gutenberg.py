"""Project Gutenberg's plain text files: the licence around the text off, collections into works.

In: a file's text. Out: the text between the markers; (title, text) of each work of a collection.
"""

from __future__ import annotations

import re

_START = re.compile(r"^.*\*\*\* ?START OF TH[EI]S? PROJECT GUTENBERG EBOOK[^\n]*\n", re.M | re.I)
_END = re.compile(r"^.*\*\*\* ?END OF TH[EI]S? PROJECT GUTENBERG EBOOK", re.M | re.I)
_CONTENTS = re.compile(r"^[ \t]*Contents[ \t]*\n\s*?\n((?:[ \t]+\S[^\n]*\n|[ \t]*\n)+)", re.M)


def strip_boilerplate(text: str) -> str:
    """The text between Project Gutenberg's start and end markers, newlines as `\\n`.

    Raises:
        ValueError: the markers are not there, so this is no such file, or not all of it.
    """
    text = text.replace("\r\n", "\n")
    start, end = _START.search(text), _END.search(text)
    if start is None or end is None or end.start() < start.end():
        raise ValueError("it has no Project Gutenberg start and end markers")
    return text[start.end() : end.start()].strip("\n") + "\n"


def split_works(text: str) -> list[tuple[str, str]]:
    """Cut a collection at the titles that its table of contents lists: (title, text) of each.

    The table is a line `Contents` and indented titles; each work begins with its title alone on a
    line, not indented. A title that is not found leaves its work with the one before it; with no
    table at all there is one work without a title.
    """
    contents = _CONTENTS.search(text)
    titles = [line.strip() for line in contents.group(1).splitlines()] if contents else []
    position = contents.end() if contents else 0
    starts: list[tuple[str, int]] = []
    for title in filter(None, titles):
        if found := re.compile(rf"^{re.escape(title)}[ \t]*$", re.M).search(text, position):
            starts.append((title, found.start()))
            position = found.end()
    if not starts:
        return [("", text)]
    ends = [start for _, start in starts[1:]] + [len(text)]
    return [
        (title, text[start:end].strip("\n") + "\n")
        for (title, start), end in zip(starts, ends, strict=True)
    ]
