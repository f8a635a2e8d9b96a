"""The pages of a dump's block as documents: what each worker process does.

In: a block, and the settings that decide its documents. Out: for each page a document, or the
reason why there is none.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import quote

from hornbook.documents import Document, document_id
from hornbook.gather.dump_workers import Slow
from hornbook.gather.dump_xml import Block, Revision, Site, block_xml, pages_of
from hornbook.gather.wikitext import Text, Unsure, fast_text, to_text
from hornbook.gather.wikitext_names import HIDDEN_NAMESPACES

_FREE_WIKIS = ("wikipedia", "wiktionary", "wikibooks", "wikiquote", "wikisource", "wikiversity")
FREE_LICENCE = "CC BY-SA 4.0"
"""Of the wikis of Wikimedia, since June 2023; a dump does not say its licence."""


@dataclass(frozen=True)
class Task:
    """A block to read.

    Args:
        wiki: what page titles are put behind to make addresses.
        namespaces: those whose pages are taken.
        parser: as in `wikitext.to_text`.
        page_seconds: for the message of a page that took longer.
    """

    block: Block
    site: Site
    wiki: str
    namespaces: frozenset[int]
    parser: Literal["fast", "mwparserfromhell"]
    page_seconds: float


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
    lost: dict[str, int] = field(default_factory=dict)
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
    results = []
    for number, page in enumerate(pages):
        if isinstance(page, str):
            key = f"byte {task.block.start}, page {number}"
            results.append(PageResult(None, page.partition(" (")[0], quarantined=(key, page)))
        elif number in left_out:
            why = f"took longer than {task.page_seconds:g} s, or its process died"
            results.append(_quarantined(page, why))
        else:
            results.append(_read_page(page, number, task, slow))
    rest = rest.strip()
    ended = rest.endswith(b"</mediawiki>")
    # Before the first page stands the header, which is no sign of a cut.
    cut_off = not whole or (bool(rest) and not ended and not rest.endswith(b"</siteinfo>"))
    return BlockResult(results, ended, cut_off)


def _read_page(page: Revision, number: int, task: Task, slow: Slow) -> PageResult:
    if page.namespace not in task.namespaces:
        return PageResult(None, "other namespace")
    if page.redirect:
        return PageResult(None, "redirect")
    if page.model != "wikitext":
        return PageResult(None, "not wikitext")
    try:
        read = _text(page, number, task, slow)
    except Exception as error:  # whatever a page does to a reader, the others are read
        return _quarantined(page, f"cannot be read ({type(error).__name__})")
    if not read.text:
        return PageResult(None, "no text", dict(read.lost))
    return PageResult(_document(page, read.text, task), "", dict(read.lost))


def _text(page: Revision, number: int, task: Task, slow: Slow) -> Text:
    """The page's text; what may hang is announced."""
    names = (task.site.namespaces.get(number, "").lower() for number in (-2, 6, 14))
    hidden = HIDDEN_NAMESPACES.union(filter(None, names))
    if task.parser == "fast":
        try:
            return fast_text(page.text, title=page.title, hidden=hidden)
        except Unsure:
            pass  # then by the other, which may take long
    slow(number)
    read = to_text(page.text, title=page.title, hidden=hidden, parser="mwparserfromhell")
    slow(None)
    return read


def _document(page: Revision, text: str, task: Task) -> Document:
    url = task.wiki + quote(page.title.replace(" ", "_"), safe="/:@!$*(),;'~") if task.wiki else ""
    host = task.wiki.partition("://")[2].partition("/")[0]
    free = host.endswith(tuple(f"{name}.org" for name in _FREE_WIKIS))
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


def _quarantined(page: Revision, why: str) -> PageResult:
    return PageResult(None, why, quarantined=(f"{page.page} {page.title}", page.text))
