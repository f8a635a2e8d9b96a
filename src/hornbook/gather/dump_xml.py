"""A MediaWiki dump as blocks of whole pages, and a block as pages.

In: `pages-articles.xml`, plain or .bz2. Out: blocks of about 2 MB that can be read apart from each
other, each with the offset to go on from; then the pages of a block.

A dump is cut at `</page>` without being parsed, which costs next to nothing: in the XML that
MediaWiki writes, these bytes cannot stand in a text, where `<` is `&lt;`. A multistream .bz2 (a
stream of its own for every 100 pages) is not even decompressed here: its streams are found by their
first bytes, so that no index is needed, and every worker process decompresses its own. One stream
of .bz2 is decompressed here, 13 MB of XML a second; so it is again up to where a run goes on.
"""

from __future__ import annotations

import bz2
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from hornbook.errors import HornbookError

BLOCK_BYTES = 2 * 2**20
MOST_PAGE_BYTES = 256 * 2**20
"""A page (MediaWiki itself allows 2 MB), or a stream of .bz2 decompressed, of more is refused."""

_PIECE = 2**20
_PAGE_END = b"</page>"
_STREAM_START = re.compile(rb"BZh[1-9]1AY&SY")
_GO_ON = "What was read is kept. Complete the file, and run the same command again"


@dataclass(frozen=True)
class Site:
    """What a dump says of its wiki.

    Args:
        base: address of its main page.
        language: code of its language.
        namespaces: names by number.
    """

    base: str
    language: str
    namespaces: dict[int, str]


@dataclass(frozen=True)
class Block:
    """Part of a dump that holds whole pages.

    Args:
        start: offset to read it again from: in the file, for one stream of .bz2 in its XML.
        end: offset of what follows it.
        data: XML, or one stream of .bz2.
        compressed: whether `data` is that stream.
        file_bytes: read from the file since the block before.
    """

    start: int
    end: int
    data: bytes
    compressed: bool
    file_bytes: int


@dataclass(frozen=True)
class Damaged:
    """A page that cannot be read: why, its XML, and where that begins in its block."""

    why: str
    xml: bytes
    offset: int


@dataclass(frozen=True)
class Revision:
    """A page of a dump, as its last revision has it."""

    title: str
    namespace: int
    page: int
    redirect: bool
    revision: int
    timestamp: str
    model: str
    text: str


def open_dump(path: Path, offset: int) -> tuple[Site, Iterator[Block]]:
    """What a dump says of itself, and its blocks from an offset on.

    Raises:
        HornbookError: no dump of MediaWiki; while the blocks are read: cut off, or damaged.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(4 * _PIECE)
    except OSError as error:
        raise HornbookError(f"cannot be read ({error.strerror})", where=path) from error
    if not head.startswith(b"BZh"):
        return _site(head, path), _cut(_plain(path, offset), offset, path)
    first = bz2.BZ2Decompressor()
    try:
        xml = second = first.decompress(head, _PIECE)
        # A header in a stream of its own: streams end where pages do, if the second begins with
        # one; other programs that write many streams cut anywhere.
        own_header = xml.rstrip().endswith(b"</siteinfo>")
        if own_header:
            second = bz2.BZ2Decompressor().decompress(first.unused_data, 4096)
    except OSError as error:
        raise HornbookError("is damaged at its beginning", where=path) from error
    if not second:
        raise HornbookError("is cut off before its first pages", where=path, hint=_GO_ON)
    if own_header and second.lstrip().startswith(b"<page>"):
        return _site(xml, path), _streams(path, offset)
    return _site(xml, path), _cut(_unpacked(path, offset), offset, path)


def _site(head: bytes, path: Path) -> Site:
    """The header of a dump, from its first bytes."""
    root = re.search(rb"<mediawiki\b[^>]*>", head)
    if root is None:
        raise HornbookError(
            "is not a dump of MediaWiki (pages-articles.xml or .xml.bz2)",
            where=path,
            hint="Other packings (.7z, .gz) are to be unpacked first",
        )
    language = re.search(rb'xml:lang="([\w-]+)"', root[0])
    base, namespaces = "", dict[int, str]()
    found = re.search(rb"<siteinfo>.*?</siteinfo>", head, re.DOTALL)
    if found is not None:
        try:
            info = ElementTree.fromstring(found[0])
            spaces = info.iter("namespace")
            namespaces = {int(each.get("key", 0)): each.text or "" for each in spaces}
        except (ElementTree.ParseError, ValueError) as error:
            raise HornbookError(f"has a damaged header ({error})", where=path) from error
        base = info.findtext("base", "").strip()
    return Site(base, language[1].decode() if language else "", namespaces)


def _plain(path: Path, offset: int) -> Iterator[tuple[bytes, int]]:
    """Pieces of a file from an offset on, and the bytes each took of it."""
    with open(path, "rb") as file:
        file.seek(offset)
        while piece := file.read(_PIECE):
            yield piece, len(piece)


def _unpacked(path: Path, offset: int) -> Iterator[tuple[bytes, int]]:
    """Pieces of the XML in a .bz2 from an offset in it on."""
    with open(path, "rb") as file, bz2.open(file) as unpacked:
        try:
            unpacked.seek(offset)
            position = file.tell()
            while piece := unpacked.read1(_PIECE):
                yield piece, file.tell() - position
                position = file.tell()
        except EOFError:
            return  # cut off: `_cut` misses the end
        except OSError as error:
            where = f"{path} at byte {file.tell():,}"
            raise HornbookError("is damaged", where=where, hint=_GO_ON) from error


def _cut(pieces: Iterator[tuple[bytes, int]], start: int, path: Path) -> Iterator[Block]:
    """Blocks of whole pages out of pieces of XML."""
    held, taken = bytearray(), 0
    for piece, file_bytes in pieces:
        searched = max(0, len(held) - len(_PAGE_END))
        held += piece
        taken += file_bytes
        if len(held) < BLOCK_BYTES:
            continue
        cut = held.rfind(_PAGE_END, searched)
        if cut >= 0:
            end = cut + len(_PAGE_END)
            yield Block(start, start + end, bytes(held[:end]), False, taken)
            del held[:end]
            start, taken = start + end, 0
        elif len(held) > MOST_PAGE_BYTES:
            raise _too_large(path, start)
    if held:
        yield Block(start, start + len(held), bytes(held), False, taken)


def _streams(path: Path, start: int) -> Iterator[Block]:
    """The streams of a multistream .bz2, still compressed."""
    held = bytearray()
    with open(path, "rb") as file:
        file.seek(start)
        while True:
            piece = file.read(_PIECE)
            searched = max(1, len(held) - 10)  # the start of a stream may lie across two pieces
            held += piece
            while following := _STREAM_START.search(held, searched):
                size = following.start()
                yield Block(start, start + size, bytes(held[:size]), True, size)
                del held[:size]
                start, searched = start + size, 1
            if not piece:
                break
            if len(held) > MOST_PAGE_BYTES:
                raise _too_large(path, start)
    if held:
        yield Block(start, start + len(held), bytes(held), True, len(held))


def _too_large(path: Path, offset: int) -> HornbookError:
    return HornbookError(
        f"no page ends within {MOST_PAGE_BYTES // 2**20} MB",
        where=f"{path} at byte {offset:,}",
        hint="Is it a dump of pages that MediaWiki wrote?",
    )


def block_xml(block: Block) -> tuple[bytes, bool]:
    """The XML of a block, and whether it is whole; False: its stream is cut off.

    Raises:
        ValueError: the stream is damaged, or larger than a stream of a dump can be.
    """
    if not block.compressed:
        return block.data, True
    unpacker = bz2.BZ2Decompressor()
    try:
        xml = unpacker.decompress(block.data, MOST_PAGE_BYTES)
    except OSError as error:
        raise ValueError("is damaged") from error
    if not unpacker.eof and len(xml) == MOST_PAGE_BYTES:
        raise ValueError(f"a stream holds more than {MOST_PAGE_BYTES // 2**20} MB")
    return xml, unpacker.eof


def pages_of(xml: bytes) -> tuple[list[Revision | Damaged], bytes]:
    """The pages of a block's XML, and what follows the last one."""
    start, end = xml.find(b"<page>"), xml.rfind(_PAGE_END) + len(_PAGE_END)
    if start < 0 or end < start:
        return [], xml[max(0, start) :]
    try:
        root = ElementTree.fromstring(b"<pages>%b</pages>" % xml[start:end])
        return [_revision(page) for page in root], xml[end:]
    except (ElementTree.ParseError, ValueError):
        return _one_by_one(xml, start, end), xml[end:]


def _one_by_one(xml: bytes, start: int, end: int) -> list[Revision | Damaged]:
    """The pages of XML of which some are damaged."""
    pages: list[Revision | Damaged] = []
    for page in xml[start:end].split(_PAGE_END)[:-1]:
        page += _PAGE_END
        try:
            pages.append(_revision(ElementTree.fromstring(page.strip())))
        except (ElementTree.ParseError, ValueError) as error:
            pages.append(Damaged(f"damaged XML ({error})", page, start))
        start += len(page)
    return pages


def _revision(page: ElementTree.Element) -> Revision:
    """A page's last revision. Raises `ValueError` where it lacks what every page has."""
    revision = page if (last := page.findall("revision")) == [] else last[-1]
    return Revision(
        title=page.findtext("title", ""),
        namespace=int(page.findtext("ns", "0")),
        page=int(page.findtext("id", "0")),
        redirect=page.find("redirect") is not None,
        revision=int(revision.findtext("id", "0")),
        timestamp=revision.findtext("timestamp", ""),
        model=revision.findtext("model", "wikitext"),
        text=revision.findtext("text", ""),
    )
