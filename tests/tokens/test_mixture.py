"""Sources are mixed exactly by weight, and any row can be located alone."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from hornbook.tokens.mixture import Mixture

WEIGHTS = st.lists(st.sampled_from([0.0, 0.1, 0.3, 1.0, 2.5, 7.0]), min_size=1, max_size=6).filter(
    any
)


@given(weights=WEIGHTS, start=st.integers(0, 10**9), count=st.integers(1, 50))
@settings(max_examples=100, deadline=None)
def test_any_range_equals_row_by_row(weights: list[float], start: int, count: int) -> None:
    mixture = Mixture([(0, weights)])
    sources, index = mixture.locate(np.arange(start, start + count))
    for offset in range(count):
        source, number = mixture.locate(np.array([start + offset]))
        assert (sources[offset], index[offset]) == (source[0], number[0])


@given(weights=WEIGHTS)
@settings(max_examples=100, deadline=None)
def test_counts_follow_the_weights_at_every_row(weights: list[float]) -> None:
    rows = 2000
    sources, index = Mixture([(0, weights)]).locate(np.arange(rows))
    slack = math.ceil(math.log2(len(weights))) + 1
    for source, weight in enumerate(weights):
        given_so_far = np.cumsum(sources == source)
        ideal = np.arange(1, rows + 1) * weight / sum(weights)
        assert np.abs(given_so_far - ideal).max() < slack
        # Each source's own rows are taken in order, none left out.
        mine = index[sources == source]
        assert np.array_equal(mine, np.arange(len(mine)))


@given(
    first=WEIGHTS.filter(lambda w: len(w) == 3),
    second=WEIGHTS.filter(lambda w: len(w) == 3),
    change=st.integers(1, 400),
)
@settings(max_examples=40, deadline=None)
def test_phases_go_on_where_sources_were(
    first: list[float], second: list[float], change: int
) -> None:
    sources, index = Mixture([(0, first), (change, second)]).locate(np.arange(1000))
    for source in range(3):
        mine = index[sources == source]
        assert np.array_equal(mine, np.arange(len(mine)))
        after = (sources[change:] == source).sum()
        assert abs(after - (1000 - change) * second[source] / sum(second)) < 3


def test_half_and_half_alternates() -> None:
    sources, _ = Mixture([(0, [1.0, 1.0])]).locate(np.arange(100))
    assert (sources[::2] != sources[1::2]).all()


def test_billions_of_rows() -> None:
    sources, index = Mixture([(0, [1.0, 3.0])]).locate(np.arange(2**32 - 9, 2**32 - 1))
    assert np.bincount(sources).tolist() == [2, 6]
    assert (index > 2**30 - 10).all()
