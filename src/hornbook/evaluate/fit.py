"""A power law with a floor, L = E + B / x^b, through a noisy loss curve, and how sure it is.

In: tokens and losses. Out: a `Fit`, and an `Ensemble` of curves that the data allow, from which any
interval is read: of the loss after so many tokens, of the tokens for a loss.

- Law: points in bins of equal count; single losses far from their bin are left out (spikes); for
  each exponent of a grid E and B by least squares in closed form, where bins that lie off weigh
  less (Huber 1964). A prior on the exponent decides where the data do not, which is nearly always:
  the part of a run that is fitted spans a factor of three in tokens.
- Interval: circular block bootstrap of the residuals (Politis and Romano 1992), since neighbouring
  losses are correlated: blocks are several autocorrelation times long. Each refit has a prior drawn
  anew, so that what the prior decided counts as unknown.
- What no bootstrap knows is that the law itself is only nearly right: small models with noisy steps
  stop falling sooner than it says, large models early in training fall faster. So each curve of the
  ensemble leaves the last point with a slope drawn around the one that such runs had: `slopes.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hornbook.evaluate.slopes import LEARNT, Learnt, Traits, expected

Column = npt.NDArray[np.float64]

FIRST_SHARE = 0.3
"""Share of the tokens that is left out at the beginning: what matters for what comes is how the
curve falls last."""

EXPONENTS = np.linspace(0.02, 1.2, 237)
"""The exponents that are tried. In steps of 0.01 a law without noise, of an exponent between two of
them, was missed by 1.2 % at ten times the tokens."""

PRIOR, PRIOR_WIDTH = 0.3, 0.1
"""The exponent expected before there are data, and its standard deviation. Published laws have 0.28
to 0.50 (arXiv:2203.15556, 2404.10102, 2305.16264, 2411.04330)."""

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

    @property
    def slope(self) -> float:
        """At the last point: the share of the loss that it falls for each factor of e in tokens."""
        return self.exponent * self.scale / (self.floor + self.scale)

    def loss(self, x: float) -> float:
        """The loss after x tokens."""
        return float(self.shape(np.array(x / self.unit)))

    def shape(self, shares: Column) -> Column:
        """Losses after so many times `unit`."""
        return self.floor + self.scale * shares**-self.exponent


@dataclass(frozen=True)
class Binned:
    """A curve in bins of equal count."""

    x: Column
    """`[bins]`: tokens, in units of those at the last point."""
    y: Column
    """`[bins]`: mean loss."""
    unit: float
    spikes: int
    """Losses that were left out."""


@dataclass(frozen=True)
class Ensemble:
    """Curves that the data allow, from the last fitted point on: `[curves]` in every column."""

    best: Fit
    """The law through the data, without what is known of other runs."""
    floors: Column
    """What each comes near and never reaches."""
    scales: Column
    exponents: Column
    noise: Column
    """What a measured mean of losses may lie beside its curve."""
    spikes: int

    def at(self, x: float, shares: tuple[float, ...] = (0.1, 0.5, 0.9)) -> Column:
        """Quantiles of the loss after x tokens, the noise of its measurement included."""
        losses = self.floors + self.scales * (x / self.best.unit) ** -self.exponents
        return np.quantile(losses + self.noise, shares)

    def crossing(self, target: float) -> Column:
        """`[curves]`: tokens after which each is at the target, the last fitted ones at least;
        infinite: never, or after more than `FARTHEST` times as many."""
        with np.errstate(divide="ignore", invalid="ignore"):  # a curve may be flat: scale 0
            left = np.log(np.maximum(target - self.floors, 0)) - np.log(self.scales)
        logs = np.where(target >= self.floors + self.scales, 0.0, -left / self.exponents)
        near = logs <= math.log(FARTHEST)
        return np.where(near, self.best.unit * np.exp(np.where(near, logs, 0.0)), np.inf)


def fit(x: Column, y: Column) -> Fit:
    """The law through losses y after x tokens, both `[points]`, x rising, all finite.

    The first `FIRST_SHARE` of the tokens is not fitted.
    """
    return _law(_binned(x, y))[0]


def fall(x: Column, y: Column, since: float = FIRST_SHARE) -> tuple[float, float]:
    """Nats that the loss falls for each factor of e in tokens, and the standard error of that.

    A straight line through losses against ln(tokens), spikes left out; neighbours are correlated.

    Args:
        x: tokens `[points]`, rising.
        y: losses `[points]`.
        since: the share of the tokens from which on it is looked at.
    """
    binned = _binned(x, y)
    late = binned.x >= since
    logs, losses = np.log(binned.x[late]), binned.y[late]
    away = logs - logs.mean()
    slope = float(away @ losses / (away @ away))
    residuals = losses - losses.mean() - slope * away
    independent = max(1.0, len(logs) / _autocorrelation_time(residuals))
    error = math.sqrt(float((residuals @ residuals) / (away @ away)) / independent)
    return -slope, error


def ensemble(
    x: Column, y: Column, traits: Traits, times: int, seed: int, averaged: int,
    learnt: Learnt = LEARNT,
) -> Ensemble:  # fmt: skip
    """Curves that the data allow: `times` refits on resampled residuals, each with its own slope.

    Args:
        x: tokens `[points]`, rising.
        y: losses `[points]`.
        traits: of the run.
        times: how many curves.
        seed: of the resampling.
        averaged: neighbouring losses whose mean will be compared with the forecast.
        learnt: what is known of slopes.
    """
    random = np.random.default_rng(seed)
    binned = _binned(x, y)
    best, weights, variance = _law(binned)
    residuals = binned.y - best.shape(binned.x)
    independent = max(PARAMETERS + 1.0, len(residuals) / _autocorrelation_time(residuals))
    residuals = residuals * math.sqrt(independent / (independent - PARAMETERS))
    resampled = binned.y - residuals + _blocks(residuals, times, random)
    priors = random.normal(PRIOR, PRIOR_WIDTH, times)
    floors, scales, exponents = _solve(binned, resampled, weights, variance, priors)
    levels = floors + scales
    level = best.loss(best.unit)
    slopes = expected(exponents * scales / levels, best.slope, level, traits, learnt)
    slopes = np.clip(slopes + random.normal(0.0, learnt.drift, times), 0.0, exponents)
    scales = levels * slopes / exponents
    late = x >= FIRST_SHARE * best.unit
    residuals = y[late] - best.shape(x[late] / best.unit)
    noise = _spread(residuals) * math.sqrt(min(1.0, _autocorrelation_time(residuals) / averaged))
    around = random.normal(0.0, noise, times)
    floors = np.maximum(levels - scales, 0.0)  # scales may be levels, but for rounding
    return Ensemble(best, floors, scales, exponents, around, binned.spikes)


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
    kept = counts > 0  # where the loss jumps within a bin, all of it is far from the median
    means = np.bincount(labels[good], np.log(x[good]), minlength=bins)[kept] / counts[kept]
    losses = np.bincount(labels[good], y[good], minlength=bins)[kept] / counts[kept]
    return Binned(np.exp(means) / unit, losses, unit, int(len(y) - good.sum()))


def _law(binned: Binned) -> tuple[Fit, Column, float]:
    """The law, Huber's weights `[bins]`, and the variance that a squared residual is held against:
    that of a bin, times the bins that are one independent number."""
    weights, spread, prior = np.ones_like(binned.y), 1.0, np.array([PRIOR])
    for _ in range(ROUNDS):
        floor, scale, exponent = _solve(binned, binned.y[None], weights, spread**2, prior)
        law = Fit(float(floor[0]), float(scale[0]), float(exponent[0]), binned.unit)
        residuals = binned.y - law.shape(binned.x)
        spread = max(_spread(residuals), 1e-9)
        weights = np.minimum(1.0, HUBER * spread / np.maximum(np.abs(residuals), 1e-12))
    return law, weights, spread**2 * _autocorrelation_time(residuals)


def _solve(
    binned: Binned, y: Column, weights: Column, variance: float, priors: Column
) -> tuple[Column, Column, Column]:
    """Floor, scale and exponent, each `[times]`, of the curves y `[times, bins]`."""
    powers = binned.x ** -EXPONENTS[:, None]
    floors, scales, errors = _least_squares(powers, y, weights)
    costs = errors / variance + ((EXPONENTS - priors[:, None]) / PRIOR_WIDTH) ** 2
    rows, place = np.arange(len(y)), costs.argmin(axis=1)
    return floors[rows, place], scales[rows, place], EXPONENTS[place]


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


def _spread(residuals: Column) -> float:
    """Their standard deviation, were they normal; a few far ones do not matter."""
    return NORMAL_MAD * float(np.median(np.abs(residuals)))
