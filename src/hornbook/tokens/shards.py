"""Token shards: Megatron's indexed dataset, one document a sequence.

In: ids of documents. Out: `NAME.bin` and `NAME.idx`, and a memory-mapped reader.

`.bin` is nothing but the ids, little-endian uint16 (int32 where ids exceed 65535), each document
ending in the end-of-text id. `.idx` is MMIDIDX version 1 (Megatron-LM,
megatron/core/datasets/indexed_dataset.py): 9 bytes `MMIDIDX\\0\\0`, uint64 version, uint8 dtype
code, uint64 sequences, uint64 documents + 1, int32 lengths [sequences], int64 byte offsets
[sequences], int64 first sequence of each document [documents + 1].
"""

from __future__ import annotations

import contextlib
import hashlib
import struct
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from hornbook.errors import HornbookError
from hornbook.files import TEMPORARY, atomic_path

MAGIC = b"MMIDIDX\x00\x00"
VERSION = 1
HEADER = struct.Struct("<9sQBQQ")
DTYPE_CODES = {"uint16": 8, "int32": 4}
"""Names of the token dtypes, and Megatron's codes for them."""

Tokens = NDArray[Any]
"""Ids as they lie on disk: uint16 or int32, [count]."""


def token_dtype(vocabulary: int) -> str:
    """The smaller dtype that holds ids below `vocabulary`."""
    return "uint16" if vocabulary <= 2**16 else "int32"


def disk_dtype(name: str) -> np.dtype[Any]:
    """The little-endian numpy dtype of a `DTYPE_CODES` name."""
    return np.dtype(name).newbyteorder("<")


def index_bytes(documents: int) -> int:
    """Size of an `.idx` file: header, and 20 bytes a document."""
    return HEADER.size + 12 * documents + 8 * (documents + 1)


@dataclass(frozen=True)
class WrittenShard:
    """What was written: counts and the hex sha256 of both files."""

    tokens: int
    documents: int
    bin_sha256: str
    idx_sha256: str


class ShardWriter:
    """Writes one shard as a stream; in memory are only the lengths, 4 bytes a document.

    Use as `with ShardWriter(folder, "train-00000", "uint16") as writer: writer.append(ids)`. Both
    files appear when the block ends without an error; `.written` then says what they hold.
    """

    def __init__(self, folder: Path, name: str, dtype: str):
        self._bin_path, self._idx_path = folder / f"{name}.bin", folder / f"{name}.idx"
        self._dtype_name = dtype
        self._dtype = disk_dtype(dtype)
        self._lengths = array("i")
        self._hash = hashlib.sha256()
        self._files = contextlib.ExitStack()
        self.tokens = 0
        self.written: WrittenShard | None = None

    def __enter__(self) -> ShardWriter:
        temporary = self._files.enter_context(atomic_path(self._bin_path))
        self._bin: BinaryIO = self._files.enter_context(open(temporary, "wb"))
        return self

    def append(self, ids: NDArray[np.integer[Any]]) -> None:
        """Add a document: int [length], its end-of-text id the last."""
        limit = np.iinfo(self._dtype).max
        assert ids.size and ids.min() >= 0 and ids.max() <= limit, "an id does not fit the dtype"
        data = ids.astype(self._dtype).tobytes()
        self._bin.write(data)
        self._hash.update(data)
        self._lengths.append(ids.size)
        self.tokens += ids.size

    def __exit__(self, *error: Any) -> None:
        if error[0] is None:
            with self._files:
                idx_sha256 = self._write_index()
            self.written = WrittenShard(
                self.tokens, len(self._lengths), self._hash.hexdigest(), idx_sha256
            )
        else:
            self._files.__exit__(*error)

    def _write_index(self) -> str:
        lengths = np.frombuffer(self._lengths, dtype=np.int32).astype("<i4")
        count = len(lengths)
        ends = np.cumsum(lengths, dtype=np.int64) * self._dtype.itemsize
        offsets = np.concatenate([np.zeros(min(count, 1), np.int64), ends[:-1]]).astype("<i8")
        header = HEADER.pack(MAGIC, VERSION, DTYPE_CODES[self._dtype_name], count, count + 1)
        digest = hashlib.sha256()
        with atomic_path(self._idx_path) as temporary, open(temporary, "wb") as handle:
            for part in (header, lengths, offsets, np.arange(count + 1, dtype="<i8")):
                data = part if isinstance(part, bytes) else part.tobytes()
                handle.write(data)
                digest.update(data)
        return digest.hexdigest()


def read_lengths(path: Path) -> NDArray[np.int32]:
    """Document lengths in tokens, int32 [documents], from an `.idx` file."""
    with open(path, "rb") as handle:
        header = handle.read(HEADER.size)
        if len(header) == HEADER.size:
            magic, version, _, documents, _ = HEADER.unpack(header)
            if magic == MAGIC and version == VERSION:
                lengths = np.fromfile(handle, dtype="<i4", count=documents)
                if len(lengths) == documents:
                    return lengths.astype(np.int32, copy=False)
    raise HornbookError(
        "is not a whole MMIDIDX version 1 index", where=path, hint="Run `hornbook tokenize --again`"
    )


class TokenShards:
    """All shards of a split, memory-mapped, as one ring of tokens.

    Position 0 is the first token of the first shard; the token before it is the last one of the
    last shard, always an end of text. So every token has a token before it, and reading past an
    edge of a shard or past the end just goes on.
    """

    def __init__(self, folder: Path, names: Sequence[str], dtype: str):
        self._folder, self._names = folder, list(names)
        self._shards: list[Tokens] = [
            np.asarray(np.memmap(folder / f"{name}.bin", dtype=disk_dtype(dtype), mode="r"))
            for name in names
        ]
        self._starts = [0]
        for shard in self._shards:
            self._starts.append(self._starts[-1] + len(shard))

    def __len__(self) -> int:
        return self._starts[-1]

    def read(self, start: int, count: int) -> Tokens:
        """`count` tokens from position `start` (any whole number: it is taken around the ring).

        Returns a read-only view where the range lies in one shard, else a copy.
        """
        parts = list(self._parts(start % len(self), count))
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def lengths(self) -> NDArray[np.int32]:
        """Lengths of all documents in order, int32 [documents]; the end-of-text ids count."""
        return np.concatenate([read_lengths(self._folder / f"{n}.idx") for n in self._names])

    def _parts(self, start: int, count: int) -> Iterator[Tokens]:
        shard = bisect_right(self._starts, start) - 1
        while True:
            offset = start - self._starts[shard]
            part = self._shards[shard][offset : offset + count]
            yield part
            count -= len(part)
            if count == 0:
                return
            shard = (shard + 1) % len(self._shards)
            start = self._starts[shard]


def remove_temporary(folder: Path) -> None:
    """Delete what a killed run had half-written in `folder`."""
    for path in folder.glob(f"*{TEMPORARY}"):
        path.unlink()
