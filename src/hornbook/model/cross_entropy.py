"""The output head and its cross-entropy in one operation that never holds float32 logits.

In: hidden states, the head's weights, targets. Out: the summed loss. The gradient is found in the
forward pass: of each chunk of rows the logits become their own gradient, in their own memory, and
two products turn that into the gradients of hidden states and weights. So no more than one chunk of
logits exists, it is read and written once, and no product is done twice. All that the backward pass
does is to multiply by the loss's upstream gradient.

The whole is one custom operation, so that a compiled graph stays whole around it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from hornbook.model.kernels import kernels_work
from hornbook.tokens.batch import IGNORE

CHUNK_LOGITS = 2**28
"""Logits of a chunk: 512 MiB in bfloat16. At width 768 and GPT-2's vocabulary, 65,536 rows on an
H200: 27.1 ms (whole: 25.7, and 6 GB more); with 1.5 times as many a chunk 29.0, with three quarters
33.9, since the gradient of the weights, in float32, is read and written once a chunk."""


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    *,
    vocabulary: int,
    chunked: bool,
) -> Tensor:
    """The cross-entropy summed over the targets that are not `IGNORE`, in nats: float32, scalar.

    Args:
        hidden: [N, width], in the type that products are to be computed in.
        weight: [vocabulary_rows, width]; gets its gradient in its own type.
        bias: [vocabulary_rows].
        targets: int64 [N].
        vocabulary: columns from here on only pad, and have no probability.
        chunked: chunks of `CHUNK_LOGITS`; False: all rows at once.
    """
    rows = CHUNK_LOGITS // weight.shape[0] if chunked else hidden.shape[0]
    loss: Tensor = _operation(hidden, weight, bias, targets, vocabulary, max(1, rows))[0]
    return loss


def has_kernel(device: torch.device) -> bool:
    """Whether the Triton kernel runs on this device."""
    return bool(kernels_work(device))


def softmax_gradient(logits: Tensor, targets: Tensor, vocabulary: int) -> Tensor:
    """Turn logits into the gradient of their summed cross-entropy, in place, in PyTorch's steps.

    Args:
        logits: [N, columns]; afterwards softmax(logits) - one-hot(target), and 0 in rows whose
            target is `IGNORE` and in columns that only pad.
        targets: int64 [N].
        vocabulary: columns from here on only pad.

    Returns:
        The cross-entropy of each row, float32 [N]; 0 where the target is `IGNORE`.
    """
    logits[:, vocabulary:] = -torch.inf
    ignored = targets == IGNORE
    index = targets.masked_fill(ignored, 0)[:, None]
    exact = logits.float()
    total = exact.logsumexp(1, keepdim=True)
    losses = (total - exact.gather(1, index))[:, 0].masked_fill_(ignored, 0.0)
    gradient = (exact - total).exp_()
    gradient.scatter_add_(1, index, gradient.new_full(index.shape, -1.0))
    logits.copy_(gradient.masked_fill_(ignored[:, None], 0.0))
    return losses


@torch.library.custom_op("hornbook::linear_cross_entropy", mutates_args=())
def _operation(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, vocabulary: int, rows: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The loss, and its gradients by hidden, weight and bias (empty without one)."""
    to_gradient = softmax_gradient
    if has_kernel(hidden.device):
        from hornbook.model.fused_cross_entropy import softmax_gradient as to_gradient
    loss, grad_hidden, grad_weight, grad_bias = _results(hidden, weight, bias)
    loss.zero_()
    grad_bias.zero_()
    narrow = weight.to(hidden.dtype)
    offset = None if bias is None else bias.to(hidden.dtype)
    # What one product gives may have the weight's type; a sum of several is kept in float32.
    single = hidden.shape[0] <= rows
    total = grad_weight if single else torch.empty_like(grad_weight, dtype=torch.float32)
    for start in range(0, hidden.shape[0], rows):
        part = slice(start, start + rows)
        logits = functional.linear(hidden[part], narrow, offset)
        loss += to_gradient(logits, targets[part], vocabulary).sum()
        torch.mm(logits, narrow, out=grad_hidden[part])
        _add_product(total, logits, hidden[part], first=start == 0)
        if bias is not None:
            grad_bias += logits.sum(0, dtype=torch.float32)
        del logits
    if total is not grad_weight:
        grad_weight.copy_(total)
    return loss, grad_hidden, grad_weight, grad_bias


@_operation.register_fake
def _results(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, *_: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What `_operation` returns, its numbers not yet set."""
    return (
        hidden.new_empty((), dtype=torch.float32),
        torch.empty_like(hidden, memory_format=torch.contiguous_format),
        torch.empty_like(weight, memory_format=torch.contiguous_format),
        hidden.new_empty(0 if bias is None else bias.shape[0], dtype=torch.float32),
    )


def _add_product(total: Tensor, left: Tensor, right: Tensor, *, first: bool) -> None:
    """total += left^T right; the `first` time total = left^T right."""
    beta = 0 if first else 1
    if total.dtype == left.dtype:
        torch.addmm(total, left.t(), right, beta=beta, out=total)
    elif total.is_cuda:
        torch.addmm(total, left.t(), right, out_dtype=total.dtype, beta=beta, out=total)
    else:
        torch.addmm(total, left.t().to(total.dtype), right.to(total.dtype), beta=beta, out=total)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    """Keep the gradients that the forward pass found."""
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*output[1:])
    ctx.bias_dtype = None if inputs[2] is None else inputs[2].dtype


def _scale(ctx: Any, upstream: Tensor, *_: None) -> tuple[Tensor | None, ...]:
    """Multiply them by the upstream gradient, a scalar, in float32, since it may be any number; and
    without a float32 copy, which of Phi-2's head would be 0.5 GB."""
    grad_hidden, grad_weight, grad_bias = ctx.saved_tensors
    factor = upstream.view(1)  # (with a scalar PyTorch would compute in the other's type)
    by_hidden, by_weight = (
        torch.mul(g, factor, out=torch.empty_like(g)) for g in (grad_hidden, grad_weight)
    )
    by_bias = None if ctx.bias_dtype is None else (grad_bias * upstream).to(ctx.bias_dtype)
    return by_hidden, by_weight, by_bias, None, None, None


_operation.register_autograd(_scale, setup_context=_save)
