"""Stochastic rounding: the mean is kept, the bits are a pure function of where and when."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hornbook.optim.rounding import mix, new_weight, random_bits, round_stochastically


def number(value: int) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.int32)


def bits(count: int, step: int = 1, parameter: int = 0, offset: int = 0) -> torch.Tensor:
    return random_bits(
        torch.empty(count), torch.tensor(float(step)), number(parameter), number(offset)
    )


@settings(max_examples=50, deadline=None)
@given(st.floats(2.0**-100, 2.0**100), st.booleans(), st.integers(1, 10**6))
def test_the_mean_is_kept_and_only_neighbours_occur(size: float, negative: bool, step: int) -> None:
    value = torch.full((2**14,), -size if negative else size)
    rounded = round_stochastically(value, bits(2**14, step)).double()
    below, above = rounded.min(), rounded.max()
    spacing = size * 2.0**-7
    assert below <= value[0].double() <= above and above - below <= spacing
    # Standard deviation of the mean is at most spacing / 2 / sqrt(2^14); five of them.
    assert abs(rounded.mean() - value[0].double()) <= 5 * spacing / 2 / 2**7


def test_what_bfloat16_holds_stays_whatever_the_bits() -> None:
    value = torch.randn(10_000).bfloat16()
    value[:4] = torch.tensor([0.0, float("inf"), -float("inf"), torch.finfo(torch.bfloat16).max])
    assert torch.equal(round_stochastically(value.float(), bits(10_000)), value)
    assert round_stochastically(torch.tensor([float("nan")]), bits(1)).isnan().all()


def test_float32_weights_are_not_rounded() -> None:
    value = torch.randn(10)
    step = torch.ones(())
    assert new_weight(torch.zeros(10), value, step, number(0), number(0)) is value


def test_bits_are_even_and_unlike_from_step_to_step_and_parameter_to_parameter() -> None:
    drawn = torch.stack([bits(2**14, step, p) for step in (1, 2, 3) for p in (0, 1)])
    ones = torch.stack([(drawn >> i) & 1 for i in range(32)]).double()  # [32, draws, elements]
    assert (ones.mean(dim=2) - 0.5).abs().max() < 5 * 0.5 / 2**7
    signs = (2 * ones - 1).permute(1, 0, 2).reshape(6 * 32, -1)
    correlation = (signs @ signs.T) / signs.shape[1] - torch.eye(6 * 32)
    assert correlation.abs().max() < 6 / 2**7
    neighbours = (signs[:, :-1] * signs[:, 1:]).mean(dim=1)
    assert neighbours.abs().max() < 5 / 2**7


def test_a_shard_draws_what_the_whole_draws() -> None:
    assert torch.equal(bits(100)[60:], bits(40, offset=60))


def test_the_hash_is_that_of_unsigned_arithmetic() -> None:
    def lowbias32(x: int) -> int:
        x ^= x >> 16
        x = x * 0x7FEB352D % 2**32
        x ^= x >> 15
        x = x * 0x846CA68B % 2**32
        return x ^ (x >> 16)

    values = torch.randint(-(2**31), 2**31, (1000,), dtype=torch.int64).to(torch.int32)
    wanted = [lowbias32(int(value) % 2**32) for value in values]
    assert [int(value) % 2**32 for value in mix(values)] == wanted
