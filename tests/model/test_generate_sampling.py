"""Sampling filters against stock transformers, and the properties of the draw."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers.generation.logits_process import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from hornbook.errors import HornbookError
from hornbook.model import sampling
from hornbook.model.config import GenerateConfig

seeds = st.integers(0, 2**31)


def some_logits(seed: int, rows: int = 3, vocabulary: int = 50, spread: float = 3.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, vocabulary, generator=generator) * spread


def assert_same_distribution(ours: Tensor, stock: Tensor) -> None:
    assert torch.equal(ours.isinf(), stock.isinf())
    torch.testing.assert_close(ours.softmax(-1), stock.softmax(-1), rtol=1e-5, atol=1e-7)


@settings(max_examples=30, deadline=None)
@given(seeds, st.integers(1, 60))
def test_top_k_equals_stock(seed: int, k: int) -> None:
    logits = some_logits(seed)
    assert_same_distribution(sampling.keep_top_k(logits, k), TopKLogitsWarper(k)(None, logits))


@settings(max_examples=60, deadline=None)
@given(seeds, st.floats(0.01, 0.999), st.sampled_from([0.01, 1.0, 8.0]))
def test_top_p_equals_stock(seed: int, p: float, spread: float) -> None:
    # 3,000 tokens: flat distributions need the whole sort, sharp ones only the likeliest part.
    logits = some_logits(seed, vocabulary=3000, spread=spread)
    kept = ~sampling.keep_top_p(logits, p).isinf()
    # Stock in double, and p a hair less and more: where a sum just meets p, rounding decides.
    least, most = (
        (~TopPLogitsWarper(p + hair)(None, logits.double()).isinf()).sum(-1)
        for hair in (-1e-5, 1e-5)
    )
    assert (kept.sum(-1) >= least).all() and (kept.sum(-1) <= most).all()
    # The likeliest are kept; equal float32 probabilities may come in any order.
    smallest_kept = logits.masked_fill(~kept, torch.inf).amin(-1)
    assert (logits.masked_fill(kept, -torch.inf).amax(-1) <= smallest_kept + 1e-6).all()


@settings(max_examples=30, deadline=None)
@given(seeds, st.floats(0.0, 1.0))
def test_min_p_equals_stock(seed: int, share: float) -> None:
    logits = some_logits(seed)
    ours = sampling.keep_min_p(logits, share)
    assert_same_distribution(ours, MinPLogitsWarper(share)(None, logits))


@settings(max_examples=30, deadline=None)
@given(seeds, st.floats(0.05, 5.0))
def test_temperature_equals_stock(seed: int, temperature: float) -> None:
    logits = some_logits(seed)
    ours = sampling.apply_temperature(logits, temperature)
    assert_same_distribution(ours, TemperatureLogitsWarper(temperature)(None, logits))


@settings(max_examples=30, deadline=None)
@given(seeds, st.floats(0.5, 3.0))
def test_repetition_penalty_equals_stock(seed: int, penalty: float) -> None:
    logits = some_logits(seed)
    ids = torch.randint(0, 50, (3, 12), generator=torch.Generator().manual_seed(seed))
    seen = torch.zeros_like(logits, dtype=torch.bool).scatter_(1, ids, True)
    ours = sampling.apply_repetition_penalty(logits, seen, penalty)
    stock = RepetitionPenaltyLogitsProcessor(penalty)(ids, logits)
    torch.testing.assert_close(ours, stock, rtol=0, atol=0)


@settings(max_examples=20, deadline=None)
@given(seeds)
def test_all_filters_together_equal_stock_in_its_order(seed: int) -> None:
    logits = some_logits(seed)
    stock = logits
    for warper in (
        TemperatureLogitsWarper(0.7),
        TopKLogitsWarper(20),
        TopPLogitsWarper(0.8),
        MinPLogitsWarper(0.1),
    ):
        stock = warper(None, stock)
    ours = sampling.apply_temperature(logits, 0.7)
    ours = sampling.keep_min_p(sampling.keep_top_p(sampling.keep_top_k(ours, 20), 0.8), 0.1)
    assert_same_distribution(ours, stock)


def test_draw_follows_the_distribution() -> None:
    probabilities = torch.tensor([0.5, 0.0, 0.25, 0.2, 0.05, 0.0])
    count = 40_000
    numbers = torch.from_numpy(sampling.random_numbers(1, 0, count))
    ids = sampling.draw(probabilities.log().expand(count, -1), numbers)
    shares = torch.bincount(ids, minlength=6) / count
    assert shares[1] == 0 and shares[5] == 0
    # Five standard deviations of a binomial share.
    assert (shares - probabilities).abs().max() < 5 * math.sqrt(0.25 / count)


@settings(max_examples=50, deadline=None)
@given(seeds, st.integers(0, 2**40 - 1))
def test_excluded_tokens_are_never_drawn(seed: int, number: int) -> None:
    logits = some_logits(seed)
    logits[:, 7:] = -torch.inf
    logits[:, 0] = -torch.inf
    ids = sampling.draw(logits, torch.full((3,), number))
    assert ((ids > 0) & (ids < 7)).all()


@settings(max_examples=30, deadline=None)
@given(seeds)
def test_draw_forgives_rounding(seed: int) -> None:
    # Logits that differ by float noise (another batch size, another device) give the same token.
    logits = some_logits(seed, rows=1).expand(1000, -1)
    noisy = logits * (1 + 1e-6)
    numbers = torch.from_numpy(sampling.random_numbers(seed, 0, 1000))
    same = sampling.draw(logits, numbers) == sampling.draw(noisy, numbers)
    assert same.float().mean() > 0.99


def test_random_numbers_belong_to_the_row_and_the_seed() -> None:
    first = sampling.random_numbers(5, 3, 8)
    assert (first == sampling.random_numbers(5, 3, 100)[:8]).all()
    assert (first != sampling.random_numbers(5, 4, 8)).all()
    assert (first != sampling.random_numbers(6, 3, 8)).all()


def test_greedy_and_a_tiny_temperature_take_the_likeliest() -> None:
    logits = some_logits(0)
    numbers = torch.zeros(3, dtype=torch.int64)
    for temperature in (0.0, 1e-30):
        config = GenerateConfig(temperature=temperature)
        ids = sampling.next_tokens(logits, config, seen=None, numbers=numbers)
        assert torch.equal(ids, logits.argmax(-1))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -0.1),
        ("temperature", math.nan),
        ("top_k", -1),
        ("top_p", 0.0),
        ("top_p", 1.5),
        ("min_p", 2.0),
        ("repetition_penalty", 0.0),
        ("max_tokens", -1),
        ("stop", [""]),
    ],
)
def test_settings_without_meaning_are_refused(field: str, value: object) -> None:
    with pytest.raises(HornbookError, match=field):
        sampling.check_settings(GenerateConfig(**{field: value}))  # type: ignore[arg-type]
