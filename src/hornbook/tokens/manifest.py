"""`manifest.json`: what a folder of token shards holds, written last and checked on opening.

In: what the tokenize stage counted. Out: the file, and a `Manifest` whose shards are there, whole
and unaltered, or a `HornbookError` that names the one that is not.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from hornbook.errors import HornbookError
from hornbook.files import read_json, sha256_of, write_json
from hornbook.tokens.shards import DTYPE_CODES, disk_dtype, index_bytes

FORMAT_VERSION = 1
NAME = "manifest.json"
AGAIN = "Run `hornbook tokenize --again`"


@dataclass(frozen=True)
class ShardInfo:
    """One shard: `name`.bin, `name`.idx and, for people, `name`.docs.parquet."""

    name: str
    split: str
    tokens: int
    documents: int
    bytes: int
    """UTF-8 bytes of the documents' text (the end-of-text ids stand for none)."""
    bin_sha256: str
    idx_sha256: str
    sources: dict[str, int]
    """Tokens by source."""
    licences: dict[str, int]
    """Tokens by licence."""


@dataclass(frozen=True)
class SplitTotals:
    """Sums over the shards of a split."""

    tokens: int
    documents: int
    bytes: int
    sources: dict[str, int]
    licences: dict[str, int]


@dataclass
class Manifest:
    """What a folder of token shards holds."""

    tokenizer_sha256: str
    """Of tokenizer/tokenizer.json."""
    vocabulary: int
    """Ids that can occur: 0 <= id < vocabulary."""
    dtype: str
    """uint16 or int32."""
    end_of_text: int
    """Id that ends each document."""
    encoder: str
    """Library that encoded, for the record."""
    encoder_checked_documents: int
    """On how many documents its ids were compared with `tokenizers`' first (0: it is that)."""
    shards: list[ShardInfo] = field(default_factory=list)

    def split(self, name: str) -> list[ShardInfo]:
        """The shards of a split, in order."""
        return [shard for shard in self.shards if shard.split == name]

    def totals(self, split: str) -> SplitTotals:
        """Sums over the shards of a split."""
        shards = self.split(split)
        sources: Counter[str] = Counter()
        licences: Counter[str] = Counter()
        for shard in shards:
            sources.update(shard.sources)
            licences.update(shard.licences)
        return SplitTotals(
            tokens=sum(shard.tokens for shard in shards),
            documents=sum(shard.documents for shard in shards),
            bytes=sum(shard.bytes for shard in shards),
            sources=dict(sources),
            licences=dict(licences),
        )

    def write(self, folder: Path, name: str = NAME) -> None:
        """Write `folder`/manifest.json; do it when the shards are all there."""
        splits = dict.fromkeys(shard.split for shard in self.shards)
        value = {
            "format": "hornbook tokens",
            "version": FORMAT_VERSION,
            **asdict(self),
            "totals": {split: asdict(self.totals(split)) for split in splits},
        }
        write_json(folder / name, value)

    @staticmethod
    def read(folder: Path) -> Manifest:
        """Read `folder`/manifest.json. It is the last file written: without it, nothing counts."""
        path = folder / NAME
        if not path.is_file():
            raise HornbookError(
                f"no {NAME} here, so no finished token shards",
                where=folder,
                hint="`hornbook tokenize` writes them",
            )
        return Manifest.from_json(read_json(path), path)

    @staticmethod
    def from_json(value: Any, path: Path) -> Manifest:
        """The manifest in parsed JSON; `path` is named in errors."""
        try:
            version = value["version"]
            if version == FORMAT_VERSION:
                settings = {f.name: value[f.name] for f in fields(Manifest) if f.name != "shards"}
                manifest = Manifest(**settings, shards=[ShardInfo(**s) for s in value["shards"]])
                _refuse_unknown_dtype(manifest.dtype)
                return manifest
        except (KeyError, TypeError, ValueError) as error:
            raise HornbookError(
                f"is not a token manifest ({error!r})", where=path, hint=AGAIN
            ) from error
        raise HornbookError(
            f"has format version {version}, this hornbook reads {FORMAT_VERSION}",
            where=path,
            hint=AGAIN,
        )

    def check(self, folder: Path, shards: list[ShardInfo], *, verify: bool) -> None:
        """See that the files of `shards` are there and have their size; with `verify`, also their
        sha256 (reads everything once)."""
        itemsize = disk_dtype(self.dtype).itemsize
        for shard in shards:
            _check_file(
                folder / f"{shard.name}.bin",
                shard.tokens * itemsize,
                shard.bin_sha256 if verify else None,
            )
            _check_file(
                folder / f"{shard.name}.idx",
                index_bytes(shard.documents),
                shard.idx_sha256 if verify else None,
            )


def _refuse_unknown_dtype(dtype: str) -> None:
    """Raise ValueError for a dtype that no shard has."""
    if dtype not in DTYPE_CODES:
        raise ValueError(f"dtype {dtype!r}")


def _check_file(path: Path, size: int, sha256: str | None) -> None:
    """Raise `HornbookError` when `path` is missing, has another size, or (given one) hash."""
    if not path.is_file():
        raise HornbookError(
            "the manifest lists this shard, but it is missing", where=path, hint=AGAIN
        )
    actual = path.stat().st_size
    if actual < size:
        raise HornbookError(f"is truncated: {actual:,} bytes of {size:,}", where=path, hint=AGAIN)
    if actual > size:
        raise HornbookError(
            f"was altered: {actual:,} bytes instead of {size:,}", where=path, hint=AGAIN
        )
    if sha256 is not None and sha256_of(path) != sha256:
        raise HornbookError("was altered: its sha256 is not the manifest's", where=path, hint=AGAIN)
