"""The fused products of a decode step against the plain layers, through Triton's interpreter."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import pytest

CHECK = """
import itertools
import torch
from torch import nn
from torch.nn import functional
from hornbook.model import matvec
from hornbook.model.layers import RMSNorm

matvec.INPUTS_AT_ONCE, matvec.LEAST_PROGRAMS = 32, 4
random = torch.Generator().manual_seed(0)

def filled(*shape, dtype=torch.float32):
    return torch.randn(shape, generator=random).to(dtype)

def activated(y, activation):
    if activation == "gelu":
        return functional.gelu(y, approximate="tanh")
    if activation == "swiglu":
        gate, up = y.chunk(2, dim=-1)
        return functional.silu(gate) * up
    return y

for width, outputs in ((16, 7), (80, 21)):
    for kind, activation, biased, added, dtype in itertools.product(
        (None, nn.LayerNorm, RMSNorm), ("none", "gelu", "swiglu"), (True, False), (True, False),
        (torch.float32, torch.bfloat16),
    ):
        x = filled(2, width, dtype=dtype)
        rows = outputs * (2 if activation == "swiglu" else 1)
        weight = filled(rows, width, dtype=dtype) / width**0.5
        bias = filled(rows, dtype=dtype) if biased else None
        residual = filled(2, outputs, dtype=dtype) if added else None
        norm = None
        if kind is not None:
            norm = kind(width, eps=1e-5).to(dtype)
            for parameter in norm.parameters():
                parameter.data = filled(width, dtype=dtype)
        with torch.no_grad():
            normed = x if norm is None else norm(x)
            expected = activated(functional.linear(normed, weight, bias), activation)
            if residual is not None:
                expected = residual + expected
            got = matvec.linear(
                x, weight, bias, norm=norm, activation=activation, residual=residual
            )
        assert got.dtype == dtype
        tolerance = 1e-5 if dtype == torch.float32 else 0.1
        torch.testing.assert_close(got, expected, atol=tolerance, rtol=tolerance)
head = matvec.linear(x, weight, outputs=9, dtype=torch.float32)
torch.testing.assert_close(head, x.float() @ weight[:9].float().T)
"""


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs Triton")
def test_linear_equals_the_plain_layers() -> None:
    # A process of its own: what is imported for the interpreter stays with it.
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(
        [sys.executable, "-c", CHECK], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
