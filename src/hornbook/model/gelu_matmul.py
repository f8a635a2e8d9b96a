"""A GELU network whose GELU is worked out inside its matrix products, forward and backward.

In: hidden states and the network's weights, all of the type to compute in. Out: what
down(gelu(up(x))) gives. Two of the six products of a training step end in GELU: the first,
x -> inner, and of the backward pass the one that leads from the output to `inner`. Done on a tile
of the result before it is written, GELU costs no pass over `inner`, the widest activations.

The two are custom operations, so that a compiled graph stays whole around them; the products are
cuBLASLt's (`cublaslt`). On an H200, 65,536 rows of width 768: 0.57 ms instead of 0.44 + 0.24, and
back 0.57 instead of 0.44 + 0.31. Triton kernels of our own took 0.63 and 0.89 (docs/lab-notes.md).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from hornbook.model import cublaslt

CAPABILITY = (8, 0)
"""GPUs from here on compute bfloat16."""

ALIGNMENT = 8
"""Its rows begin at multiples of 16 bytes."""


def gelu_network(
    x: Tensor, up: Tensor, up_bias: Tensor | None, down: Tensor, down_bias: Tensor | None
) -> Tensor:
    """down(gelu(up(x))), GELU with the tanh approximation.

    Args:
        x: [..., width].
        up: [mlp_width, width]; its bias [mlp_width].
        down: [width, mlp_width]; its bias [width]. All of one type.

    Returns:
        [..., width].
    """
    out: Tensor = _Network.apply(x.flatten(0, -2), up, up_bias, down, down_bias)  # type: ignore[no-untyped-call]
    return out.view(x.shape)


def has_kernel(device: torch.device, width: int, mlp_width: int) -> bool:
    """Whether cuBLASLt takes 16-bit numbers, on this device, of a network of these widths."""
    return (
        device.type == "cuda"
        and torch.version.cuda is not None  # ROCm's devices are called cuda, too
        and width % ALIGNMENT == 0 == mlp_width % ALIGNMENT
        and torch.cuda.get_device_capability(device) >= CAPABILITY
    )


def _takes(x: Tensor, weight: Tensor) -> bool:
    return x.dtype in cublaslt.TYPES and has_kernel(x.device, *weight.shape)


@torch.library.custom_op("hornbook::gelu_up", mutates_args=())
def up(x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """x [N, width], weight [mlp_width, width] -> inner = x weight^T + bias, and gelu(inner)."""
    if _takes(x, weight):
        return cublaslt.up_and_gelu(x, weight, bias)
    inner = functional.linear(x, weight, bias)
    return inner, functional.gelu(inner, approximate="tanh")


@up.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    inner = x.new_empty(x.shape[0], weight.shape[0])
    return inner, torch.empty_like(inner)


@torch.library.custom_op("hornbook::gelu_down_backward", mutates_args=())
def down_backward(upstream: Tensor, weight: Tensor, inner: Tensor) -> Tensor:
    """The gradient by `inner` [N, mlp_width], of the output's, `upstream` [N, width].

    `weight` is [width, mlp_width], the output gelu(inner) weight^T.
    """
    if _takes(upstream, weight):
        return cublaslt.down_and_gelu_backward(upstream, weight, inner)
    by_activated = upstream @ weight
    by_inner: Tensor = torch.ops.aten.gelu_backward(by_activated, inner, approximate="tanh")
    return by_inner


@down_backward.register_fake
def _(upstream: Tensor, weight: Tensor, inner: Tensor) -> Tensor:
    return torch.empty_like(inner)


class _Network(torch.autograd.Function):
    """The network with its gradients."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        up_weight: Tensor,
        up_bias: Tensor | None,
        down_weight: Tensor,
        down_bias: Tensor | None,
    ) -> Tensor:
        inner, activated = up(x, up_weight, up_bias)
        ctx.save_for_backward(x, inner, activated, up_weight, down_weight)
        ctx.biases = up_bias is not None, down_bias is not None
        return functional.linear(activated, down_weight, down_bias)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        x, inner, activated, up_weight, down_weight = ctx.saved_tensors
        by_inner = down_backward(upstream, down_weight, inner)
        has_up_bias, has_down_bias = ctx.biases
        return (
            by_inner @ up_weight,
            by_inner.t() @ x,
            by_inner.sum(0) if has_up_bias else None,
            upstream.t() @ activated,
            upstream.sum(0) if has_down_bias else None,
        )
