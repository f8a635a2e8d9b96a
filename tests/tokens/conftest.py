"""Token folders made of numbers, so that every token can be recognised wherever it turns up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from hornbook.tokens.manifest import Manifest, ShardInfo
from hornbook.tokens.shards import ShardWriter, token_dtype

END = 0
"""The end-of-text id of these folders."""

MakeFolder = Callable[..., Path]


def write_folder(
    folder: Path,
    lengths: Sequence[int],
    *,
    split: str = "train",
    per_shard: int = 1000,
    vocabulary: int = 70_000,
    first_id: int = 1,
    tokenizer: str = "t",
) -> Path:
    """A token folder whose documents have these lengths (their end of text included).

    The ids count up from `first_id` through all documents, so each token but the ends is unique.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shards = []
    following = first_id
    for number, begin in enumerate(range(0, len(lengths), per_shard)):
        name = f"{split}-{number:05d}"
        with ShardWriter(folder, name, token_dtype(vocabulary)) as writer:
            for length in lengths[begin : begin + per_shard]:
                ids = np.append(np.arange(following, following + length - 1), END)
                following += length - 1
                writer.append(ids)
        written = writer.written
        assert written is not None
        assert following <= vocabulary
        shards.append(
            ShardInfo(
                name,
                split,
                written.tokens,
                written.documents,
                4 * written.tokens,
                written.bin_sha256,
                written.idx_sha256,
                {"a": written.tokens},
                {"": written.tokens},
            )
        )
    Manifest(tokenizer, vocabulary, token_dtype(vocabulary), END, "test", 0, shards).write(folder)
    return folder


@pytest.fixture
def make_folder() -> MakeFolder:
    """`make_folder(path, [document lengths], ...)`, see `write_folder`."""
    return write_folder
