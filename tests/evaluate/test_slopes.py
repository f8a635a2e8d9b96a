"""What is expected of a slope: between its own and those that other runs had."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hornbook.evaluate.slopes import SEEN, Traits, expected, unseen

TRAITS = Traits(per_parameter=1.0, step=8192, vocabulary=1024, muon=False)
LEVEL = 4.5


def slope(own: float, traits: Traits = TRAITS, level: float = LEVEL) -> float:
    return float(expected(np.array([own]), level, traits)[0])


def test_what_makes_a_curve_flatten_out() -> None:
    assert slope(0.05) < slope(0.15) < 0.15 and slope(0.05) > 0.05
    assert slope(0.1, level=5.5) > slope(0.1)
    assert slope(0.1, replace(TRAITS, step=512)) < slope(0.1)
    for muon in (False, True):
        early, late = (replace(TRAITS, per_parameter=p, muon=muon) for p in (0.1, 10.0))
        assert slope(0.1, late) < slope(0.1, early)
    late = replace(TRAITS, per_parameter=10.0)
    assert slope(0.1, replace(late, muon=True)) < slope(0.1, late)


@pytest.mark.parametrize("far", [1e-3, 1e3])
def test_beyond_what_was_seen_the_nearest_counts(far: float) -> None:
    ends = [bounds[far > 1] for bounds in SEEN.values()]
    high, step, fresh = ends
    nearest = slope(0.1, replace(TRAITS, step=step, per_parameter=fresh), high * np.log(1024))
    strange = replace(TRAITS, step=far * step, per_parameter=far * fresh)
    assert slope(0.1, strange, far * high * np.log(1024)) == pytest.approx(nearest)
    assert len(unseen(far * high * float(np.log(1024)), strange)) == 3
    assert not unseen(LEVEL, TRAITS)
