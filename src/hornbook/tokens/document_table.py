"""`NAME.docs.parquet`: where each document of a token shard came from.

In: documents as they are encoded. Out: the table beside the shard, for people and for the manifest;
training never reads it.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from hornbook.documents import Document
from hornbook.files import atomic_path

SCHEMA = pa.schema(
    [
        pa.field("id", pa.string()),
        pa.field("source", pa.string()),
        pa.field("url", pa.string()),
        pa.field("title", pa.string()),
        pa.field("licence", pa.string()),
        pa.field("tokens", pa.int64()),
        pa.field("bytes", pa.int64()),
    ]
)
"""A row for each document, in the shard's order. `tokens` counts the end-of-text id, `bytes` are
of the text in UTF-8."""

ROW_GROUP = 16384
"""Rows held before they are written."""


class DocumentTable:
    """Writes the table as a stream, and counts. A context manager: the file appears at its end.

    Attributes:
        bytes: UTF-8 bytes of all texts so far.
        sources: tokens by source.
        licences: tokens by licence.
    """

    def __init__(self, path: Path):
        self._path = path
        self._rows: list[dict[str, str | int]] = []
        self._files = contextlib.ExitStack()
        self.bytes = 0
        self.sources: Counter[str] = Counter()
        self.licences: Counter[str] = Counter()

    def __enter__(self) -> DocumentTable:
        temporary = self._files.enter_context(atomic_path(self._path))
        self._parquet = self._files.enter_context(
            pq.ParquetWriter(temporary, SCHEMA, compression="zstd")
        )
        return self

    def append(self, document: Document, *, tokens: int, text_bytes: int) -> None:
        """Add a document."""
        self.bytes += text_bytes
        self.sources[document.source] += tokens
        self.licences[document.licence] += tokens
        self._rows.append(
            {
                "id": document.id,
                "source": document.source,
                "url": document.url,
                "title": document.title,
                "licence": document.licence,
                "tokens": tokens,
                "bytes": text_bytes,
            }
        )
        if len(self._rows) >= ROW_GROUP:
            self._flush()

    def __exit__(self, *error: Any) -> None:
        if error[0] is None:
            with self._files:
                self._flush()
        else:
            self._files.__exit__(*error)

    def _flush(self) -> None:
        self._parquet.write_table(pa.Table.from_pylist(self._rows, schema=SCHEMA))
        self._rows.clear()
