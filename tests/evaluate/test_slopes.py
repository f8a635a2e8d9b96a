"""What slopes are expected to become: what flattens a curve, and where nothing is known."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from hornbook.evaluate.slopes import HIGH, LEARNT, SLOPE, STEP, TRAINED, Traits, expected, unseen

TRAITS = Traits(tokens_per_parameter=1.0, tokens_per_step=8192, vocabulary=1024, muon=False)
LEVEL = 4.5


def slope(own: float, traits: Traits = TRAITS, level: float = LEVEL) -> float:
    return float(expected(np.array([own]), own, level, traits)[0])


def test_what_makes_a_curve_flatten_out() -> None:
    assert 0.05 < slope(0.05) < slope(0.15) < 0.15
    assert slope(0.1, level=5.2) > slope(0.1)
    assert slope(0.1, replace(TRAITS, tokens_per_step=512)) < slope(0.1)
    for muon in (False, True):
        early, late = (replace(TRAITS, tokens_per_parameter=n, muon=muon) for n in (0.1, 10.0))
        assert slope(0.1, late) < slope(0.1, early)
    assert slope(0.1, late) < slope(0.1, replace(late, muon=False))


@pytest.mark.parametrize(("end", "far"), [(0, 0.2), (1, 20.0)])
def test_beyond_what_was_seen_the_nearest_counts(end: int, far: float) -> None:
    high, step, trained = (LEARNT.seen[name][end] for name in (HIGH, STEP, TRAINED))
    nearest = replace(TRAITS, tokens_per_step=step, tokens_per_parameter=trained)
    beyond = replace(TRAITS, tokens_per_step=far * step, tokens_per_parameter=far * trained)
    level = high * math.log(TRAITS.vocabulary)
    assert slope(0.1, beyond, far * level) == pytest.approx(slope(0.1, nearest, level))


def test_a_curve_that_hardly_falls_is_not_taken_to_fall_as_usual() -> None:
    least = LEARNT.seen[SLOPE][0]
    assert slope(least / 4) < slope(least) / 3 and slope(0.0) == 0.0


def test_what_was_not_seen_is_said() -> None:
    assert unseen(LEVEL, 0.1, TRAITS) is None
    slow = unseen(LEVEL, 0.01, TRAITS)
    assert slow is not None and "slope 0.01 (0.043 to 0.2)" in slow
    large = Traits(tokens_per_parameter=60.0, tokens_per_step=524288, vocabulary=50257, muon=False)
    assert unseen(3.29, 0.1, large) == (
        "beyond the runs that forecasts were learnt from: loss / ln(vocabulary) 0.3 (0.4 to 0.78),"
        " tokens a step 524,288 (256 to 32,768), tokens a parameter 60 (0.002 to 52); trust it less"
    )
