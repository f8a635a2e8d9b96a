"""EPUB books to text: the chapters in reading order.

In: the zip archive of a book. Out: its text and description. Follows EPUB 3:
`META-INF/container.xml` names the package file, whose spine lists the chapters (XHTML). Only names
inside the archive are looked up.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Sequence
from urllib.parse import unquote
from xml.etree import ElementTree

from hornbook.errors import HornbookError
from hornbook.gather.html import LARGEST_HTML, WebPage, decode_page, read_page

_CONTAINER = "META-INF/container.xml"
_PAGES = ("application/xhtml+xml", "text/html", "application/x-dtbook+xml")


def read_epub(
    members: Sequence[str],
    where: str,
    read: Callable[[str, int], bytes],
    warn: Callable[[str], None],
) -> WebPage:
    """Read a book: its pages as one.

    Args:
        members: names of the files in its archive.
        where: for messages.
        read: gives the content of a file of the archive, at most so many bytes of it.
        warn: takes a line about a chapter that is missing.

    Raises:
        HornbookError: it has no list of chapters, or the chapters are encrypted.
    """
    names = set(members)
    container = _xml(_CONTAINER, names, read, where)
    rootfile = container.find(".//{*}rootfile")
    package_name = "" if rootfile is None else rootfile.get("full-path", "")
    package = _xml(package_name, names, read, where)
    encrypted = _encrypted(names, read, where)
    pages = []
    for href in _spine(package):
        name = posixpath.normpath(posixpath.join(posixpath.dirname(package_name), href))
        if name in encrypted:
            raise HornbookError(
                "is encrypted (copy protection)",
                where=where,
                hint="Only books without copy protection can be read",
            )
        if name not in names:
            warn(f"{where}: the chapter {name} is missing")
            continue
        content = read(name, LARGEST_HTML)
        if len(content) == LARGEST_HTML:
            warn(f"{where}: the chapter {name} is cut at {LARGEST_HTML >> 20} MB")
        pages.append(read_page(decode_page(content), main=False).text)
    return WebPage(
        text="\n\n".join(page for page in pages if page),
        title=_field(package, "title"),
        language=_field(package, "language"),
        licence=_field(package, "rights"),
        created=_field(package, "date"),
    )


def _xml(
    name: str, names: set[str], read: Callable[[str, int], bytes], where: str
) -> ElementTree.Element:
    problem = "is not in the archive"
    if name in names:
        try:
            return ElementTree.fromstring(read(name, LARGEST_HTML))
        except (ElementTree.ParseError, LookupError, ValueError) as error:
            problem = f"is not XML ({error})"
    raise HornbookError(
        f"is not a readable EPUB book: {name or 'its package file'} {problem}",
        where=where,
        hint="Download it or make it again",
    )


def _spine(package: ElementTree.Element) -> list[str]:
    pages = {
        item.get("id", ""): unquote(item.get("href", ""))
        for item in package.findall(".//{*}manifest/{*}item")
        if item.get("media-type", "") in _PAGES
    }
    order = [each.get("idref", "") for each in package.findall(".//{*}spine/{*}itemref")]
    return [pages[each] for each in order if each in pages]


def _encrypted(names: set[str], read: Callable[[str, int], bytes], where: str) -> set[str]:
    name = "META-INF/encryption.xml"  # fonts are often in it; they are no chapters
    if name not in names:
        return set()
    references = _xml(name, names, read, where).findall(".//{*}CipherReference")
    return {unquote(each.get("URI", "")) for each in references}


def _field(package: ElementTree.Element, name: str) -> str:
    found = package.find(f".//{{*}}metadata/{{http://purl.org/dc/elements/1.1/}}{name}")
    return " ".join((found.text or "").split()) if found is not None else ""
