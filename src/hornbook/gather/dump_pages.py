"""The pages of a dump's block as documents: what each worker process does.

In: a block, and the settings that decide its documents. Out: for each page a document, or the
reason why there is none.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import quote

from hornbook.documents import Document, document_id
from hornbook.gather.dump_workers import Slow
from hornbook.gather.dump_xml import Block, Damaged, Revision, Site, block_xml, pages_of
from hornbook.gather.page_text import read_page
from hornbook.gather.wikitext import Text
from hornbook.gather.wikitext_names import HIDDEN_NAMESPACES

_FREE_WIKIS = ("wikipedia", "wiktionary", "wikibooks", "wikiquote", "wikisource", "wikiversity")
FREE_LICENCE = "CC BY-SA 4.0"
"""Of the wikis of Wikimedia, since June 2023; a dump does not say its licence."""


@dataclass(frozen=True)
class Task:
    """A block to read.

    Args:
        wiki: what page titles are put behind to make addresses; "" where that is not known.
        namespaces: those whose pages are taken.
    """

    block: Block
    site: Site
    wiki: str
    namespaces: frozenset[int]


@dataclass(frozen=True)
class PageResult:
    """What became of a page.

    Args:
        document: or None, then `why` says why.
        why: "redirect", "other namespace" ...; for what goes into quarantine, what happened.
        lost: what was left out of the text, by kind.
        quarantined: key and content for the quarantine.
    """

    document: Document | None
    why: str = ""
    lost: Mapping[str, int] = field(default_factory=dict)
    quarantined: tuple[str, str] | None = None


@dataclass(frozen=True)
class BlockResult:
    """The pages of a block; whether the dump ends in it, or is cut off in it; or its damage."""

    pages: list[PageResult]
    ended: bool = False
    cut_off: bool = False
    damage: str = ""


def read_block(task: Task, left_out: frozenset[int], slow: Slow) -> BlockResult:
    """The documents of a block, less the pages `left_out`, which took too long."""
    try:
        xml, whole = block_xml(task.block)
    except ValueError as error:
        return BlockResult([], damage=str(error))
    pages, rest = pages_of(xml)
    names = (task.site.namespaces.get(number, "").lower() for number in (-2, 6, 14))
    hidden = HIDDEN_NAMESPACES.union(filter(None, names))
    read = functools.partial(read_page, hidden=hidden, left_out=left_out, slow=slow)
    results = [
        _put_aside(page, task.block)
        if isinstance(page, Damaged)
        else _read(page, task, functools.partial(read, number))
        for number, page in enumerate(pages)
    ]
    rest = rest.strip()
    ended = rest.endswith(b"</mediawiki>")
    # Before the first page stands the header, which is no sign of a cut.
    cut_off = not whole or (bool(rest) and not ended and not rest.endswith(b"</siteinfo>"))
    return BlockResult(results, ended, cut_off)


def _put_aside(page: Damaged, block: Block) -> PageResult:
    at = f"byte {block.start:,}, {page.offset:,} in its stream"
    key = at if block.compressed else f"byte {block.start + page.offset:,}"
    return PageResult(None, page.why, quarantined=(key, page.xml.decode(errors="replace")))


def _read(page: Revision, task: Task, read_text: Callable[[str, str], Text | str]) -> PageResult:
    if page.namespace not in task.namespaces:
        return PageResult(None, "other namespace")
    if page.redirect:
        return PageResult(None, "redirect")
    if page.model != "wikitext":
        return PageResult(None, "not wikitext")
    read = read_text(page.title, page.text)
    if isinstance(read, str):
        return PageResult(None, read, quarantined=(f"{page.page} {page.title}", page.text))
    if not read.text:
        return PageResult(None, "no text", read.lost)
    return PageResult(_document(page, read.text, task), "", read.lost)


def _document(page: Revision, text: str, task: Task) -> Document:
    url = task.wiki + quote(page.title.replace(" ", "_"), safe="/:@!$*(),;'~") if task.wiki else ""
    host = task.wiki.partition("://")[2].partition("/")[0]
    free = host.endswith(tuple(f".{name}.org" for name in _FREE_WIKIS))
    return Document(
        text=text,
        source="wikidump",
        url=url,
        title=page.title,
        licence=FREE_LICENCE if free else "",
        language=task.site.language,
        created=page.timestamp,
        meta={"page": page.page, "revision": page.revision},
        id=document_id(f"wikidump\n{url or page.title}\n{page.revision}"),
    )
