"""What loss to expect: published scaling laws, and how far they may be off here.

In: parameters, tokens trained on, tokens that are different. Out: nats a token, with a range.

- Where it was fitted: L = E + A / N^alpha + B / D^beta, N all parameters (Hoffmann et al. 2022,
  arXiv:2203.15556), with the constants of Besiroglu et al. 2024 (arXiv:2404.10102); text that is
  seen several times counts less (Muennighoff et al. 2023, arXiv:2305.16264).
- For little text: L = ((N_c / N)^(alpha_N / alpha_D) + D_c / D)^alpha_D, N without embeddings, D
  different tokens (Kaplan et al. 2020, arXiv:2001.08361, equation 1.5), the loss at which training
  on that text stops to help.
- Between the two neither holds: their geometric mean, and both as the range.

Their text and tokenizers are not yours (MassiveText with 32,000 SentencePiece tokens; WebText2
with GPT-2's), and all were trained with AdamW or Adafactor. A token of another vocabulary holds
more or less text, and its loss is in proportion. `KNOWN` are other people's runs, and ours, that
the laws are held against.
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

SMALLEST_MODEL, FEWEST_TOKENS = 44e6, 1e9
"""The first law was fitted on models from 44M parameters and, but for the end of the curve, on more
tokens than this."""

LITTLE_TEXT = 50e6
"""Below so many different tokens the second law is taken alone."""

OFF = 0.10
"""Relative standard deviation of `KNOWN` from the law (tests/plan/test_loss.py)."""


@dataclass(frozen=True)
class KnownRun:
    """A run that somebody did, in the terms of the laws."""

    who: str
    parameters: float
    blocks: float
    tokens: float
    unique: float
    nats: float


KNOWN = (
    KnownRun("GPT-2 124M, FineWeb (llm.c)", 124e6, 85e6, 10e9, 10e9, 3.28),
    KnownRun("GPT-2 124M, OpenWebText (nanoGPT's README)", 124e6, 85e6, 300e9, 9e9, 2.85),
    KnownRun("GPT-2 124M, Wikipedia, 300 s (nanoGPT's code)", 124e6, 85e6, 159e6, 36e6, 4.03),
    KnownRun("12 x 768 with Muon, Wikipedia, 60 s", 124e6, 85e6, 33e6, 33e6, 4.30),
    KnownRun("quickstart, 4 x 128 (docs/lab-notes.md)", 1.38e6, 0.86e6, 1.45e6, 1.41e6, 4.62),
)


@dataclass(frozen=True)
class Loss:
    """An expected loss in nats a token.

    Attributes:
        nats: expected.
        low: and `high`: where two thirds of runs should be.
        epochs: times that the text is seen.
        law: where it comes from.
    """

    nats: float
    low: float
    high: float
    epochs: float
    law: str

    def at_most(self, guessing: float) -> Loss:
        """Never worse than `guessing`: the laws know no vocabulary and, for a few tokens, say so.

        Args:
            guessing: nats a token of guessing evenly, the logarithm of the vocabulary.
        """
        nats, low, high = (min(value, guessing) for value in (self.nats, self.low, self.high))
        return replace(self, nats=nats, low=low, high=high)


def expected_loss(parameters: float, blocks: float, tokens: float, unique: float) -> Loss:
    """The laws' loss.

    Args:
        parameters: all of the model's.
        blocks: without embeddings and head.
        tokens: seen in training.
        unique: different ones that there are.
    """
    unique = min(tokens, unique)
    epochs = tokens / unique
    large, small = hoffmann(parameters, worth(tokens, unique)), kaplan(blocks, unique)
    if unique < LITTLE_TEXT:
        return Loss(small, small * (1 - OFF), small * (1 + OFF), epochs, "arXiv:2001.08361")
    if parameters >= SMALLEST_MODEL and tokens >= FEWEST_TOKENS:
        return Loss(large, large * (1 - OFF), large * (1 + OFF), epochs, "arXiv:2404.10102")
    nats, both = math.sqrt(small * large), sorted((small, large))
    return Loss(nats, both[0], both[1], epochs, "between arXiv:2001.08361 and 2404.10102")


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
