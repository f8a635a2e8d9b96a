"""A run's own loss curve, ready to be fitted.

In: `metrics.jsonl`. Out: a `Curve`: loss against tokens, and which of its points a power law may be
fitted to. Left out, and counted: losses that are no numbers, the warm-up, and the part in which the
learning rate falls.

Why the falling part is left out: lowering the rate lowers the loss by itself, so that a fit through
it promises a progress that does not go on (arXiv:2405.18392, figure 3; arXiv:2408.11029). Where the
rate falls from the beginning (cosine), the points above half the peak are taken, along the area
under the rate (`exposure`), which is what arXiv:2408.11029 puts in the tokens' place.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from hornbook.errors import HornbookError
from hornbook.files import json_objects

Column = npt.NDArray[np.float64]

AVERAGED = 50
"""Steps over which a loss is averaged before it is compared (train/stop.py)."""

FULL_RATE, HALF_RATE = 0.99, 0.5
"""Shares of the peak rate: above the first a rate counts as constant; of a rate that falls all the
way, what is above the second is fitted."""

FEWEST = {"loss": 200, "validation": 20}
"""Losses without which nothing is forecast."""

ABSURD = 1e6
"""A loss of so many nats is no loss."""

SHORT_PLATEAU = 0.25
"""A constant part shorter than this share of the run is the top of a falling rate."""


@dataclass(frozen=True)
class Curve:
    """Loss against tokens; every column is `[points]`, in the order of training."""

    steps: Column
    tokens: Column
    """Trained on when the loss was measured."""
    exposure: Column
    """Tokens weighted with the learning rate's share of its peak: the area under the rate."""
    loss: Column
    """Nats a token; finite."""
    fitted: npt.NDArray[np.bool_]
    """Points that the fit may use."""
    falling: bool
    """Whether the rate was already falling in the points that are fitted."""
    annealed: bool
    """Whether the last points are of a part with a falling rate that is not fitted."""
    averaged: int
    """Losses whose mean is what is compared with a target: 50 of steps, one of evaluations."""
    tokens_per_point: float
    tokens_per_step: float
    tokens_per_second: float
    """Median of the last half of the run; NaN where it was not logged."""
    dropped: dict[str, int] = field(default_factory=dict)
    """How many points were left out, by reason."""

    @property
    def now(self) -> float:
        """The loss at the end of the curve."""
        return self.loss_at(math.inf)

    def loss_at(self, step: float) -> float:
        """The mean of the last losses up to a step."""
        end = max(1, int(np.searchsorted(self.steps, step, side="right")))
        return float(self.loss[max(0, end - self.averaged) : end].mean())


def read_curve(metrics: Path, column: Literal["loss", "validation"] = "loss") -> Curve:
    """Read the curve of a run that is finished, stopped or going on.

    Args:
        metrics: the run's `metrics.jsonl`.
        column: the training loss of each step, or the losses on the validation set.

    Raises:
        HornbookError: there is no such file, or it has fewer than three losses.
    """
    training, validation, unreadable = _tables(metrics)
    dropped = Counter({"unreadable line": unreadable} if unreadable else {})
    exposure, share = _exposure(training)
    table = training if column == "loss" else validation
    loss = table["loss"]
    tokens = table["tokens"]
    sound = np.isfinite(loss) & (loss < ABSURD)
    good = sound & (tokens > 0)  # before the first step there is no x
    dropped["not a number"] = int((~sound).sum())
    count = min(int(good.sum()), len(training["step"]))
    if count < 3:
        raise HornbookError(
            f"{count} losses in it are numbers, too few to forecast anything", where=metrics,
            hint=f"Train on; a forecast needs at least {FEWEST[column]} of them",
        )  # fmt: skip
    if column == "validation":
        exposure = np.interp(tokens, training["tokens"], exposure)
        share = np.interp(tokens, training["tokens"], share)
    fitted, falling = _window(share)
    dropped["warm-up"] = int((good & ~fitted & _before(fitted)).sum())
    dropped["learning rate falling"] = int((good & ~fitted & ~_before(fitted)).sum())
    speeds = training["tokens_per_second"][len(training["tokens_per_second"]) // 2 :]
    speeds = speeds[np.isfinite(speeds)]
    steps = np.diff(training["tokens"]) / np.maximum(1, np.diff(training["step"]))
    return Curve(
        steps=table["step"][good],
        tokens=tokens[good],
        exposure=exposure[good],
        loss=loss[good],
        fitted=fitted[good],
        falling=falling,
        annealed=bool(len(fitted)) and not fitted[-1],
        averaged=AVERAGED if column == "loss" else 1,
        tokens_per_point=float(np.median(np.diff(tokens))),
        tokens_per_step=float(np.median(steps)) if len(steps) else math.nan,
        tokens_per_second=float(np.median(speeds)) if len(speeds) else math.nan,
        dropped={reason: count for reason, count in dropped.items() if count},
    )


def _exposure(training: dict[str, Column]) -> tuple[Column, Column]:
    """The area under the rate at each step, and each step's rate as a share of the peak."""
    tokens, rates = training["tokens"], training["learning_rate"]
    peak = float(np.nanmax(rates)) if np.isfinite(rates).any() else math.nan
    # A file without rates is taken to have a constant one.
    share = rates / peak if peak > 0 else np.ones_like(tokens)
    share = np.where(np.isfinite(share), share, 1.0)
    return np.cumsum(np.diff(tokens, prepend=0.0) * share), share


def _window(share: Column) -> tuple[npt.NDArray[np.bool_], bool]:
    """Points to fit, and whether the rate falls among them."""
    full = share >= FULL_RATE
    started = np.logical_or.accumulate(full)
    constant = started & full
    if constant.sum() >= SHORT_PLATEAU * started.sum():
        return constant, False
    return started & (share >= HALF_RATE), True


def _before(fitted: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Points before the first that is fitted."""
    return ~np.logical_or.accumulate(fitted)


def _tables(metrics: Path) -> tuple[dict[str, Column], dict[str, Column], int]:
    """Training and validation columns, and how many lines could not be read."""
    wanted = {
        "training": ("step", "tokens", "loss", "learning_rate", "tokens_per_second"),
        "validation": ("step", "tokens", "validation_loss"),
    }
    rows: dict[str, list[tuple[float, ...]]] = {kind: [] for kind in wanted}
    unreadable = 0
    try:
        lines = metrics.read_bytes().splitlines(keepends=True)
    except FileNotFoundError:
        raise HornbookError(
            "no such file: nothing is trained here yet", where=metrics,
            hint="`hornbook forecast` takes a run directory such as runs/quickstart",
        ) from None  # fmt: skip
    except OSError as error:
        raise HornbookError(f"cannot be read ({error.strerror})", where=metrics) from error
    for line in json_objects(lines):
        if line is None:
            unreadable += 1
            continue
        kind = "validation" if "validation_loss" in line else "training"
        if "event" in line or not ("loss" in line or kind == "validation"):
            continue
        row = tuple(_number(line.get(name)) for name in wanted[kind])
        if not math.isfinite(row[0]) or not math.isfinite(row[1]):
            unreadable += 1
            continue
        while rows[kind] and rows[kind][-1][0] >= row[0]:  # the run went back to a checkpoint
            rows[kind].pop()
        rows[kind].append(row)
    tables = {}
    for kind, names in wanted.items():
        columns = np.array(rows[kind], dtype=np.float64).reshape(-1, len(names)).T
        tables[kind] = dict(
            zip((n.removeprefix("validation_") for n in names), columns, strict=True)
        )
    return tables["training"], tables["validation"], unreadable


def _number(value: Any) -> float:
    """A JSON value as a float; NaN where it is not a number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return math.nan
    try:
        return float(value)
    except OverflowError:  # an integer of hundreds of digits
        return math.nan
