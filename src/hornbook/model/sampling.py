"""From logits to the next token: pure functions on `[rows, vocabulary]` float tensors.

In: logits of the next position, and random numbers. Out: logits with the tokens that are out of
the question at -inf, and one id a row. Each filter equals the processor of that name in stock
`transformers`; they apply in the same order: repetition penalty, temperature, top-k, top-p, min-p.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from hornbook.errors import HornbookError, check_limits
from hornbook.model.config import GenerateConfig

LIKELIEST = 1024
"""Top-p looks at this many tokens first; only rows that need more sort the whole vocabulary."""

FIXED_POINT = 2.0**40
"""Probabilities are summed as integer multiples of 2**-40: exact, and the same on every device."""


def check_settings(config: GenerateConfig) -> None:
    """Refuse settings that have no meaning, naming the field."""
    limits = [
        ("temperature", config.temperature >= 0, "0 (greedy) or more"),
        ("top_k", config.top_k >= 0, "0 (all) or more"),
        ("top_p", 0 < config.top_p <= 1, "above 0 and at most 1"),
        ("min_p", 0 <= config.min_p <= 1, "between 0 and 1"),
        ("repetition_penalty", config.repetition_penalty > 0, "above 0"),
        ("max_tokens", config.max_tokens >= 0, "0 or more"),
        ("seed", 0 <= config.seed < 2**64, "between 0 and 2**64 - 1"),
    ]
    check_limits(config, "generate", limits)
    if "" in config.stop:
        raise HornbookError("an empty string would stop at once", where="generate.stop")


def apply_repetition_penalty(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Make tokens that occurred less likely: divide positive logits, multiply negative ones.

    `seen` is bool `[rows, vocabulary]`: the ids of the prompt and of what was generated.
    CTRL, arXiv:1909.05858, section 4.1.
    """
    if penalty == 1:
        return logits
    return torch.where(seen, torch.where(logits < 0, logits * penalty, logits / penalty), logits)


def apply_temperature(logits: Tensor, temperature: float) -> Tensor:
    """Divide the logits by `temperature` (> 0), after shifting the largest to 0.

    The shift changes no probability, and keeps tiny temperatures from overflowing.
    """
    return (logits - logits.amax(-1, keepdim=True)) / temperature


def keep_top_k(logits: Tensor, k: int) -> Tensor:
    """Keep the `k` largest logits of each row (and ties with the last of them); 0 keeps all."""
    if k <= 0 or k >= logits.shape[-1]:
        return logits
    return logits.masked_fill(logits < logits.topk(k).values[:, -1:], -torch.inf)


def keep_top_p(logits: Tensor, p: float) -> Tensor:
    """Keep the fewest likeliest tokens that together have probability `p` or more.

    Nucleus sampling, arXiv:1904.09751.
    """
    if p >= 1:
        return logits
    probabilities = logits.softmax(-1)
    # On CUDA all are sorted: asking which rows need it would wait for the GPU.
    count = logits.shape[-1] if logits.is_cuda else min(LIKELIEST, logits.shape[-1])
    likeliest, ids = probabilities.topk(count)
    keep = torch.zeros_like(logits, dtype=torch.bool)
    keep.scatter_(1, ids, _nucleus(likeliest, p))
    flat = likeliest.sum(-1) < p
    if count < logits.shape[-1] and bool(flat.any()):
        ordered, ids = probabilities[flat].sort(descending=True)
        keep[flat] = keep[flat].scatter(1, ids, _nucleus(ordered, p))
    return logits.masked_fill(~keep, -torch.inf)


def _nucleus(ordered: Tensor, p: float) -> Tensor:
    """Which of the probabilities, the largest first, come before their sum reaches `p`."""
    # Whole numbers: sums of floats depend on their order, and CUDA has no deterministic one.
    weights = _fixed_point(ordered)
    return weights.cumsum(-1) - weights < p * FIXED_POINT


def keep_min_p(logits: Tensor, share: float) -> Tensor:
    """Keep tokens at least `share` times as likely as the likeliest one (arXiv:2407.01082)."""
    if share <= 0:
        return logits
    probabilities = logits.softmax(-1)
    limit = share * probabilities.amax(-1, keepdim=True)
    return logits.masked_fill(probabilities < limit, -torch.inf)


def random_numbers(seed: int, row: int, count: int) -> np.ndarray:
    """`count` random int64 below 2**40 that belong to this row of this seed, and to no other.

    They come from a counter-based generator keyed by (seed, row), so they depend neither on the
    other rows nor on how many there are.
    """
    generator = np.random.Generator(np.random.Philox(key=[seed, row]))
    return generator.integers(0, 2**40, size=count, dtype=np.int64)


def draw(logits: Tensor, numbers: Tensor) -> Tensor:
    """One id a row, drawn from softmax(logits) by inverting the cumulative distribution.

    `numbers` is int64 `[rows]`, uniform below 2**40. A logit of -inf is never drawn. Deterministic
    on every device: the distribution is summed in whole numbers.
    """
    cumulative = _fixed_point(logits.softmax(-1)).cumsum(-1)
    total = cumulative[:, -1]
    # numbers * total / 2**40, in two halves because the product would have 80 bits.
    high, low = numbers >> 20, numbers & (2**20 - 1)
    point = (high * total + (low * total >> 20)) >> 20
    return torch.searchsorted(cumulative, point[:, None], right=True).squeeze(1)


def next_tokens(
    logits: Tensor, config: GenerateConfig, *, seen: Tensor | None, numbers: Tensor
) -> Tensor:
    """The next id of each row: int64 `[rows]`. Nothing waits for a GPU.

    Args:
        logits: float `[rows, vocabulary]`.
        seen: bool `[rows, vocabulary]`, needed when there is a repetition penalty.
        numbers: int64 `[rows]` from `random_numbers`; not looked at when greedy.
    """
    logits = logits.float()
    if seen is not None:
        logits = apply_repetition_penalty(logits, seen, config.repetition_penalty)
    if config.temperature == 0:
        return logits.argmax(-1)
    logits = apply_temperature(logits, config.temperature)
    logits = keep_top_k(logits, config.top_k)
    logits = keep_top_p(logits, config.top_p)
    logits = keep_min_p(logits, config.min_p)
    return draw(logits, numbers)


def next_tokens_by_kernel(
    logits: Tensor, config: GenerateConfig, *, seen: Tensor | None, numbers: Tensor
) -> Tensor:
    """`next_tokens` by a Triton kernel, which does not sort; for float32 logits on CUDA.

    -1 where a row's logits have NaN, for which the others have no sign.
    """
    from hornbook.model.decode_kernels import draw as draw_filtered
    from hornbook.model.decode_kernels import likeliest

    if seen is not None:
        logits = apply_repetition_penalty(logits, seen, config.repetition_penalty)
    if config.temperature == 0:
        return likeliest(logits)
    return draw_filtered(
        keep_top_k(logits, config.top_k), numbers,
        temperature=config.temperature, top_p=config.top_p, min_p=config.min_p,
    )  # fmt: skip


def _fixed_point(probabilities: Tensor) -> Tensor:
    return (probabilities * FIXED_POINT).long()
