"""Documents of any format to another one: Parquet, JSON lines, CSV, text.

In: files and folders that are read. Out: one file, compressed where its name ends in .gz or .zst;
for text also a folder with one file a document. Streams: a document in memory at a time, 16 MB of
them for Parquet.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from hornbook.corpus.prepare_report import Count
from hornbook.documents import ROW_GROUP_BYTES, SCHEMA, as_row, byte_length, mend_surrogates
from hornbook.errors import HornbookError, nearest
from hornbook.files import atomic_folder, atomic_path
from hornbook.gather.inputs import find_inputs
from hornbook.gather.readers import Reading, read_with_cursor
from hornbook.gather.tables import csv_line
from hornbook.progress import bar

Format = Literal["parquet", "jsonl", "csv", "text"]
Row = dict[str, str]
Meta = dict[str, Any]
Write = Callable[[Row, Meta], None]
"""Takes a document as a row of text columns, and its `meta`."""


def convert(
    inputs: Sequence[str | Path],
    to: Format,
    out: Path,
    *,
    columns: Sequence[str] = (),
    separator: str | None = None,
    text_column: str | None = None,
) -> Count:
    """Write the documents of `inputs` in another format; returns how many, and bytes of text.

    Columns of tables that documents do not have are kept in their `meta`.

    Args:
        inputs: files and folders of any kind that is read.
        to: the format.
        out: the file; the folder for `text` without a separator. Whole or absent.
        columns: fields of a document, in this order; none: all.
        separator: a line between the texts of one text file.
        text_column: column or key of the text; None: found by itself.

    Raises:
        HornbookError: something cannot be read, a column is unknown, or `out` is there already.
    """
    for column in columns:
        if column not in SCHEMA.names:
            raise HornbookError(
                f"documents have no column {column!r}",
                where="--columns",
                hint=nearest(column, SCHEMA.names),
            )
    if to != "text" and separator is not None:
        raise HornbookError("is for --to text alone", where="--separator")
    if to == "text" and columns:
        raise HornbookError("text has no columns", where="--columns", hint="Leave it out")
    found = find_inputs(inputs, option="--")
    if out.resolve() in {file.path.resolve() for each in found for file in each.files}:
        raise HornbookError("is among the files to be read", where=out, hint="Name another --out")
    is_folder = to == "text" and separator is None  # may be there, if it is empty
    if out.exists() and not (is_folder and out.is_dir()):
        raise HornbookError("is there already", where=out, hint="Name another --out, or remove it")
    count = Count()
    total = sum(file.bytes for each in found for file in each.files)
    with bar("converting", total) as progress, _writer(to, out, columns, separator) as write:
        reading = Reading(text_column, keep_all=True, on_bytes=progress.advance, warn=progress.say)
        for document, _ in read_with_cursor(inputs, reading):
            write(as_row(document), document.meta)
            count.add(byte_length(document.text))
    return count


def _writer(
    to: Format, out: Path, columns: Sequence[str], separator: str | None
) -> contextlib.AbstractContextManager[Write]:
    columns = columns or SCHEMA.names
    if to == "parquet":
        return _parquet(out, columns)
    if to == "jsonl":
        return _lines(out, lambda row, meta: _json_line({**row, "meta": meta}, columns))
    if to == "csv":
        # A file with a NUL in it is taken for no text, here and elsewhere.
        return _lines(
            out,
            lambda row, meta: csv_line(row[name].replace("\0", "\ufffd") for name in columns),
            first=csv_line(columns),
        )
    if separator is None:
        return _texts(out)
    return _lines(out, lambda row, meta: row["text"].rstrip("\n") + "\n", between=f"{separator}\n")


@contextlib.contextmanager
def _lines(
    out: Path, line: Callable[[Row, Meta], str], *, first: str = "", between: str = ""
) -> Iterator[Write]:
    """Write what `line` makes of each document to one file."""
    with atomic_path(out) as temporary, _opened(temporary, out.suffix) as file:
        file.write(first)
        gap = ""

        def write(row: Row, meta: Meta) -> None:
            nonlocal gap
            file.write(gap + line(row, meta))
            gap = between

        yield write


@contextlib.contextmanager
def _opened(path: Path, ending: str) -> Iterator[IO[str]]:
    with contextlib.ExitStack() as opened:
        file: Any = opened.enter_context(open(path, "wb"))
        if ending == ".gz":  # no time and no name in it: the same documents give the same bytes
            file = opened.enter_context(gzip.GzipFile("", "wb", 6, file, mtime=0))
        elif ending == ".zst":
            file = opened.enter_context(pa.CompressedOutputStream(file, "zstd"))
        yield opened.enter_context(io.TextIOWrapper(file, "utf-8", newline=""))


def _json_line(values: dict[str, Any], columns: Sequence[str]) -> str:
    line = json.dumps({name: values[name] for name in columns}, ensure_ascii=False)
    return mend_surrogates(line) + "\n"


@contextlib.contextmanager
def _parquet(out: Path, columns: Sequence[str]) -> Iterator[Write]:
    schema = pa.schema([SCHEMA.field(name) for name in columns])
    rows: list[Row] = []
    size = 0
    with (
        atomic_path(out) as temporary,
        pq.ParquetWriter(temporary, schema, compression="zstd") as writer,
    ):

        def flush() -> None:
            nonlocal size
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))
            rows.clear()
            size = 0

        def write(row: Row, meta: Meta) -> None:
            nonlocal size
            rows.append(row)
            size += len(row["text"])
            if size >= ROW_GROUP_BYTES:
                flush()

        yield write
        flush()


@contextlib.contextmanager
def _texts(out: Path) -> Iterator[Write]:
    with atomic_folder(out) as folder:
        number = 0

        def write(row: Row, meta: Meta) -> None:
            nonlocal number
            number += 1
            title = re.sub(r"\W+", "-", row["title"]).strip("-")[:60]
            name = f"{number:07d}-{title}.txt" if title else f"{number:07d}.txt"
            (folder / name).write_text(row["text"], encoding="utf-8", newline="")

        yield write
