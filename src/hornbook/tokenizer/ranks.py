"""tiktoken's rank files: read, and turned into merges.

In: a rank file. Out: tokens with their ranks, and the merges that come to the same tokens.
"""

from __future__ import annotations

import base64
import itertools
from collections.abc import Mapping
from pathlib import Path


def read_ranks(path: Path) -> dict[bytes, int]:
    """Read a rank file: a line for each token, its bytes in base64, a space, its rank."""
    lines = path.read_bytes().splitlines()
    pairs = (line.split() for line in lines if line)
    return {base64.b64decode(token): int(rank) for token, rank in pairs}


def recover_merges(ranks: Mapping[bytes, int]) -> tuple[list[tuple[bytes, bytes]], bool]:
    """The merges that give the same tokens as `ranks`, and whether they reach every token.

    tiktoken joins the neighbours whose joined bytes have the lowest rank. A token can come about
    in one way only: by joining the two parts that its own bytes come to when just lower ranks are
    used. Where more than two parts are left, no merging reaches the token (tiktoken gives it only
    for a word that equals it).
    """
    merges = []
    complete = True
    for token, rank in sorted(ranks.items(), key=lambda item: item[1]):
        if len(token) == 1:
            continue
        parts = _merge_below(token, ranks, rank)
        if len(parts) == 2:
            merges.append((parts[0], parts[1]))
        else:
            complete = False
    return merges, complete


def _merge_below(token: bytes, ranks: Mapping[bytes, int], limit: int) -> list[bytes]:
    """Byte-pair encode `token` with the ranks under `limit` only."""
    parts = [token[index : index + 1] for index in range(len(token))]
    while True:
        joined = [ranks.get(left + right, limit) for left, right in itertools.pairwise(parts)]
        best = min(joined, default=limit)
        if best >= limit:
            return parts
        at = joined.index(best)
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
