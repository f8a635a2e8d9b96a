"""The order is a bijection, differs by key, and never changes between versions."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from hornbook.tokens.order import derive_key, permute, scatter


@given(size=st.integers(1, 3000), seed=st.integers(-5, 2**63), epoch=st.integers(0, 10))
@settings(max_examples=150, deadline=None)
def test_permute_is_a_bijection(size: int, seed: int, epoch: int) -> None:
    shuffled = permute(np.arange(size), size, derive_key(seed, epoch))
    assert np.array_equal(np.sort(shuffled), np.arange(size))


@given(size=st.integers(1, 10**12), data=st.data())
@settings(max_examples=100, deadline=None)
def test_permute_is_a_function_of_each_index_alone(size: int, data: st.DataObject) -> None:
    index = np.array(data.draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=20)))
    key = derive_key(7)
    together = permute(index, size, key)
    assert ((together >= 0) & (together < size)).all()
    assert together.tolist() == [permute(np.array([i]), size, key)[0] for i in index]


def test_seeds_and_epochs_give_other_orders() -> None:
    index = np.arange(1000)
    orders = [permute(index, 1000, derive_key(s, e)) for s in range(5) for e in range(5)]
    for number, order in enumerate(orders):
        for other in [index, *orders[:number]]:
            assert (order == other).sum() < 15  # a random shuffle agrees in about one place


def test_small_sizes_are_shuffled_too() -> None:
    """Of 3 rows all six orders come up, each about as often."""
    orders = [tuple(permute(np.arange(3), 3, derive_key(seed))) for seed in range(1200)]
    counts = [orders.count(order) for order in set(orders)]
    assert len(counts) == 6
    assert min(counts) > 100 and max(counts) < 400


def test_order_looks_random() -> None:
    """Neighbours end up apart, and halves are mixed."""
    size = 100_000
    shuffled = permute(np.arange(size), size, derive_key(1))
    assert abs(np.corrcoef(shuffled[:-1], shuffled[1:])[0, 1]) < 0.02
    assert abs((shuffled[: size // 2] < size // 2).mean() - 0.5) < 0.01


def test_scatter_is_uniform() -> None:
    positions = scatter(np.arange(100_000), 10, derive_key(3))
    counts = np.bincount(positions, minlength=10)
    assert counts.min() > 9600 and counts.max() < 10_400


def test_golden_values() -> None:
    """If these change, old runs can no longer be resumed exactly: never do it lightly."""
    key = derive_key(1337, 0, "order", 2)
    assert key.tolist()[:2] == GOLDEN_KEY
    assert permute(np.arange(10), 10, key).tolist() == GOLDEN_10
    assert permute(np.arange(3) + 10**9, 10**10, key).tolist() == GOLDEN_LARGE
    assert scatter(np.arange(4), 10**6, key).tolist() == GOLDEN_SCATTER


GOLDEN_KEY = [15367489483496742190, 17476265853206527114]
GOLDEN_10 = [0, 8, 1, 9, 5, 4, 6, 7, 2, 3]
GOLDEN_LARGE = [6270820519, 5519048289, 2636966688]
GOLDEN_SCATTER = [588764, 13476, 156619, 892569]
