"""Wikitext to clean text: what a reader of the rendered page reads.

In: the wikitext of a page. Out: its text, and what was left out of it, counted.

Kept: prose, headings, lists, quotations, code, formulas as LaTeX between dollar signs, and the
words of the templates in the table. Left out: tables, references, pictures, categories, links to
other languages, boxes, and templates that the table does not know. Done in two parts:

1. what nests (templates, links, tags with a content of their own), by one of two readers that give
   the same: a fast one of one pass here, and mwparserfromhell (`wikitext_nodes`). Where brackets
   do not close, the fast one gives up (`Unsure`) rather than guess, and mwparserfromhell reads;
2. what goes by lines and signs (`wikitext_lines`), shared by both.
"""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from hornbook.gather.wikitext_lines import (
    clean_lines,
    protect,
    without_entities,
    without_noncharacters,
)
from hornbook.gather.wikitext_names import HIDDEN_NAMESPACES, LANGUAGE_PREFIXES, OPAQUE_TAGS
from hornbook.gather.wikitext_templates import Arguments, template_key, template_text

DEEPEST = 40
"""Brackets in brackets beyond this are left to mwparserfromhell, which has the same limit."""


class Unsure(Exception):
    """The fast reader met brackets that do not close; the reason is its message."""


@dataclass(frozen=True)
class Text:
    """The text of a page, and how much of each kind was left out of it.

    `lost` counts by kind: `table`, and as `{{name}}` templates that the table does not know but
    that were called with words (named arguments alone are a box's; none, a list of links).
    """

    text: str
    lost: Counter[str]


@dataclass
class Page:
    """What the rules need to know of the page that is read, and what they left out of it."""

    title: str = ""
    hidden: frozenset[str] = HIDDEN_NAMESPACES
    lost: Counter[str] = field(default_factory=Counter)

    def template(self, name: str, positional: Sequence[str], named: dict[str, str]) -> str:
        """The words of a template; "" with a count where it is not known and was given some."""
        arguments = Arguments(positional, named)
        text = template_text(name, arguments, self.title)
        if text is None and arguments.all():
            self.lost[f"{{{{{template_key(name)[:60]}}}}}"] += 1
        return text or ""

    def link(self, target: str, label: str | None) -> str:
        """The words of `[[target]]` or `[[target|label]]`."""
        target = target.strip()
        if ":" not in target and "//" not in target:
            return label or target
        if target.startswith(("http://", "https://", "ftp://", "//", "mailto:")):
            return f"[[{target}]]" if label is None else f"[[{target}|{label}]]"  # outside link
        if target.startswith(":"):
            return label or target[1:]
        prefix = target.partition(":")[0].strip().lower() if ":" in target else ""
        if prefix in self.hidden or prefix in LANGUAGE_PREFIXES:
            return ""
        return label or target


def to_text(
    wikitext: str,
    *,
    title: str = "",
    hidden: frozenset[str] = HIDDEN_NAMESPACES,
    parser: str = "fast",
    limit: AbstractContextManager[None] | None = None,
) -> Text:
    """The text that a reader of the rendered page reads.

    Args:
        wikitext: of one page.
        title: of the page, for templates that show it.
        hidden: namespaces (in lower case) whose links show no words: files, categories.
        parser: `fast` (which leaves what it is unsure of to the other) or `mwparserfromhell`.
        limit: entered while mwparserfromhell reads, which can take hours for wikitext made for it:
            what comes from strangers is read in a process that is ended (`dump_workers`).
    """
    if parser == "fast":
        try:
            return fast_text(wikitext, title=title, hidden=hidden)
        except Unsure:
            pass  # mwparserfromhell has rules for brackets that do not close
    from hornbook.gather.wikitext_nodes import structure_by_nodes

    page = Page(title, hidden)
    with limit or contextlib.nullcontext():
        structure = structure_by_nodes(without_noncharacters(wikitext), page)
    return _finish(structure, page)


def fast_text(
    wikitext: str, *, title: str = "", hidden: frozenset[str] = HIDDEN_NAMESPACES
) -> Text:
    """`to_text` by the fast reader alone, in time linear in the text. Raises `Unsure`."""
    page = Page(title, hidden)
    return _finish(_structure(_without_tags(without_noncharacters(wikitext)), page), page)


def tag_text(name: str, content: str) -> str:
    """The words of a tag that has a language of its own inside: code, formulas; else none."""
    if name in ("nowiki", "pre"):
        return protect(without_entities(content).strip("\n"))
    if name in ("source", "syntaxhighlight"):
        return protect(content.strip("\n"))
    if name in ("math", "chem", "ce"):
        return protect(f"${content.strip()}$")
    return ""


_OPAQUE_START = re.compile(rf"<(?:!--|({'|'.join(sorted(OPAQUE_TAGS))})(?=[\s/>]))", re.IGNORECASE)
_OPAQUE_END = {name: re.compile(rf"</{name}\s*>", re.IGNORECASE) for name in OPAQUE_TAGS}


def _without_tags(wikitext: str) -> str:
    """`wikitext` without comments, and with opaque tags replaced by their words."""
    pieces: list[str] = []
    position = 0
    while start := _OPAQUE_START.search(wikitext, position):
        pieces.append(wikitext[position : start.start()])
        if start[1] is None:
            end = wikitext.find("-->", start.end())
            if end < 0:
                raise Unsure("a comment that does not end")
            position = end + 3
            continue
        opened = wikitext.find(">", start.end())
        if opened < 0:
            raise Unsure("a tag that does not end")
        position = opened + 1
        if wikitext[opened - 1] != "/":
            name = start[1].lower()
            closing = _OPAQUE_END[name].search(wikitext, position)
            if closing is None:
                raise Unsure(f"<{name}> that is not closed")
            pieces.append(tag_text(name, wikitext[position : closing.start()]))
            position = closing.end()
    pieces.append(wikitext[position:])
    return "".join(pieces)


_BRACKETS = re.compile(
    r"(\[\[[^\[\]{}|<>\n]++(?:\|[^\[\]{}|]*+)?\]\]"  # a whole link that nothing is nested in
    r"|\{\{+|\}\}+|\[\[|\]\]|\|)"
)
_EQUALS = protect("=")


def _structure(wikitext: str, page: Page) -> str:
    """`wikitext` with templates and links replaced by their words, in one pass with a stack.

    Brackets pair as in MediaWiki's preprocessor: only the innermost open one can be closed, and a
    bar belongs to it.
    """
    top: list[str] = []
    out = top  # what text is added to: a part of the innermost open bracket, or the page
    stack: list[tuple[bool, list[list[str]], list[str]]] = []  # is a template, parts, outer `out`
    for at, token in enumerate(_BRACKETS.split(wikitext)):
        if not at % 2:
            out.append(token)
        elif token == "|":
            if stack:
                out = []
                stack[-1][1].append(out)
            else:
                out.append(token)
        elif token[0] == "[" and len(token) > 2:
            target, bar, label = token[2:-2].partition("|")
            text = page.link(target, label if bar else None)
            out.append(text.replace("=", _EQUALS) if "=" in text else text)
        elif token == "[[" or token == "{{":
            if len(stack) == DEEPEST:
                raise Unsure("brackets nested too deep")
            parts: list[list[str]] = [[]]
            stack.append((token == "{{", parts, out))
            out = parts[0]
        elif token == "]]":
            if stack and not stack[-1][0]:
                _, parts, out = stack.pop()
                out.append(_link(parts, page))
            else:
                out.append(token)
        elif token[0] == "{":
            raise Unsure("three braces or more")
        else:
            closing = len(token)
            while closing >= 2 and stack and stack[-1][0]:
                _, parts, out = stack.pop()
                out.append(_template(parts, page))
                closing -= 2
            if closing and stack:
                raise Unsure("braces that close something else")
            out.append("}" * closing)
    if stack:
        raise Unsure("brackets that are not closed")
    return "".join(top)


_NOT_IN_TITLES = re.compile(r"[\[\]{}<>\n]")


def _template(parts: list[list[str]], page: Page) -> str:
    """The words of a template from its parts between bars; a part's own `=` names an argument."""
    name = "".join(parts[0]).strip()
    if _NOT_IN_TITLES.search(name.partition(":")[0]):
        raise Unsure("a template with an impossible name")
    positional: list[str] = []
    named: dict[str, str] = {}
    for pieces in parts[1:]:
        text = "".join(pieces)
        key, equals, value = text.partition("=")
        if equals:
            named[key.strip()] = value.strip()
        else:
            positional.append(text)
    return page.template(name, positional, named).replace("=", _EQUALS)


def _link(parts: list[list[str]], page: Page) -> str:
    """The words of a link from its parts between bars."""
    target = "".join(parts[0])
    if _NOT_IN_TITLES.search(target):
        raise Unsure("a link with an impossible target")
    label = "|".join("".join(part) for part in parts[1:]) if len(parts) > 1 else None
    return page.link(target, label).replace("=", _EQUALS)


def _finish(structure: str, page: Page) -> Text:
    text, tables = clean_lines(structure)
    if tables:
        page.lost["table"] += tables
    return Text(text, page.lost)
