"""Many files of one format into few of a target size, with `dedup` each text once.

In: JSON lines, CSV, Parquet or text files, also compressed, and folders of them. Out: a folder of
`merged-00000.jsonl`, ... Lines, rows and columns stay what they were; nothing but texts seen
before is left out.

Memory: a row group, a row or a text file at a time. Duplicates are found on disk (`exact.py`), in
a first pass over the texts; 1 byte a record stays in memory.
"""

from __future__ import annotations

import contextlib
import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from hornbook.corpus.exact import ExactPass, digests
from hornbook.documents import mend_surrogates
from hornbook.errors import HornbookError
from hornbook.files import atomic_folder
from hornbook.gather.encodings import BLOCK, decode
from hornbook.gather.inputs import InputFile, find_inputs
from hornbook.gather.rows import find_text_column
from hornbook.gather.streams import Expansion, decompress, kind_of, unwrapped
from hornbook.gather.tables import LONGEST_ROW, csv_rows, is_text, json_object, open_parquet
from hornbook.progress import bar

ENDINGS = {"jsonl": "jsonl", "csv": "csv", "parquet": "parquet", "text": "txt", "unknown": "txt"}
DEDUP_MEMORY = 256 * 2**20

MOST_RECORDS = 256
"""Records that are handled together, up to 1 MB of them."""

Texts = list[str]


@dataclass
class Merged:
    """What came of it: records read, those left out as duplicates, and files written."""

    records: int = 0
    duplicates: int = 0
    files: int = 0


def merge(
    inputs: Sequence[str | Path],
    out: Path,
    *,
    megabytes: float = 256,
    dedup: bool = False,
    text_column: str | None = None,
) -> Merged:
    """Merge files of one format into files of about `megabytes` in the new folder `out`.

    Raises:
        HornbookError: something cannot be read, the formats or columns differ, or `out` is there.
    """
    if not megabytes > 0:
        raise HornbookError(f"must be above 0, not {megabytes}", where="--megabytes")
    files = [file for each in find_inputs(inputs, option="--") for file in each.files if file.bytes]
    kinds = {ENDINGS.get(_kind(file), ""): file for file in files}
    if "" in kinds or len(kinds) != 1:
        listed = ", ".join(f"{kind or 'another'} ({file.path})" for kind, file in kinds.items())
        raise HornbookError(
            f"files of one format are merged, not: {listed or 'nothing'}",
            hint="jsonl, csv, parquet and txt can be; `hornbook convert` makes one of another",
        )
    (ending,) = kinds
    total = sum(file.bytes for file in files)
    with atomic_folder(out) as folder:
        dropped = _duplicates(files, ending, folder / "work", text_column) if dedup else None
        merged = Merged()
        with bar("merging", total) as progress, _Files(folder, ending, megabytes * 1e6) as target:
            for file in files:
                for records, _ in _chunks(file, ending, None):
                    keep = _kept(dropped, merged.records, len(records))
                    merged.records += len(records)
                    merged.duplicates += len(records) - int(keep.sum())
                    target.add(records, keep)
                progress.advance(file.bytes)
        merged.files = target.count
    return merged


def _kept(dropped: npt.NDArray[np.bool_] | None, first: int, count: int) -> npt.NDArray[np.bool_]:
    return np.ones(count, bool) if dropped is None else ~dropped[first : first + count]


def _duplicates(
    files: Sequence[InputFile], ending: str, work: Path, text_column: str | None
) -> npt.NDArray[np.bool_]:
    """Of each record whether its text was there before."""
    exact, count = ExactPass(work, DEDUP_MEMORY), 0
    with bar("looking for duplicates", sum(file.bytes for file in files)) as progress:
        for file in files:
            for _, texts in _chunks(file, ending, text_column or ""):
                exact.add(digests(mend_surrogates(text) for text in texts))
                count += len(texts)
            progress.advance(file.bytes)
    dropped = np.zeros(count, bool)
    for numbers in exact.duplicates():
        dropped[numbers] = True
    return dropped


@contextlib.contextmanager
def _opened(file: InputFile) -> Iterator[tuple[io.BufferedReader[Any], str, str]]:
    """The file's content, decompressed where it has to be; its name then; and its kind."""
    where, name = str(file.path), file.path.name
    with contextlib.ExitStack() as opened:
        stream: Any = opened.enter_context(open(file.path, "rb", buffering=BLOCK))
        kind = kind_of(stream.peek(BLOCK), name, "auto")
        if kind in ("gzip", "zstd", "bzip2", "xz"):
            inner = decompress(stream, kind, Expansion(file.bytes, where), where)
            stream = opened.enter_context(inner)
            name = unwrapped(name)
            kind = kind_of(stream.peek(BLOCK), name, "auto")
        yield stream, name, kind


def _kind(file: InputFile) -> str:
    with _opened(file) as (_, _, kind):
        return kind


def _chunks(file: InputFile, ending: str, text_column: str | None) -> Iterator[tuple[Any, Texts]]:
    """Records of a file, a few at a time, and their texts where `text_column` is not None (empty:
    the column is found by itself)."""
    if ending == "parquet":
        yield from _tables(file.path, text_column)
        return
    records: list[Any] = []
    texts: list[str] = []
    size = 0
    for record, text, length in _records(file, ending, text_column):
        records.append(record)
        texts.append(text)
        size += length
        if size > BLOCK or len(records) == MOST_RECORDS:
            yield records, texts
            records, texts, size = [], [], 0
    yield records, texts


def _records(
    file: InputFile, ending: str, text_column: str | None
) -> Iterator[tuple[Any, str, int]]:
    """Records with their text (empty where it was not asked for) and size."""
    where = str(file.path)

    def text_of(row: Mapping[str, Any], place: str) -> str:
        if text_column is None:
            return ""
        return str(row[find_text_column(row, text_column or None, place, "--")] or "")

    with _opened(file) as (stream, name, _):
        if ending == "jsonl":
            for line, place in _lines(stream, where):
                values = {} if text_column is None else json_object(line, place)
                yield line, text_of(values, place), len(line)
        elif ending == "csv":
            for row, place in csv_rows(decode(stream, "auto", where, option="--"), where, name):
                assert row is not None  # only lines of JSON are passed over as too long
                yield row, text_of(row, place), sum(map(len, row.values()))
        else:
            text = "".join(decode(stream, "auto", where, option="--"))
            yield text, text, len(text)


def _lines(stream: IO[bytes], where: str) -> Iterator[tuple[bytes, str]]:
    number = 0
    while line := stream.readline(LONGEST_ROW + 1):
        number += 1
        place = f"{where}, line {number:,}"
        if len(line) > LONGEST_ROW:
            raise HornbookError(f"is longer than {LONGEST_ROW >> 20} MB", where=place)
        if line.strip():
            yield line.rstrip(b"\r\n") + b"\n", place


def _tables(path: Path, text_column: str | None) -> Iterator[tuple[pa.Table, Texts]]:
    """Row groups of a Parquet file; of the text column alone where texts are asked for."""
    try:
        with open_parquet(path) as shard:
            column = None
            if text_column is not None:
                names = [field.name for field in shard.schema_arrow if is_text(field.type)]
                column = find_text_column(names, text_column or None, str(path), "--")
            for group in range(shard.num_row_groups):
                table = shard.read_row_group(group, columns=[column] if column else None)
                yield table, [text or "" for text in table[column].to_pylist()] if column else []
    except (pa.ArrowException, OSError) as error:
        raise HornbookError(f"is not a readable Parquet file ({error})", where=path) from error


class _Files:
    """The merged files: `add` writes to the one that is open, or to the next."""

    def __init__(self, folder: Path, ending: str, most_bytes: float):
        self._folder, self._ending, self._most = folder, ending, most_bytes
        self._open = contextlib.ExitStack()
        self._file: Any = None
        self._parquet: pq.ParquetWriter | None = None
        self._header: Any = None
        self.count = 0

    def __enter__(self) -> _Files:
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()

    def add(self, records: Any, keep: npt.NDArray[np.bool_]) -> None:
        """Write the records of a chunk that are kept."""
        if not keep.any():
            return
        if self._ending == "parquet":
            self._add_table(records.filter(pa.array(keep)))
            return
        for record in (record for record, kept in zip(records, keep, strict=True) if kept):
            data = self._encoded(record)
            if self._file is None or self._file.tell() + len(data) > self._most:
                self._next()
                if self._ending == "csv":
                    self._file.write(_csv_line(self._header))
            elif self._ending == "txt":
                data = b"\n" + data  # a blank line between two texts
            self._file.write(data)

    def _encoded(self, record: Any) -> bytes:
        if self._ending == "jsonl":
            return bytes(record)
        if self._ending == "txt":
            return (mend_surrogates(record).rstrip("\n") + "\n").encode()
        self._header = self._header or list(record)
        if not record.keys() <= set(self._header):
            self._differ(list(record))
        return _csv_line([record.get(name, "") for name in self._header])

    def _add_table(self, table: pa.Table) -> None:
        self._header = self._header or table.schema.remove_metadata()
        try:
            table = table.select(self._header.names).cast(self._header)
        except (pa.ArrowException, KeyError, ValueError):
            self._differ(table.schema.names)
        if self._file is None or self._file.tell() >= self._most:
            self._next()
            self._parquet = self._open.enter_context(
                pq.ParquetWriter(self._file, self._header, compression="zstd")
            )
        assert self._parquet is not None
        self._parquet.write_table(table)

    def _differ(self, names: Sequence[str]) -> None:
        first = getattr(self._header, "names", self._header)
        raise HornbookError(
            f"the columns differ: {', '.join(first)} in the first file, {', '.join(names)} later",
            hint="`hornbook convert` writes documents with the same columns",
        )

    def _next(self) -> None:
        self._open.close()
        path = self._folder / f"merged-{self.count:05d}.{self._ending}"
        self._file = self._open.enter_context(path.open("wb"))
        self.count += 1


def _csv_line(values: Sequence[str]) -> bytes:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n", quoting=csv.QUOTE_ALL).writerow(values)
    return mend_surrogates(line.getvalue()).encode()
