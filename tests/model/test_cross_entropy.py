"""Head and cross-entropy in one operation, against PyTorch's; its Triton kernel, interpreted."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from hornbook.model import cross_entropy as module
from hornbook.model.cross_entropy import linear_cross_entropy, softmax_gradient
from hornbook.tokens.batch import IGNORE


def draw(rows: int, vocabulary: int, columns: int, width: int = 6, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(rows, width, generator=generator).requires_grad_()
    weight = torch.randn(columns, width, generator=generator).requires_grad_()
    bias = torch.randn(columns, generator=generator).requires_grad_()
    targets = torch.randint(0, vocabulary, (rows,), generator=generator)
    targets[torch.rand(rows, generator=generator) < 0.3] = IGNORE
    return hidden, weight, bias, targets


def plain(hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, vocabulary: int):
    logits = functional.linear(hidden, weight, bias)[:, :vocabulary].float()
    return functional.cross_entropy(logits, targets, ignore_index=IGNORE, reduction="sum")


@given(
    rows=st.integers(1, 12),
    vocabulary=st.integers(1, 20),
    pad=st.integers(0, 5),
    chunk=st.integers(1, 14),
    with_bias=st.booleans(),
    scale=st.sampled_from([1.0, 1e-4, 65536.0]),
)
@settings(max_examples=60, deadline=None)
def test_loss_and_gradients_equal_pytorchs(rows, vocabulary, pad, chunk, with_bias, scale):
    hidden, weight, bias, targets = draw(rows, vocabulary, vocabulary + pad, seed=rows)
    inputs = [hidden, weight, *([bias] if with_bias else [])]
    given_bias = bias if with_bias else None
    patch = pytest.MonkeyPatch()
    with patch.context() as context:
        context.setattr(module, "CHUNK_LOGITS", chunk * weight.shape[0])
        ours = linear_cross_entropy(
            hidden, weight, given_bias, targets, vocabulary=vocabulary, chunked=True
        )
    reference = plain(hidden, weight, given_bias, targets, vocabulary)
    torch.testing.assert_close(ours, reference, rtol=1e-5, atol=1e-5)
    for got, expected in zip(
        torch.autograd.grad(ours * scale, inputs),
        torch.autograd.grad(reference * scale, inputs),
        strict=True,
    ):
        torch.testing.assert_close(got / scale, expected / scale, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("weight_dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("chunk", [3, 40])
def test_weights_get_gradients_of_their_own_type(weight_dtype, chunk, monkeypatch):
    monkeypatch.setattr(module, "CHUNK_LOGITS", chunk * 24)
    hidden, weight, bias, targets = draw(40, 20, 24)
    leaves = [
        x.detach().to(dtype).requires_grad_()
        for x, dtype in ((hidden, torch.bfloat16), (weight, weight_dtype), (bias, weight_dtype))
    ]
    loss = linear_cross_entropy(*leaves, targets, vocabulary=20, chunked=True)
    assert loss.dtype == torch.float32
    exact = torch.autograd.grad(plain(hidden, weight, bias, targets, 20), (hidden, weight, bias))
    for leaf, got, expected in zip(leaves, torch.autograd.grad(loss, leaves), exact, strict=True):
        assert got.dtype == leaf.dtype
        assert (got.float() - expected).norm() < 0.02 * expected.norm()


def test_the_upstream_gradient_is_not_rounded_with_the_hidden_ones():
    hidden, weight, _, targets = draw(9, 20, 24)
    narrow = hidden.detach().bfloat16().requires_grad_()
    loss = linear_cross_entropy(narrow, weight, None, targets, vocabulary=20, chunked=False)
    (once,) = torch.autograd.grad(loss, narrow, retain_graph=True)
    scale = torch.tensor(1 + 3 * 2**-9)  # lies between two bfloat16 numbers
    (scaled,) = torch.autograd.grad(loss * scale, narrow)
    assert torch.equal(scaled, (once.float() * scale).bfloat16())
    assert not torch.equal(scaled, once * scale.bfloat16())


def test_nothing_to_predict_is_zero_not_nan():
    hidden, weight, bias, targets = draw(5, 20, 24)
    targets.fill_(IGNORE)
    loss = linear_cross_entropy(hidden, weight, bias, targets, vocabulary=20, chunked=False)
    assert loss.item() == 0
    assert all(not g.any() for g in torch.autograd.grad(loss, (hidden, weight, bias)))


def test_pytorch_accepts_the_operation():
    hidden, weight, bias, targets = draw(6, 20, 24)
    torch.library.opcheck(module._operation, (hidden, weight, bias, targets, 20, 4))
    torch.library.opcheck(module._operation, (hidden, weight, None, targets, 20, 6))


INTERPRETED = """
import torch
from hornbook.model import fused_cross_entropy as fused
from hornbook.model.cross_entropy import softmax_gradient

torch.manual_seed(0)
for fused.LANES in (2, 1024):
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        for vocabulary, columns in ((89, 96), (96, 96), (50, 56)):
            logits = (torch.randn(5, columns) * 5).to(dtype)
            targets = torch.randint(0, vocabulary, (5,))
            targets[2] = -100
            ours, plain = logits.clone(), logits.clone()
            losses = fused.softmax_gradient(ours, targets, vocabulary)  # one program, all rows
            expected = softmax_gradient(plain, targets, vocabulary)
            torch.testing.assert_close(losses, expected, rtol=1e-5, atol=1e-5)
            rtol = 1e-5 if dtype == torch.float32 else 0.02
            torch.testing.assert_close(ours, plain, rtol=rtol, atol=1e-6)
            assert not ours[2].any() and not ours[:, vocabulary:].any()
"""


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs Triton")
def test_triton_kernel_equals_pytorchs_steps():
    subprocess.run(
        [sys.executable, "-c", INTERPRETED],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        check=True,
        timeout=120,
    )


def test_softmax_gradient_is_autograds():
    logits = torch.randn(7, 24, generator=torch.Generator().manual_seed(0), requires_grad=True)
    targets = torch.tensor([0, 19, IGNORE, 5, 5, IGNORE, 1])
    losses = functional.cross_entropy(
        logits[:, :20], targets, ignore_index=IGNORE, reduction="none"
    )
    (expected,) = torch.autograd.grad(losses.sum(), logits)
    ours = logits.detach().clone()
    torch.testing.assert_close(softmax_gradient(ours, targets, 20), losses)
    torch.testing.assert_close(ours, expected)
