"""A GELU network whose GELU is worked out inside its matrix products, forward and backward.

In: hidden states and the network's weights, all of the type to compute in. Out: what
down(gelu(up(x))) gives. Two of the six products of a training step end in GELU: the first,
x -> inner, and of the backward pass the one that leads from the output to `inner`. Done on a tile
of the result before it is written, GELU costs no pass over `inner`, the widest activations; the
backward pass also finds gelu(inner) again on its way, so that no more is kept than without fusing.

The two are custom operations, so that a compiled graph stays whole around them. It is off by
default: on an H200, 124M and 64 rows of 1,024 took 111.6 instead of 112.0 ms forward and backward,
and 22.4 instead of 27.3 GB.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from hornbook.model.kernels import kernels_work

CAPABILITY = (9, 0)
"""GPUs from here on have the tensor memory accelerator, which the kernels load and store by."""

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


def has_kernel(x: Tensor, width: int, mlp_width: int) -> bool:
    """Whether the kernels take such numbers, on this device, of a network of these widths."""
    return (
        x.is_cuda
        and x.dtype in (torch.bfloat16, torch.float16)
        and width % ALIGNMENT == 0 == mlp_width % ALIGNMENT
        and torch.cuda.get_device_capability(x.device) >= CAPABILITY
        and kernels_work(x.device)
    )


@torch.library.custom_op("hornbook::gelu_up", mutates_args=())
def up(x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """x [N, width], weight [mlp_width, width] -> inner = x weight^T + bias, and gelu(inner)."""
    if has_kernel(x, *weight.shape):
        from hornbook.model import gelu_matmul_kernels

        return gelu_matmul_kernels.up(x.contiguous(), weight.contiguous(), bias)
    inner = functional.linear(x, weight, bias)
    return inner, functional.gelu(inner, approximate="tanh")


@up.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    inner = x.new_empty(x.shape[0], weight.shape[0])
    return inner, torch.empty_like(inner)


@torch.library.custom_op("hornbook::gelu_down_backward", mutates_args=())
def down_backward(upstream: Tensor, weight: Tensor, inner: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The way back from the output to `inner`.

    Args:
        upstream: [N, width], the gradient by gelu(inner) weight^T.
        weight: [width, mlp_width].
        inner: [N, mlp_width], contiguous.

    Returns:
        The gradient by `inner`; gelu(inner); the gradient's sum over N, float32 [mlp_width].
    """
    if has_kernel(upstream, *weight.shape):
        from hornbook.model import gelu_matmul_kernels

        return gelu_matmul_kernels.down_backward(upstream.contiguous(), weight.contiguous(), inner)
    by_activated = upstream @ weight
    by_inner = torch.ops.aten.gelu_backward(by_activated, inner, approximate="tanh")
    activated = functional.gelu(inner, approximate="tanh")
    return by_inner, activated, by_inner.sum(0, dtype=torch.float32)


@down_backward.register_fake
def _(upstream: Tensor, weight: Tensor, inner: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    sums = inner.new_empty(inner.shape[1], dtype=torch.float32)
    return torch.empty_like(inner), torch.empty_like(inner), sums


class _Network(torch.autograd.Function):
    """The network with its gradients; what is kept for them is x and `inner`."""

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
        ctx.save_for_backward(x, inner, up_weight, down_weight)
        ctx.biases = up_bias is not None, down_bias is not None
        return functional.linear(activated, down_weight, down_bias)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        x, inner, up_weight, down_weight = ctx.saved_tensors
        by_inner, activated, sums = down_backward(upstream, down_weight, inner)
        has_up_bias, has_down_bias = ctx.biases
        return (
            by_inner @ up_weight,
            by_inner.t() @ x,
            sums.to(x.dtype) if has_up_bias else None,
            upstream.t() @ activated,
            upstream.sum(0) if has_down_bias else None,
        )
