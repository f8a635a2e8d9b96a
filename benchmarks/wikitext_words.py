"""Words lost between wikitext and text, against the rendered pages of a real MediaWiki.

In: the XML sample of 206 pages, a MediaWiki on loopback (`tests/mediawiki.py`), and the program
`wikiextractor` (3.1.0, in an environment of its own: it is AGPL, so it is called, never imported).
Out: OUT/wikitext_words.json. The reference is the text of each rendered article without tables,
references, formulas, pictures, and red links of templates that the sample lacks; words are
compared as multisets. Recall: the share of the reference's words that a reader gives; precision:
the share of its words that are in the reference. Twice: with the templates of `tests/mediawiki.py`,
which show their words as Wikipedia's do, and without any, where only what stands outside templates
can be found.

    PYTHONPATH=. python benchmarks/wikitext_words.py SAMPLE.xml.bz2 --wikiextractor PROGRAM
"""

from __future__ import annotations

import bz2
import html
import json
import re
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import httpx2
import mwparserfromhell
from common import parser_for, write_result
from resiliparse.parse.html import HTMLTree
from tests.mediawiki import TEMPLATES, MediaWiki, built_wiki, serve

from hornbook.gather.dump_xml import Revision, pages_of
from hornbook.gather.wikitext import to_text

LEFT_OUT = (
    "table, sup.reference, ol.references, .mw-references-wrap, .toc, .mw-editsection, .thumb, "
    ".gallery, style, script, .mwe-math-element, .tex, a.new[href*='title=Template:'], figure"
)
"""What a text of the page is not asked to hold."""


def main() -> None:
    """Measure both ways, and write the results."""
    parser = parser_for(__doc__, tiny=False)
    parser.add_argument("sample", type=Path)
    parser.add_argument("--wikiextractor", default="wikiextractor", help="the program")
    options = parser.parse_args()
    xml = bz2.decompress(options.sample.read_bytes())
    pages = [page for page in pages_of(xml)[0] if isinstance(page, Revision)]
    pages = [page for page in pages if page.namespace == 0 and not page.redirect]
    extracted = wikiextractor_texts(options.wikiextractor, xml)
    readers: dict[str, Callable[[Revision], str]] = {
        "hornbook": lambda page: to_text(page.text, title=page.title).text,
        "WikiExtractor 3.1.0": lambda page: extracted.get(str(page.page), ""),
        "mwparserfromhell strip_code": lambda page: mwparserfromhell.parse(page.text).strip_code(),
    }
    result: dict[str, Any] = {"pages": len(pages)}
    for name, templates in (("with templates", TEMPLATES), ("without templates", {})):
        references = rendered_texts(options.sample, templates, pages)
        result[name] = {"reference words": sum(len(words(text)) for text in references.values())}
        for reader, read in readers.items():
            texts = {page.title: read(page) for page in pages}
            result[name][reader] = compare(references, texts)
            print(name, reader, result[name][reader])
    write_result(options.out, "wikitext_words", result)


def rendered_texts(
    sample: Path, templates: Mapping[str, str], pages: list[Revision]
) -> dict[str, str]:
    """The text of each page as MediaWiki renders it, by title."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "wiki"
        shutil.copytree(built_wiki(sample, templates), copy)
        with serve(copy) as wiki:
            return {page.title: rendered_text(wiki, page.title) for page in pages}


def rendered_text(wiki: MediaWiki, title: str) -> str:
    query = {"action": "parse", "page": title, "prop": "text", "format": "json", "formatversion": 2}
    answer = httpx2.get(wiki.api_url, params=query, timeout=300).json()
    tree = HTMLTree.parse(answer["parse"]["text"])
    for node in tree.body.query_selector_all(LEFT_OUT):
        if node.parent is not None:
            node.parent.remove_child(node)
    return str(tree.body.text)


def wikiextractor_texts(program: str, xml: bytes) -> dict[str, str]:
    """What WikiExtractor gives, by page number."""
    with tempfile.TemporaryDirectory() as folder:
        dump = Path(folder) / "dump.xml"
        dump.write_bytes(xml)
        out = Path(folder) / "out"
        subprocess.run([program, "--json", "-q", "-o", str(out), str(dump)], check=True)
        lines = [line for path in out.rglob("wiki_*") for line in path.read_text().splitlines()]
    return {entry["id"]: html.unescape(entry["text"]) for entry in map(json.loads, lines)}


def words(text: str) -> list[str]:
    """Words in lower case; what is no letter, digit or underscore separates them."""
    return re.findall(r"\w+", text.lower())


def compare(references: Mapping[str, str], texts: Mapping[str, str]) -> dict[str, Any]:
    """Recall and precision of the words of all pages, and the words lost most often."""
    found = given = wanted = 0
    lost: Counter[str] = Counter()
    for title, reference in references.items():
        expected, got = Counter(words(reference)), Counter(words(texts[title]))
        found += (expected & got).total()
        wanted += expected.total()
        given += got.total()
        lost += expected - got
    return {
        "recall": found / wanted,
        "precision": found / given,
        "words lost": wanted - found,
        "lost most often": dict(lost.most_common(12)),
    }


if __name__ == "__main__":
    main()
