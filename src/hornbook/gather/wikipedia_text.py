"""Wikitext to text in a process of its own, which is ended when a page takes too long.

In: pages of a batch. Out: the text of each, or the reason why there is none.
"""

from __future__ import annotations

from dataclasses import dataclass

from hornbook.gather.dump_workers import Slow
from hornbook.gather.wikitext import Unsure, fast_text, to_text
from hornbook.gather.wikitext_names import HIDDEN_NAMESPACES

PAGE_SECONDS = 10.0


@dataclass(frozen=True)
class Batch:
    """Pages to read: (title, wikitext) of each, and the wiki's own names of namespaces whose links
    show no words."""

    pages: list[tuple[str, str]]
    hidden: frozenset[str]


@dataclass(frozen=True)
class Read:
    """The text of a page; or why it goes into quarantine."""

    text: str
    why: str = ""


def read_batch(batch: Batch, left_out: frozenset[int], slow: Slow) -> list[Read]:
    """The texts of a batch, less the pages `left_out`, which took too long."""
    hidden = HIDDEN_NAMESPACES | batch.hidden
    results = []
    for number, (title, wikitext) in enumerate(batch.pages):
        if number in left_out:
            results.append(Read("", f"took longer than {PAGE_SECONDS:g} s, or its process died"))
            continue
        try:
            read = fast_text(wikitext, title=title, hidden=hidden)
        except Unsure:
            slow(number)
            try:
                read = to_text(wikitext, title=title, hidden=hidden, parser="mwparserfromhell")
            except Exception as error:  # whatever a page does to a reader, the others are read
                results.append(Read("", f"cannot be read ({type(error).__name__})"))
                continue
            finally:
                slow(None)
        results.append(Read(read.text))
    return results
