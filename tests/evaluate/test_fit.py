"""The fit finds laws that are known, and its band holds what comes as often as it says.

Made-up curves follow the law exactly, so where its own interval is tested, the slopes that real
runs had are left out (`BY_LAW_ALONE`).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.evaluate.synthetic_curves import Known, drawn, tokens

from hornbook.evaluate.fit import Ensemble, ensemble, fit
from hornbook.evaluate.slopes import DRIFT, LEARNT, Learnt, Traits

STEPS = 1000
TRAITS = Traits(tokens_per_parameter=1.0, tokens_per_step=8192, vocabulary=1024, muon=False)
BY_LAW_ALONE = Learnt(0, own=1, high=0, step=0, trained=0, muon=0, seen=LEARNT.seen, drift=0)


def seen(known: Known, seed: int, ahead: int = 3) -> tuple[Ensemble, float, float]:
    """Fitted to 1,000 steps (but the first 2 %); the middle of the last 50 of three times as many,
    and their mean loss."""
    x = tokens(ahead * STEPS)
    y = known.measured(x, seed)
    made = ensemble(x[20:STEPS], y[20:STEPS], TRAITS, 200, 1, 50, BY_LAW_ALONE)
    return made, float(x[-25]), float(y[-50:].mean())


@settings(max_examples=30, deadline=None)
@example(0.5, 2.0, 0.625)
@given(st.floats(0.3, 3), st.floats(0.3, 2), st.floats(0.15, 0.8))
def test_a_law_without_noise_is_found(floor: float, scale: float, exponent: float) -> None:
    x = tokens(STEPS)
    known = Known(floor, scale, exponent, x[-1])
    found, far = fit(x, known.loss(x)), 10 * float(x[-1])
    assert found.loss(far) == pytest.approx(float(known.loss(far)), rel=0.01, abs=0.01)
    assert found.exponent == pytest.approx(exponent, abs=0.03)


def test_noise_is_averaged_out() -> None:
    errors = []
    for seed in range(20):
        known = drawn(seed, STEPS)
        x = tokens(STEPS)
        found = fit(x[20:], known.measured(x, seed)[20:])
        errors.append(found.loss(3 * x[-1]) / float(known.loss(3 * x[-1])) - 1)
    assert np.median(np.abs(errors)) < 0.015 and abs(np.mean(errors)) < 0.01


def coverage(seeds: range) -> float:
    held = 0
    for seed in seeds:
        made, x, truth = seen(drawn(seed, STEPS), seed)
        low, _, high = made.at(x)
        held += low <= truth <= high
    return held / len(seeds)


def test_the_bootstrap_alone_holds_what_comes() -> None:
    """Where the law is exactly right no drift is needed: 80 % is 80 %, within 20 draws."""
    assert 0.6 <= coverage(range(20)) <= 0.95


@pytest.mark.long
def test_coverage_over_200_curves() -> None:
    assert 0.7 <= coverage(range(200)) <= 0.9


def test_correlated_noise_widens_the_band() -> None:
    widths = []
    for correlation in (0.0, 0.95):
        made, x, _ = seen(Known(2, 1, 0.3, tokens(STEPS)[-1], 0.05, correlation), 3)
        low, _, high = made.at(x)
        widths.append(high - low)
    assert widths[1] > 1.3 * widths[0]


def test_spikes_do_not_matter() -> None:
    known = drawn(5, STEPS)
    x = tokens(STEPS)
    y = known.measured(x, 5)
    spiked = y.copy()
    places = np.random.default_rng(0).choice(STEPS, STEPS // 20, replace=False)
    spiked[places] += np.random.default_rng(1).uniform(1, 5, len(places))
    calm, rough = fit(x, y).loss(3 * x[-1]), fit(x, spiked).loss(3 * x[-1])
    assert rough == pytest.approx(calm, rel=0.01)
    assert ensemble(x, spiked, TRAITS, 100, 1, 50).spikes >= 30


@pytest.mark.filterwarnings("error")
def test_a_jump_in_the_middle_of_a_bin() -> None:
    """All of such a bin is far from its median: it is left out, and not divided by nothing."""
    x = tokens(STEPS)
    y = Known(2.0, 1.0, 0.3, x[-1], 0.003, 0.0).measured(x, 1)
    for place in range(600, 609):
        made = ensemble(x, y + (np.arange(STEPS) >= place), TRAITS, 100, 1, 50)
        assert np.isfinite(made.at(3 * x[-1])).all()


@pytest.mark.filterwarnings("error")
def test_curves_that_are_flat_never_get_lower() -> None:
    """Late runs with Muon: among the slopes that are drawn are some of zero."""
    x = tokens(STEPS)
    made = ensemble(
        x,
        drawn(1, STEPS).measured(x, 1),
        replace(TRAITS, tokens_per_parameter=13.0, tokens_per_step=256, muon=True),
        400,
        1,
        50,
    )
    assert (made.scales == 0).any() and np.isinf(made.crossing(0.1)).all()


def test_the_curve_ahead_has_the_slope_that_runs_had() -> None:
    """Large steps early in training go on faster than the law, small ones late slower."""
    x = tokens(STEPS)
    y = Known(3.0, 1.0, 0.3, x[-1], 0.02, 0.0).measured(x, 1)
    early, late = (
        ensemble(x, y, Traits(ratio, step, 1024, muon=True), 200, 1, 50)
        for ratio, step in ((0.05, 32768), (10.0, 512))
    )
    assert early.at(3 * x[-1])[1] < fit(x, y).loss(3 * x[-1]) < late.at(3 * x[-1])[1]
    assert (early.floors >= 0).all() and (early.scales >= 0).all()


def test_the_band_is_at_least_as_wide_as_runs_strayed() -> None:
    x = tokens(STEPS)
    made = ensemble(x, Known(2, 1, 0.3, x[-1], 0.01, 0.0).measured(x, 1), TRAITS, 400, 1, 50)
    low, middle, high = made.at(3 * x[-1])
    one_sided = 1.28 * DRIFT * (1 - 3**-0.3) / 0.3
    assert (high - low) / 2 / middle > 0.9 * one_sided


def test_where_curves_cross_a_target() -> None:
    x = tokens(STEPS)
    known = Known(2.0, 1.0, 0.4, x[-1], 0.02, 0.0)
    made = ensemble(x, known.measured(x, 1), TRAITS, 400, 1, 50, BY_LAW_ALONE)
    target = float(known.loss(5 * x[-1]))
    low, middle, high = np.quantile(made.crossing(target), (0.1, 0.5, 0.9), method="inverted_cdf")
    assert low < 5 * x[-1] < high and middle == pytest.approx(5 * x[-1], rel=0.5)
    assert np.isinf(made.crossing(0.0)).all()
    assert made.crossing(9.0) == pytest.approx(x[-1])
    crossing = made.crossing(target)
    for row in np.flatnonzero(np.isfinite(crossing))[:2]:  # each on its own curve
        curve = Known(made.floors[row], made.scales[row], made.exponents[row], x[-1])
        assert curve.loss(crossing[row]) == pytest.approx(target)


def test_the_same_seed_gives_the_same_band() -> None:
    x = tokens(STEPS)
    y = drawn(1, STEPS).measured(x, 1)
    made = [ensemble(x, y, TRAITS, 100, seed, 50) for seed in (1, 1, 2)]
    first, second, third = (each.at(3 * x[-1]) for each in made)
    assert (first == second).all() and (first != third).any()
