"""How much of the log is kept: `--keep 20GB|all`.

In: the log, the places of its readers, a size. Out: full segments removed that every reader is
done with; or the reader in whose way that would be.
"""

from __future__ import annotations

import re

from hornbook.errors import HornbookError
from hornbook.feed.cursors import Cursors
from hornbook.feed.log import SEGMENT_BYTES, LogWriter
from hornbook.progress import say

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_LEAST_KEPT = 10**4
"""Bytes: no log that is worth keeping is smaller."""
_SEGMENTS_KEPT = 8
"""Segments that the size kept has room for at least: only whole ones can be dropped."""


def size_in_bytes(text: str, where: str) -> int:
    """Bytes that `20GB`, `500 MB` or `4096` means; units are decimal.

    Args:
        text: as a person wrote it.
        where: the setting it is the value of, for the error.
    """
    found = re.fullmatch(r"\s*([0-9.]+)\s*([KMGT]?)B?\s*", text, re.IGNORECASE)
    try:
        if found is not None:
            return int(float(found[1]) * _UNITS[found[2].upper()])
    except ValueError:
        pass
    raise HornbookError(f"is no size: {text!r}", where=where, hint="Write it as 20GB, or 500MB")


class Retention:
    """Keeps a log near a size.

    Args:
        log: to be kept short.
        cursors: of its readers.
        keep: `all`, or a size; never less than the texts that some reader still wants.
    """

    def __init__(self, log: LogWriter, cursors: Cursors, keep: str):
        self._log, self._cursors = log, cursors
        self._most = most_bytes(keep)
        self._said = False

    def enforce(self) -> str | None:
        """Drop what may be dropped. Returns why production has to pause, or None."""
        log, most = self._log, self._most
        if most is None or log.stored_bytes <= most:
            return None
        lowest = self._cursors.lowest()
        if lowest is None and not self._said:
            self._said = True
            say("feed: no reader is registered, so the oldest texts are dropped")
        log.drop_before(log.head if lowest is None else lowest[1], keep_bytes=most)
        if log.stored_bytes <= most or lowest is None:
            return None
        return f"the log is as large as feed.keep allows, and {lowest[0]} has read to {lowest[1]}"


def most_bytes(keep: str) -> int | None:
    """The size that `feed.keep` names; None: all is kept."""
    if keep.strip().lower() == "all":
        return None
    most = size_in_bytes(keep, "feed.keep")
    if most < _LEAST_KEPT:  # `--keep 20` is meant to be 20GB
        hint = "Name the unit: 20GB, or 500MB; `all` keeps everything"
        raise HornbookError(f"is only {most} bytes: {keep!r}", where="feed.keep", hint=hint)
    return most


def segment_bytes(keep: str) -> int:
    """Size of a segment, small enough that dropping one at a time keeps the log near its size."""
    most = most_bytes(keep)
    return SEGMENT_BYTES if most is None else min(SEGMENT_BYTES, max(1, most // _SEGMENTS_KEPT))
