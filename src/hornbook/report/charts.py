"""The curves of one or several runs, thinned out for a page that stays light.

In: `Run`s with up to millions of logged steps. Out: plain values for the page's script: for each
chart its curves (step and value), and for each run a clock that turns steps into tokens and time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hornbook.report.data import Column, Run
from hornbook.report.words import plain

LOSS_POINTS = 2000
"""Points of the loss curve of single steps, over all runs together."""

OTHER_POINTS = 600
"""Points of any other curve, over all runs together."""

LEAST_POINTS = 200
"""Points that a curve may always have, however many runs are overlaid."""

SMOOTHING = 0.02
"""The strong line is a mean over this share of the run's steps."""

MOST_MARKS = 200
"""Events marked on the loss chart, the newest of each run."""

CLOCK_POINTS = 400
"""Steps of which the page knows the tokens and the time; between them it interpolates."""


@dataclass(frozen=True)
class Quantity:
    """One chart: a column of metrics.jsonl and how it is spoken of."""

    column: str
    title: str
    unit: str
    smooth: bool = True


LOSS = Quantity("loss", "Loss", "nats per token")

OTHERS = (
    Quantity("learning_rate", "Learning rate", "", smooth=False),
    Quantity("gradient_norm", "Gradient norm", "before clipping"),
    Quantity("tokens_per_second", "Speed", "tokens per second"),
    Quantity("loader_wait", "Waiting for data", "seconds per step"),
    Quantity("memory_gb", "Memory", "GB", smooth=False),
    Quantity("mfu", "Model FLOPs utilisation", "share of the peak"),
)
"""The small charts, in the order in which they are shown."""


def build_charts(runs: list[Run]) -> list[dict[str, Any]]:
    """Charts that have at least one curve, the loss first.

    Returns:
        dicts with `id`, `title`, `unit`, `description` (for those who do not see the chart) and
        `curves`, each a dict with `run` (index), `kind`, `step` and `value`. Kinds: "line",
        "raw" (single steps, where the line is a mean of them) and "validation".
    """
    charts = []
    for quantity in (LOSS, *OTHERS):
        curves = [
            curve
            for index, run in enumerate(runs)
            for curve in _curves(run, index, quantity, len(runs))
        ]
        if curves:
            charts.append(
                {
                    "id": quantity.column,
                    "title": quantity.title,
                    "unit": quantity.unit,
                    "description": _describe(runs, quantity),
                    "curves": curves,
                }
            )
    return charts


def build_clock(run: Run) -> dict[str, list[float]]:
    """Some steps of a run, and the tokens and seconds at each: lists of the same length."""
    tables = [
        (table, evenly_spaced(len(table["step"]), CLOCK_POINTS))
        for table in (run.curves.training, run.curves.validation)
    ]
    columns = {
        name: np.concatenate([table[name][rows] for table, rows in tables])
        for name in ("step", "tokens", "seconds")
    }
    known = np.isfinite(columns["tokens"]) & np.isfinite(columns["seconds"])
    _, first = np.unique(columns["step"][known], return_index=True)
    return {
        name: [_rounded(v, 7) for v in np.maximum.accumulate(values[known][first])]
        for name, values in columns.items()
    }


def evenly_spaced(length: int, points: int) -> npt.NDArray[np.int64]:
    """At most `points` indices below `length`, the first and the last among them."""
    return np.unique(np.linspace(0, length - 1, min(points, length)).astype(np.int64))


def running_mean(values: Column, window: int) -> Column:
    """Mean of the about `window` values around each place, NaNs left out.

    At the start, where a loss falls fast, the window shrinks to stay centred (a lopsided mean would
    lie beside the curve); at the end it takes what there is, so that the last value is steady.
    """
    finite = np.isfinite(values)
    sums = np.concatenate([[0.0], np.cumsum(np.where(finite, values, 0.0))])
    counts = np.concatenate([[0], np.cumsum(finite)])
    places = np.arange(len(values))
    reach = np.minimum(window // 2, places)
    starts, ends = places - reach, np.minimum(places + reach + 1, len(values))
    found = counts[ends] - counts[starts]
    total = sums[ends] - sums[starts]
    return np.where(found > 0, total / np.maximum(found, 1), np.nan)


def thin_out(values: Column, points: int) -> npt.NDArray[np.int64]:
    """Indices of at most `points` values that draw the same picture: extremes of equal buckets.

    The lowest and the highest value of each bucket stay, so no spike is lost, and so do the first
    and the last value. NaNs are never chosen.
    """
    finite = np.flatnonzero(np.isfinite(values))
    if len(finite) <= points:
        return finite
    chosen = [finite[0], finite[-1]]
    for bucket in np.array_split(finite, (points - 2) // 2):
        chosen += [bucket[np.argmin(values[bucket])], bucket[np.argmax(values[bucket])]]
    return np.unique(np.array(chosen, dtype=np.int64))


def window_of(run: Run) -> int:
    """Logged steps over which the strong lines are averaged; 1 for very short runs."""
    steps = len(run.curves.training["step"])
    return max(1, min(5, steps // 10), round(steps * SMOOTHING))


def _curves(run: Run, index: int, quantity: Quantity, runs: int) -> list[dict[str, Any]]:
    training, validation = run.curves.training, run.curves.validation
    wanted = LOSS_POINTS if quantity is LOSS else OTHER_POINTS
    points = max(LEAST_POINTS, wanted // runs)
    steps, values = training["step"], training[quantity.column]
    if quantity.smooth and window_of(run) > 1:
        found = [
            _curve(index, "raw", steps, values, points),
            _curve(index, "line", steps, running_mean(values, window_of(run)), points // 2),
        ]
    else:
        found = [_curve(index, "line", steps, values, points)]
    if quantity is LOSS:
        held_out = validation["validation_loss"]
        found.append(_curve(index, "validation", validation["step"], held_out, points // 2))
    return [curve for curve in found if curve["step"]]


def _curve(index: int, kind: str, steps: Column, values: Column, points: int) -> dict[str, Any]:
    rows = thin_out(values, points)
    return {
        "run": index,
        "kind": kind,
        "step": [int(step) for step in steps[rows]],
        "value": [_rounded(value) for value in values[rows]],
    }


def _rounded(value: float, digits: int = 5) -> float:
    rounded = float(f"{value:.{digits}g}")
    return int(rounded) if rounded.is_integer() else rounded


def _describe(runs: list[Run], quantity: Quantity) -> str:
    """The chart in words, for those who do not see it."""
    parts = []
    for run in runs:
        values = running_mean(run.curves.training[quantity.column], window_of(run))
        known = values[np.isfinite(values)]
        if not len(known):
            continue
        first, last = plain(float(known[0])), plain(float(known[-1]))
        words = f"{run.name}: from {first} to {last} in {run.curves.last_step:,} steps"
        held_out = run.curves.last("validation_loss")
        if quantity is LOSS and math.isfinite(held_out):
            words += f", {plain(held_out)} on held-out text at the end"
        parts.append(words)
    return f"{quantity.title} over the training. {'; '.join(parts)}."
