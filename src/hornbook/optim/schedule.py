"""The learning rate of each step, as a pure function of the step's number.

In: the recipe's `optimizer` section, a step, the length of the run. Out: a learning rate. Nothing
is remembered, so a resumed or extended run needs no scheduler state.
"""

from __future__ import annotations

import math

from hornbook.optim.config import OptimizerConfig

LONGEST_WARMUP = 10
"""Warm-up takes at most one tenth of the run."""


def learning_rate(config: OptimizerConfig, step: int, total_steps: int) -> float:
    """Learning rate of step number `step`, counted from 0, in a run of `total_steps`.

    Warm-up rises linearly and reaches the peak at step `warmup`. Then `cosine` (arXiv:1608.03983)
    and `wsd` (warm-up, stable, linear decay; arXiv:2404.06395) fall to `final_share` of the peak,
    which the step after the last would have; `constant` stays.
    """
    warmup = min(config.warmup_steps, total_steps // LONGEST_WARMUP)
    if step < warmup:
        return config.learning_rate * (step + 1) / (warmup + 1)
    if config.schedule == "constant":
        return config.learning_rate
    if config.schedule == "cosine":
        done = _share(step, warmup, total_steps)
        remaining = 0.5 * (1.0 + math.cos(math.pi * done))
    else:
        decay_steps = min(round(config.decay_share * total_steps), total_steps - warmup)
        remaining = 1.0 - _share(step, total_steps - decay_steps, total_steps)
    return config.learning_rate * (config.final_share + (1.0 - config.final_share) * remaining)


def _share(step: int, start: int, end: int) -> float:
    """How far `step` is on the way from `start` to `end`, between 0 and 1."""
    return min(1.0, max(0.0, (step - start) / max(1, end - start)))
