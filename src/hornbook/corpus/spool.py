"""What prepare has cleaned so far, on disk: the spool, and how far it goes.

In: batches of cleaned documents, in order. Out: segments of about 256 MB of text in the folder
`work` beside the shards, read back by number. A segment is whole when its `.json` is there, which
is written last; a run that was killed goes on after the last whole one.

    work/settings                        of what inputs and settings; others begin anew
    work/part-00000/segment-00003.arrow  documents (Arrow IPC, zstd)
    work/part-00000/segment-00003.NAME.npy   a row for each document: `ARRAYS`
    work/part-00000/segment-00003.json   documents read for it, and their tally
    work/part-00000/part.json            the part is whole

One machine writes one part; several machines that share the folder write one each (`scale.py`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from hornbook.corpus.prepare_report import Tally
from hornbook.documents import SCHEMA
from hornbook.files import atomic_path, read_json, write_json

ARRAYS = {
    "digests": "uint64 [documents, 2]: blake2b of the text",
    "places": "uint64: where the id stands in the order of being held out",
    "bytes": "uint64: of the text as UTF-8",
    "signatures": "uint32 [documents, permutations]; only for near duplicates",
    "bands": "uint64 [bands, documents]; only for near duplicates",
}

SEGMENT_BYTES = 256 * 10**6
SEGMENT_DOCUMENTS = 2**17
"""A segment ends at either. 131,072 rows of arrays take at most 90 MB while it is written."""


@dataclass
class Cleaned:
    """What became of a batch: the documents that are left, and a row of each array for them."""

    read: int
    tally: Tally
    rows: pa.RecordBatch
    arrays: dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Segment:
    """A whole segment. `base` is its path without ending."""

    base: Path
    documents: int
    read: int

    def array(self, name: str) -> npt.NDArray[Any]:
        """One of `ARRAYS`, mapped into memory."""
        path = _array_path(self.base, name)
        # A file of no rows cannot be mapped.
        return np.asarray(np.load(path, mmap_mode="r") if self.documents else np.load(path))

    def tally(self) -> Tally:
        """What was counted when it was cleaned."""
        return Tally.from_json(read_json(_ended(self.base, ".json"))["tally"])

    def batches(self, first: int, last: int) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Rows `first` to `last` (exclusive) in pieces, each with the number of its first."""
        # Not mapped: pages that were read would count as memory as long as there is some to spare.
        with pa.OSFile(str(_ended(self.base, ".arrow"))) as source:
            reader = pa.ipc.open_file(source)
            start = 0
            for number in range(reader.num_record_batches):
                if start >= last:
                    break
                batch = reader.get_batch(number)
                low, high = max(first - start, 0), min(last - start, len(batch))
                if low < high:
                    yield start + low, batch.slice(low, high - low)
                start += len(batch)


@dataclass(frozen=True)
class Spool:
    """The segments of all parts under one numbering of their documents."""

    segments: Sequence[Segment]
    starts: Sequence[int] = field(init=False)
    """Number of each segment's first document, and of all documents."""

    def __post_init__(self) -> None:
        ends = np.cumsum([0, *(segment.documents for segment in self.segments)])
        object.__setattr__(self, "starts", ends.tolist())

    def __len__(self) -> int:
        return self.starts[-1]

    @property
    def bytes(self) -> int:
        """Of all texts."""
        return sum(int(piece.sum()) for _, piece in self.pieces("bytes"))

    def pieces(self, name: str) -> Iterator[tuple[int, npt.NDArray[Any]]]:
        """One of `ARRAYS` segment by segment, with the number of each one's first document."""
        for start, segment in zip(self.starts, self.segments, strict=False):
            yield start, segment.array(name)

    def batches(self, first: int, last: int) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Documents `first` to `last` (exclusive) in pieces, each with the number of its first."""
        for start, segment in zip(self.starts, self.segments, strict=False):
            if start < last and start + segment.documents > first:
                for number, batch in segment.batches(max(first - start, 0), last - start):
                    yield start + number, batch


class Part:
    """The segments that one task writes."""

    def __init__(self, work: Path, number: int):
        self.folder = work / f"part-{number:05d}"

    def segments(self) -> list[Segment]:
        """The whole segments, in order."""
        found = []
        for path in sorted(self.folder.glob("segment-*.json")):
            known = read_json(path)
            found.append(Segment(path.with_suffix(""), known["documents"], known["read"]))
        return found

    @property
    def is_whole(self) -> bool:
        """Whether `finish` was called."""
        return (self.folder / "part.json").exists()

    @property
    def messages(self) -> list[str]:
        """What was said while it was read."""
        return list(read_json(self.folder / "part.json")["messages"])

    def finish(self, messages: Sequence[str]) -> None:
        """Say that nothing will be added."""
        write_json(self.folder / "part.json", {"messages": list(messages)})


class SpoolWriter:
    """Adds segments to a part. Leaving it without an error ends the last one."""

    def __init__(self, part: Part):
        self._folder, self._number = part.folder, len(part.segments())
        self._open = contextlib.ExitStack()
        self._begin()

    def _begin(self) -> None:
        self._file: Any = None
        self._arrays: dict[str, list[npt.NDArray[Any]]] = {}
        self._documents = self._read = self._bytes = 0
        self._tally = Tally()

    @property
    def _base(self) -> Path:
        return self._folder / f"segment-{self._number:05d}"

    def add(self, cleaned: Cleaned) -> None:
        """Write what became of the next batch."""
        if self._file is None:
            temporary = self._open.enter_context(atomic_path(_ended(self._base, ".arrow")))
            options = pa.ipc.IpcWriteOptions(compression="zstd")
            self._file = self._open.enter_context(
                pa.ipc.new_file(str(temporary), SCHEMA, options=options)
            )
        self._file.write_batch(cleaned.rows)
        for name, rows in cleaned.arrays.items():
            self._arrays.setdefault(name, []).append(rows)
        self._read += cleaned.read
        self._documents += len(cleaned.rows)
        self._tally.include(cleaned.tally)
        self._bytes += cleaned.rows.nbytes
        # What was read counts, too: where nearly all is dropped, that is what a kill would cost.
        is_full = self._bytes >= SEGMENT_BYTES or self._documents >= SEGMENT_DOCUMENTS
        if is_full or self._tally.read.bytes >= 4 * SEGMENT_BYTES:
            self._end()

    def _end(self) -> None:
        if self._file is None:
            return
        self._open.close()
        for name, pieces in self._arrays.items():
            with (
                atomic_path(_array_path(self._base, name)) as temporary,
                open(temporary, "wb") as file,
            ):
                joined = np.concatenate(pieces, axis=1 if name == "bands" else 0)
                np.save(file, joined, allow_pickle=False)
        known = {"documents": self._documents, "read": self._read, "tally": asdict(self._tally)}
        write_json(_ended(self._base, ".json"), known)
        self._number += 1
        self._begin()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self._end()
        else:
            self._open.__exit__(kind, error, trace)


def read_spool(work: Path) -> Spool:
    """The segments of all parts in `work`, in order."""
    return Spool([segment for part in read_parts(work) for segment in part.segments()])


def read_parts(work: Path) -> list[Part]:
    """The parts in `work`, in order."""
    return [Part(work, number) for number in range(len(list(work.glob("part-*"))))]


def _ended(base: Path, ending: str) -> Path:
    return base.with_name(base.name + ending)


def _array_path(base: Path, name: str) -> Path:
    return _ended(base, f".{name}.npy")
