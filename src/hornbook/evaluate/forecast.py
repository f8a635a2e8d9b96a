"""How much longer a run has to train for a loss, with an interval; or that it never will.

In: a run's curve, a target. Out: a `Forecast`, as plain values for JSON, the screen and the report.

The constant rate goes on: the curve that is fitted has no falling part, and neither has the one
that is forecast. Where the run has shown what its falling rate gained (a finished `wsd` run), that
gain is counted on again.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from hornbook.errors import HornbookError
from hornbook.evaluate.cost import Cost
from hornbook.evaluate.curve import FEWEST, Curve
from hornbook.evaluate.fit import FARTHEST, FIRST_SHARE, Ensemble, Fit, ensemble, fall, fit
from hornbook.evaluate.laws import LAWS, Place, loss_after, size_for, tokens_for, within
from hornbook.evaluate.reference import Reference
from hornbook.evaluate.slopes import Traits, unseen

Column = npt.NDArray[np.float64]

LEAST_SPAN = 8.0
"""Ratio of the last to the first fitted tokens below which nothing is forecast."""

AHEAD = (2.0, 5.0, 10.0)
"""Multiples of the tokens so far, after which the loss is said."""

SHARES = (0.1, 0.5, 0.9)
"""Of the ensemble: the band is that of 80 %."""

POINTS, DRAWN_FROM = 400, 0.03
"""Of the curve in the picture; and the share of the tokens at which it begins: the fall from the
first losses would press everything that matters flat."""

STRAYED = 0.03
"""Share of the loss, and at least the whole width of the band, by which the last losses may lie
beside the fitted curve before that is said. The first round's twelve fits: at most 1.04 widths."""

CERTAIN = 2.0
"""Standard errors that the fall of a loss must have. All 57 runs of docs/forecast.md had 9.6 and
more over the third that is fitted, and 2.1 and more over the last 45 % of that."""

LATE = 0.55
"""Where these last ones begin, as a share of the tokens."""

ROUNDING = 1e-6
"""Nats: a fall that is less is none, though there is no noise."""

Outcome = Literal["none", "reached", "expected", "far", "never"]


@dataclass
class Forecast:
    """All that was found. Three numbers are always low, middle, high; infinity is None."""

    unit: str
    tokens: float
    """Trained on so far."""
    loss: float
    """Mean of the last 50 losses."""
    floor: list[float]
    exponent: list[float]
    gain: float | None
    """Nats that the falling rate gained, where that was seen."""
    ahead: list[dict[str, Any]]
    outcome: Outcome = "none"
    target: float | None = None
    target_name: str = ""
    target_note: str = ""
    reach: float | None = None
    """Share of the ensemble that reaches the target within 100 times the tokens."""
    total: list[float | None] = field(default_factory=list)
    """Tokens at the target, from the beginning."""
    laws: list[dict[str, Any]] = field(default_factory=list)
    """Tokens at the target, from the beginning, by each law."""
    calibrated: bool = True
    """Whether laws are taken as differences from where the run is, or at their own level."""
    sizes: list[dict[str, Any]] = field(default_factory=list)
    costs: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    picture: dict[str, list[float]] = field(default_factory=dict)


def check_enough(curve: Curve, column: Literal["loss", "validation"]) -> None:
    """Refuse to extrapolate from too little, saying how much is needed."""
    count, fewest = int(curve.fitted.sum()), FEWEST[column]
    exposure = curve.exposure[curve.fitted]
    span = exposure[-1] / exposure[0] if count else 0.0
    if count >= fewest and span >= LEAST_SPAN:
        return
    tokens = max((fewest - count) * curve.tokens_per_point, 0.0)
    if count:
        tokens = max(tokens, LEAST_SPAN * exposure[0] - exposure[-1])
    # Of a damaged file, which says the same tokens at every step, this is 0 or no number.
    apart = curve.tokens_per_step if curve.tokens_per_step > 0 else math.inf
    steps = max(1, math.ceil(tokens / apart))
    what = "losses" if column == "loss" else "evaluations"
    raise HornbookError(
        f"too few to forecast from: {count} {what} at a constant rate, over a {span:.1f}-fold range"
        f" of tokens; {fewest} and an {LEAST_SPAN:g}-fold range are needed",
        where="forecast",
        hint=f"Train about {steps:,} steps more ({tokens:,.0f} tokens) before the rate falls"
        + ("; of a run that is done: again, with so many more in all" if curve.annealed else ""),
    )


def check_falls(x: Column, y: Column, law: Fit) -> None:
    """Refuse a loss that does not fall, or no longer does: what other runs' slopes became, which a
    forecast takes from there, was never seen of such."""
    fallen, error = fall(x, y)
    if law.scale == 0 or fallen < max(CERTAIN * error, ROUNDING):
        raise HornbookError(
            "the loss does not fall over what is fitted, or too little to be told from noise:"
            f" {fallen:.3f} nats, +/- {error:.3f}, for each factor of e in tokens",
            where="forecast",
            hint="Look at it (`hornbook report RUN`): a learning rate that is too high, or damaged"
            " data? Where it only falls slowly, train on",
        )
    fallen, error = fall(x, y, LATE)
    by_law = (law.loss(LATE * law.unit) - law.loss(law.unit)) / -math.log(LATE)
    if fallen < CERTAIN * error and fallen + CERTAIN * error < by_law / 2:
        raise HornbookError(
            f"the loss no longer falls: {fallen:.3f} nats, +/- {error:.3f}, for each factor of"
            f" e in tokens, over the last {100 * (1 - LATE):.0f} %",
            where="forecast",
            hint="Something changed, or it gets no lower like this. Small steps at a high rate come"
            " to such an end: let the rate fall, or take larger batches",
        )


def forecast(
    curve: Curve, column: Literal["loss", "validation"], target: float | Reference | None,
    place: Place, apart: float, devices: list[Cost], times: int, seed: int,
) -> Forecast:  # fmt: skip
    """Fit the curve, and say when it reaches the target.

    Args:
        curve: of the run.
        column: what the curve is of.
        target: nats a token of the curve; or a reference, on the validation documents.
        place: the run's size and tokens.
        apart: nats by which the curve lies above the run's loss on those documents.
        devices: what the time is said for.
        times: refits for the interval.
        seed: of the resampling.

    Raises:
        HornbookError: there are too few losses, or they do not fall.
    """
    check_enough(curve, column)
    x, y = curve.exposure[curve.fitted], curve.loss[curve.fitted]
    traits = Traits(x[-1] / place.blocks, curve.tokens_per_step, place.vocabulary, place.muon)
    check_falls(x, y, fit(x, y))
    made = ensemble(x, y, traits, times, seed, curve.averaged)
    now = curve.now
    gain = made.best.loss(float(curve.exposure[-1])) - now if curve.annealed else None
    # So many tokens do not count as ones at the full rate: what warm-up and a falling rate took.
    # Counted up to now, so that the forecast for the tokens so far is the loss so far.
    beyond = float(curve.tokens[-1] - curve.exposure[-1])
    found = Forecast(
        unit="nats a token",
        tokens=float(curve.tokens[-1]),
        loss=now,
        floor=_three(np.maximum(made.floors - (gain or 0.0), 0.0)),
        exponent=_three(made.exponents),
        gain=gain,
        ahead=[_ahead(made, factor, place, beyond, gain or 0.0) for factor in AHEAD],
        calibrated=within(place),
        notes=_notes(curve, made, gain, place, traits),
    )
    if isinstance(target, Reference):
        # Validation and training loss differ; the target is moved by what they differ here.
        found.target = target.loss + apart
        found.target_name, found.target_note = target.name, target.note
        span = [target.low + apart, target.high + apart]
    else:
        found.target, span = target, []
    if found.target is not None:
        wanted = [value + (gain or 0.0) for value in (found.target, *span)]
        _cross(found, made, wanted, beyond, place, devices)
    found.picture = _picture(curve, made, found, beyond)
    return found


def _cross(
    found: Forecast, made: Ensemble, wanted: list[float], beyond: float, place: Place,
    devices: list[Cost],
) -> None:  # fmt: skip
    """Where the ensemble, and the laws, reach the target."""
    assert found.target is not None
    if found.loss <= found.target:
        found.outcome, found.total = "reached", [found.tokens] * 3
        return
    # A target that is itself a range: each third of the ensemble goes for another end of it.
    crossing = np.concatenate([made.crossing(value) for value in wanted]) + beyond
    crossing = np.maximum(crossing, found.tokens)
    low, middle, high = np.quantile(crossing, SHARES, method="inverted_cdf")
    found.reach = float(np.isfinite(crossing).mean())
    found.total = [_finite(value) for value in (low, middle, high)]
    never = wanted[0] < np.quantile(made.floors, SHARES[0])
    found.outcome = "expected" if math.isfinite(middle) else "never" if never else "far"
    for law in LAWS:
        tokens = tokens_for(law, place, found.target)
        found.laws.append({"name": law.name, "source": law.source, "tokens": _finite(tokens)})
    if found.outcome == "expected":
        for cost in devices:
            hours = [
                None if total is None else (total - found.tokens) / cost.tokens_per_second / 3600
                for total in found.total
            ]
            dollars = [None if h is None or not cost.price else h * cost.price for h in hours]
            found.costs.append({**vars(cost), "hours": hours, "dollars": dollars})
    else:
        for law in LAWS:
            size = size_for(law, place, float(np.median(made.floors)), wanted[0])
            found.sizes.append({"name": law.name, "parameters": _finite(size)})


def _ahead(
    made: Ensemble, factor: float, place: Place, beyond: float, gain: float
) -> dict[str, Any]:
    tokens = factor * place.tokens
    losses = [float(value) for value in made.at(tokens - beyond, SHARES) - gain]
    # Before a law's range its differences are absurd: they would take a young run below zero.
    laws = {law.name: loss_after(law, place, tokens) for law in LAWS} if within(place) else {}
    return {"tokens": tokens, "loss": losses, "laws": laws}


def _notes(
    curve: Curve, made: Ensemble, gain: float | None, place: Place, traits: Traits
) -> list[str]:
    left_out = curve.dropped | ({"far from their neighbours": made.spikes} if made.spikes else {})
    notes = [f"losses left out: {count:,} ({why})" for why, count in left_out.items()]
    low, middle, high = made.at(float(curve.exposure[-1]), SHARES)
    if gain is None and abs(curve.now - middle) > max(STRAYED * middle, high - low):
        notes.append(
            f"the last losses are {curve.now:.3f} in the mean, where the fitted curve is at"
            f" {middle:.3f}: something changed, do not trust this forecast"
        )
    if gain is not None:
        gained = f"{gain:.3f} nats" if gain > 0 else "nothing"
        notes.append(
            f"the falling rate at the end gained {gained}. Ahead, the full rate is taken to"
            " go on from before that fall, and the same fall to come at the end"
        )
    elif curve.falling:
        notes.append(
            "the rate fell all the way: fitted where it is above half its peak, along the area"
            " under it; tokens ahead are at the full rate, and the end of the fall gains more"
        )
    else:
        notes.append("a falling rate at the end lowers the loss further; that is not counted on")
    level = made.best.loss(made.best.unit)
    if strange := unseen(level, made.best.slope, traits):
        notes.append(strange)
    if not within(place):
        notes.append(
            "the laws were fitted on models from 44M parameters and after 1B tokens; before that"
            " they only hint, and are taken at their own level"
        )
    return notes


def _picture(
    curve: Curve, made: Ensemble, found: Forecast, beyond: float
) -> dict[str, list[float]]:
    """Losses, the fit where it was made, and the band from here on."""
    first = max(1.0, DRAWN_FROM * len(curve.tokens))
    edges = np.unique(np.geomspace(first, len(curve.tokens) + 1, POINTS).astype(int)) - 1
    losses = [curve.loss[a:b].mean() for a, b in itertools.pairwise(edges)]
    end, now = float(curve.exposure[curve.fitted][-1]), float(curve.exposure[-1])
    reached = [total for total in found.total if total is not None]
    farthest = min(FARTHEST * end, max([3 * now, *(1.5 * total for total in reached)]))
    fitted = np.geomspace(FIRST_SHARE * end, end, 50)
    grid = np.geomspace(now, farthest, 80)
    gain = found.gain or 0.0
    bands = np.array([made.at(float(x), SHARES) for x in grid]).T - gain
    return {
        "tokens": _rounded(curve.tokens[edges[:-1]]),
        "loss": _rounded(np.array(losses)),
        "fit_tokens": _rounded(np.interp(fitted, curve.exposure, curve.tokens)),
        "fit": _rounded(np.array([made.best.loss(float(x)) for x in fitted])),
        "ahead_tokens": _rounded(grid + beyond),
        "low": _rounded(bands[0]),
        "middle": _rounded(bands[1]),
        "high": _rounded(bands[2]),
    }


def _three(values: Any) -> list[float]:
    return [float(value) for value in np.quantile(values, SHARES)]


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _rounded(values: Any) -> list[float]:
    return [float(f"{value:.6g}") for value in values]
