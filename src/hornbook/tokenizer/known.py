"""The known tokenizers: GPT-2's, p50k_base, cl100k_base, Phi-2's.

In: a rank file (rank_files.py finds it). Out: the text of a tokenizer.json with exactly the stock
ids, and the sixteen named special tokens after them if wanted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from hornbook.tokenizer.assemble import AddedToken, SplitPattern, named_tokens, tokenizer_json
from hornbook.tokenizer.rank_files import find_rank_file
from hornbook.tokenizer.ranks import read_ranks, recover_merges
from hornbook.tokenizer.special import END_OF_TEXT

PHI2_WHITESPACE = [" " * length for length in range(31, 1, -1)] + [
    "\t" * length for length in range(9, 1, -1)
]
"""Runs of 31 ... 2 spaces and 9 ... 2 tabs that CodeGen's tokenizer, which Phi-2 uses, adds to
GPT-2's from id 50257 on: added tokens that are not special, so they match in text."""


@dataclass(frozen=True)
class KnownTokenizer:
    """What of a known tokenizer is not in its rank file."""

    ranks: str
    split: SplitPattern
    special: Mapping[str, int]
    whitespace: list[str] = field(default_factory=list)


KNOWN = {
    "gpt2": KnownTokenizer("r50k_base", "gpt2", {END_OF_TEXT: 50256}),
    "p50k_base": KnownTokenizer("p50k_base", "gpt2", {END_OF_TEXT: 50256}),
    "cl100k_base": KnownTokenizer(
        "cl100k_base",
        "llama3",
        {
            END_OF_TEXT: 100257,
            "<|fim_prefix|>": 100258,
            "<|fim_middle|>": 100259,
            "<|fim_suffix|>": 100260,
            "<|endofprompt|>": 100276,
        },
    ),
    "phi2": KnownTokenizer("r50k_base", "gpt2", {END_OF_TEXT: 50256}, PHI2_WHITESPACE),
}


def known_tokenizer(kind: str, file: str | None, *, special_tokens: bool) -> str:
    """The tokenizer.json of a known kind, as text.

    Args:
        kind: a key of `KNOWN`.
        file: its rank file, or None to look for it and download it (`find_rank_file`).
        special_tokens: add the sixteen named special tokens after the stock ids.
    """
    known = KNOWN[kind]
    ranks = read_ranks(find_rank_file(known.ranks, file))
    merges, complete = recover_merges(ranks)
    special = [AddedToken(id, name) for name, id in known.special.items()]
    next_id = max(*ranks.values(), *known.special.values()) + 1
    added = [
        AddedToken(next_id + offset, run, special=False)
        for offset, run in enumerate(known.whitespace)
    ]
    named = named_tokens(next_id + len(added)) if special_tokens else []
    if added:
        added += named
    else:
        special += named
    return tokenizer_json(
        ranks, merges, known.split, own_special=special, added=added, whole_words=not complete
    )
