"""Documents: the one schema that every source writes and every later stage reads.

In: documents. Out: folders of Parquet shards `documents-00000.parquet` (zstd), and back.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
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
            self.id = self.own_id()

    def own_id(self) -> str:
        """The `id` that follows from the other fields."""
        return document_id(f"{self.source}\n{self.url}" if self.url else self.text)


def document_id(key: str) -> str:
    """blake2b of `key` (16 bytes, hex); lone surrogates, which UTF-8 refuses, are kept apart."""
    return hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def mend_surrogates(text: str) -> str:
    """Join surrogate pairs into their character, and replace lone surrogates by U+FFFD."""
    try:
        text.encode("utf-8")  # far faster than a search
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def byte_length(text: str) -> int:
    """Bytes of a text in UTF-8, as a shard holds it."""
    return len(text) if text.isascii() else len(mend_surrogates(text).encode())


def shard_path(folder: Path, number: int) -> Path:
    """The path of one document shard."""
    return folder / f"documents-{number:05d}.parquet"


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
                yield from documents_of(batch)


def documents_of(batch: pa.RecordBatch) -> Iterator[Document]:
    """The documents of rows in `SCHEMA`."""
    for row in batch.to_pylist():
        meta = row.pop("meta")
        known = {key: value or "" for key, value in row.items()}
        yield Document(**known, meta=json.loads(meta) if meta else {})


def record_batch(documents: Iterable[Document]) -> pa.RecordBatch:
    """Documents as rows in `SCHEMA`."""
    return pa.RecordBatch.from_pylist([as_row(each) for each in documents], schema=SCHEMA)


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
def document_writer(
    folder: Path,
    shard_bytes: int,
    *,
    first: int = 0,
    on_shard: Callable[[int, Path], None] = lambda number, path: None,
) -> Iterator[DocumentWriter]:
    """Write documents as `documents-00000.parquet`, ..., each of about `shard_bytes` of text.

    Each shard appears whole or not at all: an error leaves the shards finished before it.

    Args:
        folder: where they go.
        shard_bytes: characters of text, counted by row groups; a row group is smaller than
            `ROW_GROUP_BYTES` where a shard is.
        first: number of the first shard.
        on_shard: told the number and path of each shard that is whole.
    """
    with contextlib.ExitStack() as shard:
        writer = DocumentWriter(folder, shard_bytes, shard, first, on_shard)
        yield writer
        writer.flush()
        writer.close_shard()


class DocumentWriter:
    """What `document_writer` yields. At most `ROW_GROUP_BYTES` of text is held in memory."""

    def __init__(
        self,
        folder: Path,
        shard_bytes: int,
        shard: contextlib.ExitStack,
        first: int,
        on_shard: Callable[[int, Path], None],
    ):
        self._folder, self._shard_bytes = folder, shard_bytes
        self._full_group = min(ROW_GROUP_BYTES, shard_bytes)
        self._shard, self._on_shard = shard, on_shard
        self._shards = first
        self._parquet: Any = None
        self._written = 0
        self._group: list[Document] = []
        self._group_bytes = 0

    @property
    def is_empty(self) -> bool:
        """Whether every document that was added is in a whole shard."""
        return self._parquet is None and not self._group

    def add(self, *documents: Document) -> None:
        """Write documents, now or a little later; those of one call into the same shard."""
        self._group += documents
        self._group_bytes += sum(len(document.text) for document in documents)
        if self._group_bytes >= self._full_group:
            self.flush()

    def flush(self) -> None:
        """Write what is held as a row group; close the shard when it is full."""
        if not self._group:
            return
        if self._parquet is None:
            self._open()
        rows = [as_row(document) for document in self._group]
        self._parquet.write_table(pa.Table.from_pylist(rows, schema=SCHEMA))
        self._written += self._group_bytes
        self._group, self._group_bytes = [], 0
        if self._written >= self._shard_bytes:
            self.close_shard()

    def close_shard(self) -> None:
        """End the shard that is being written, where there is one."""
        if self._parquet is None:
            return
        self._parquet = None
        self._shard.close()
        number = self._shards - 1
        self._on_shard(number, shard_path(self._folder, number))

    def _open(self) -> None:
        path = shard_path(self._folder, self._shards)
        temporary = self._shard.enter_context(atomic_path(path))
        self._parquet = self._shard.enter_context(
            pq.ParquetWriter(temporary, SCHEMA, compression="zstd")
        )
        self._shards += 1
        self._written = 0


def as_row(document: Document) -> dict[str, str]:
    """A document by the columns of `SCHEMA`; Arrow refuses lone surrogates."""
    meta = json.dumps(document.meta, ensure_ascii=False, sort_keys=True) if document.meta else ""
    row = {**vars(document), "meta": meta}
    return {name: mend_surrogates(value) for name, value in row.items()}
