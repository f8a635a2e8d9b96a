"""Settings of the tokenize stage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

TokenizerKind = Literal["bpe", "characters", "gpt2", "p50k_base", "cl100k_base", "phi2", "file"]


@dataclass
class TokenizeConfig:
    """Train or import a tokenizer, and turn documents into token shards."""

    kind: TokenizerKind = "bpe"
    """`bpe` trains a byte-level BPE on the training documents; `characters` has one token per
    character; `gpt2`, `p50k_base`, `cl100k_base`, `phi2` are the known ones; `file` takes any
    tokenizer.json."""

    vocabulary: int = 32768
    """Tokens of a trained `bpe` vocabulary, the special ones included. `characters` needs fewer,
    one for each character there is; it takes the most frequent where this is too small. 0: after
    the size of the text, a token for about every 1,000 bytes (a power of two from 512 to 32,768, or
    as many as a short text allows)."""

    split_pattern: Literal["gpt2", "llama3"] = "llama3"
    """How text is cut into words before BPE merges: exactly GPT-2's or Llama-3's pattern."""

    file: str | None = None
    """`kind: file`: a tokenizer.json, or a folder that has one. Known kinds: a local rank file
    (such as r50k_base.tiktoken) to use instead of a download."""

    sample_megabytes: int = 512
    """`bpe` and `characters` learn from a deterministic sample of at most this many MB of text."""

    special_tokens: bool = True
    """Reserve the sixteen named special tokens (chat roles, end of turn, image, audio, pad,
    spare) besides end of text; the known kinds get them after their stock ids, which stay as they
    are. Imported `file` tokenizers are never changed."""

    encoder: Literal["auto", "tokenizers", "gigatoken"] = "auto"
    """Library that encodes at scale. `auto`: gigatoken where it is installed and gives the same
    ids as `tokenizers` on a sample of the real data, else `tokenizers`."""

    workers: int = 0
    """Processes for the `tokenizers` encoder; 0: one for each CPU core."""

    shard_tokens: int = 100_000_000
    """Tokens per shard."""
