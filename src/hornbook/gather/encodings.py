"""Which encoding text is in, and bytes to text with what does not fit counted.

In: binary streams. Out: `str` blocks. `auto` takes a byte-order mark, else UTF-8, else what the
bytes look like (charset-normalizer), decided at the first bytes that are not plain ASCII.
"""

from __future__ import annotations

import codecs
import io
import itertools
import re
from collections.abc import Callable, Iterator
from typing import Any

from hornbook.errors import HornbookError

BLOCK = 2**20
"""Bytes read at once."""

SAMPLE = 2**17
"""Bytes that an encoding is detected from, at most."""

Undecodable = Callable[[str, int, int], None]
"""Told (where, how many bytes, offset of the first one) once for a file."""

BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16: it begins with the same two bytes
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)

_CANDIDATES = [f"cp125{last}" for last in range(7)]
_CANDIDATES += ["koi8_r", "mac_roman", "cp932", "euc_jp", "gb18030", "big5", "euc_kr"]
"""What text without Unicode is really in. All that Python knows were tried: short German text
came out as UTF-16, Russian as Shift-JIS."""

_NOT_ASCII = bytes(range(128, 256))
_FEW = 50
"""Bytes that are not ASCII; fewer are too little for charset-normalizer, which took German for
Chinese. With many it is right where looking at the letters alone would not be (Czech)."""

_ESCAPED = re.compile("[\udc80-\udcff]")
_WESTERN = re.compile("[A-Za-zÀ-ÖØ-öø-ÿŒœŠšŽžŸ \\s!-@\\[-`{-~“”„‘’‚‹›«»–—…€£§©®°·¡¿\xa0-]*")


def check_encoding(encoding: str, option: str = "--prepare.") -> None:
    """Raise a `HornbookError` when Python knows no text encoding of this name."""
    if encoding == "auto":
        return
    try:
        "".encode(encoding)
    except LookupError:
        raise HornbookError(
            f"no text encoding is called {encoding!r}",
            where=f"{option}encoding",
            hint="Often used: utf-8, latin-1, cp1252, utf-16, shift_jis, gb18030",
        ) from None


def byte_order_mark(head: bytes) -> tuple[bytes, str] | None:
    """The mark that `head` begins with, and the encoding it stands for."""
    for mark, encoding in BYTE_ORDER_MARKS:
        if head.startswith(mark):
            return mark, encoding
    return None


def detect(data: bytes) -> str:
    """The encoding of bytes that are not all ASCII: `utf-8` wherever that is likely.

    UTF-8 with a few broken bytes stays UTF-8: other encodings hardly ever form its multi-byte
    characters by accident, so two of them outweigh one byte that does not fit. Hungarian, Romanian
    and Turkish in their old Windows encodings come out as Western text here, and short Hebrew as
    Cyrillic; for them the encoding has to be named.
    """
    sample, is_whole = _around_first_other(data)
    utf8 = codecs.getincrementaldecoder("utf-8")("surrogateescape")
    characters = utf8.decode(sample, final=is_whole)
    if _find_escaped(characters) < 0:
        return "utf-8"
    broken = len(_ESCAPED.findall(characters))
    whole = sum(character > "\x7f" for character in characters) - broken
    if whole >= 2 * broken:
        return "utf-8"
    if len(sample) - len(sample.translate(None, _NOT_ASCII)) < _FEW and _is_western(sample):
        return "cp1252"
    from charset_normalizer import from_bytes

    found = from_bytes(sample, cp_isolation=_CANDIDATES)
    best = found.best()
    if best is None:
        return "utf-8"
    # Most Western text reads as well in cp1250, and the library then names that.
    equal = (m for m in found if m.chaos <= best.chaos and m.coherence >= best.coherence)
    is_western = any("cp1252" in match.could_be_from_charset for match in equal)
    return "cp1252" if is_western else best.encoding


def _around_first_other(data: bytes) -> tuple[bytes, bool]:
    """At most `SAMPLE` bytes from the line of the first byte that is not ASCII, whole lines where
    there are any (a character cut in two would rule out its encoding), and whether they end well.
    """
    first = next(match.start() for match in re.finditer(rb"[\x80-\xff]", data))
    begin = max(data.rfind(b"\n", 0, first) + 1, first - SAMPLE // 2)
    sample = data[begin : begin + SAMPLE]
    if len(data) < min(BLOCK, begin + SAMPLE):
        return sample, True
    end = sample.rfind(b"\n") + 1
    return (sample[:end], True) if end > first - begin else (sample, False)


def _is_western(sample: bytes) -> bool:
    """True for Western European text in Windows' encoding: only its letters and signs, and not
    more than 40 % of the letters outside ASCII (Cyrillic read so has nearly 100 %)."""
    try:
        text = sample.decode("cp1252")
    except UnicodeDecodeError:
        return False
    if not _WESTERN.fullmatch(text):
        return False
    letters = [character for character in text if character.isalpha()]
    return sum(character > "\x7f" for character in letters) <= 0.4 * len(letters)


def decode(
    stream: io.BufferedReader[Any],
    encoding: str,
    where: str,
    *,
    option: str = "--prepare.",
    undecodable: Undecodable | None = None,
) -> Iterator[str]:
    """Yield the text of a stream in blocks. A byte-order mark wins over `encoding`.

    Args:
        stream: bytes.
        encoding: a name that Python knows, or `auto`.
        where: the file, for messages.
        option: how the names of these settings begin in error messages; empty: there are none.
        undecodable: takes the count of bytes that were replaced by U+FFFD; None: an error.

    Raises:
        HornbookError: bytes do not fit and `undecodable` is None.
    """
    mark, encoding = byte_order_mark(stream.peek(4)) or (b"", encoding)
    stream.read(len(mark))
    blocks = iter(lambda: stream.read(BLOCK), b"")
    offset = len(mark)
    if encoding == "auto":
        for block in blocks:
            if not block.isascii():
                encoding = detect(block)
                blocks = itertools.chain([block], blocks)
                break
            offset += len(block)
            yield block.decode("ascii")
        else:
            return
    if undecodable is None:
        yield from _decode_strictly(blocks, encoding, offset, where, option)
    else:
        yield from _decode_counting(blocks, encoding, offset, where, undecodable)


def _decode_strictly(
    blocks: Iterator[bytes], encoding: str, offset: int, where: str, option: str
) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder(encoding)()
    while True:
        block = next(blocks, b"")
        try:
            text = decoder.decode(block, final=not block)
        except UnicodeDecodeError as error:
            # What the decoder saw is this block behind bytes held back from the block before.
            place = offset - (len(error.object) - len(block)) + error.start
            hint = f"Name the encoding it was saved in, for example {option}encoding latin-1"
            raise HornbookError(
                f"is not {encoding.upper()} text: byte {error.object[error.start]:#04x} at offset "
                f"{place:,} does not fit",
                where=where,
                hint=hint if option else "Save it as UTF-8",
            ) from None
        if text:
            yield text
        if not block:
            return
        offset += len(block)


def _decode_counting(
    blocks: Iterator[bytes], encoding: str, offset: int, where: str, undecodable: Undecodable
) -> Iterator[str]:
    # UTF-8's error handler tells broken bytes from a U+FFFD that was in the text; other encodings
    # have no such character, but for UTF-16 and UTF-32.
    is_utf8 = codecs.lookup(encoding).name == "utf-8"
    bad = _ESCAPED if is_utf8 else re.compile("\ufffd")
    decoder = codecs.getincrementaldecoder(encoding)("surrogateescape" if is_utf8 else "replace")
    count, first = 0, 0
    while True:
        block = next(blocks, b"")
        held = len(decoder.getstate()[0])  # of a character that the block before began
        text = decoder.decode(block, final=not block)
        begin = _find_escaped(text) if is_utf8 else text.find("\ufffd")
        if begin >= 0:
            if not count:
                first = offset - held + len(text[:begin].encode(encoding, "replace"))
            text, found = bad.subn("\ufffd", text)
            count += found
        offset += len(block)
        if text:
            yield text
        if not block:
            break
    if count:
        undecodable(where, count, first)


def _find_escaped(text: str) -> int:
    """Where the first byte is that did not fit; -1: nowhere. Several times as fast as a search."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return error.start
    return -1
