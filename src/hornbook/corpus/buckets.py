"""Sorting more numbers than memory holds: rows of uint64, dealt out to files, sorted one by one.

In: rows, in pieces. Out: all rows in order, in pieces in which rows with an equal key are
together. Up to `memory` bytes nothing goes to the disk; beyond, rows go to 256 files by the first
8 bits of their key, which must be spread evenly (a hash), and about four times the largest file
is held: 0.4 GB for a billion rows of 24 bytes.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hornbook.files import disk_errors

Rows = npt.NDArray[np.uint64]

_TOP_BITS = np.uint64(56)


class Buckets:
    """Rows on the way to being sorted. Files are scratch: removed at the end, never resumed."""

    def __init__(self, folder: Path, columns: int, memory: int):
        """`columns` of uint64 a row, all of them sorted by; the first decides the file."""
        self._folder, self._columns, self._memory = folder, columns, memory
        self._held: list[Rows] = []
        self._held_bytes = 0
        self._spilled = False

    def add(self, rows: Rows) -> None:
        """Take rows [any, columns]."""
        self._held.append(rows)
        self._held_bytes += rows.nbytes
        if self._held_bytes > self._memory // 4:  # sorting needs about four times as much
            self._spill()

    def in_order(self) -> Iterator[Rows]:
        """Yield all rows, sorted; each piece has whole runs of equal first columns. Ends the
        buckets."""
        if not self._spilled:
            yield self._sorted(self._take())
            return
        self._spill()
        try:
            for number in range(256):
                with contextlib.suppress(FileNotFoundError):
                    rows = np.fromfile(self._path(number), np.uint64)
                    yield self._sorted(rows.reshape(-1, self._columns))
        finally:
            shutil.rmtree(self._folder)

    def _take(self) -> Rows:
        held, self._held, self._held_bytes = self._held, [], 0
        return np.concatenate(held) if held else np.empty((0, self._columns), np.uint64)

    def _spill(self) -> None:
        rows = self._take()
        with disk_errors(self._folder):
            if not self._spilled:
                shutil.rmtree(self._folder, ignore_errors=True)  # of a run that was killed
                self._folder.mkdir(parents=True)
                self._spilled = True
            numbers = rows[:, 0] >> _TOP_BITS
            rows = rows[np.argsort(numbers, kind="stable")]
            counts = np.bincount(numbers.astype(np.int64), minlength=256)
            for number, part in enumerate(np.split(rows, np.cumsum(counts)[:-1])):
                if len(part):
                    with open(self._path(number), "ab") as file:
                        part.tofile(file)

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:03d}.bin"

    def _sorted(self, rows: Rows) -> Rows:
        return rows[np.lexsort(tuple(rows[:, column] for column in reversed(range(self._columns))))]
