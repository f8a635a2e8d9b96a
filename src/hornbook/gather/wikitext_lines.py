"""The second part of reading wikitext: what goes by lines and signs, after all that nests.

In: wikitext without templates and links. Out: plain text: tables left out, headings and list items
as lines of their own, no quotes that mean bold, no tags, entities replaced.

The time is linear in the text: a pattern that may run on for long gives nothing back (`*+`). One
that did took 3 s for 20 kB of `[//aaa`, and four times that for twice as much.
"""

from __future__ import annotations

import html
import re

from hornbook.gather.wikitext_names import BLOCK_TAGS, INLINE_TAGS

_SIGNS = "'[]{}|<>=*#:;!_-( \t\n&"
_PROTECTED = {ord(sign): 0xFDD0 + at for at, sign in enumerate(_SIGNS)}
_UNPROTECTED = {chr(stand_in): chr(sign) for sign, stand_in in _PROTECTED.items()}
_STAND_INS = re.compile("[\ufdd0-\ufdef]")


def protect(text: str) -> str:
    """`text` with every sign that means something in wikitext replaced by a stand-in.

    The stand-ins are the noncharacters U+FDD0 and following, which no text may hold; `clean_lines`
    puts the signs back.
    """
    return text.translate(_PROTECTED)


def without_noncharacters(text: str) -> str:
    """`text` without the code points that `protect` uses."""
    return _STAND_INS.sub("", text)


def without_entities(text: str) -> str:
    """`text` with `&amp;` and the like as the characters that they mean."""
    return _ENTITY.sub(lambda entity: html.unescape(entity[0]), text)


def clean_lines(text: str) -> tuple[str, int]:
    """Plain text, and the number of tables that were left out."""
    lines = text.split("\n")
    tables = _table_ends(lines) if "{|" in text else {}
    for start, end in tables.items():
        after = lines[end].lstrip()[2:]
        lines[start : end + 1] = [after] + [""] * (end - start)
    cleaned = [_line(line) if line[:1] in _MARKS or "''" in line else line for line in lines]
    text = _without_html("\n".join(cleaned))
    text = _OUTSIDE_LINK.sub(r"\1", text)
    text = _MAGIC_WORD.sub("", text)
    text = without_entities(text)
    text = _SPACES.sub(" ", text.replace("\u00a0", " ").replace("\t", " "))
    text = _EMPTY_BRACKETS.sub("", _LEFT_OVER_COMMAS.sub("(", text))
    text = text.replace("\n ", "\n").replace(" \n", "\n")
    text = _EMPTY_LINES.sub("\n\n", text).strip("\n ")
    return _STAND_INS.sub(lambda found: _UNPROTECTED[found[0]], text), len(tables)


_OUTSIDE_LINK = re.compile(
    r"\[(?:(?:https?:|ftps?:|irc:|news:)?//|mailto:)[^\s\[\]<>\"|]*+[ \t|]*+([^\[\]\n]*+)\]"
)
_MAGIC_WORD = re.compile(r"__[A-Z]{3,20}__")
_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[a-zA-Z][a-zA-Z0-9]{1,31});")
_SPACES = re.compile("  +")
_LEFT_OVER_COMMAS = re.compile(r"\((?: ?[;,])+ ?")
_EMPTY_BRACKETS = re.compile(r" \( ?\)")
_EMPTY_LINES = re.compile("\n\n\n+")
_MARKS = frozenset("=*#:;-| {")
_LIST_MARKS = re.compile(r"[*#:;]+")
_TABLE_START = re.compile(r"[ \t:]*\{\|")


def _table_ends(lines: list[str]) -> dict[int, int]:
    """From the first line of each outermost table to its last. One without an end is none."""
    open_at: list[int] = []
    ends: dict[int, int] = {}
    for at, line in enumerate(lines):
        if "{|" in line and _TABLE_START.match(line):
            open_at.append(at)
        elif open_at and "|}" in line and line.lstrip().startswith("|}"):
            ends[open_at.pop()] = at
    outermost: dict[int, int] = {}
    last = -1
    for start, end in sorted(ends.items()):
        if start > last:
            outermost[start] = last = end
    return outermost


def _line(line: str) -> str:
    """One line of a page as text; headings are set off by empty lines."""
    line = _quotes(line) if "''" in line else line
    if line.startswith("="):
        return _heading(line.rstrip())
    if marks := _LIST_MARKS.match(line):
        item = line[marks.end() :].strip()
        return f"- {item}" if item and ("*" in marks[0] or "#" in marks[0]) else item
    if line.startswith("----"):
        return line.lstrip("-")
    if line.lstrip(" ").startswith(("|", "{|")):
        return ""  # left over from a table or a template that does not end
    return line


def _heading(line: str) -> str:
    """The title of `== Heading ==`, or the line as it is."""
    level = min(len(line) - len(line.lstrip("=")), len(line) - len(line.rstrip("=")), 6)
    title = line[level : len(line) - level].strip() if level else ""
    return f"\n{title}\n" if title else line


_QUOTES = re.compile("'{2,}")


def _quotes(line: str) -> str:
    """`line` without the quotes that mean italic (2), bold (3) or both (5).

    MediaWiki reads four as an apostrophe and bold, more than five as five after apostrophes; and
    where a line has an odd number of both kinds, one bold is an apostrophe and italic, as in
    `l'''amour''`.
    """
    runs = [len(run[0]) for run in _QUOTES.finditer(line)]
    bold = sum(run in (3, 4) or run >= 5 for run in runs)
    italic = sum(run == 2 or run >= 5 for run in runs)
    misread = _misread_bold(line) if bold % 2 and italic % 2 else -1

    def apostrophes(run: re.Match[str]) -> str:
        length = len(run[0])
        literal = 1 if length == 4 else max(0, length - 5)
        return "'" * (literal + (run.start() == misread))

    return _QUOTES.sub(apostrophes, line)


def _misread_bold(line: str) -> int:
    """Where the bold quotes begin that MediaWiki takes for an apostrophe and italic; -1: none.

    The first after a word of one letter, else the first after a longer word, else the first.
    """
    choices: dict[str, int] = {}
    for run in _QUOTES.finditer(line):
        if len(run[0]) == 3:
            before = line[max(0, run.start() - 2) : run.start()]
            kind = "space" if before.endswith(" ") else "letter" if before[:1] == " " else "word"
            choices.setdefault(kind, run.start())
    return next((choices[kind] for kind in ("letter", "word", "space") if kind in choices), -1)


_TAG = re.compile(r"<(/?)([a-zA-Z][a-zA-Z0-9]*+)\b[^<>]*+>")


def _without_html(text: str) -> str:
    """`text` without tags; blocks begin and end lines, HTML tables go with what they hold."""
    if "<" not in text:
        return text
    pieces: list[str] = []
    position = depth = 0
    for tag in _TAG.finditer(text):
        name = tag[2].lower()
        if name not in INLINE_TAGS and name not in BLOCK_TAGS:
            continue
        if not depth:
            pieces.append(text[position : tag.start()])
            pieces.append("\n" if name in BLOCK_TAGS else "")
        position = tag.end()
        if name == "table":
            depth = max(0, depth - 1) if tag[1] else depth + 1
    pieces.append(text[position:])
    return "".join(pieces)
