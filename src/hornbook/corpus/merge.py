"""Many files of one format into few of a target size, with `dedup` each text once.

In: JSON lines, CSV, Parquet or text files, also compressed, and folders of them. Out: a folder of
`merged-00000.jsonl`, ... Lines, rows and columns stay what they were; nothing but texts seen
before is left out.

Memory: a few rows at a time, a text file of at most 128 MB, 16 MB of Parquet rows. Duplicates are
found on disk (`exact.py`), in a first pass over the texts; 1 byte a record stays in memory.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from hornbook.corpus.exact import ExactPass, digests
from hornbook.documents import ROW_GROUP_BYTES, mend_surrogates
from hornbook.errors import HornbookError
from hornbook.files import atomic_folder
from hornbook.gather.encodings import BLOCK, byte_order_mark, decode
from hornbook.gather.inputs import InputFile, find_inputs
from hornbook.gather.rows import find_text_column
from hornbook.gather.streams import Expansion, decompress, kind_of, open_file, unwrapped
from hornbook.gather.tables import (
    LONGEST_ROW,
    csv_line,
    csv_rows,
    is_text,
    json_object,
    open_parquet,
    text_columns,
)
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
                    first, merged.records = merged.records, merged.records + len(records)
                    keep = np.ones(len(records), bool)
                    if dropped is not None:
                        keep = ~dropped[first : merged.records]
                    merged.duplicates += len(records) - int(keep.sum())
                    target.add(records, keep)
                progress.advance(file.bytes)
        merged.files = target.count
    return merged


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
        stream = opened.enter_context(open_file(file.path))
        kind = kind_of(stream.peek(BLOCK), name, "auto")
        if kind in ("gzip", "zstd", "bzip2", "xz"):
            expansion = Expansion(file.bytes, where)
            stream = opened.enter_context(decompress(stream, kind, expansion, where))
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
    column = ""

    def text_of(row: Mapping[str, Any], place: str) -> str:
        nonlocal column
        column = column or find_text_column(row, text_column or None, place, "--")
        return str(row.get(column) or "")

    with _opened(file) as (stream, name, _):
        if ending == "jsonl":
            for line, place in _lines(stream, where):
                text = "" if text_column is None else text_of(json_object(line, place), place)
                yield line, text, len(line)
        elif ending == "csv":
            for row, place in csv_rows(decode(stream, "auto", where, option=""), where, name):
                assert row is not None  # only lines of JSON are passed over as too long
                text = "" if text_column is None else text_of(row, place)
                yield row, text, sum(map(len, row.values()))
        else:
            text = _text(decode(stream, "auto", where, option=""), where)
            yield text, text, len(text)


def _lines(stream: io.BufferedReader[Any], where: str) -> Iterator[tuple[bytes, str]]:
    mark, encoding = byte_order_mark(stream.peek(4)) or (b"", "utf-8")
    if encoding != "utf-8":
        hint = "`hornbook convert --to jsonl` writes it as UTF-8"
        raise HornbookError(f"is in {encoding.upper()}", where=where, hint=hint)
    stream.read(len(mark))  # in the middle of a merged file it would be no mark
    number = 0
    while line := stream.readline(LONGEST_ROW + 1):
        number += 1
        place = f"{where}, line {number:,}"
        if len(line) > LONGEST_ROW:
            raise HornbookError(f"is longer than {LONGEST_ROW >> 20} MB", where=place)
        if line.strip():
            yield line.rstrip(b"\r\n") + b"\n", place


def _text(blocks: Iterator[str], where: str) -> str:
    text: list[str] = []
    length = 0
    for block in blocks:
        length += len(block)
        if length > LONGEST_ROW:
            raise HornbookError(
                f"is longer than {LONGEST_ROW >> 20} MB",
                where=where,
                hint="`hornbook convert --to jsonl` cuts such texts into pieces",
            )
        text.append(block)
    return "".join(text)


def _tables(path: Path, text_column: str | None) -> Iterator[tuple[pa.Table, Texts]]:
    """Row groups of a Parquet file, large ones in parts; of the text column alone where texts are
    asked for."""
    try:
        with open_parquet(path) as shard:
            column = None
            if text_column is not None:
                names, others = text_columns(shard.schema_arrow)
                wanted = text_column or None
                column = find_text_column(names, wanted, str(path), "--", others)
            for group in range(shard.num_row_groups):
                about = shard.metadata.row_group(group)
                parts = max(1, about.total_byte_size // ROW_GROUP_BYTES)
                for batch in shard.iter_batches(
                    max(1, about.num_rows // parts),
                    row_groups=[group],
                    columns=[column] if column else None,
                ):
                    texts = batch[column].to_pylist() if column else []
                    yield pa.Table.from_batches([batch]), [text or "" for text in texts]
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        problem = str(error).partition("\n")[0]
        raise HornbookError(f"is not a readable Parquet file ({problem})", where=path) from error


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
                    self._file.write(csv_line(self._header).encode())
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
        line = csv_line(record.get(name, "") for name in self._header)
        return mend_surrogates(line).encode()

    def _add_table(self, table: pa.Table) -> None:
        self._header = self._header or table.schema.remove_metadata()
        if sorted(table.schema.names) != sorted(self._header.names):
            self._differ(table.schema.names)
        if table.schema.names != self._header.names:
            table = table.select(self._header.names)
        for column, wanted in zip(table.schema, self._header, strict=True):
            # Arrow would make a number of the text 007.
            if is_text(column.type) != is_text(wanted.type) and not pa.types.is_null(column.type):
                self._differ([f"{column.name} ({column.type})"])
        try:
            table = table.cast(self._header)
        except pa.ArrowException:
            self._differ([f"{field.name} ({field.type})" for field in table.schema])
        if self._file is None or self._file.tell() >= self._most:
            self._next()
            self._parquet = self._open.enter_context(
                pq.ParquetWriter(self._file, self._header, compression="zstd")
            )
        assert self._parquet is not None
        self._parquet.write_table(table)

    def _differ(self, names: Sequence[str]) -> NoReturn:
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
