"""Wikitext to text in a process of its own, which is ended when a page takes too long.

In: pages. Out: the text of each, or the reason why it goes into quarantine.
"""

from __future__ import annotations

from dataclasses import dataclass

from hornbook.gather.dump_workers import Slow
from hornbook.gather.wikitext import Text, to_text
from hornbook.gather.wikitext_names import HIDDEN_NAMESPACES

PAGE_SECONDS = 10.0


@dataclass(frozen=True)
class Batch:
    """Pages to read: (title, wikitext) of each, and the wiki's own names of namespaces whose links
    show no words."""

    pages: list[tuple[str, str]]
    hidden: frozenset[str]


def read_batch(batch: Batch, left_out: frozenset[int], slow: Slow) -> list[Text | str]:
    """The texts of a batch, as `read_page` gives them."""
    hidden = HIDDEN_NAMESPACES | batch.hidden
    return [
        read_page(number, title, wikitext, hidden, left_out, slow)
        for number, (title, wikitext) in enumerate(batch.pages)
    ]


def read_page(
    number: int,
    title: str,
    wikitext: str,
    hidden: frozenset[str],
    left_out: frozenset[int],
    slow: Slow,
) -> Text | str:
    """The text of a part of a task; or why there is none, as where it is one of `left_out`."""
    if number in left_out:
        return "took too long, or its process died"
    try:
        return to_text(wikitext, title=title, hidden=hidden, limit=slow(number))
    except Exception as error:  # whatever a page does to a reader, the others are read
        return f"cannot be read ({type(error).__name__})"
