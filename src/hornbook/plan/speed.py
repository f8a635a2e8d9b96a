"""How long a training step takes: a roofline for each kind of work in it.

In: a `ModelConfig`, a `Setup`, a `Device`. Out: a `Step`, in seconds by kind of work. Matrix
products and attention are counted in FLOPs, all else in bytes moved; each is divided by the
device's peak and by the share of it that was measured for that kind of work (`measured`). So it
carries over to another GPU by the two numbers of its data sheet.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass

from hornbook.model.config import ModelConfig
from hornbook.model.count import parameters
from hornbook.model.families import FAMILIES
from hornbook.plan.device import Device
from hornbook.plan.matrices import Matrix, products
from hornbook.plan.measured import (
    CODING_BYTES,
    IDLE,
    LAUNCH_SECONDS,
    MUON_LAUNCH_SECONDS,
    OVERLAP,
    SHARPNESS,
)
from hornbook.plan.memory import CHUNK_LOGITS, head_parameters
from hornbook.plan.setup import Setup

TILE = 128
"""Rows and columns that one thread block of a matrix product makes; what is over is wasted."""

ALIGNED = 64
"""Sizes that are multiples of this (128 bytes in bf16) are read in whole cache lines."""

FLOAT32_FACTOR = {True: 2, False: 8}
"""How much slower float32 products are, by whether the GPU has bf16: then they run as TF32."""

PCIE, CPU_MEMORY = 20e9, 40e9
"""Bytes a second between GPU and CPU, and of the CPU's update; not measured yet."""

NEWTON_SCHULZ_STEPS = 5
"""Iterations of Muon's orthogonalisation."""


@dataclass(frozen=True)
class Step:
    """Seconds of one optimizer step, by kind of work."""

    matmuls: float
    attention: float
    elementwise: float
    """Norms, activation functions, residual sums, rotary positions."""
    loss: float
    """Softmax and cross-entropy over the logits."""
    optimizer: float
    """The update, clipping, and adding up gradients of several micro-batches."""
    communication: float
    """Between GPUs, what does not hide behind the backward pass."""
    waiting: float
    """The GPU waits for the host."""
    tokens: int

    @property
    def seconds(self) -> float:
        """All of it."""
        return (
            self.matmuls + self.attention + self.elementwise + self.loss + self.optimizer
            + self.communication + self.waiting
        )  # fmt: skip

    @property
    def tokens_per_second(self) -> float:
        """Of all GPUs together."""
        return self.tokens / self.seconds


def step_time(config: ModelConfig, setup: Setup, device: Device) -> Step:
    """Seconds of an optimizer step."""
    times = setup.micro_batches
    matmuls = times * matmul_seconds(config, setup, device)
    attention = times * attention_seconds(config, setup, device)
    moved = device.bandwidth * device.rates.bandwidth
    elementwise = times * setup.micro_tokens * _elementwise_bytes(config, setup) / moved
    loss = times * _loss_bytes(config, setup) / moved
    if setup.engine.compile == "off":
        # Without the compiler each operation reads and writes memory, about three times as often.
        elementwise, loss = 3 * elementwise, 3 * loss
    optimizer = _optimizer_seconds(config, setup, device)
    busy = matmuls + attention + elementwise + loss
    # DDP's exchange begins when a graph ends, and a step compiled whole is one graph.
    hidden = 0.0 if (setup.sharding, setup.engine.compile) == ("ddp", "on") else OVERLAP * busy
    communication = max(0.0, _communication_seconds(config, setup, device) - hidden)
    computing = busy * (1 + IDLE) + optimizer + communication
    launching = _launch_seconds(config, setup, device)
    seconds = (computing**SHARPNESS + launching**SHARPNESS) ** (1 / SHARPNESS)
    waiting = seconds - (busy + optimizer + communication)
    return Step(
        matmuls, attention, elementwise, loss, optimizer, communication, waiting,
        tokens=setup.step_tokens,
    )  # fmt: skip


def _launch_seconds(config: ModelConfig, setup: Setup, device: Device) -> float:
    """What the host needs to hand a step to the device; embedding and loss count as two blocks.
    Replaying recorded passes takes it next to nothing (not measured yet)."""
    each = LAUNCH_SECONDS["cpu" if device.kind == "cpu" else setup.engine.compile]
    passes = 0 if setup.cuda_graph else setup.micro_batches
    seconds = passes * (config.layers + 2) * each
    if setup.optimizer.kind == "muon" and device.kind == "cuda":
        seconds += config.layers * MUON_LAUNCH_SECONDS
    return seconds


# --------------------------------------------------------------------------------- matrix products


def matmul_seconds(config: ModelConfig, setup: Setup, device: Device) -> float:
    """All matrix products of one micro-batch, forward and backward, and those done again."""
    rows = setup.micro_tokens
    total = 0.0
    for matrix in products(config):
        inputs, outputs, in_block = matrix.inputs, matrix.outputs, matrix.in_block
        forward = product_seconds(rows, inputs, outputs, setup, device, in_block)
        backward = product_seconds(rows, outputs, inputs, setup, device, in_block)
        backward += product_seconds(inputs, rows, outputs, setup, device, in_block)
        again = _recomputed(config, setup, matrix)
        total += matrix.number * (forward * (1 + again) + backward)
    return total


def product_seconds(
    rows: int, inner: int, columns: int, setup: Setup, device: Device, in_block: bool
) -> float:
    """One product [rows, inner] x [inner, columns], by its size's efficiency."""
    rates = device.rates
    share = rates.matmul * inner / (inner + rates.half_inner)
    if device.kind == "cuda":
        for size in (rows, columns):
            share *= size / (TILE * math.ceil(size / TILE))
        if inner % ALIGNED or columns % ALIGNED:
            share *= rates.misaligned
    peak = device.flops
    if setup.precision == "fp32" and device.kind == "cuda":
        peak /= FLOAT32_FACTOR[device.bf16]
    seconds = 2.0 * rows * inner * columns / (peak * share)
    if not (setup.engine.float8 and in_block and device.float8_flops):
        return seconds
    # Products twice as fast, and both operands read in 16 bits and written in 8 before.
    casts = 3 * (rows * inner + inner * columns) / (device.bandwidth * rates.bandwidth)
    return seconds * device.flops / device.float8_flops + casts


def _recomputed(config: ModelConfig, setup: Setup, matrix: Matrix) -> float:
    """Share of a forward product that the backward pass does again."""
    engine = setup.engine
    if not matrix.in_block:
        return 0.0
    if engine.checkpointing == "full":
        return 1.0
    if engine.checkpointing == "budget":
        return 1.0 - engine.budget
    if engine.checkpointing == "selective":
        return 1.0 if matrix.outputs >= config.mlp_width else 0.0
    return 0.0


# --------------------------------------------------------------------------------------- attention


def attention_seconds(config: ModelConfig, setup: Setup, device: Device) -> float:
    """Causal attention of one micro-batch in all layers, forward and backward."""
    inner, length = config.heads * config.head_dim, setup.sequence_length
    forward = 2.0 * length * inner * setup.micro_tokens * config.layers  # half of 4 T d a token
    passes = 4.5 if setup.engine.checkpointing == "full" else 3.5
    share = attention_share(device.rates.attention, config.head_dim)
    short = device.rates.short_row  # the rates are those at 1,024
    share *= (length / (length + short)) * (1024 + short) / 1024
    if setup.precision == "fp32" and device.kind == "cuda":
        share /= FLOAT32_FACTOR[device.bf16]
    return passes * forward / (device.flops * share)


def attention_share(rates: Mapping[int, float], head_dim: int) -> float:
    """The rate at a head size: between those that were measured, in proportion."""
    sizes = sorted(rates)
    if head_dim <= sizes[0]:
        return rates[sizes[0]] * head_dim / sizes[0]
    for low, high in itertools.pairwise(sizes):
        if head_dim <= high:
            part = (head_dim - low) / (high - low)
            return rates[low] + part * (rates[high] - rates[low])
    return rates[sizes[-1]]


# ------------------------------------------------------------------------------------- bytes moved


def _elementwise_bytes(config: ModelConfig, setup: Setup) -> float:
    """Bytes a token that all blocks read and write besides products and attention.

    A norm with its residual sum, forward: stream and branch in, stream and normed out; backward:
    gradient and stream in, stream's gradient in and out, and once more for the gain's gradient. An
    activation function, forward: in and out; backward: gradient and input in, gradient out; inside
    the products it is one more write forward, and one more read backward.
    """
    architecture = FAMILIES[config.family].architecture
    n, r = setup.narrow_bytes, setup.residual_bytes
    width, mlp = config.width, config.mlp_width
    rotated = (config.heads + config.kv_heads) * config.head_dim
    norms = 1 if architecture.parallel else 2
    total = norms * (4 * r + 5 * n) * width
    gelu = 2 if setup.engine.mlp == "fused" else 5
    total += n * mlp * (8 if architecture.mlp == "swiglu" else gelu)
    total += 2 * n * (config.heads + 2 * config.kv_heads) * config.head_dim  # q, k, v's gradients
    if architecture.positions == "rotary":
        total += 4 * n * rotated
    if architecture.query_key_norm:
        total += 6 * n * rotated
    if architecture.bias:
        total += n * (config.width * 5 + mlp)  # each bias's gradient reads its output's
    again = {"full": 0.4, "selective": 0.4, "budget": 0.4 * (1 - setup.engine.budget)}
    return config.layers * total * (1 + again.get(setup.engine.checkpointing, 0.0))


def _loss_bytes(config: ModelConfig, setup: Setup) -> float:
    """Bytes that softmax and cross-entropy of one micro-batch move."""
    logits = float(setup.narrow_bytes * config.vocabulary_rows * setup.micro_tokens)
    if setup.engine.cross_entropy == "plain":
        return 6 * logits  # three passes forward, two backward, the gradient's write [H200: 9 ms]
    chunks = 1
    if setup.engine.cross_entropy == "chunked":
        chunks = math.ceil(config.vocabulary_rows * setup.micro_tokens / CHUNK_LOGITS)
    # Read, and written as gradient; each chunk adds to the float32 gradient of the head.
    return 3 * logits + 8.0 * chunks * head_parameters(config)


def _optimizer_seconds(config: ModelConfig, setup: Setup, device: Device) -> float:
    """Clipping, the update, adding up gradients, and casting weights for autocast."""
    count = parameters(config).total / (setup.gpus if setup.sharding == "fsdp" else 1)
    wide, moved = setup.weight_bytes, device.bandwidth * device.rates.bandwidth
    state = {"adamw": 2 * 4 * 2, "adamw8bit": CODING_BYTES, "muon": 2 * 4}[setup.optimizer.kind]
    # The gradient's norm, scaling it in place, the update reads it; weight in and out.
    bytes_once = count * (wide * 6 + state)
    casts = 0 if setup.weights == "bf16" or setup.precision == "fp32" else 12
    bytes_each = count * (casts + (3 * wide if setup.micro_batches > 1 else 0))
    seconds = (bytes_once + setup.micro_batches * bytes_each) / moved
    if setup.optimizer.kind == "muon":
        seconds += _orthogonalise_seconds(config, setup, device)
    if setup.optimizer.offload:
        # Gradients down and weights up through PCIe; the CPU reads and writes state and masters.
        seconds += count * (2 * wide) / PCIE + count * (state + 8 + wide) / CPU_MEMORY
    return seconds


def _orthogonalise_seconds(config: ModelConfig, setup: Setup, device: Device) -> float:
    """Muon's Newton-Schulz iterations over the matrices of all blocks."""
    total = 0.0
    for matrix in products(config):
        small, large = sorted((matrix.inputs, matrix.outputs))
        if matrix.in_block:
            total += matrix.number * (4.0 * small**2 * large + 2.0 * small**3)
    shared = setup.gpus if setup.sharding == "fsdp" else 1
    return NEWTON_SCHULZ_STEPS * total / shared / (device.flops * device.rates.matmul * 0.8)


def _communication_seconds(config: ModelConfig, setup: Setup, device: Device) -> float:
    """Gradients summed over all GPUs (ring: each byte twice), and with fsdp weights gathered."""
    if setup.gpus == 1:
        return 0.0
    count, part = parameters(config).total, (setup.gpus - 1) / setup.gpus
    if setup.sharding == "ddp":
        return 2 * part * setup.weight_bytes * count / device.link
    # Gathered once and reduced in float32 once; or each micro-batch gathers twice and reduces.
    passes = setup.narrow_bytes + 4
    if not setup.gathered:
        passes = setup.micro_batches * (2 * setup.narrow_bytes + 4)
    return part * passes * count / device.link
