"""Documents: the one schema that every source writes and every later stage reads.

In: documents. Out: folders of Parquet shards `documents-00000.parquet` (zstd), and back.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from hornbook.errors import HornbookError
from hornbook.files import atomic_path

SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("text", pa.large_string(), nullable=False),
        pa.field("source", pa.string()),
        pa.field("url", pa.string()),
        pa.field("title", pa.string()),
        pa.field("licence", pa.string()),
        pa.field("language", pa.string()),
        pa.field("created", pa.string()),
        pa.field("meta", pa.string()),
    ]
)
"""Columns of every document shard; `meta` is a JSON object as text."""

ROW_GROUP_BYTES = 16 * 2**20
"""Text bytes gathered before a row group is written: bounds memory, keeps streaming reads small."""


@dataclass
class Document:
    """One text and where it came from.

    `id` is blake2b (hex, 16 bytes) of source + canonical URL where there is one, else of the text.
    """

    text: str
    source: str = ""
    url: str = ""
    title: str = ""
    licence: str = ""
    language: str = ""
    created: str = ""
    meta: dict[str, Any] = field(default_factory=dict)
    id: str = ""

    def __post_init__(self) -> None:
        if not self.id:
            key = f"{self.source}\n{self.url}" if self.url else self.text
            self.id = document_id(key)


def document_id(key: str) -> str:
    """blake2b of `key` (16 bytes, hex); lone surrogates, which UTF-8 refuses, are kept apart."""
    return hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def shard_paths(folder: Path) -> list[Path]:
    """The document shards of a folder, in order. Raises `HornbookError` when there are none."""
    paths = sorted(folder.glob("documents-*.parquet"))
    if not paths:
        raise HornbookError(
            "no document shards (documents-*.parquet) here", where=folder,
            hint="`hornbook prepare` writes them",
        )
    return paths


def read_documents(folder: Path) -> Iterator[Document]:
    """Stream the documents of a folder of shards, a row group in memory at a time."""
    for path in shard_paths(folder):
        try:
            shard = pq.ParquetFile(path)
            for batch in shard.iter_batches(batch_size=256):
                for row in batch.to_pylist():
                    row["meta"] = json.loads(row["meta"]) if row["meta"] else {}
                    yield Document(**{key: "" if v is None else v for key, v in row.items()})
        except pa.ArrowException as error:
            raise HornbookError(
                f"is not a readable document shard ({error})", where=path,
                hint="Run the stage that wrote it again",
            ) from error


def write_documents(
    documents: Iterable[Document], folder: Path, *, shard_bytes: int = 256 * 2**20
) -> list[Path]:
    """Write documents as shards of about `shard_bytes` of text each; returns the paths.

    Each shard appears whole or not at all. At most `ROW_GROUP_BYTES` of text is held in memory.
    """
    paths: list[Path] = []
    remaining = iter(documents)
    document = next(remaining, None)
    while document is not None:
        path = folder / f"documents-{len(paths):05d}.parquet"
        with atomic_path(path) as temporary, pq.ParquetWriter(
            temporary, SCHEMA, compression="zstd"
        ) as writer:
            written = 0
            while document is not None and written < shard_bytes:
                group: list[Document] = []
                group_bytes = 0
                while document is not None and group_bytes < ROW_GROUP_BYTES:
                    group.append(document)
                    group_bytes += len(document.text)
                    document = next(remaining, None)
                writer.write_table(_table(group))
                written += group_bytes
        paths.append(path)
    return paths


def _table(documents: list[Document]) -> pa.Table:
    columns: dict[str, list[str]] = {
        name: [getattr(d, name) for d in documents] for name in SCHEMA.names if name != "meta"
    }
    columns["meta"] = [
        json.dumps(d.meta, ensure_ascii=False, sort_keys=True) if d.meta else ""
        for d in documents
    ]
    return pa.table(columns, schema=SCHEMA)
