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
        short_row: tokens at which attention reaches half the rate of long rows.
        bandwidth: elementwise work, of the memory's bandwidth, in bytes as `speed` counts them.
    """

    device: str
    matmul: float
    half_inner: float
    misaligned: float
    attention: Mapping[int, float]
    short_row: float
    bandwidth: float


HOPPER = Rates(
    device="h200",
    # What is left for the products in steps of the calibration's cases (docs/plan.md). Alone, for
    # less than a second, they reach 0.67 to 0.74 (benchmarks/results/matmul_shapes.json).
    matmul=0.70,
    half_inner=20.0,
    # Products alone: width 1296 with heads padded to 56 676 TFLOP/s, without 711; 1280 715.
    misaligned=0.97,
    # cuDNN: 242 TFLOP/s at 64, 285 at 80, 387 at 128, of 989.
    attention=MappingProxyType({32: 0.15, 64: 0.245, 80: 0.288, 128: 0.391}),
    # A layer of 16 heads of 64 over 4: 0.55 ms for 16 rows of 1,024, 1.46 ms for 4 of 4,096.
    short_row=880.0,
    # Fitted together with `matmul`; copies alone reach 0.90.
    bandwidth=0.83,
)

AMPERE = Rates(
    device="a100",
    # Not measured by us. 124M at 142,000 tokens/s (rasbt/LLMs-from-scratch, ch05/10, one A100).
    matmul=0.75,
    half_inner=90.0,
    misaligned=0.8,
    # FlashAttention-2 (arXiv:2307.08691), figure 4: about 100 TFLOP/s at T 1024, causal.
    attention=MappingProxyType({32: 0.2, 64: 0.3, 128: 0.35}),
    short_row=256.0,
    bandwidth=0.85,
)

TURING = Rates(
    device="t4",
    # Not measured by us: 18,800 tokens/s of GPT-2 124M, a T4 at 70 W does not hold its clock.
    matmul=0.42,
    half_inner=90.0,
    misaligned=0.8,
    attention=MappingProxyType({64: 0.15, 128: 0.15}),
    short_row=256.0,
    bandwidth=0.7,
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
    short_row=256.0,
    bandwidth=0.5,
)


@dataclass(frozen=True)
class Saved:
    """Corrections of the counted bytes of activations, by what was measured.

    Attributes:
        block: measured over counted, of a block's activations.
        logits: bytes of each logit at the peak: the logits, their gradient, and what is made on the
            way; with bf16 products.
    """

    block: float
    logits: float


SAVED: Mapping[str, Saved] = MappingProxyType(
    {
        # GPT-2 124M, 64 rows: 28.25 GB with the fused loss, 28.09 GB with the plain one.
        "compiled": Saved(block=1.0, logits=2.0),
        # Log-probabilities, their gradient and that of the logits, all in float32. The same model,
        # 32 rows, 6 and 12 layers: 26.61 and 32.66 GB (26.7 and 32.8 counted).
        "eager": Saved(block=1.0, logits=12.0),
        # Of the process, qwen3 15M: 2 and 10 layers, vocabularies of 512 and 8,192; its attention
        # repeats keys and values for all heads, and memory is not handed back at once.
        "cpu": Saved(block=1.25, logits=10.0),
    }
)
"""By how the step runs."""

LAUNCH_SECONDS: Mapping[str, float] = MappingProxyType(
    {"on": 1.3e-3, "regional": 2.05e-3, "off": 2.2e-3, "cpu": 0.3e-3}
)
"""What the host needs for one block, forward and backward, however little it computes, by
`compile`. GPT-2 124M, one row of 1,024: 28.7 ms a step by the block, 30.9 ms without the compiler;
as one graph 9.7 ms with 6 layers, and 19.5 ms for 8 rows of 12 layers. The host's two other GPUs
had work, too [H200]."""

MUON_LAUNCH_SECONDS = 1e-3
"""Of each block's matrices in Muon's update: 11.9 ms with GPT-2 124M [H200]."""

SHARPNESS = 4
"""How sharply a step is bound by the GPU or else by the host: where both would take as long, it
takes 2^(1/4) of that, as each waits for the other in parts of it. 8 and 16 rows of GPT-2 124M."""

CODING_BYTES = 14
"""Of each weight's state in 8-bit AdamW: it moves 5, but coding takes as long as moving so many
(2.78B weights, bf16: 12.1 ms) [H200]."""

CALIBRATED = frozenset(
    {("gpt2", "adamw"), ("gpt2", "adamw8bit"), ("gpt2", "muon"), ("llama", "adamw")}
)
"""Families and optimizers that these numbers were fitted to, on one H200 with bf16 products and
checkpointing none or selective, launched; all else counts as extrapolated (docs/plan.md)."""

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

IDLE = 0.03
"""Of the time that the GPU is busy, what passes between its kernels: 1 to 4 % [H200]."""

ALONE = 0.80
"""Share of its data sheet's FLOPs that one large product reaches: 8192^3 791 TFLOP/s [H200]."""

COPY = 0.90
"""The same of the memory's bandwidth and a copy: 4.3 of 4.8 TB/s [H200]."""
