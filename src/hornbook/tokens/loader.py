"""Batches of the run: any rows, at any time, on any machine the same.

In: folders of token shards and the recipe's `data` section. Out: a `BatchSource`, whose `rows` is a
pure function of the row numbers. There is no state to save but the number of rows consumed, and
ranks and micro-batches just ask for their part of the range.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hornbook.errors import HornbookError
from hornbook.progress import say
from hornbook.tokens.batch import Batch
from hornbook.tokens.config import DataConfig, SourceConfig
from hornbook.tokens.manifest import Manifest
from hornbook.tokens.mixture import Mixture
from hornbook.tokens.rows import RowArrays, RowTable, row_table
from hornbook.tokens.shards import TokenShards


@dataclass(frozen=True)
class TokenFolder:
    """One split of a folder of token shards, opened."""

    path: Path
    split: str
    manifest: Manifest
    stream: TokenShards


def open_folder(folder: Path, split: str, *, verify: bool) -> TokenFolder:
    """Open a split of a folder of token shards.

    Raises:
        HornbookError: there is no manifest, no tokens of this split, or a shard is missing,
            truncated or (with `verify`) altered.
    """
    manifest = Manifest.read(folder)
    shards = manifest.split(split)
    if not shards:
        raise HornbookError(
            f"has no {split} tokens", where=folder, hint="Run `hornbook tokenize --again`"
        )
    manifest.check(folder, shards, verify=verify)
    stream = TokenShards(folder, [shard.name for shard in shards], manifest.dtype)
    return TokenFolder(folder, split, manifest, stream)


class TokenSource:
    """Rows of one split of one or several token folders."""

    def __init__(
        self,
        folders: list[TokenFolder],
        tables: list[RowTable],
        mixture: Mixture,
        *,
        mode: str,
        seed: int,
        sequence_length: int,
        document_mask: bool,
        messages: list[str],
    ):
        self.sequence_length = sequence_length
        self.rows_per_epoch = sum(table.rows_per_epoch for table in tables)
        self._folders, self._tables, self._mixture = folders, tables, mixture
        self._mode, self._seed = mode, seed
        self._document_mask, self._messages = document_mask, messages

    def rows(self, start: int, count: int) -> Batch:
        """Rows [start, start + count) of the run, on the CPU."""
        arrays = RowArrays.padding(
            count,
            self.sequence_length,
            self._folders[0].manifest.end_of_text,
            mask=self._document_mask,
        )
        sources, index = self._mixture.locate(np.arange(start, start + count, dtype=np.int64))
        for number in np.unique(sources).tolist():
            slots = np.flatnonzero(sources == number)
            self._tables[number].fill(index[slots], slots, arrays)
        return as_batch(arrays)

    def describe(self) -> dict[str, Any]:
        """Mode, sizes, and for each source its share, tokens and padding."""
        return {
            "mode": self._mode,
            "seed": self._seed,
            "split": self._folders[0].split,
            "sequence_length": self.sequence_length,
            "document_mask": self._document_mask,
            "rows_per_epoch": self.rows_per_epoch,
            "tokenizer_sha256": self._folders[0].manifest.tokenizer_sha256,
            "sources": [
                {
                    "path": str(folder.path),
                    "tokens": len(folder.stream),
                    "documents": folder.manifest.totals(folder.split).documents,
                    "bytes": folder.manifest.totals(folder.split).bytes,
                    "rows_per_epoch": table.rows_per_epoch,
                    "padding_share": 1 - fill_share(table, self.sequence_length),
                }
                for folder, table in zip(self._folders, self._tables, strict=True)
            ],
            "phases": self._mixture.describe(),
            "messages": self._messages,
        }


def as_batch(arrays: RowArrays) -> Batch:
    """The arrays as tensors, without a copy."""
    return Batch(
        torch.from_numpy(arrays.inputs),
        torch.from_numpy(arrays.targets),
        None if arrays.positions is None else torch.from_numpy(arrays.positions),
        None if arrays.documents is None else torch.from_numpy(arrays.documents),
    )


def fill_share(table: RowTable, sequence_length: int) -> float:
    """Share of the slots of an epoch that hold tokens; the rest is padding."""
    return table.targets_per_epoch / (table.rows_per_epoch * sequence_length)


def open_source(
    config: DataConfig,
    default: Path,
    sequence_length: int,
    split: str = "train",
    *,
    rows_per_step: int,
    tokenizer_sha256: str | None = None,
) -> TokenSource:
    """Open the tokens that a recipe trains on.

    Args:
        config: the recipe's `data` section.
        default: token folder to read when `config.sources` is empty.
        sequence_length: tokens in a row (T).
        split: `train` or `validation`.
        rows_per_step: rows of a global batch; says at which row a phase begins.
        tokenizer_sha256: refuse tokens of any other tokenizer (that of an `init` model).

    Raises:
        HornbookError: a shard is missing, truncated or altered; the data does not fill one row;
            sources have different tokenizers; lengths, weights, phases or modes that have no
            meaning.
    """
    if sequence_length < 1:
        raise HornbookError(
            f"must be 0 (the model's context) or more, not {sequence_length}",
            where="data.sequence_length",
        )
    if config.document_mask and config.mode != "packed":
        raise HornbookError(
            f"needs data.mode packed, not {config.mode}",
            where="data.document_mask",
            hint="Set data.mode to packed, or data.document_mask to false",
        )
    named = config.sources or [SourceConfig(str(default))]
    folders = [open_folder(Path(s.path), split, verify=config.verify) for s in named]
    _check_tokenizers(folders, tokenizer_sha256)
    for folder in folders:
        _check_length(folder, sequence_length)
    tables = [
        row_table(config.mode, folder.stream, sequence_length, seed=config.seed, source=number)
        for number, folder in enumerate(folders)
    ]
    fills = [fill_share(table, sequence_length) for table in tables]
    mixture = Mixture(_phases(config, [s.weight for s in named], fills, rows_per_step))
    messages = _messages(tables, sequence_length, rows_per_step)
    for message in messages:
        say(message)
    if config.mode == "packed":
        padding = [f"{1 - fill:.1%}" for fill in fills]
        say(f"packed rows: {', '.join(padding)} of their places are padding")
    return TokenSource(
        folders,
        tables,
        mixture,
        mode=config.mode,
        seed=config.seed,
        sequence_length=sequence_length,
        document_mask=config.document_mask,
        messages=messages,
    )


def _messages(tables: list[RowTable], sequence_length: int, rows_per_step: int) -> list[str]:
    """What the user should know of the sizes."""
    rows = sum(table.rows_per_epoch for table in tables)
    if rows >= rows_per_step:
        return []
    return [
        f"the data is smaller than one step: {rows:,} rows of {sequence_length:,} tokens, a step"
        f" takes {rows_per_step:,}; each step goes over it {rows_per_step / rows:.1f} times"
    ]


def _check_tokenizers(folders: list[TokenFolder], expected: str | None) -> None:
    first = folders[0]
    for folder in folders[1:]:
        if folder.manifest.tokenizer_sha256 != first.manifest.tokenizer_sha256:
            raise HornbookError(
                f"its tokens were made with another tokenizer than those of {first.path}",
                where=folder.path,
                hint="Tokenize both with the same tokenizer.json (kind: file)",
            )
    if expected is not None and first.manifest.tokenizer_sha256 != expected:
        raise HornbookError(
            "its tokens were made with another tokenizer than the model's",
            where=first.path,
            hint="Tokenize with the model's tokenizer.json (tokenizer.kind: file)",
        )


def _check_length(folder: TokenFolder, sequence_length: int) -> None:
    tokens = len(folder.stream)
    if tokens > sequence_length:
        return
    raise HornbookError(
        f"the {folder.split} split has {tokens:,} tokens, but one row of sequence length"
        f" {sequence_length:,} needs {sequence_length + 1:,}",
        where=folder.path,
        hint=f"Set model.context (or data.sequence_length) to at most {tokens - 1:,}, or add text",
    )


def _phases(
    config: DataConfig, weights: list[float], fills: list[float], rows_per_step: int
) -> list[tuple[int, list[float]]]:
    """First row and row weights of each phase.

    Weights are meant in tokens, so a source whose rows hold fewer (padding) gets more rows.
    """
    phases = [(0, weights)]
    previous = 0
    for number, phase in enumerate(config.phases):
        where = f"data.phases[{number}]"
        if len(phase.weights) != len(weights):
            raise HornbookError(
                f"has {len(phase.weights)} weights for {len(weights)} sources",
                where=where,
                hint="Give one weight for each entry of data.sources, in order",
            )
        if phase.from_step <= previous:
            raise HornbookError(
                f"begins at step {phase.from_step}, not after step {previous}",
                where=where,
                hint="Phases go in order of from_step, the first later than step 0",
            )
        previous = phase.from_step
        phases.append((phase.from_step * rows_per_step, phase.weights))
    for number, (_, values) in enumerate(phases):
        if not all(math.isfinite(w) and w >= 0 for w in values) or sum(values) == 0:
            raise HornbookError(
                f"weights {values} cannot be shares: none may be negative, one must be above 0",
                where="data.sources" if number == 0 else f"data.phases[{number - 1}]",
            )
    return [
        (first, [weight / fill for weight, fill in zip(values, fills, strict=True)])
        for first, values in phases
    ]
