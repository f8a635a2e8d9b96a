"""How long a run is, in steps.

In: the recipe's steps, tokens or minutes. Out: a number of steps, because the learning rate's
schedule needs one. Minutes become steps once, by timing a few steps; the measured steps per minute
are kept, so a resumed run has the same length and a raised budget is longer in proportion.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from hornbook.errors import HornbookError
from hornbook.train.config import PretrainConfig

EVALUATION_SHARE = 1 / 2
"""Time to evaluate a token, in times to train on it: 2 of the 6 FLOPs a parameter and token are the
forward pass (arXiv:2001.08361, section 2.1), but evaluating is not compiled, and on a CPU done in
float32."""

CALIBRATION_SECONDS = 5.0
"""Calibration ends after this long, or a twentieth of the budget if that is less..."""

CALIBRATION_STEPS = 3
"""...but not before this many steps, of which the first, which is slower, does not count. Of the
others the fastest third counts: what else the machine does makes a step slower, never faster, and
where that passes, a plan made by slow steps would end too early."""


def rows_per_step(config: PretrainConfig, sequence_length: int) -> int:
    """Rows (G) of one optimizer step over all micro-batches and processes."""
    return math.ceil(config.global_batch_tokens / sequence_length)


def check_horizon(config: PretrainConfig) -> None:
    """Raise `HornbookError` when no length is given, or one that has no meaning."""
    lengths = {"steps": config.steps, "tokens": config.tokens, "minutes": config.minutes}
    for name, value in lengths.items():
        if value < 0 or not math.isfinite(value):
            raise HornbookError(f"cannot be {value}", where=f"pretrain.{name}")
    if not any(lengths.values()):
        raise HornbookError(
            "nothing says how long to train",
            where="pretrain",
            hint="Give --pretrain.steps, --pretrain.tokens or --pretrain.minutes",
        )


def total_steps(
    config: PretrainConfig, tokens_per_step: int, steps_per_minute: float | None
) -> int:
    """The number of steps; where several lengths are given, the shortest.

    Args:
        config: with `steps`, `tokens` and `minutes`; 0 is no limit.
        tokens_per_step: rows of a step times the sequence length.
        steps_per_minute: as measured; only needed for `minutes`.
    """
    limits = []
    if config.steps:
        limits.append(config.steps)
    if config.tokens:
        limits.append(math.ceil(config.tokens / tokens_per_step))
    if config.minutes:
        assert steps_per_minute is not None, "minutes are not calibrated yet"
        limits.append(max(1, round(config.minutes * steps_per_minute)))
    return min(limits)


def seconds_of_step(rehearse: Callable[[], None], budget_seconds: float) -> float:
    """Seconds of an undisturbed step, by doing some.

    Args:
        rehearse: one step, with everything that costs time, that changes no weights.
        budget_seconds: of the whole run.
    """
    limit = min(CALIBRATION_SECONDS, budget_seconds / 20)
    began = time.perf_counter()
    seconds: list[float] = []
    while len(seconds) < CALIBRATION_STEPS or time.perf_counter() - began < limit:
        start = time.perf_counter()
        rehearse()
        seconds.append(time.perf_counter() - start)
    fastest = sorted(seconds[1:])[: math.ceil((len(seconds) - 1) / 3)]
    return math.fsum(fastest) / len(fastest)


def calibrated_steps(
    config: PretrainConfig, tokens_per_step: int, step_seconds: float, spent_seconds: float
) -> int:
    """Steps that fit into `config.minutes`, with the time that evaluating takes.

    Args:
        config: the budget, and how often how much is evaluated.
        tokens_per_step: rows of a step times the sequence length.
        step_seconds: of one training step.
        spent_seconds: what probing and calibrating took, which the budget pays for.
    """
    left = config.minutes * 60 - spent_seconds
    evaluation = step_seconds * EVALUATION_SHARE * config.evaluate_tokens / tokens_per_step
    each = step_seconds + (evaluation / config.evaluate_every if config.evaluate_every else 0.0)
    # Where evaluating would take most of the budget, training still gets half of it.
    seconds_for_steps = max(left - evaluation, left / 2 * each / step_seconds)
    return max(1, int(seconds_for_steps / each))
