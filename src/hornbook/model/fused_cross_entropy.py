"""Cross-entropy and its gradient by one Triton kernel, in the memory of the logits.

In: logits on a CUDA device. Out: the loss of each row, and the logits overwritten by their
gradient. The same as `cross_entropy.softmax_gradient`, which says the formula.

This module needs Triton; import it only where `cross_entropy.has_kernel` holds.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from hornbook.model.kernels import multiprocessors
from hornbook.tokens.batch import IGNORE

VECTOR = 8
"""Logits that a lane loads at once: 16 bytes in bfloat16."""

LANES = 512
WARPS = 16
"""Of a program, which does one row at a time, reading it twice."""

PROGRAMS = 2
"""On each multiprocessor. The rows under way together have to fit the cache, so that only the first
read of a row is from memory: 264 rows of 100 kB (GPT-2's vocabulary in bfloat16) are 26 MB of the
50 MB of an H100. 65,536 rows took 3.8 ms on an H200, where reading and writing them once takes 3.1;
with 256 lanes 4.3 to 4.7 (2 to 8 programs), with as many programs as fit, eight, 4.9 to 5.8."""


def softmax_gradient(logits: Tensor, targets: Tensor, vocabulary: int) -> Tensor:
    """As `cross_entropy.softmax_gradient`; logits [N, columns] contiguous, of any float type."""
    assert logits.is_contiguous() and targets.is_contiguous()
    rows, columns = logits.shape
    losses = torch.empty(rows, dtype=torch.float32, device=logits.device)
    _softmax_gradient_kernel[(min(rows, PROGRAMS * multiprocessors(logits.device)),)](
        logits,
        targets,
        losses,
        rows,
        columns,
        vocabulary,
        IGNORE,
        LANES,
        VECTOR,
        num_warps=WARPS,
    )
    return losses


@triton.jit  # type: ignore[untyped-decorator]
def _softmax_gradient_kernel(  # type: ignore[no-untyped-def]
    logits,
    targets,
    losses,
    rows,
    columns: tl.constexpr,
    vocabulary: tl.constexpr,
    ignore: tl.constexpr,
    lanes: tl.constexpr,
    vector: tl.constexpr,
):
    """Every program does each `num_programs`-th row."""
    row = tl.program_id(0)
    while row < rows:
        target = tl.load(targets + row)
        place = logits + row.to(tl.int64) * columns
        if target == ignore:
            _clear(place, columns, lanes, vector)
            tl.store(losses + row, 0.0)
        else:
            loss = _row(place, target, columns, vocabulary, lanes, vector)
            tl.store(losses + row, loss)
        row += tl.num_programs(0)


@triton.jit  # type: ignore[untyped-decorator]
def _clear(  # type: ignore[no-untyped-def]
    logits, columns: tl.constexpr, lanes: tl.constexpr, vector: tl.constexpr
):
    offsets = tl.arange(0, lanes)[:, None] * vector + tl.arange(0, vector)[None, :]
    for start in range(0, columns, lanes * vector):
        at = start + offsets
        tl.store(logits + at, tl.zeros([lanes, vector], tl.float32), mask=at < columns)


@triton.jit  # type: ignore[untyped-decorator]
def _row(  # type: ignore[no-untyped-def]
    logits,
    target,
    columns: tl.constexpr,
    vocabulary: tl.constexpr,
    lanes: tl.constexpr,
    vector: tl.constexpr,
):
    """Log-sum-exp in a first pass over a row, the gradient in a second; returns the loss.

    Exponentials are of base 2, the hardware's. Only what is left after the last whole chunk is
    masked: by `columns`, a multiple of `vector`, to keep loads whole, then by `vocabulary`.
    """
    log2_e: tl.constexpr = 1.4426950408889634
    chunk: tl.constexpr = lanes * vector
    whole: tl.constexpr = vocabulary // chunk * chunk
    # Each lane has `vector` neighbouring logits, one load's worth.
    offsets = tl.arange(0, lanes)[:, None] * vector + tl.arange(0, vector)[None, :]
    target_logit = tl.load(logits + target).to(tl.float32)
    # A lane keeps the largest logit that it saw, and the sum of exp(logit - largest), so that the
    # lanes need not meet before the end. Where there is no logit stands -1e30, not -inf, lest
    # inf - inf come up.
    largest = tl.full([lanes], -1e30, tl.float32)
    total = tl.zeros([lanes], tl.float32)
    for start in range(0, whole, chunk):
        x = tl.load(logits + start + offsets, eviction_policy="evict_last").to(tl.float32)
        largest, total = _add(x, largest, total)
    for start in range(whole, columns, chunk):
        at = start + offsets
        x = tl.load(logits + at, mask=at < columns, other=0.0).to(tl.float32)
        largest, total = _add(tl.where(at < vocabulary, x, -1e30), largest, total)
    row_largest = tl.max(largest, 0)
    rescaled = total * tl.exp2((largest - row_largest) * log2_e)
    log2_total = row_largest * log2_e + tl.log2(tl.sum(rescaled, 0))
    for start in range(0, whole, chunk):
        x = tl.load(logits + start + offsets, eviction_policy="evict_first").to(tl.float32)
        tl.store(logits + start + offsets, tl.exp2(x * log2_e - log2_total))
    for start in range(whole, columns, chunk):
        at = start + offsets
        x = tl.load(logits + at, mask=at < columns, other=0.0).to(tl.float32)
        x = tl.where(at < vocabulary, x, -1e30)
        tl.store(logits + at, tl.exp2(x * log2_e - log2_total), mask=at < columns)
    # One number instead of a comparison for each: after all others of the program have written.
    tl.debug_barrier()
    tl.store(logits + target, tl.exp2(target_logit * log2_e - log2_total) - 1.0)
    return log2_total / log2_e - target_logit


@triton.jit
def _add(x, largest, total):  # type: ignore[no-untyped-def]
    """Take x [lanes, vector] into each lane's largest logit and sum."""
    log2_e: tl.constexpr = 1.4426950408889634
    larger = tl.maximum(largest, tl.max(x, 1))
    # Not x * log2_e - larger * log2_e: multiplied and added in one go, for -1e30 that is not 0 but
    # a rounding error of 1e22, and the sum infinite.
    terms = tl.exp2((x - larger[:, None]) * log2_e)
    return larger, total * tl.exp2((largest - larger) * log2_e) + tl.sum(terms, 1)
