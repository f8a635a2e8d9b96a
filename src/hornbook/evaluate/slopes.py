"""How fast a loss curve goes on falling: what was learnt from other runs.

In: slope and level of a curve where it was last seen, and what its run is. Out: the slope to reckon
with ahead. A slope is the relative fall of the loss for each factor of e in tokens.

A third of a run says little of how it goes on, since a power law with a floor fits it with many
exponents. What the slopes of other runs became says more:

    slope ahead = USUAL + OWN x slope now + HIGH x loss / ln(vocabulary) + STEP x ln(tokens a step)
                  + (FRESH, with Muon + MUON) x ln(tokens a parameter of the blocks)

A loss that is still high falls on. Small steps are noisy and flatten out at a constant rate. So do
Muon's, as large however small the gradients are, the more tokens a parameter has seen. Regressed by
benchmarks/forecast_slopes.py, whose page in the docs says how well runs are forecast by the others.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Column = npt.NDArray[np.float64]

USUAL, OWN, HIGH, STEP, FRESH, MUON = -0.220, 0.312, 0.250, 0.0176, -0.0062, -0.0063

DRIFT = 0.03
"""Standard deviation of what slopes become, around those expected. Runs of one kind, expected from
those of the others, were off by 0.020; the terms were chosen on these very runs, hence more."""

SEEN = {
    "loss / ln(vocabulary)": (0.41, 0.78),
    "tokens a step": (256.0, 32768.0),
    "tokens a parameter": (0.004, 19.5),
}
"""The least and the most of each that the runs had which this was learnt from: beyond, the nearest
counts."""


@dataclass(frozen=True)
class Traits:
    """What a run is, besides its curve."""

    per_parameter: float
    """Tokens at the last fitted point, for each parameter of the blocks."""
    step: float
    """Tokens of a step."""
    vocabulary: int
    muon: bool
    """Whether Muon trains the matrices."""

    def named(self, level: float) -> dict[str, float]:
        """The traits of `SEEN`, where the loss is at `level`."""
        return dict(zip(SEEN, (level / math.log(self.vocabulary), self.step, self.per_parameter),
                        strict=True))  # fmt: skip


def expected(slopes: Column, level: float, traits: Traits) -> Column:
    """The slopes to reckon with, of curves that leave the last point, at `level`, with `slopes`."""
    high, step, fresh = (
        min(max(value, SEEN[name][0]), SEEN[name][1]) for name, value in traits.named(level).items()
    )
    others = HIGH * high + STEP * math.log(step) + (FRESH + MUON * traits.muon) * math.log(fresh)
    return USUAL + OWN * slopes + others


def unseen(level: float, traits: Traits) -> list[str]:
    """What of a run lies outside those that slopes were learnt from."""
    return [
        f"{value:.2g} {name}: forecasts were learnt from runs with {low:g} to {high:g}, trust this"
        " one less"
        for (name, value), (low, high) in zip(
            traits.named(level).items(), SEEN.values(), strict=True
        )
        if not low <= value <= high
    ]
