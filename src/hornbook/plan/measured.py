"""Every number of the plan that was measured, in one place, each with where it comes from.

In: nothing. Out: constants for `memory` and `speed`. `benchmarks/plan_accuracy.py` measures anew on
the GPU at hand and prints what they should be. Sources: [H200] stands for
docs/plan.md, "Where the numbers come from"; the others are named.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from hornbook.plan.gpus import Generation


@dataclass(frozen=True)
class Rates:
    """Shares of its data sheet's rates that a kind of device reaches in real steps.

    Attributes:
        device: whose measurements these are.
        matmul: large, aligned matrix products; of the peak FLOPs.
        half_inner: inner size of a product at which half of that is lost to its start and end.
        misaligned: factor where a size of a product is no multiple of 64.
        attention: head size -> forward and backward of causal attention at T 1024, of the peak
            FLOPs; counted as 3.5 forward passes of half a square.
        bandwidth: elementwise work, of the memory's bandwidth, in bytes as `speed` counts them.
        block_seconds: least time of a block's kernels, forward and backward, compiled.
        eager_block_seconds: the same without the compiler: what Python needs to launch them.
    """

    device: str
    matmul: float
    half_inner: float
    misaligned: float
    attention: Mapping[int, float]
    bandwidth: float
    block_seconds: float
    eager_block_seconds: float


HOPPER = Rates(
    device="h200",
    # 65,536 tokens of GPT-2 124M: 65 ms of matrix products of 48.6 TFLOP; 8192^3 alone 791 TFLOP/s.
    matmul=0.80,
    half_inner=90.0,
    # 712M, width 1296: 92,000 tokens/s; what is left for its products after the rest of the step.
    misaligned=0.74,
    # cuDNN: 242 TFLOP/s at 64, 285 at 80, 387 at 128, of 989.
    attention=MappingProxyType({32: 0.15, 64: 0.245, 80: 0.288, 128: 0.391}),
    bandwidth=0.95,
    block_seconds=120e-6,
    eager_block_seconds=1.2e-3,
)

AMPERE = Rates(
    device="a100",
    # Not measured by us. 124M at 142,000 tokens/s (rasbt/LLMs-from-scratch, ch05/10, one A100).
    matmul=0.75,
    half_inner=90.0,
    misaligned=0.8,
    # FlashAttention-2 (arXiv:2307.08691), figure 4: about 100 TFLOP/s at T 1024, causal.
    attention=MappingProxyType({32: 0.2, 64: 0.3, 128: 0.35}),
    bandwidth=0.85,
    block_seconds=150e-6,
    eager_block_seconds=1.5e-3,
)

TURING = Rates(
    device="t4",
    # Not measured by us: 18,800 tokens/s of GPT-2 124M, a T4 at 70 W does not hold its clock.
    matmul=0.42,
    half_inner=90.0,
    misaligned=0.8,
    attention=MappingProxyType({64: 0.15, 128: 0.15}),
    bandwidth=0.7,
    block_seconds=200e-6,
    eager_block_seconds=2e-3,
)

RATES: Mapping[Generation, Rates] = MappingProxyType(
    {
        "blackwell": HOPPER,
        "hopper": HOPPER,
        "ada": AMPERE,
        "ampere": AMPERE,
        "volta": TURING,
        "turing": TURING,
    }
)
"""The nearest kind that there are measurements of."""

CPU = Rates(
    device="this processor",
    # Its peak is measured on the spot (`device.measure_cpu`), by a product of the model's kind.
    matmul=1.0,
    half_inner=0.0,
    misaligned=1.0,
    attention=MappingProxyType({64: 0.4}),
    bandwidth=0.5,
    block_seconds=300e-6,
    eager_block_seconds=300e-6,
)


@dataclass(frozen=True)
class Saved:
    """Corrections of the counted bytes of activations, by what was measured.

    Attributes:
        block: measured over counted, of a block's activations.
        logits: bytes of each logit at the peak: the logits, their gradient, and what is made on the
            way; with bf16 products.
        device: where it was measured for presets that nothing was fitted to; empty: not yet.
    """

    block: float
    logits: float
    device: str = ""


SAVED: Mapping[str, Saved] = MappingProxyType(
    {
        # GPT-2 124M, 64 rows: 28.25 GB with the fused loss, 28.09 GB with the plain one.
        "compiled": Saved(block=1.0, logits=2.0),
        "eager": Saved(block=1.0, logits=10.0),
        # Of the process, qwen3 15M: 2 and 10 layers, vocabularies of 512 and 8,192; its attention
        # repeats keys and values for all heads, and memory is not handed back at once.
        "cpu": Saved(block=1.25, logits=10.0),
    }
)
"""By how the step runs."""

FRAGMENTATION = 0.04
"""Share of the allocated memory that the allocator holds beyond it."""

WORKSPACE = 0.1e9
"""Bytes for the libraries' workspaces and the kernels' small buffers."""

PROCESS = 0.6e9
"""Bytes of a process that trains on a CPU besides the model's: Python and PyTorch (0.31 GB when
imported), the trainer's libraries, the tokenizer."""

CONTEXT = 0.6e9
"""Bytes of the GPU that CUDA itself takes, which PyTorch does not count."""

OVERLAP = 0.7
"""Share of the time of computing behind which communication hides. Not measured yet."""

IDLE = 0.05
"""Share of a step in which the GPU waits: 109 of 114.7 ms busy [H200]."""
