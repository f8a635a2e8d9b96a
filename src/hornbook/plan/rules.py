"""The rules by which training chooses settings, so that the plan can predict them.

In: sizes and bytes. Out: a micro-batch, what is compiled, how several GPUs share a model. `train`
asks the same functions, with what it measured; `fit` with what it counted. No torch here.
"""

from __future__ import annotations

import math
from typing import Literal

from hornbook.errors import HornbookError
from hornbook.model.config import ModelConfig
from hornbook.model.count import parameters
from hornbook.model.engine import Compile
from hornbook.optim.config import OptimizerConfig
from hornbook.plan.matrices import state_bytes

Kind = Literal["ddp", "fsdp", "hsdp"]

CPU_TOKENS = 4096
"""Tokens of a micro-batch on a CPU. Measured flat within noise from 1,024 to 16,384."""

CPU_LOGITS = 2**26
"""Logits of a micro-batch on a CPU: 256 MiB in float32, held about three times."""

GPU_TOKENS = 65536
"""Most tokens of a micro-batch on a GPU. nanoGPT's 124M gained 2 % from 32,768 to this (H200)."""

FILLING_TOKENS = 4096
"""With so many tokens in a pass, nothing is computed again just to fit more: at 2.8B parameters
4,096 tokens with all kept were 12 % faster than 8,192 with full checkpointing (H200)."""

EAGER_SHARE = 0.85
"""Part of a GPU's memory that passes which are not compiled may take where training is not compiled
either; the rest is for evaluation and sampling. Where it is, they may take all: compiled they take
less."""

REGIONAL_LAYERS = 24
"""Deeper models are compiled by the block, as compiling all of them takes minutes. Not measured
yet."""

REPLICATED_SHARE = 0.5
"""DDP where weights, gradients and optimizer state take at most this share of a device's memory;
the rest is for activations."""


KEPT_SHARE = 0.25
"""How FSDP pays for a step of several micro-batches: in memory, up to this share of the device's,
or in communication.

Kept: weights stay gathered from the first micro-batch to the last, and gradients are added up whole
(float32). A step then gathers and reduces each parameter once, as DDP does; only the optimizer's
state is shared out (ZeRO-1, arXiv:1910.02054). Not kept: each micro-batch gathers each block twice,
for the forward and the backward pass, and reduces its gradients (ZeRO-3); a device then never holds
more than a block or two whole. With `hsdp` hosts exchange gradients once a step either way.

With bf16 products what is kept is 6 bytes a parameter: a quarter of 80 GB is 3.3B parameters. The
rest is for activations; the share itself has not been measured."""


def keeps_gathered(count: float, narrow_bytes: int, memory_bytes: float | None) -> bool:
    """Whether FSDP does so, for a model of `count` parameters; None: memory is not known."""
    gathered = count * (narrow_bytes + 4)  # gradients add up in float32
    return memory_bytes is None or gathered <= KEPT_SHARE * memory_bytes


def memory_share(compile: Compile) -> float:
    """Part of a GPU's free memory that a pass which is not compiled may take."""
    return EAGER_SHARE if compile == "off" else 1.0


def cpu_micro_batch(rows: int, sequence_length: int, vocabulary_rows: int) -> int:
    """Rows of a micro-batch on a CPU: by rule, not by timing, so that two runs choose the same."""
    most = min(CPU_TOKENS // sequence_length, CPU_LOGITS // (sequence_length * vocabulary_rows))
    return min(rows, max(1, most))


def even_rows(rows: int, most: int) -> int:
    """Rows of a micro-batch, at most `most`: all equal where that takes at most twice as many, as
    each shape of its own would be compiled."""
    for size in range(most, most // 2, -1):
        if rows % size == 0:
            return size
    return math.ceil(rows / math.ceil(rows / most))


def what_to_compile(layers: int, sharded: bool) -> Compile:
    """On a GPU. FSDP gathers each block between compiled parts."""
    return "regional" if sharded or layers > REGIONAL_LAYERS else "on"


def whole_bytes(config: ModelConfig, optimizer: OptimizerConfig, weight_bytes: int) -> float:
    """Bytes of weights, gradients and optimizer state of a whole model on one GPU.

    DDP holds gradients twice: added up over micro-batches, and as they are exchanged.
    """
    return 3.0 * weight_bytes * parameters(config).total + state_bytes(config, optimizer)


def choose_sharding(
    wanted: str, *, whole_bytes: float, memory_bytes: float | None, size: int, local_size: int
) -> Kind | None:
    """How processes share a model: `ddp` where all of it fits on each device, else `fsdp`, or
    `hsdp` where the part of a host's device fits without the other hosts.

    Args:
        wanted: `pretrain.sharding`.
        whole_bytes: weights, gradients and optimizer state of the whole model.
        memory_bytes: of one device; None: not known, taken as enough.
        size: processes.
        local_size: processes of a host.

    Returns:
        None for a process alone.

    Raises:
        HornbookError: `hsdp` is asked for on one host, or on hosts of unequal numbers.
    """
    if size == 1:
        return None
    if wanted == "hsdp" and (local_size == size or size % local_size):
        raise HornbookError(
            "hsdp needs several hosts with as many GPUs each",
            where="pretrain.sharding",
            hint="Set it to fsdp, or to auto",
        )
    if wanted != "auto":
        chosen: Kind = wanted  # type: ignore[assignment]  # the recipe checked it
        return chosen
    most = math.inf if memory_bytes is None else REPLICATED_SHARE * memory_bytes
    if whole_bytes <= most:
        return "ddp"
    within = local_size < size and size % local_size == 0 and whole_bytes / local_size <= most
    return "hsdp" if within else "fsdp"
