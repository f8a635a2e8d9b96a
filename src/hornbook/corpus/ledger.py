"""The ledger: which documents are held out, remembered from one prepare to the next.

In: the file that `prepare.ledger` names, where it exists. Out: the splits of known documents, and
what keeps texts near to them out of the training; then the same file with what was held out anew.
A held-out document never becomes training text, whatever is added later.

A row for each held-out document: its id, its split, the blake2b of its text, and its MinHash
signature where near duplicates are looked for. The signature's algorithm is in the file's
metadata. Memory: 33 bytes a row; signatures are mapped from the work folder.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from hornbook.corpus.mapped import mapped_zeros
from hornbook.corpus.signatures import UNSIGNED
from hornbook.corpus.split import SPLITS, hash_order
from hornbook.errors import HornbookError
from hornbook.files import atomic_path

SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("digest", pa.binary(16), nullable=False),
        pa.field("signature", pa.binary()),
    ]
)
"""`digest` and `signature` are little-endian uint64 [2] and uint32 [permutations]."""

_ALGORITHM = b"hornbook.signatures"


class Ledger:
    """A ledger in memory, for looking up. An empty one where there is no file."""

    def __init__(self, path: Path, salt: str):
        """Read `path`. Raises `HornbookError` where that is no ledger."""
        self._path = path
        places, splits = [np.empty(0, np.uint64)], [np.empty(0, np.uint8)]
        digests = [np.empty((0, 2), np.uint64)]
        for rows in _batches(path):
            ids, found = rows.column("id").to_pylist(), rows.column("split").to_pylist()
            places.append(np.array([hash_order(id, salt)[1] for id in ids], np.uint64))
            splits.append(np.array([SPLITS.index(split) for split in found], np.uint8))
            digests.append(_fixed(rows.column("digest")))
        order = np.argsort(np.concatenate(places), kind="stable")
        self._places = np.concatenate(places)[order]
        self._splits = np.concatenate(splits)[order]
        hashed = np.concatenate(digests)
        self._digests = hashed[np.lexsort((hashed[:, 1], hashed[:, 0]))]

    def __len__(self) -> int:
        return len(self._places)

    def splits(self, places: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint8]:
        """The code of the split of each document, by its place; 0 where it is not known."""
        if not len(self):
            return np.zeros(len(places), np.uint8)
        at = np.searchsorted(self._places, places) % len(self)
        return np.where(self._places[at] == places, self._splits[at], np.uint8(0))

    def has_text(self, digests: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
        """Whether a held-out text is equal, by digest."""
        if not len(self):
            return np.zeros(len(digests), np.bool_)
        at = np.searchsorted(self._digests[:, 0], digests[:, 0]) % len(self)
        return np.asarray((self._digests[at] == digests).all(axis=1))

    def signatures(self, permutations: int, scratch: Path) -> npt.NDArray[np.uint32]:
        """The signature of each row [rows, permutations], mapped from the file `scratch`; rows
        that were written without one have `UNSIGNED`."""
        signed = mapped_zeros(scratch, np.uint32, (len(self), permutations))
        at = 0
        for rows in _batches(self._path):
            for value in rows.column("signature").to_pylist():
                signed[at] = np.frombuffer(value, "<u4") if value else UNSIGNED
                at += 1
        return signed


def check_ledger(path: Path, algorithm: str) -> None:
    """Refuse a file that a run cannot use whose signatures are made by `algorithm` ("": none).

    Raises:
        HornbookError: it is no ledger, or has signatures of another algorithm.
    """
    Ledger(path, "")
    known = _algorithm(path)
    if known and algorithm and known != algorithm:
        raise HornbookError(
            f"its signatures are {known}, and this run's are {algorithm}: they cannot be compared",
            where=path,
            hint="Set prepare.near as it was, or name another ledger",
        )


def write_ledger(path: Path, before: Path, rows: Iterable[pa.RecordBatch], algorithm: str) -> None:
    """Write the rows of the ledger `before`, where it exists, and then `rows`."""
    if not algorithm and before.exists():
        algorithm = _algorithm(before)
    schema = SCHEMA.with_metadata({_ALGORITHM: algorithm.encode()})
    with atomic_path(path) as temporary, pq.ParquetWriter(temporary, schema) as writer:
        for batch in itertools.chain(_batches(before), rows):
            writer.write_batch(batch.replace_schema_metadata(schema.metadata))


def ledger_rows(
    ids: list[str],
    splits: list[str],
    digests: npt.NDArray[np.uint64],
    signatures: npt.NDArray[np.uint32] | None,
) -> pa.RecordBatch:
    """Rows in `SCHEMA`."""
    signed = [None] * len(ids) if signatures is None else [
        row.tobytes() for row in signatures.astype("<u4")
    ]  # fmt: skip
    hashed = [row.tobytes() for row in digests.astype("<u8")]
    columns = {"id": ids, "split": splits, "digest": hashed, "signature": signed}
    return pa.RecordBatch.from_pydict(columns, schema=SCHEMA)


def _algorithm(path: Path) -> str:
    with _readable(path), pq.ParquetFile(path) as file:
        metadata: dict[bytes, bytes] = file.schema_arrow.metadata or {}
        return metadata.get(_ALGORITHM, b"").decode()


def _batches(path: Path) -> Iterator[pa.RecordBatch]:
    """The rows of a ledger; none where there is no file."""
    if not path.exists():
        return
    with _readable(path), pq.ParquetFile(path) as file:
        if file.schema_arrow.names != SCHEMA.names:
            raise pa.ArrowInvalid(f"its columns are {', '.join(file.schema_arrow.names)}")
        yield from file.iter_batches(batch_size=2**14)


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise HornbookError(
            f"is not a readable ledger ({str(error).splitlines()[0]})",
            where=path,
            hint="Name the file that an earlier prepare wrote, or a new one",
        ) from error


def _fixed(column: pa.Array) -> npt.NDArray[np.uint64]:
    return np.frombuffer(b"".join(column.to_pylist()), "<u8").reshape(-1, 2)
