"""How fast a loss curve goes on falling: what was learnt from other runs.

In: slope and level of a curve where it was last seen, and what its run is. Out: the slope to reckon
with ahead. A slope is the relative fall of the loss for each factor of e in tokens.

A third of a run says little of how it goes on, since a power law with a floor fits it with many
exponents. What the slopes of other runs became says more:

    slope ahead = usual + own x slope now + high x loss / ln(vocabulary) + step x ln(tokens a step)
                  + trained x ln(tokens a parameter of the blocks), with Muon (trained + muon) x it

A curve that falls more slowly than any of those falls more slowly ahead, in proportion. A loss that
is still high falls on. Small steps are noisy and flatten out at a constant rate. So do
Muon's, as large however small the gradients are, the more tokens a parameter has seen. Regressed by
benchmarks/forecast_slopes.py; docs/forecast.md says how well runs are forecast by the others.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Column = npt.NDArray[np.float64]

HIGH, STEP, TRAINED = "loss / ln(vocabulary)", "tokens a step", "tokens a parameter"
SLOPE = "slope"

DRIFT = 0.03
"""Standard deviation of what slopes become, around those expected. Runs of one kind, expected from
those of the others, were off by 0.022; the terms were chosen on these very runs, hence more."""


@dataclass(frozen=True)
class Learnt:
    """Numbers of the formula above, and what they were learnt from."""

    usual: float
    own: float
    high: float
    step: float
    trained: float
    muon: float
    seen: dict[str, tuple[float, float]]
    """The least and the most of each trait that the runs had: beyond, the nearest counts."""
    drift: float = DRIFT


LEARNT = Learnt(
    usual=-0.2289, own=0.2990, high=0.2565, step=0.0184, trained=-0.0050, muon=-0.0062,
    seen={
        HIGH: (0.40, 0.78), STEP: (256, 32768), TRAINED: (0.002, 52), SLOPE: (0.043, 0.20),
    },
)  # fmt: skip


@dataclass(frozen=True)
class Traits:
    """What a run is, besides its curve."""

    tokens_per_parameter: float
    """Tokens at the last fitted point, for each parameter of the blocks."""
    tokens_per_step: float
    vocabulary: int
    """Tokens that there are: guessing among them costs ln(vocabulary) nats."""
    muon: bool
    """Whether Muon trains the matrices."""

    def named(self, level: float, slope: float) -> dict[str, float]:
        """What the formula takes of a run whose loss is at `level` and falls with `slope`."""
        return {
            SLOPE: slope,
            HIGH: level / math.log(self.vocabulary),
            STEP: self.tokens_per_step,
            TRAINED: self.tokens_per_parameter,
        }


def terms(slopes: Column, named: dict[str, float], muon: bool) -> tuple[Column, ...]:
    """What own, high, step, trained and muon are multiplied with."""
    trained = math.log(named[TRAINED])
    known = (named[HIGH], math.log(named[STEP]), trained, muon * trained)
    return slopes, *(np.array(term) for term in known)


def expected(
    slopes: Column, now: float, level: float, traits: Traits, learnt: Learnt = LEARNT
) -> Column:
    """The slopes to reckon with, of curves that leave the last point, at `level`, with `slopes`;
    `now` is the slope of the curve through the data, around which these are drawn."""
    nearest = {
        name: min(max(value, learnt.seen[name][0]), learnt.seen[name][1])
        for name, value in traits.named(level, now).items()
    }
    found = np.full_like(slopes, learnt.usual)
    weights = (learnt.own, learnt.high, learnt.step, learnt.trained, learnt.muon)
    for weight, term in zip(weights, terms(slopes, nearest, traits.muon), strict=True):
        found += weight * term
    # What is usual was seen of curves that fall; the less one does, the less it says of it.
    return found * min(1.0, now / nearest[SLOPE])


def unseen(level: float, slope: float, traits: Traits) -> str | None:
    """What of a run lies outside those that slopes were learnt from, as a note; None: nothing."""
    strange = [
        f"{name} {_shown(value)} ({_shown(learnt[0])} to {_shown(learnt[1])})"
        for name, value in traits.named(level, slope).items()
        if not (learnt := LEARNT.seen[name])[0] <= value <= learnt[1]
    ]
    if not strange:
        return None
    return f"beyond the runs that forecasts were learnt from: {', '.join(strange)}; trust it less"


def _shown(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}"
