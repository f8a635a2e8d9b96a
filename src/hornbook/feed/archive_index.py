"""Random access to the texts of archive files: which there are, and the one at an index.

In: jsonl, Parquet and zip files. Out: `Part`s. Nothing is read ahead; jsonl files are
scanned once for their lines, which is kept in the feed's folder, as are jsonl and Parquet files
that lie packed in a zip file: those can only be read from their beginning.
"""

from __future__ import annotations

import bisect
import hashlib
import itertools
import json
import shutil
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from hornbook.documents import Document
from hornbook.errors import HornbookError
from hornbook.files import atomic_path
from hornbook.gather.archives import content, open_member, open_zip
from hornbook.gather.encodings import BLOCK
from hornbook.gather.inputs import find_inputs
from hornbook.gather.rows import KEPT, document_of, find_text_column
from hornbook.gather.streams import DAMAGE, Expansion, open_file
from hornbook.gather.tables import json_object, text_columns
from hornbook.progress import warn

OPTION = "--feed.archive_"

LONGEST_BYTES = 64 * 2**20
"""Bytes of a line of jsonl or a text file in a zip; longer ones count as broken."""

CACHE_BYTES = 512 * 2**20
"""Row groups of Parquet that are held: to read one text, its whole row group is decoded, which
took 54 ms for one of 16 MB (two busy cores)."""

OPEN_FILES = 64
"""Of jsonl that are held open: a process may have 1,024, and most archives have fewer."""

BROKEN = (*DAMAGE, HornbookError, UnicodeDecodeError, NotImplementedError, RuntimeError)
"""What reading one text may raise; zipfile has RuntimeError for one that is encrypted."""

TEXTS, LINES, TABLES = (".txt", ".md"), (".jsonl", ".ndjson"), (".parquet",)


class Part(Protocol):
    """The texts of one file."""

    label: str
    """Tells it from others: its name and size."""

    def __len__(self) -> int: ...

    def read(self, index: int) -> Document:
        """The text at an index. Raises one of `BROKEN`."""
        ...


def open_parts(path: Path, column: str | None, scratch: Path) -> list[Part]:
    """The parts of an archive, in the order of their names.

    Args:
        path: a file, or a folder of jsonl and Parquet files.
        column: of the text; None: found by its name.
        scratch: folder for indices and unpacked files.
    """
    [found] = find_inputs([path], option="--feed.archive, ")
    opening = _Opening(column, scratch)
    files = [each for each in found.files if _ending(each.path) in (*LINES, *TABLES)]
    if found.is_folder or files:
        return whole([partial(opening.file, each.path, each.inside) for each in files])
    if _ending(path) == ".zip":
        return opening.zip(path)
    raise HornbookError(
        "is no archive that can be read at any place",
        where=path,
        hint="Zip files of texts, Parquet and jsonl files can: "
        f"`hornbook convert {path.name} --to parquet --out archive.parquet`",
    )


class _Opening:
    """Opens the files of one archive, see `open_parts`."""

    def __init__(self, column: str | None, scratch: Path):
        self._column, self._scratch = column, scratch
        self._files, self._groups = OpenFiles(), RowGroups()

    def file(self, path: Path, name: str) -> Part:
        """The part of a jsonl or Parquet file."""
        if _ending(path) in TABLES:
            return _Table(path, name, self._column, self._groups)
        return _Lines(path, name, self._column, self._scratch, self._files)

    def zip(self, path: Path) -> list[Part]:
        """The parts of a zip file: its texts, and each jsonl and Parquet file in it."""
        archive = open_zip(open_file(path), str(path))  # stays open as long as texts are read
        members = content(archive)
        texts = [each for each in members if _ending(each) in TEXTS]
        packed = [each for each in members if _ending(each) in (*LINES, *TABLES)]
        if others := len(members) - len(texts) - len(packed):
            warn(f"{path}: {others:,} files in it are no texts, jsonl or Parquet, and are left out")
        expansion = Expansion(path.stat().st_size, str(path))
        openers: list[Callable[[], Part]] = [
            partial(self._packed, archive, member, number, expansion)
            for number, member in enumerate(packed)
        ]
        return whole([partial(_Members, archive, path, texts), *openers] if texts else openers)

    def _packed(
        self, archive: zipfile.ZipFile, member: zipfile.ZipInfo, number: int, expansion: Expansion
    ) -> Part:
        path = Path(str(archive.filename))
        unpacked = self._scratch / f"{path.name}-{_mark(path)}/{number:05d}{_ending(member)}"
        if not unpacked.exists():
            with (
                open_member(archive, member, f"{path} > {member.filename}", expansion) as stream,
                atomic_path(unpacked) as temporary,
                open(temporary, "wb") as file,
            ):
                shutil.copyfileobj(stream, file, BLOCK)
        return self.file(unpacked, member.filename)


def whole(openers: Sequence[Callable[[], Part]]) -> list[Part]:
    """The parts that can be opened; what is broken is named and left out, unless it is all."""
    parts: list[Part] = []
    broken: list[HornbookError] = []
    for opener in openers:
        try:
            parts.append(opener())
        except HornbookError as error:
            if isinstance(error.__cause__, OSError) and error.__cause__.errno:
                raise  # nothing is wrong with it: the disk is full, or the file somebody else's
            broken.append(error)
    if broken and not parts:
        raise broken[0]
    for each in broken:
        warn(f"{each}; this file is left out")
    return parts


def locate(ends: Sequence[int], index: int) -> tuple[int, int]:
    """In which part an index is, and the how manieth of it; `ends` are the indices after each."""
    part = bisect.bisect_right(ends, index)
    return part, index - (ends[part - 1] if part else 0)


class _Lines:
    """The lines of a jsonl file that are not blank."""

    def __init__(self, path: Path, name: str, column: str | None, scratch: Path, files: OpenFiles):
        self._path, self._column, self._files = path, column, files
        self._source = PurePosixPath(name).stem
        size = path.stat().st_size
        index = scratch / f"{path.name}-{_mark(path)}.npy"
        if not index.exists():
            with atomic_path(index) as temporary, open(temporary, "wb") as file:
                np.save(file, line_spans(path))
        self._spans = np.load(index, mmap_mode="r").view(np.ndarray)  # a memmap's rows cost more
        self.label = f"{name} {size} {len(self._spans)}"

    def __len__(self) -> int:
        return len(self._spans)

    def read(self, index: int) -> Document:
        start, length = self._spans[index].tolist()
        where = f"{self._path}, text {index + 1:,}"
        if length > LONGEST_BYTES:
            raise _too_long(where)
        row = json_object(self._files.read(self._path, start, length), where)
        column = find_text_column(row, self._column, where, OPTION)
        return document_of(row, column, self._source, where, OPTION)


def line_spans(path: Path) -> npt.NDArray[np.int64]:
    """Offset and length in bytes of each line that may hold an object: int64 [lines, 2]."""
    found, base = [np.array([-1])], 0
    with open_file(path) as file:
        while block := file.read(16 * BLOCK):
            ends = np.flatnonzero(np.frombuffer(block, np.uint8) == ord("\n"))
            found.append(ends + base)
            base += len(block)
    ends = np.concatenate([*found, [base]])
    spans = np.stack((ends[:-1] + 1, np.diff(ends) - 1), axis=1)
    return spans[spans[:, 1] >= len("{}")].astype(np.int64)


class OpenFiles:
    """The files that were read last, held open: opening each time took a quarter of the work."""

    def __init__(self) -> None:
        self._held: OrderedDict[Path, BinaryIO] = OrderedDict()

    def read(self, path: Path, start: int, length: int) -> bytes:
        """Bytes of a file; fewer where it ends before. After an `OSError` it is opened anew."""
        file = self._held.pop(path, None) or open(path, "rb", buffering=0)  # noqa: SIM115
        try:
            file.seek(start)
            data = file.read(length)
        except OSError:
            file.close()
            raise
        self._held[path] = file
        if len(self._held) > OPEN_FILES:
            self._held.popitem(last=False)[1].close()
        return data


class RowGroups:
    """The row groups of Parquet files that were read last, at most `CACHE_BYTES` of them."""

    def __init__(self) -> None:
        self._held: OrderedDict[tuple[Path, int], Any] = OrderedDict()
        self._bytes = self._announced = 0

    def announce(self, path: Path, size: int) -> None:
        """A file's row groups have so many bytes. Says once that not all can be held."""
        was_enough = self._announced <= CACHE_BYTES
        self._announced += size
        if was_enough and self._announced > CACHE_BYTES:
            warn(
                f"{path}: with it there is more than {CACHE_BYTES >> 20} MB of Parquet, of which a "
                "row group is decoded for each text; `hornbook convert --to jsonl` makes one "
                "that is read faster"
            )

    def get(self, path: Path, number: int, columns: list[str]) -> Any:
        """A row group as an Arrow table."""
        key = (path, number)
        if key not in self._held:
            with pq.ParquetFile(path) as file:
                table = file.read_row_group(number, columns=columns)
            while self._held and self._bytes + table.nbytes > CACHE_BYTES:
                self._bytes -= self._held.popitem(last=False)[1].nbytes
            self._held[key] = table
            self._bytes += table.nbytes
        self._held.move_to_end(key)
        return self._held[key]


class _Table:
    """The rows of a Parquet file."""

    def __init__(self, path: Path, name: str, column: str | None, held: RowGroups):
        self._path, self._held, self._source = path, held, PurePosixPath(name).stem
        try:
            metadata = pq.read_metadata(path)
            schema = metadata.schema.to_arrow_schema()
        except (pa.ArrowException, OSError) as error:
            raise HornbookError(
                f"is not a readable Parquet file ({error})", where=path, hint="Make it again"
            ) from error
        names, others = text_columns(schema)
        self._column = find_text_column(names, column, str(path), OPTION, others)
        kept = [each for each in KEPT if each in schema.names and each != self._column]
        self._columns = [self._column, *kept]
        groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
        self._ends = list(itertools.accumulate(group.num_rows for group in groups))
        held.announce(path, sum(group.total_byte_size for group in groups))
        self.label = f"{name} {path.stat().st_size} {metadata.num_rows}"

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def read(self, index: int) -> Document:
        group, place = locate(self._ends, index)
        where = f"{self._path}, row {index + 1:,}"
        table = self._held.get(self._path, group, self._columns)
        row = table.slice(place, 1).to_pylist()[0]
        document = document_of(row, self._column, self._source, where, OPTION)
        if document.meta:  # a struct may hold dates and bytes
            document.meta = json.loads(json.dumps(document.meta, default=str))
        return document


class _Members:
    """The text files in a zip file."""

    def __init__(self, archive: zipfile.ZipFile, path: Path, members: list[zipfile.ZipInfo]):
        self._archive, self._path, self._members = archive, path, members
        self.label = f"{path.name} {path.stat().st_size} {len(members)}"

    def __len__(self) -> int:
        return len(self._members)

    def read(self, index: int) -> Document:
        member = self._members[index]
        with self._archive.open(member) as file:
            data = file.read(LONGEST_BYTES + 1)
        if len(data) > LONGEST_BYTES:
            raise _too_long(f"{self._path} > {member.filename}")
        name = PurePosixPath(member.filename)
        return Document(
            data.decode("utf-8-sig"),
            source=self._path.stem,
            title=name.stem,
            meta={"file": member.filename},
        )


def _ending(file: Path | zipfile.ZipInfo) -> str:
    name = file.filename if isinstance(file, zipfile.ZipInfo) else file.name
    return PurePosixPath(name).suffix.lower()


def _mark(path: Path) -> str:
    """Another one when the file is another."""
    state = path.stat()
    key = f"{path.resolve()}\n{state.st_size}\n{state.st_mtime_ns}"
    return hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def _too_long(where: str) -> HornbookError:
    return HornbookError(f"is longer than {LONGEST_BYTES >> 20} MB", where=where)
