"""Documents: the one schema that every source writes and every later stage reads.

In: documents. Out: folders of Parquet shards `documents-00000.parquet` (zstd), and back.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from hornbook.errors import HornbookError
from hornbook.files import TEMPORARY, atomic_path

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
            "no document shards (documents-*.parquet) here",
            where=folder,
            hint="`hornbook prepare` writes them",
        )
    return paths


def read_documents(folder: Path) -> Iterator[Document]:
    """Stream the documents of a folder of shards, a row group in memory at a time."""
    for path in shard_paths(folder):
        with open_shard(path) as shard:
            for batch in shard.iter_batches(batch_size=256):
                for row in batch.to_pylist():
                    meta = row.pop("meta")
                    known = {key: value or "" for key, value in row.items()}
                    yield Document(**known, meta=json.loads(meta) if meta else {})


@contextlib.contextmanager
def open_shard(path: Path) -> Iterator[pq.ParquetFile]:
    """A document shard, opened; a damaged one is named, also when that shows only in reading."""
    try:
        with pq.ParquetFile(path) as shard:
            yield shard
    except (pa.ArrowException, OSError) as error:  # damaged pages are an OSError of Arrow's
        raise HornbookError(
            f"is not a readable document shard ({error})",
            where=path,
            hint="Run the stage that wrote it again",
        ) from error


def write_documents(
    documents: Iterable[Document], folder: Path, *, shard_bytes: int = 256 * 2**20
) -> list[Path]:
    """Write documents as shards of about `shard_bytes` of text each; returns the paths."""
    with document_writer(folder, shard_bytes) as writer:
        for document in documents:
            writer.add(document)
    return sorted(folder.glob("documents-*.parquet"))


def remove_shards(folder: Path) -> None:
    """Remove the document shards of an earlier run, whole and unfinished ones."""
    for pattern in ("documents-*.parquet", f"documents-*.parquet{TEMPORARY}"):
        for path in folder.glob(pattern):
            path.unlink()


@contextlib.contextmanager
def document_writer(folder: Path, shard_bytes: int) -> Iterator[DocumentWriter]:
    """Write documents as `documents-00000.parquet`, ..., each of about `shard_bytes` of text.

    Each shard appears whole or not at all: an error leaves the shards finished before it.
    """
    with contextlib.ExitStack() as shard:
        writer = DocumentWriter(folder, shard_bytes, shard)
        yield writer
        writer.flush()


class DocumentWriter:
    """What `document_writer` yields. At most `ROW_GROUP_BYTES` of text is held in memory."""

    def __init__(self, folder: Path, shard_bytes: int, shard: contextlib.ExitStack):
        self._folder, self._shard_bytes = folder, shard_bytes
        self._shard = shard
        self._shards = 0
        self._parquet: Any = None
        self._written = 0
        self._group: list[Document] = []
        self._group_bytes = 0

    def add(self, document: Document) -> None:
        """Write one document, now or a little later."""
        self._group.append(document)
        self._group_bytes += len(document.text)
        if self._group_bytes >= ROW_GROUP_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write what is held as a row group; close the shard when it is full."""
        if not self._group:
            return
        if self._parquet is None:
            self._open()
        rows = [{**vars(document), "meta": _meta_text(document.meta)} for document in self._group]
        self._parquet.write_table(pa.Table.from_pylist(rows, schema=SCHEMA))
        self._written += self._group_bytes
        self._group, self._group_bytes = [], 0
        if self._written >= self._shard_bytes:
            self._parquet = None
            self._shard.close()

    def _open(self) -> None:
        path = self._folder / f"documents-{self._shards:05d}.parquet"
        temporary = self._shard.enter_context(atomic_path(path))
        self._parquet = self._shard.enter_context(
            pq.ParquetWriter(temporary, SCHEMA, compression="zstd")
        )
        self._shards += 1
        self._written = 0


def _meta_text(meta: dict[str, Any]) -> str:
    return json.dumps(meta, ensure_ascii=False, sort_keys=True) if meta else ""
