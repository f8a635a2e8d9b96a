"""GELU inside matrix products, against PyTorch's steps; its Triton kernels, interpreted."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

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


# (The interpreter multiplies bfloat16 numbers as if they were integers; float16 will do.)
INTERPRETED = """
import torch
from torch.nn import functional
from hornbook.model import gelu_matmul_kernels as kernels

torch.manual_seed(0)
for programs in (0, 3):
    kernels.UP = kernels.DOWN = kernels.Tiling(64, 64, 32, warps=4, stages=2, programs=programs)
    for rows, width, mlp_width in ((100, 48, 200), (600, 40, 64)):
        x, upstream = torch.randn(2, rows, width).half()
        weight, bias = torch.randn(mlp_width, width).half() / 4, torch.randn(mlp_width).half()
        for given in (bias, None):
            inner, activated = kernels.up(x, weight, given)
            offset = 0 if given is None else given.float()
            wanted = x.float() @ weight.t().float() + offset
            torch.testing.assert_close(inner.float(), wanted, rtol=2e-3, atol=2e-3)
            gelu = functional.gelu(inner.float(), approximate="tanh")
            torch.testing.assert_close(activated.float(), gelu, rtol=2e-3, atol=2e-3)
        down = weight.t().contiguous()
        gradient, again, sums = kernels.down_backward(upstream, down, inner)
        assert torch.equal(again, activated)
        by_activated = upstream.float() @ down.float()
        wanted = torch.ops.aten.gelu_backward(by_activated, inner.float(), approximate="tanh")
        torch.testing.assert_close(gradient.float(), wanted, rtol=2e-3, atol=4e-3)
        torch.testing.assert_close(sums, wanted.sum(0), rtol=1e-4, atol=1e-3)
"""


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs Triton")
def test_triton_kernels_equal_pytorchs_steps():
    subprocess.run(
        [sys.executable, "-c", INTERPRETED],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        check=True,
        timeout=120,
    )
