"""Which attention kernel is the fastest here, by timing attention alone.

In: a `Trial`. Out: a kernel's name, and the times that decided it.
"""

from __future__ import annotations

import math
import time
import warnings

import torch
from torch.nn.attention import sdpa_kernel

from hornbook.model.attention import KERNELS, attention, padded_head_dim
from hornbook.model.engine import AttentionKernel
from hornbook.train.precision import Precision
from hornbook.train.trial import Trial

CANDIDATES: tuple[AttentionKernel, ...] = ("cudnn", "flash", "efficient")

TOKENS = 16384
"""Tokens in a timed pass: enough to fill a GPU."""

ROUNDS = 5
"""Timed passes, of which the fastest counts."""

NOISE = 1.1
"""An earlier candidate that is not slower by more is taken: times of one GPU differ by 10 % from
start to start, and another kernel is another graph to compile."""


def fastest_attention(trial: Trial, precision: Precision) -> tuple[AttentionKernel, str]:
    """The kernel to use, and why.

    PyTorch's own order (`auto`) where no kernel takes these shapes, and for rows of several
    documents, which have a kernel of their own. In a deterministic run the first kernel that works:
    times differ from start to start, and kernels round differently.
    """
    if trial.batch.documents is not None:
        return "auto", "documents within a row are kept apart"
    times: dict[AttentionKernel, float] = {}
    for kernel in CANDIDATES:
        try:
            # A kernel that refuses says in warnings why.
            with warnings.catch_warnings(), sdpa_kernel([KERNELS[kernel]]):
                warnings.simplefilter("ignore")
                times[kernel] = _milliseconds(trial, precision, kernel)
        except RuntimeError:
            continue
        if torch.are_deterministic_algorithms_enabled():
            return kernel, "the first that works, as the run is deterministic"
    if not times:
        return "auto", "no kernel takes these shapes"
    reason = ", ".join(f"{name} {time:.2f} ms" for name, time in times.items())
    enough = NOISE * min(times.values())
    return next(name for name, took in times.items() if took <= enough), reason


def _milliseconds(trial: Trial, precision: Precision, kernel: AttentionKernel) -> float:
    """One layer's attention, forward and backward, in the shapes of the model."""
    config, tokens = trial.model.config, trial.batch.inputs.shape[1]
    rows = min(len(trial.batch), math.ceil(TOKENS / tokens))
    size = padded_head_dim(config.head_dim, kernel)
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision.name]

    def made(heads: int) -> torch.Tensor:
        shape = (rows, tokens, heads, size)
        made = torch.randn(shape, dtype=dtype, device=trial.device, requires_grad=True)
        return made.transpose(1, 2)

    query, key, value = made(config.heads), made(config.kv_heads), made(config.kv_heads)
    best = math.inf
    for _ in range(2 + ROUNDS):  # the first two load kernels and plan
        torch.cuda.synchronize()
        began = time.perf_counter()
        out = attention(query, key, value, None, config.attention_dropout)
        torch.autograd.grad(out, (query, key, value), out.detach())
        torch.cuda.synchronize()
        best = min(best, time.perf_counter() - began)
    return best * 1000
