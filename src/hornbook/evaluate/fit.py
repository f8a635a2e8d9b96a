"""A power law with a floor, L = E + B / x^b, through a noisy loss curve, and how sure it is.

In: tokens and losses. Out: a `Fit`, and an `Ensemble` of curves that the data allow, from which any
interval is read: of the loss after so many tokens, of the tokens for a loss.

- Fit: points in bins of equal count; single losses far from their bin are left out (spikes); for
  each exponent of a grid E and B by least squares in closed form, where bins that lie off weigh
  less (Huber 1964). A wide prior on the exponent decides where the data do not.
- Interval: circular block bootstrap of the residuals (Politis and Romano 1992), since neighbouring
  losses are correlated: blocks are several autocorrelation times long. Each refit has a prior drawn
  anew, so that what the prior decided counts as unknown.
- What no bootstrap knows is that the law itself is only nearly right. So earlier parts of the curve
  are fitted and the rest is forecast from them: how far these hindcasts were off, for each factor
  of e in tokens, is the size of a drift that each curve of the ensemble gets besides.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Column = npt.NDArray[np.float64]

FIRST_SHARE = 0.2
"""Share of the tokens that is left out at the beginning, where the loss falls faster than any power
of the tokens: what is learnt there is which tokens are frequent."""

EXPONENTS = np.linspace(0.02, 1.2, 119)
"""The exponents that are tried."""

PRIOR, PRIOR_WIDTH = 0.3, 0.25
"""The exponent expected before there are data, and its standard deviation. Published laws have 0.28
to 0.50 (arXiv:2203.15556, 2404.10102, 2305.16264, 2411.04330); single runs are less alike."""

BINS, FEWEST_IN_BIN, FEWEST_BINS = 200, 8, 20
"""At most so many bins, of at least so many losses, unless they would be too few."""

SPIKE = 5.0
"""Losses further than so many standard deviations from their bin are left out."""

HUBER, ROUNDS = 1.345, 10
"""Residuals beyond so many standard deviations weigh less; rounds of reweighting."""

PARAMETERS = 3

NORMAL_MAD = 1.4826
"""Standard deviation of normal numbers, in units of their median absolute deviation."""

BLOCK = 4
"""Length of a block, in autocorrelation times."""

HINDCASTS = (0.3, 0.4, 0.5, 0.6, 0.7)
"""Shares of the tokens after which the rest is forecast."""

LEAST_DRIFT = 0.02
"""Relative error of the loss, for each factor of e in tokens, that is always reckoned with. Twelve
runs (nine small ones on a CPU, three of the speedrun's on an H200), each forecast from a third of
its constant part, had 0.016; so few may as well have 0.022."""

FARTHEST = 100.0
"""No forecast beyond so many times the tokens that were fitted."""


@dataclass(frozen=True)
class Fit:
    """L(x) = floor + scale * (x / unit)^-exponent."""

    floor: float
    scale: float
    exponent: float
    unit: float
    """Tokens at the last point."""

    def loss(self, x: float) -> float:
        """The loss after x tokens."""
        return float(self.floor + self.scale * (x / self.unit) ** -self.exponent)


@dataclass(frozen=True)
class Binned:
    """A curve in bins of equal count."""

    x: Column
    """`[bins]`: tokens as a share of `unit`."""
    y: Column
    """`[bins]`: mean loss."""
    unit: float
    spikes: int
    """Losses that were left out."""


@dataclass(frozen=True)
class Ensemble:
    """Curves that the data allow, from the last fitted point on."""

    best: Fit
    grid: Column
    """`[places]`: tokens, evenly spaced logarithmically, up to `FARTHEST` times the first."""
    curves: Column
    """`[curves, places]`: loss."""
    floors: Column
    """`[curves]`: what each comes near and never reaches."""
    exponents: Column
    """`[curves]`"""
    noise: Column
    """`[curves]`: what a measured mean of losses may lie beside its curve."""
    drift: float
    """Relative error of the loss for each factor of e in tokens, as the hindcasts had it."""
    spikes: int

    def at(self, x: float, shares: tuple[float, ...] = (0.1, 0.5, 0.9)) -> Column:
        """Quantiles of the loss after x tokens, the noise of its measurement included."""
        place = np.interp(math.log(x), np.log(self.grid), np.arange(len(self.grid)))
        low = min(int(place), len(self.grid) - 2)
        part = place - low
        values = (1 - part) * self.curves[:, low] + part * self.curves[:, low + 1]
        return np.quantile(values + self.noise, shares)

    def crossing(self, target: float) -> Column:
        """`[curves]`: tokens after which each is at the target; infinite: not on the grid."""
        below = self.curves <= target
        place = below.argmax(axis=1)
        before = np.maximum(place - 1, 0)
        rows = np.arange(len(self.curves))
        high, low = self.curves[rows, before], self.curves[rows, place]
        part = np.clip((high - target) / np.maximum(high - low, 1e-12), 0, 1)
        logs = np.log(self.grid)
        tokens = np.exp(logs[before] + part * (logs[place] - logs[before]))
        return np.where(below.any(axis=1), tokens, np.inf)


def fit(x: Column, y: Column) -> Fit:
    """The law through losses y after x tokens, both `[points]`, x rising, all finite.

    The first `FIRST_SHARE` of the tokens is not fitted.
    """
    binned = _binned(x, y)
    return _best(binned, *_robust(binned))


def ensemble(x: Column, y: Column, times: int, seed: int, averaged: int) -> Ensemble:
    """Curves that the data allow: `times` refits on resampled residuals, each with a drift.

    Args:
        x: tokens `[points]`, rising.
        y: losses `[points]`.
        times: how many curves.
        seed: of the resampling.
        averaged: neighbouring losses whose mean will be compared with the forecast.
    """
    random = np.random.default_rng(seed)
    binned = _binned(x, y)
    weights, scale = _robust(binned)
    best = _best(binned, weights, scale)
    expected = best.floor + best.scale * binned.x**-best.exponent
    residuals = binned.y - expected
    independent = max(PARAMETERS + 1.0, len(residuals) / _autocorrelation_time(residuals))
    residuals = residuals * math.sqrt(independent / (independent - PARAMETERS))
    resampled = expected + _blocks(residuals, times, random)
    priors = random.normal(PRIOR, PRIOR_WIDTH, times)
    floors, scales, exponents = _solve(binned, resampled, weights, scale, priors)
    grid = best.unit * np.geomspace(1.0, FARTHEST, 200)
    drift = _drift(x, y, best)
    slopes = random.normal(0.0, drift, times)
    shares = grid / best.unit
    curves = floors[:, None] + scales[:, None] * shares ** -exponents[:, None]
    curves = curves * shares ** slopes[:, None]
    noise = random.normal(0.0, _noise_of_means(x, y, best, averaged), times)
    return Ensemble(best, grid, curves, floors, exponents, noise, drift, binned.spikes)


def _binned(x: Column, y: Column) -> Binned:
    """Bins of equal count, without spikes."""
    unit = float(x[-1])
    late = x >= FIRST_SHARE * unit
    x, y = x[late], y[late]
    bins = min(len(x), max(FEWEST_BINS, min(BINS, len(x) // FEWEST_IN_BIN)))
    labels = np.arange(len(x)) * bins // len(x)
    starts = np.searchsorted(labels, np.arange(bins))
    medians = np.array([np.median(part) for part in np.split(y, starts[1:])])
    away = np.abs(y - medians[labels])
    # In bins of one or two losses there is no telling which is far off; Huber's weights do.
    crowded = len(x) >= FEWEST_IN_BIN * bins
    good = away <= SPIKE * NORMAL_MAD * np.median(away) if crowded else np.ones(len(x), bool)
    counts = np.bincount(labels[good], minlength=bins)
    means = np.bincount(labels[good], np.log(x[good]), minlength=bins) / counts
    losses = np.bincount(labels[good], y[good], minlength=bins) / counts
    return Binned(np.exp(means) / unit, losses, unit, int(len(y) - good.sum()))


def _robust(binned: Binned) -> tuple[Column, float]:
    """Weights `[bins]` of Huber's estimate, and the variance that a squared residual is held
    against: that of a bin, times the bins that are one independent number."""
    weights, spread = np.ones_like(binned.y), 1.0
    for _ in range(ROUNDS):
        found = _solve(binned, binned.y[None], weights, spread**2, np.array([PRIOR]))
        floor, scale, exponent = (float(part[0]) for part in found)
        residuals = binned.y - floor - scale * binned.x**-exponent
        spread = max(NORMAL_MAD * float(np.median(np.abs(residuals))), 1e-9)
        weights = np.minimum(1.0, HUBER * spread / np.maximum(np.abs(residuals), 1e-12))
    return weights, spread**2 * _autocorrelation_time(residuals)


def _best(binned: Binned, weights: Column, variance: float) -> Fit:
    found = _solve(binned, binned.y[None], weights, variance, np.array([PRIOR]))
    floor, scale, exponent = (float(part[0]) for part in found)
    return Fit(floor, scale, exponent, binned.unit)


def _solve(
    binned: Binned, y: Column, weights: Column, variance: float, priors: Column
) -> tuple[Column, Column, Column]:
    """Floor, scale and exponent, each `[times]`, of the curves y `[times, bins]`."""
    powers = binned.x ** -EXPONENTS[:, None]
    _, _, errors = _least_squares(powers, y, weights)
    costs = errors / variance + ((EXPONENTS - priors[:, None]) / PRIOR_WIDTH) ** 2
    place = np.clip(costs.argmin(axis=1), 1, len(EXPONENTS) - 2)
    rows = np.arange(len(y))
    left, middle, right = (costs[rows, place + offset] for offset in (-1, 0, 1))
    # The lowest point of the parabola through the best place of the grid and its neighbours.
    bend = np.maximum(left - 2 * middle + right, 1e-12)
    offset = np.clip(0.5 * (left - right) / bend, -1, 1)
    exponents = EXPONENTS[place] + offset * (EXPONENTS[1] - EXPONENTS[0])
    own = binned.x ** -exponents[:, None]
    floors, scales = np.empty(len(y)), np.empty(len(y))
    for row in rows:
        floor, scale, _ = _least_squares(own[row : row + 1], y[row : row + 1], weights)
        floors[row], scales[row] = floor[0, 0], scale[0, 0]
    return floors, scales, exponents


def _least_squares(powers: Column, y: Column, weights: Column) -> tuple[Column, Column, Column]:
    """Floor and scale, neither negative, and the weighted squared error, each `[times, powers]`.

    Args:
        powers: x^-b for each exponent, `[powers, bins]`.
        y: `[times, bins]`.
        weights: `[bins]`.
    """
    total, by_power, by_square = weights.sum(), powers @ weights, powers**2 @ weights
    sums, products = (y @ weights)[:, None], (y * weights) @ powers.T
    determinant = np.maximum(total * by_square - by_power**2, 1e-30)
    scale = (total * products - by_power * sums) / determinant
    floor = (sums - scale * by_power) / total
    scale = np.where(floor < 0, products / by_square, scale)
    floor = np.where(scale < 0, sums / total, np.maximum(floor, 0))
    scale = np.maximum(scale, 0)
    squares = ((y**2) @ weights)[:, None]
    errors = squares - 2 * (floor * sums + scale * products) + floor**2 * total
    errors = errors + 2 * floor * scale * by_power + scale**2 * by_square
    return floor, scale, errors


def _blocks(residuals: Column, times: int, random: np.random.Generator) -> Column:
    """Residuals `[times, bins]` put together from blocks of neighbours."""
    count = len(residuals)
    length = math.ceil(BLOCK * _autocorrelation_time(residuals))
    length = max(2, min(length, count // 4))
    starts = random.integers(0, count, (times, math.ceil(count / length)))
    places = (starts[:, :, None] + np.arange(length)) % count
    resampled: Column = residuals[places.reshape(times, -1)[:, :count]]
    return resampled


def _autocorrelation_time(residuals: Column) -> float:
    """1 + 2 x the sum of autocorrelations up to the first that is not above noise; at least 1."""
    centred = residuals - residuals.mean()
    count = len(centred)
    power = np.abs(np.fft.rfft(centred, 2 * count)) ** 2
    correlations = np.fft.irfft(power)[:count]
    if correlations[0] <= 0:
        return 1.0
    correlations = correlations[1:] / correlations[0]
    ends = np.flatnonzero(correlations < 2 / math.sqrt(count))
    return float(1 + 2 * correlations[: ends[0] if len(ends) else count].sum())


def _drift(x: Column, y: Column, best: Fit) -> float:
    """Root mean square of the hindcasts' relative errors, for each factor of e in tokens."""
    errors = [0.0]
    for share in HINDCASTS:
        known = x <= share * best.unit
        if known.sum() >= FEWEST_BINS:
            ahead = fit(x[known], y[known]).loss(best.unit)
            errors.append(math.log(best.loss(best.unit) / ahead) / math.log(1 / share))
    found = errors[1:] or errors
    return max(LEAST_DRIFT, math.sqrt(sum(error**2 for error in found) / len(found)))


def _noise_of_means(x: Column, y: Column, best: Fit, averaged: int) -> float:
    """Standard deviation of a mean of neighbouring losses around the curve."""
    late = x >= FIRST_SHARE * best.unit
    residuals = y[late] - best.floor - best.scale * (x[late] / best.unit) ** -best.exponent
    spread = NORMAL_MAD * float(np.median(np.abs(residuals)))
    return spread * math.sqrt(min(1.0, _autocorrelation_time(residuals) / averaged))
