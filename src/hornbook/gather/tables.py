"""Rows of JSON lines, CSV and Parquet, each with where it is.

In: decoded text, or a Parquet file. Out: rows as dicts, or None for one that is too long to be
held. Needs about one row of memory, and 16 MB of Parquet rows.
"""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from hornbook.errors import HornbookError
from hornbook.gather.encodings import BLOCK

LONGEST_ROW = 128 * 2**20
"""Characters of a line of JSON, bytes of a Parquet row: longer ones are left out and counted. The
line, its text and the parsed text are in memory together, at 1 to 4 bytes a character."""

LONGEST_FIELD = 64 * 2**20
"""Characters of a CSV field. What is longer is nearly always a quotation mark that was never
closed, so it is an error."""

_BATCH_BYTES = 16 * 2**20
_MOST_ROWS = 256

Row = tuple[Mapping[str, Any] | None, str]
"""The row, and its place for errors; None: it was too long."""


def lines(blocks: Iterable[str], longest: int = LONGEST_ROW) -> Iterator[str | None]:
    """Yield the lines of blocks of text, without `\\n`; None for one longer than `longest`."""
    parts: list[str] = []
    length = 0
    for block in blocks:
        first, *rest = block.split("\n")
        length += len(first)
        if length <= longest:
            parts.append(first)
        else:
            parts.clear()
        for line in rest:
            yield "".join(parts) if length <= longest else None
            parts, length = [line], len(line)
    if length:
        yield "".join(parts) if length <= longest else None


def json_rows(blocks: Iterable[str], where: str) -> Iterator[Row]:
    """Rows of JSON lines; blank lines are passed over."""
    for number, line in enumerate(lines(blocks), 1):
        place = f"{where}, line {number:,}"
        if line is None:
            yield None, place
        elif line.strip():
            yield json_object(line, place), place


def json_object(line: str | bytes, place: str) -> dict[str, Any]:
    """The object in a line of JSON; `place` is for the error where there is none."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise HornbookError(
            f"is not JSON ({error})",
            where=place,
            hint="Each line has to be one whole JSON object; is the file cut off?",
        ) from None
    if not isinstance(row, dict):
        raise HornbookError(
            f"is a JSON {type(row).__name__}, not an object",
            where=place,
            hint='Each line has to look like {"text": "..."}',
        )
    return row


def csv_rows(blocks: Iterable[str], where: str, name: str) -> Iterator[Row]:
    """Rows of a CSV file whose first line names the columns; the delimiter is found by itself.

    Quoted fields may hold newlines. A row may be shorter than the header, as spreadsheets write
    them, but not longer.
    """
    text = _csv_lines(blocks, where)
    header_line = next(text, "")
    delimiter = "\t" if PurePosixPath(name).suffix.lower() == ".tsv" else _delimiter(header_line)
    reader = csv.reader(itertools.chain([header_line], text), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    while (row := _next_csv_row(reader, where)) is not None:
        place = f"{where}, line {reader.line_num:,}"
        if header is None:
            header = row
        elif len(row) > len(header):
            raise HornbookError(
                f"has {len(row)} fields, but there are {len(header)} columns",
                where=place,
                hint="A field that holds the delimiter has to be in quotation marks",
            )
        elif row:
            yield dict(itertools.zip_longest(header, row, fillvalue="")), place


def _csv_lines(blocks: Iterable[str], where: str) -> Iterator[str]:
    for number, line in enumerate(lines(blocks, LONGEST_FIELD), 1):
        if line is None:
            raise _endless_field(f"{where}, line {number:,}")
        yield line + "\n"


def _delimiter(header: str) -> str:
    """The delimiter that gives the header the most columns; a comma in doubt."""

    def columns(delimiter: str) -> int:
        try:
            return len(next(csv.reader([header], delimiter=delimiter), []))
        except csv.Error:
            return 0

    return max(",;\t|", key=columns)


def csv_line(values: Iterable[str]) -> str:
    """A line of CSV. All in quotation marks: unquoted, a carriage return or an empty row would not
    come back."""
    return ",".join('"' + value.replace('"', '""') + '"' for value in values) + "\n"


def _next_csv_row(reader: Any, where: str) -> list[str] | None:
    # The limit is one for the whole process (131,072 by default), so it is put back each time.
    before = csv.field_size_limit(LONGEST_FIELD)
    try:
        row: list[str] | None = next(reader, None)
    except csv.Error as error:
        place = f"{where}, line {reader.line_num:,}"
        if "field limit" in str(error):
            raise _endless_field(place) from None
        raise HornbookError(
            f"is not CSV ({error})",
            where=place,
            hint="Quotation marks inside a quoted field have to be doubled",
        ) from None
    finally:
        csv.field_size_limit(before)
    return row


def _endless_field(place: str) -> HornbookError:
    return HornbookError(
        f"has a field of more than {LONGEST_FIELD >> 20} MB",
        where=place,
        hint="Is a quotation mark missing? Texts of this length are read from .txt or .parquet",
    )


def parquet_rows(
    table: pq.ParquetFile,
    column: str,
    kept: list[str],
    where: str,
    *,
    skip: Callable[[int], bool],
    on_rows: Callable[[int], None],
) -> Iterator[Row]:
    """Rows of a Parquet file, with the columns `column` and `kept`.

    Args:
        table: the open file.
        column: the one with the text.
        kept: further columns.
        where: for messages.
        skip: asked with the rows of each row group: whether all of them are passed over unread.
        on_rows: told how many rows were read.
    """
    columns = [column, *kept]
    for group in range(table.num_row_groups):
        count = table.metadata.row_group(group).num_rows
        if skip(count):
            on_rows(count)
            continue
        rows = _batch_rows(table, group)
        for batch in table.iter_batches(rows, row_groups=[group], columns=columns):
            on_rows(len(batch))
            if batch.nbytes <= LONGEST_ROW:
                yield from ((row, where) for row in batch.to_pylist())
                continue
            for number in range(len(batch)):
                row = batch.slice(number, 1)
                fits = _text_bytes(row, column) <= LONGEST_ROW
                yield (row.to_pylist()[0] if fits else None), where


def _batch_rows(table: pq.ParquetFile, group: int) -> int:
    """Rows to read at once, so that they are at most about `_BATCH_BYTES`.

    All columns count, though few are read: asked for one column's metadata, pyarrow 26 ends the
    process where that is damaged (8 of 20,000 damaged files), and raises where it is read.
    """
    metadata = table.metadata.row_group(group)
    size = max(1, metadata.total_byte_size)
    return int(max(1, min(_MOST_ROWS, _BATCH_BYTES * metadata.num_rows // size)))


def _text_bytes(row: pa.RecordBatch, column: str) -> int:
    value = row.column(column)[0]
    if isinstance(value, pa.DictionaryScalar):
        value = value.value
    return int(value.as_buffer().size) if value.is_valid else 0


def open_parquet(file: Any) -> pq.ParquetFile:
    """Open a Parquet file so that its columns are read in pieces, not a row group at once."""
    return pq.ParquetFile(file, buffer_size=BLOCK)


def text_columns(schema: pa.Schema) -> tuple[list[str], list[str]]:
    """Names of the columns that can hold the text; and the others, as `name (why not)`."""
    names, others = [], []
    for field in schema:
        if schema.names.count(field.name) > 1:
            others.append(f"{field.name} (more than once)")
        elif is_text(field.type):
            names.append(field.name)
        else:
            others.append(f"{field.name} ({field.type})")
    return names, others


def is_text(kind: pa.DataType) -> bool:
    """Whether a column of this type can hold text."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    tests = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    return any(test(kind) for test in tests)
