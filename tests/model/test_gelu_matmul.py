"""GELU inside matrix products, against PyTorch's steps; on a GPU, `tests/gpu` does it again."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from hornbook.model.gelu_matmul import down_backward, gelu_network, up


def draw(dtype: torch.dtype = torch.float64, *, biased: bool = True):
    """x [2, 5, 8], and a network of width 8 and mlp_width 12."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, 5, 8), (12, 8), (12,), (8, 12), (8,)]
    parts = [torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes]
    return [None if part.dim() == 1 and not biased else part.requires_grad_() for part in parts]


@pytest.mark.parametrize("biased", [True, False])
def test_it_is_the_network_and_its_gradients(biased):
    x, up_weight, up_bias, down_weight, down_bias = inputs = draw(biased=biased)
    inner = functional.linear(x, up_weight, up_bias)
    activated = functional.gelu(inner, approximate="tanh")
    expected = functional.linear(activated, down_weight, down_bias)
    ours = gelu_network(*inputs)
    torch.testing.assert_close(ours, expected)
    leaves = [part for part in inputs if part is not None]
    upstream = torch.randn(ours.shape, dtype=ours.dtype)
    for got, wanted in zip(
        torch.autograd.grad(ours, leaves, upstream),
        torch.autograd.grad(expected, leaves, upstream),
        strict=True,
    ):
        assert got.dtype == wanted.dtype
        torch.testing.assert_close(got, wanted, rtol=1e-6, atol=1e-6)  # a bias's sum is float32


def test_it_compiles_to_one_graph():
    inputs = draw(torch.float32)
    torch.compiler.reset()
    compiled = torch.compile(gelu_network, fullgraph=True, backend="aot_eager")
    for got, wanted in zip(
        torch.autograd.grad(compiled(*inputs).sum(), inputs),
        torch.autograd.grad(gelu_network(*inputs).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(got, wanted)


def test_pytorch_accepts_the_operations():
    x, up_weight, up_bias, down_weight, _ = (part.detach() for part in draw(torch.float32))
    x = x.flatten(0, 1)
    torch.library.opcheck(up, (x, up_weight, up_bias))
    torch.library.opcheck(up, (x, up_weight, None))
    torch.library.opcheck(down_backward, (x, down_weight, up(x, up_weight, None)[0]))
