"""8-bit moments: the codes, the updates against float32 moments, and that nothing gets stuck."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from hornbook.optim.adamw8bit import (
    block_columns,
    decode_ratio,
    decode_root,
    encode_ratio,
    encode_root,
)
from hornbook.optim.config import OptimizerConfig
from hornbook.optim.groups import build_optimizer

CPU = torch.device("cpu")


def bits(like: Tensor) -> Tensor:
    return torch.randint(-(2**31), 2**31, like.shape, dtype=torch.int64).to(torch.int32)


def test_roots_are_within_a_sixteenth_exact_in_the_mean_and_never_zero() -> None:
    torch.manual_seed(0)
    root = torch.exp(2.0 * torch.randn(4, 256)).repeat(2000, 1)
    codes, scales = encode_root(root, bits(root))
    assert codes.dtype is torch.uint8
    decoded = decode_root(codes, scales)
    kept = root[:4] > 2.0**-15 * root[:4].amax(dim=1, keepdim=True)
    error = ((decoded - root) / root).view(2000, 4, 256)
    assert error[:, kept].abs().max() <= 1 / 16
    assert error.mean(dim=0)[kept].abs().max() < 6 * (1 / 32) / math.sqrt(2000)
    largest = root.argmax(dim=1, keepdim=True)
    torch.testing.assert_close(decoded.gather(1, largest), root.gather(1, largest))
    tiny = torch.tensor([[1.0, 1e-9, 0.0]])
    assert (decode_root(*encode_root(tiny, bits(tiny))) >= 2.0**-17).all()


def test_ratios_are_within_a_127th_of_the_largest_and_exact_in_the_mean() -> None:
    torch.manual_seed(0)
    ratio = torch.randn(4, 256).repeat(2000, 1)
    codes, scales = encode_ratio(ratio, bits(ratio))
    assert codes.dtype is torch.int8
    error = ((decode_ratio(codes, scales) - ratio) / scales).view(2000, 4, 256)
    assert error.abs().max() <= 1.001
    assert error.mean(dim=0).abs().max() < 6 * 0.5 / math.sqrt(2000)


def test_blocks_of_zeros_stay_zero() -> None:
    zero = torch.zeros(2, 64)
    assert torch.equal(decode_root(*encode_root(zero, bits(zero))), zero)
    assert torch.equal(decode_ratio(*encode_ratio(zero, bits(zero))), zero)


@pytest.mark.parametrize(
    ("shape", "columns"),
    [((64, 768), 256), ((64, 1296), 216), ((64, 640), 160), ((4096,), 0), ((4, 768), 0),
     ((64, 1021), 0)],
)  # fmt: skip
def test_blocks_divide_the_columns(shape: tuple[int, ...], columns: int) -> None:
    assert block_columns(torch.Size(shape)) == columns


def updates(kind: str, beta2: float, gradients: list[Tensor]) -> Tensor:
    """The sum of all updates that AdamW makes of these gradients."""
    module = nn.Linear(gradients[0].shape[1], gradients[0].shape[0], bias=False)
    nn.init.zeros_(module.weight)
    settings = OptimizerConfig(
        kind=kind, learning_rate=1.0, beta2=beta2, weight_decay=0.0, epsilon=1e-16
    )
    optimizer = build_optimizer(module, settings, CPU)
    for gradient in gradients:
        module.weight.grad = gradient.clone()
        optimizer.step()
    return module.weight.detach()


@pytest.mark.parametrize("beta2", [0.95, 0.999])
def test_updates_are_near_those_of_float32_moments_whatever_the_gradients_sizes(
    beta2: float,
) -> None:
    torch.manual_seed(0)
    size = torch.exp(2.0 * torch.randn(16, 256))
    mean = 0.3 * torch.randn(16, 256)
    gradients = [size * (mean + torch.randn(16, 256)) for _ in range(100)]
    wanted = updates("adamw", beta2, gradients)
    found = updates("adamw8bit", beta2, gradients)
    assert (found - wanted).norm() < 0.08 * wanted.norm()
    assert abs((found * wanted).sum() / wanted.square().sum() - 1) < 0.02


def test_moments_decay_after_gradients_end() -> None:
    """Rounded to nearest, a moment that shrinks by less than half a code's step never would."""
    torch.manual_seed(0)
    gradient = torch.randn(16, 256)
    module = nn.Linear(256, 16, bias=False)
    optimizer = build_optimizer(module, OptimizerConfig(kind="adamw8bit"), CPU)
    for step in range(200):
        module.weight.grad = gradient if step == 0 else torch.zeros_like(gradient)
        module.weight.grad[0] = gradient[0]  # one row goes on
        optimizer.step()
    state = optimizer.state[module.weight]
    root = decode_root(state["root_codes"], state["root_scales"])
    expected = gradient.abs() * math.sqrt(0.05 * 0.95**199)
    torch.testing.assert_close(root[1:].mean(), expected[1:].mean(), rtol=0.1, atol=0)
    ratio = decode_ratio(state["ratio_codes"], state["ratio_scales"])
    assert (ratio * root)[1:].abs().max() < 1e-6


def test_state_takes_two_bytes_a_weight_and_is_taken_up_bit_for_bit() -> None:
    torch.manual_seed(0)
    results = []
    for interrupted in (False, True):
        module = nn.Linear(256, 64).bfloat16()
        generator = torch.Generator().manual_seed(1)
        nn.init.normal_(module.weight, generator=generator)
        nn.init.zeros_(module.bias)
        settings = OptimizerConfig(kind="adamw8bit", learning_rate=1e-2)
        optimizer = build_optimizer(module, settings, CPU)
        for step in range(6):
            if interrupted and step == 3:
                stored = optimizer.state_dict()
                optimizer = build_optimizer(module, settings, CPU)
                optimizer.load_state_dict(stored)
            for parameter in module.parameters():
                drawn = torch.randn(parameter.shape, generator=generator)
                parameter.grad = drawn.to(parameter.dtype)
            optimizer.step()
        results.append([p.detach().clone() for p in module.parameters()])
        state = optimizer.state[module.weight]
        assert sum(t.nbytes for t in state.values()) == 64 * 256 * 2 + 64 * 8 + 4
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)
