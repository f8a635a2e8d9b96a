"""Web pages to text: the main part or all of it, and what the page says about itself.

In: HTML. Out: text, and title, language, date and licence from JSON-LD, `og:` tags and the head.
The text is found by resiliparse, or by trafilatura as a second opinion.
"""

from __future__ import annotations

import codecs
import importlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urldefrag, urljoin

from hornbook.errors import HornbookError
from hornbook.gather.encodings import byte_order_mark, detect

Extractor = Literal["resiliparse", "trafilatura", "longest"]

LARGEST_HTML = 32 * 2**20
"""Characters of a page; the parsed tree takes about ten times as much memory."""

DEEPEST = 100
"""Elements inside one another; pages made for people have some 30. Finding the main text takes time
with the square of it (div elements 8,000 deep: 1.3 s here, 20,000: 14 s), and lists are indented by
it (20,000 deep: 400 MB of spaces), so deeper pages give all their words without line breaks."""

_DECLARED = re.compile(rb"<meta[^>]{0,200}?charset\s*=\s*[\"']?\s*([A-Za-z0-9_:.-]+)", re.I)
_NESTING = re.compile(r"<(/?)(?:div|section|article|main|center|span|table|ul|ol)\b", re.I)


@dataclass(frozen=True)
class WebPage:
    """What was found in a page, or in a book; fields that it does not give are empty."""

    text: str
    title: str = ""
    language: str = ""
    created: str = ""
    licence: str = ""


def declared_encoding(head: bytes) -> str | None:
    """The charset that a page names in its first 4 KB, as browsers understand it."""
    found = _DECLARED.search(head[:4096])
    if found is None:
        return None
    encoding_module = _library("resiliparse.parse.encoding")
    # "iso-8859-1" means cp1252 on the web. A page that is read as bytes is not in UTF-16.
    encoding = encoding_module.map_encoding_to_html5(found.group(1).decode("ascii"), False)
    return None if encoding is None or encoding.startswith("utf-16") else _known(encoding)


def decode_page(content: bytes, charset: str | None = None) -> str:
    """The text of a page's bytes; what does not fit becomes U+FFFD.

    Args:
        content: the page.
        charset: that the server named; a byte-order mark wins, and this over the page's own word.
    """
    mark, encoding = byte_order_mark(content) or (b"", _known(charset or ""))
    encoding = encoding or declared_encoding(content)
    if encoding is None:
        encoding = "utf-8" if content.isascii() else detect(content)
    return content[len(mark) :].decode(encoding, "replace")


def _known(encoding: str) -> str | None:
    try:
        return codecs.lookup(encoding).name if encoding else None
    except LookupError:
        return None


def read_page(
    html: str, *, main: bool = True, extractor: Extractor = "resiliparse", selector: str = ""
) -> WebPage:
    """Text and description of a page.

    Args:
        html: the page.
        main: only its main text, without navigation and footers; all text where there is none.
        extractor: what finds the main text; `longest` asks both and takes the longer answer.
        selector: CSS selector of the elements to take; where none is there, it is ignored.

    Raises:
        HornbookError: a library is not installed, or the selector is not CSS.
    """
    plain_text = _library("resiliparse.extract.html2text").extract_plain_text
    html = html[:LARGEST_HTML]
    tree = _parse(html)
    if _is_nested_deeply(html):
        text = plain_text(tree, preserve_formatting=False, alt_texts=False)
        return WebPage(text=text.strip(), **_description(tree))
    texts: list[str] = []
    if chosen := "".join(f"<div>{element.html}</div>" for element in _select(tree, selector)):
        texts.append(plain_text(chosen, alt_texts=False))
    elif main:
        if extractor != "trafilatura":
            texts.append(plain_text(tree, main_content=True, alt_texts=False))
        if extractor != "resiliparse":
            texts.append(_by_trafilatura(html))
    text = max(texts, key=len, default="").strip() or plain_text(tree, alt_texts=False).strip()
    return WebPage(text=text, **_description(tree))


def links(html: str, base: str) -> list[str]:
    """The addresses that a page links to, in order, each once, without fragments."""
    found = _parse(html).document.query_selector_all("a[href]")
    return list(dict.fromkeys(_joined(base, each.getattr("href")) for each in found))


def canonical_url(html: str, base: str) -> str:
    """The address under which a page wants to be known: its own word, or else `base`."""
    link = _parse(html).document.query_selector('link[rel~="canonical"][href]')
    return _joined(base, link.getattr("href") if link else "")


def _joined(base: str, href: str) -> str:
    try:
        return urldefrag(urljoin(base, href.strip())).url
    except ValueError:  # as in http://[
        return base


def _parse(html: str) -> Any:
    return _library("resiliparse.parse.html").HTMLTree.parse(html)


def _library(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError:
        raise HornbookError(
            "reading web pages needs resiliparse", hint="pip install 'hornbook[gather]'"
        ) from None


def _select(tree: Any, selector: str) -> list[Any]:
    if not selector:
        return []
    try:
        return list(tree.document.query_selector_all(selector))
    except ValueError as error:  # the library's CSSParserException is one
        raise HornbookError(
            f"is not a CSS selector ({error})", where=selector, hint="For example: article, #main"
        ) from None


def _by_trafilatura(html: str) -> str:
    try:
        import trafilatura
    except ImportError:
        raise HornbookError(
            "this extractor needs trafilatura", hint="pip install 'hornbook[html]'"
        ) from None
    return trafilatura.extract(html, include_comments=False) or ""


def _is_nested_deeply(html: str) -> bool:
    depth = 0
    for found in _NESTING.finditer(html):
        depth = max(0, depth - 1) if found.group(1) else depth + 1
        if depth > DEEPEST:
            return True
    return False


def _description(tree: Any) -> dict[str, str]:
    linked = next(_articles(tree), {})
    meta = dict(_meta(tree))
    root = tree.document.query_selector("html")
    licence = tree.document.query_selector('[rel~="license"][href]')
    return {
        "title": _first(linked.get("headline"), linked.get("name"), meta.get("og:title"))
        or " ".join((tree.title or "").split()),
        "language": _first(root and root.getattr("lang"), linked.get("inLanguage")),
        "created": _first(
            linked.get("dateModified"),
            linked.get("datePublished"),
            meta.get("article:modified_time"),
            meta.get("article:published_time"),
        ),
        "licence": _first(linked.get("license"), licence and licence.getattr("href")),
    }


def _first(*values: Any) -> str:
    """The first value that is text; of a JSON-LD object its address or name."""
    for value in values:
        if isinstance(value, Mapping):
            value = value.get("url") or value.get("@id") or value.get("name")
        if isinstance(value, str) and value.strip():
            return value.strip()
    return ""


def _meta(tree: Any) -> Iterator[tuple[str, str]]:
    for element in tree.document.query_selector_all("meta[property][content]"):
        yield element.getattr("property"), element.getattr("content")


def _articles(tree: Any) -> Iterator[Mapping[str, Any]]:
    """JSON-LD objects that describe a text (schema.org's Article and its kinds, or a page)."""
    for script in tree.document.query_selector_all('script[type="application/ld+json"]'):
        try:
            found = json.loads(script.text)
        except (ValueError, RecursionError):  # pages often have broken JSON-LD; the rest is good
            continue
        for each in found if isinstance(found, list) else [found]:
            if not isinstance(each, Mapping):
                continue
            graph = each.get("@graph")
            for thing in graph if isinstance(graph, list) else [each]:
                if isinstance(thing, Mapping) and _is_text(thing.get("@type")):
                    yield thing


def _is_text(kind: Any) -> bool:
    kinds = kind if isinstance(kind, list) else [kind]
    return any(str(each).endswith(("Article", "Posting", "WebPage", "Book")) for each in kinds)
