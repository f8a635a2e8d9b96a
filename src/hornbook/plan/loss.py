"""What loss to expect: published scaling laws, and how far they may be off here.

In: parameters, tokens trained on, tokens that are different, bytes that a token holds. Out: nats a
token, with a range.

- Where it was fitted: L = E + A / N^alpha + B / D^beta, N all parameters (Hoffmann et al. 2022,
  arXiv:2203.15556), with the constants of Besiroglu et al. 2024 (arXiv:2404.10102); text that is
  seen several times counts less (Muennighoff et al. 2023, arXiv:2305.16264).
- For little text: L = ((N_c / N)^(alpha_N / alpha_D) + D_c / D)^alpha_D, N without embeddings, D
  different tokens (Kaplan et al. 2020, arXiv:2001.08361, equation 1.5), the loss at which training
  on that text stops to help.
- Between the two neither holds: their geometric mean, and both as the range.

A token of another vocabulary holds more or less text, so that nats a token do not carry over from
tokenizer to tokenizer; bits a byte nearly do. Tokens are therefore turned into bytes and those into
the law's tokens, and its loss back in the same way (`bytes_per_token`). Their text is not yours
either, and all were trained with AdamW or Adafactor. `KNOWN` are other people's runs, and ours,
that the laws are held against.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

E, A, ALPHA, B, BETA = 1.8172, 482.01, 0.3478, 2085.43, 0.3658
"""Besiroglu et al. 2024; standard errors 0.03, 125, 0.02, 1293 and 0.02."""

REPEATED = 15.387756
"""R*_D of Muennighoff et al. 2023, appendix A: after so many repetitions each
was worth 1 - 1/e of new text on average."""

N_C, D_C, ALPHA_N, ALPHA_D = 6.4e13, 1.8e13, 0.076, 0.103
"""Kaplan et al. 2020, table 2: the joint fit, not the ones of N or D alone."""

HOFFMANN_BYTES, KAPLAN_BYTES = 3.9, 4.2
"""Bytes a token where the laws were fitted. MassiveText's English parts with 32,000 SentencePiece
tokens (Rae et al. 2021, arXiv:2112.11446, table 2: 7.45 TB of web, books, C4 and news, 1.92T
tokens); WebText2 with GPT-2's 50,257 (arXiv:2001.08361, section 2.3: 96 GB, 22.9B tokens)."""

SMALLEST_MODEL, FEWEST_TOKENS = 44e6, 1e9
"""The first law was fitted on models from 44M parameters and, but for the end of the curve, on more
tokens than this."""

KAPLAN_SMALLEST_MODEL, KAPLAN_FEWEST_TOKENS = 393e3, 22e6
"""The second law was fitted from so many parameters in blocks (figure 4) and tokens (figure 9)."""

LITTLE_TEXT = 50e6
"""Below so many different tokens the second law is taken alone."""

OFF, FAR_OFF = 0.08, 0.20
"""Relative standard deviation: that of `KNOWN` is 0.037, but they are few; outside the range
in which a law was fitted it is a guess."""


@dataclass(frozen=True)
class KnownRun:
    """A run that somebody did, in the terms of the laws."""

    who: str
    parameters: float
    blocks: float
    tokens: float
    unique: float
    bytes_per_token: float
    nats: float


KNOWN = (
    KnownRun("GPT-2 124M, FineWeb (llm.c)", 124e6, 85e6, 10e9, 10e9, 4.4, 3.28),
    KnownRun("GPT-2 124M, OpenWebText (nanoGPT's README)", 124e6, 85e6, 300e9, 9e9, 4.3, 2.85),
    KnownRun("GPT-2 124M, Wikipedia, 300 s (nanoGPT's code)", 124e6, 85e6, 159e6, 36e6, 4.6, 4.03),
    KnownRun("12 x 768 with Muon, Wikipedia, 60 s", 124e6, 85e6, 33e6, 33e6, 4.6, 4.30),
    KnownRun("quickstart, 4 x 128 (docs/lab-notes.md)", 1.38e6, 0.86e6, 1.45e6, 1.41e6, 3.4, 4.62),
)


@dataclass(frozen=True)
class Loss:
    """An expected loss in nats a token.

    Attributes:
        nats: expected.
        low: and `high`: where two thirds of runs should be.
        epochs: times that the text is seen.
        law: where it comes from.
        bytes_per_token: that a token was taken to hold here.
        law_bytes_per_token: that one held where the law was fitted, in words.
        outside: below which model or text the law was not fitted, where this run is below.
    """

    nats: float
    low: float
    high: float
    epochs: float
    law: str
    bytes_per_token: float
    law_bytes_per_token: str
    outside: str = ""

    @property
    def bits_per_byte(self) -> float:
        """The same for any tokenizer."""
        return self.nats / math.log(2) / self.bytes_per_token

    def at_most(self, guessing: float) -> Loss:
        """Never worse than `guessing`: the laws know no vocabulary and, for a few tokens, say so.

        Args:
            guessing: nats a token of guessing evenly, the logarithm of the vocabulary.
        """
        nats, low, high = (min(value, guessing) for value in (self.nats, self.low, self.high))
        return replace(self, nats=nats, low=low, high=high)


def bytes_per_token(vocabulary: int) -> float:
    """Bytes of English in a token of a BPE vocabulary: 3.4 at 4,096 tokens, 4.3 at 32,768."""
    return max(1.0, 3.4 + 0.3 * (math.log2(vocabulary) - 12))


def expected_loss(
    parameters: float, blocks: float, tokens: float, unique: float, token_bytes: float
) -> Loss:
    """The laws' loss.

    Args:
        parameters: all of the model's.
        blocks: without embeddings and head.
        tokens: seen in training.
        unique: different ones that there are.
        token_bytes: bytes that one of them holds.
    """
    unique = min(tokens, unique)
    longer, more = token_bytes / HOFFMANN_BYTES, token_bytes / KAPLAN_BYTES
    large = longer * hoffmann(parameters, worth(tokens, unique) * longer)
    small = more * kaplan(blocks, unique * more)
    inside = blocks >= KAPLAN_SMALLEST_MODEL and unique * more >= KAPLAN_FEWEST_TOKENS
    if unique < LITTLE_TEXT:
        both, law, there = [small], "arXiv:2001.08361", f"{KAPLAN_BYTES}"
    elif parameters >= SMALLEST_MODEL and tokens >= FEWEST_TOKENS:
        both, law, there = [large], "arXiv:2404.10102", f"{HOFFMANN_BYTES}"
    else:
        both, law = [small, large], "between arXiv:2001.08361 and 2404.10102"
        there = f"{KAPLAN_BYTES} and {HOFFMANN_BYTES}"
    nats = math.sqrt(both[0] * both[-1])
    off = OFF if inside else FAR_OFF
    low, high = min(nats * (1 - off), *both), max(nats * (1 + off), *both)
    below = "" if inside else "393k parameters in blocks and 22M tokens"
    return Loss(nats, low, high, tokens / unique, law, token_bytes, there, below)


def hoffmann(parameters: float, tokens: float) -> float:
    """E + A / N^alpha + B / D^beta, in nats a token."""
    return float(E + A / parameters**ALPHA + B / tokens**BETA)


def kaplan(blocks: float, unique: float) -> float:
    """((N_c / N)^(alpha_N / alpha_D) + D_c / D)^alpha_D, in nats a token."""
    return float(((N_C / blocks) ** (ALPHA_N / ALPHA_D) + D_C / unique) ** ALPHA_D)


def worth(tokens: float, unique: float) -> float:
    """New tokens that would teach as much as repeated ones (arXiv:2305.16264, equation 5)."""
    repeats = tokens / unique - 1
    return unique * (1 + REPEATED * (1 - math.exp(-repeats / REPEATED)))
