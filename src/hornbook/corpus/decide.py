"""The middle passes of prepare: what becomes of each document, decided from arrays alone.

In: the spool. Out: `work/fates.bin`, a byte for each document: the split it goes to, or why it is
dropped; and `work/plan.json`, the shards. Texts are not read.

1. exact duplicates: of equal texts the first stays;
2. near duplicates: of each set the first stays, and the set is split as its member with the lowest
   hash of an id would be;
3. held out is what that hash says, but what the ledger knows stays where it is, and what is equal
   or near to it is dropped;
4. the shards of a split take equal shares of its bytes.

Memory: `prepare.memory_megabytes` for sorting, 3 bytes a document, and of mapped files 8 bytes a
document, with near duplicates 12.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from hornbook.corpus.config import PrepareConfig
from hornbook.corpus.exact import ExactPass
from hornbook.corpus.ledger import Ledger
from hornbook.corpus.mapped import mapped_zeros
from hornbook.corpus.near import Signed, SignedRows, near_duplicates
from hornbook.corpus.signatures import UNSIGNED
from hornbook.corpus.split import BUCKETS, FEW_DOCUMENTS, SPLITS
from hornbook.corpus.spool import Spool
from hornbook.files import atomic_path, read_json, write_json

REASONS = ("duplicate", "near.duplicate", "held_out")
_TRAIN, _VALIDATION, _TEST, _DUPLICATE, _NEAR, _HELD_OUT = range(6)
FATES = (*SPLITS, *REASONS)
"""What a byte of `fates.bin` means."""

_CHUNK = 2**20
"""Documents that are looked at together: 8 MB an array."""

_LEDGER_ROWS = 2**14
"""Rows of the ledger whose bands are hashed together, in 1 kB a row: 16 MB."""

Fates = npt.NDArray[np.uint8]
Kind = TypeVar("Kind", np.uint8, np.uint32)


@dataclass(frozen=True)
class Shard:
    """A shard to be written: the documents of a split among those numbered first to last - 1."""

    split: str
    number: int
    first: int
    last: int


@dataclass
class Plan:
    """What is to be written. `passages`: documents are cut first, and there are no shards yet."""

    kept: int
    passages: bool
    shards: list[Shard] = field(default_factory=list)

    @classmethod
    def read(cls, work: Path) -> Plan:
        """The plan that `decide` wrote."""
        known = read_json(work / "plan.json")
        return cls(known["kept"], known["passages"], [Shard(**each) for each in known["shards"]])


def decide(
    config: PrepareConfig, work: Path, spool: Spool, on_step: Callable[[], None] = lambda: None
) -> Plan:
    """Decide what becomes of each document of the spool; written to `work`, and given back.

    Done before, it is read. `on_step` is called `steps_of(config)` times.
    """
    if (work / "plan.json").exists():
        return Plan.read(work)
    fates = np.zeros(len(spool), np.uint8)
    ledger = Ledger(work / "ledger.before", config.split_salt)
    own = np.zeros(len(spool), np.uint8)
    for start, places in spool.pieces("places"):
        own[start : start + len(places)] = ledger.splits(places)
    if config.deduplicate:
        _exact(config, work, spool, fates, own)
    for start, digests in spool.pieces("digests"):
        here = slice(start, start + len(digests))
        equal = ledger.has_text(digests) & (own[here] == 0) & (fates[here] == _TRAIN)
        fates[here][equal] = _HELD_OUT
    on_step()
    places = _places(spool, work)
    if config.runs(config.near):
        _near(config, work, spool, fates, own, ledger, places, on_step)
    _split(config, fates, own, places)
    kept = sum(int((piece <= _TEST).sum()) for _, piece in _pieces(fates))
    plan = Plan(kept, passages=_in_passages(config, kept))
    if not plan.passages:
        for code, split in enumerate(SPLITS):
            plan.shards += _shards(split, code, spool, fates, config.shard_megabytes * 10**6)
    with atomic_path(work / "fates.bin") as temporary:
        fates.tofile(temporary)
    write_json(work / "plan.json", asdict(plan))
    return plan


def steps_of(config: PrepareConfig) -> int:
    """How often `decide` calls `on_step`."""
    return 1 + (config.near.bands if config.runs(config.near) else 0)


def read_fates(work: Path) -> Fates:
    """What `decide` wrote: an index of `FATES` for each document."""
    path = work / "fates.bin"  # nothing cannot be mapped
    return (
        np.asarray(np.memmap(path, np.uint8, "r")) if path.stat().st_size else np.empty(0, np.uint8)
    )


def _exact(config: PrepareConfig, work: Path, spool: Spool, fates: Fates, own: Fates) -> None:
    exact = ExactPass(work / "exact", config.memory_megabytes * 10**6)
    for start, digests in spool.pieces("digests"):
        exact.add(digests, first=own[start : start + len(digests)] > 0)
    for numbers in exact.duplicates():
        fates[numbers] = _DUPLICATE


def _places(spool: Spool, work: Path) -> npt.NDArray[np.uint64]:
    """The places of all documents, in one file that is mapped into memory."""
    places: npt.NDArray[np.uint64] = mapped_zeros(work / "places.bin", np.uint64, (len(spool),))
    for start, piece in spool.pieces("places"):
        places[start : start + len(piece)] = piece
    return places


def _near(
    config: PrepareConfig,
    work: Path,
    spool: Spool,
    fates: Fates,
    own: Fates,
    ledger: Ledger,
    places: npt.NDArray[np.uint64],
    on_band: Callable[[], None],
) -> None:
    """Mark near duplicates, and give each set the place of its lowest member."""
    near, folder = config.near, work / "near"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    held = ledger.signatures(near.permutations, folder / "ledger.bin")
    # The ledger's rows come last, so that the lowest number of a set is a document's.
    rows = [(len(spool) + start, piece) for start, piece in _pieces(held, _LEDGER_ROWS)]
    signed = Signed(
        [*spool.segments, *(SignedRows(piece, near.bands, near.rows) for _, piece in rows)]
    )
    taking_part = np.ones(len(signed), np.bool_)
    for start, piece in itertools.chain(spool.pieces("signatures"), rows):
        taking_part[start : start + len(piece)] = (piece != UNSIGNED).any(axis=1)
    taking_part[: len(spool)] &= fates == _TRAIN
    memory = config.memory_megabytes * 10**6
    sets = near_duplicates(signed, near.bands, near.threshold, folder, memory, taking_part, on_band)
    known = np.concatenate([np.flatnonzero(own), np.arange(len(spool), len(signed))])
    of_known = np.unique(sets.find(known))
    for start, piece in _pieces(fates):
        numbers = np.arange(start, start + len(piece))
        roots = sets.find(numbers)
        np.minimum.at(places, roots, np.asarray(places[numbers]))
        new = (piece == _TRAIN) & (own[numbers] == 0)
        near_known = new & np.isin(roots, of_known)
        piece[near_known] = _HELD_OUT
        piece[new & ~near_known & (roots != numbers)] = _NEAR
    shutil.rmtree(folder)


def _split(config: PrepareConfig, fates: Fates, own: Fates, places: npt.NDArray[np.uint64]) -> None:
    """Hold out what the hash says and what the ledger knows; in any case one document."""
    limits = {_VALIDATION: config.validation_share * BUCKETS}
    if config.test_share:
        limits[_TEST] = limits[_VALIDATION] + config.test_share * BUCKETS
    for start, piece in _pieces(fates):
        here = slice(start, start + len(piece))
        buckets, new = places[here] % np.uint64(BUCKETS), piece == _TRAIN
        for code, limit in reversed(limits.items()):
            piece[new & (buckets < limit)] = code
        known = new & (own[here] > 0)
        piece[known] = own[here][known]
    for code in limits:
        if not any((piece == code).any() for _, piece in _pieces(fates)):
            # Nothing fell below the share: the lowest one is held out all the same.
            lowest = [
                (int(places[number]) % BUCKETS, int(places[number]), number)
                for number in _lowest(fates, places)
            ]
            if lowest:
                fates[min(lowest)[2]] = code


def _lowest(fates: Fates, places: npt.NDArray[np.uint64]) -> Iterator[int]:
    """Of each piece the document to train on that stands first in the order of holding out."""
    for start, piece in _pieces(fates):
        numbers = np.flatnonzero(piece == _TRAIN) + start
        if len(numbers):
            here = np.asarray(places[numbers])
            yield int(numbers[np.lexsort((here, here % np.uint64(BUCKETS)))[0]])


def _in_passages(config: PrepareConfig, kept: int) -> bool:
    if config.passages == "auto":
        # Passages have no ids that a ledger could know, and no third split.
        return 0 < kept < FEW_DOCUMENTS and not config.ledger and not config.test_share
    return config.passages == "always"


def _shards(split: str, code: int, spool: Spool, fates: Fates, size: int) -> Iterator[Shard]:
    """The shards of a split, of equal shares of its bytes: a document goes to the one in which its
    first byte falls. Together they cover all documents, so that each dropped one is met by one
    shard of training text."""
    total = documents = 0
    for start, bytes in spool.pieces("bytes"):
        mine = fates[start : start + len(bytes)] == code
        total += int(bytes[mine].sum())
        documents += int(mine.sum())
    if not documents and code != _TRAIN:
        return
    count = min(max(round(total / max(size, 1)), 1), max(documents, 1))
    number, first, before, current = 0, 0, 0, 0
    for start, bytes in spool.pieces("bytes"):
        numbers = np.flatnonzero(fates[start : start + len(bytes)] == code)
        cumulative = before + np.cumsum(bytes[numbers], dtype=np.int64)
        begins = cumulative - bytes[numbers].astype(np.int64)
        shards = np.minimum(begins * count // max(total, 1), count - 1)
        for at in np.flatnonzero(np.diff(shards, prepend=current)):
            last = start + int(numbers[at])
            yield Shard(split, number, first, last)
            number, first = number + 1, last
        if len(numbers):
            before, current = int(cumulative[-1]), int(shards[-1])
    yield Shard(split, number, first, len(spool))


def _pieces(
    values: npt.NDArray[Kind], size: int = _CHUNK
) -> Iterator[tuple[int, npt.NDArray[Kind]]]:
    for start in range(0, len(values), size):
        yield start, values[start : start + size]
