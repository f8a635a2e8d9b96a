"""Dumps of our own for the tests of `wikidump`: XML as MediaWiki writes it, plain and packed."""

from __future__ import annotations

import bz2
from collections.abc import Sequence
from xml.sax.saxutils import escape

HEADER = """<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/" xml:lang="en">
  <siteinfo>
    <base>https://en.wikipedia.org/wiki/Main_Page</base>
    <namespaces>
      <namespace key="0" case="first-letter" />
      <namespace key="6" case="first-letter">Picture</namespace>
    </namespaces>
  </siteinfo>
"""
FOOTER = "</mediawiki>\n"


def page_xml(number: int, text: str, *, title: str = "", namespace: int = 0, more: str = "") -> str:
    """One page; `more` goes before its revision (`<redirect ... />`)."""
    return (
        f"  <page>\n    <title>{escape(title or f'Page {number}')}</title>\n"
        f"    <ns>{namespace}</ns>\n    <id>{number}</id>\n"
        f"    {more}<revision>\n      <id>{number + 1000}</id>\n"
        "      <timestamp>2024-05-06T07:08:09Z</timestamp>\n      <model>wikitext</model>\n"
        f'      <text bytes="{len(text)}" xml:space="preserve">{escape(text)}</text>\n'
        "    </revision>\n  </page>\n"
    )


def plain(pages: Sequence[str]) -> bytes:
    """`pages-articles.xml`."""
    return (HEADER + "".join(pages) + FOOTER).encode()


def multistream(pages: Sequence[str], per_stream: int = 100) -> bytes:
    """`pages-articles-multistream.xml.bz2`: header, pages and footer in streams of their own."""
    streams = ["".join(pages[at : at + per_stream]) for at in range(0, len(pages), per_stream)]
    return b"".join(bz2.compress(part.encode()) for part in (HEADER, *streams, FOOTER))


def many_streams(pages: Sequence[str], cut: int = 5000) -> bytes:
    """As pbzip2 writes it: many streams, cut anywhere."""
    xml = plain(pages)
    return b"".join(bz2.compress(xml[at : at + cut]) for at in range(0, len(xml), cut))
