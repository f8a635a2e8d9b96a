"""What an HTTP answer says: how long to wait, and its body unpacked within bounds.

In: headers and bodies as servers send them, also broken ones. Out: seconds; blocks of bytes.
"""

from __future__ import annotations

import email.utils
import zlib
from collections.abc import Iterator, Mapping

import httpx2

_BLOCK = 2**18


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds of a Retry-After header, which holds them or a date; None: absent or senseless.

    A date is taken against the answer's own Date, so that a wrong clock here does no harm.
    """
    value = headers.get("Retry-After", "").strip()
    if value.isascii() and value.isdigit():
        return float(value[:12])
    try:
        until = email.utils.parsedate_to_datetime(value)
        now = email.utils.parsedate_to_datetime(headers.get("Date", ""))
        return max(0.0, (until - now).total_seconds())
    except (TypeError, ValueError):
        return None


def unpacked(response: httpx2.Response) -> Iterator[bytes]:
    """Blocks of a streamed body, of at most 256 kB where it is gzip.

    Not left to httpx2, which takes gzip data that is cut off for whole.

    Raises:
        httpx2.DecodingError: the body is no whole gzip stream, or packed with something else.
    """
    encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding == "identity":
        yield from response.iter_raw()
        return
    if encoding not in ("gzip", "x-gzip"):
        raise httpx2.DecodingError(f"the body is packed with {encoding!r}, not gzip")
    unpacker = zlib.decompressobj(zlib.MAX_WBITS | 16)
    try:
        for block in response.iter_raw():
            while block:
                if unpacker.eof:  # several gzip members in a row are one body (RFC 1952, 2.2)
                    unpacker = zlib.decompressobj(zlib.MAX_WBITS | 16)
                yield unpacker.decompress(block, _BLOCK)
                block = unpacker.unconsumed_tail or unpacker.unused_data
    except zlib.error as error:
        raise httpx2.DecodingError(f"bad gzip ({error})") from error
    if not unpacker.eof:
        raise httpx2.DecodingError("the gzip body is cut off")
