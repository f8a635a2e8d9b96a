"""Which settings training would choose on a device; or, where none fit, what would make them fit.

In: a `ModelConfig`, `Wishes` whose `auto`s are free, a `Device`. Out: a `Choice`, or a list of
`Remedy`. Every combination is computed on paper: nothing is run here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import cast

from hornbook.model.config import ModelConfig
from hornbook.model.count import parameters
from hornbook.model.engine import MLP, Checkpointing, Compile, CrossEntropy, Engine, Residual
from hornbook.model.families import FAMILIES
from hornbook.plan.device import Device, find_device
from hornbook.plan.gpus import GPUS
from hornbook.plan.measured import CONTEXT
from hornbook.plan.memory import Memory, memory
from hornbook.plan.rules import (
    EAGER_SHARE,
    FILLING_TOKENS,
    GPU_TOKENS,
    choose_sharding,
    cpu_micro_batch,
    even_rows,
    keeps_gathered,
    memory_share,
    what_to_compile,
    whole_bytes,
)
from hornbook.plan.setup import WEIGHT_BYTES, Precision, Setup, Sharding, Wishes
from hornbook.plan.speed import Step, step_time

MOST_GPUS = 64
"""GPUs that a remedy proposes at most."""


REPLAY_GAIN = 1.03
"""How many times as fast a replayed step has to be (train/replay.py)."""


@dataclass(frozen=True)
class Choice:
    """Settings, and what they come to."""

    setup: Setup
    memory: Memory
    step: Step


@dataclass(frozen=True)
class Remedy:
    """Something to change when nothing fits, and the bytes that one GPU then needs."""

    change: str
    reserved: float
    fits: bool


def choose(config: ModelConfig, wishes: Wishes, device: Device) -> Choice | None:
    """The settings that training here would choose, by the same rules (`rules`).

    First what is fastest; then, until enough rows of a micro-batch fit, all logits at once are
    given up, and activations little by little. None when not even one row fits.
    """
    share = math.ceil(wishes.rows / wishes.gpus)
    length = wishes.sequence_length
    most = max(1, GPU_TOKENS // length)
    if device.kind == "cpu":
        most = cpu_micro_batch(share, length, config.vocabulary_rows)
    wanted = min(share, wishes.micro_batch or most)
    enough = wanted if wishes.micro_batch else min(wanted, math.ceil(FILLING_TOKENS / length))
    best: Setup | None = None
    for setup in setups(config, wishes, device):
        rows = _most_rows(config, setup, wanted, device)
        if rows > (best.micro_batch if best else 0):
            best = replace(setup, micro_batch=rows)
        if rows >= enough:
            break
    if best is None:
        return None
    even = replace(best, micro_batch=even_rows(share, best.micro_batch))
    launched = _come_to(config, even, device)
    if device.kind == "cpu" or wishes.gpus > 1 or even.precision == "fp16":
        return launched
    replayed = _come_to(config, replace(even, cuda_graph=True), device)
    gains = launched.step.seconds >= REPLAY_GAIN * replayed.step.seconds
    fits = replayed.memory.reserved <= EAGER_SHARE * device.memory
    wanted = {"off": False, "on": True, "auto": gains and fits}[wishes.cuda_graph]
    return replayed if wanted else launched


def smallest(config: ModelConfig, wishes: Wishes, device: Device) -> Choice:
    """The settings that take the least memory, whether they fit or not."""
    tried = [_come_to(config, setup, device) for setup in setups(config, wishes, device)]
    return min(tried, key=lambda choice: choice.memory.reserved)


def setups(config: ModelConfig, wishes: Wishes, device: Device) -> Iterator[Setup]:
    """All settings that the wishes leave open, those first that take most memory."""
    cuda = device.kind == "cuda"
    precision = wishes.precision
    if precision == "auto":
        precision = ("bf16" if device.bf16 else "fp16") if cuda else "fp32"
    sharding = choose_sharding(
        wishes.sharding,
        whole_bytes=whole_bytes(config, wishes.optimizer, WEIGHT_BYTES[wishes.weights]),
        memory_bytes=device.memory,
        size=wishes.gpus,
        local_size=wishes.gpus,
    )
    narrow = 4 if precision == "fp32" else 2
    gathered = sharding == "fsdp" and keeps_gathered(
        parameters(config).total, narrow, device.memory if cuda else None
    )
    compile = what_to_compile(config.layers, sharding == "fsdp") if cuda else "off"
    residual = "bf16" if cuda and precision == "bf16" else "fp32"
    mlp = "fused" if fuses_mlp(config, wishes, device) else "plain"
    losses = _options(wishes.cross_entropy, ("fused", "chunked") if cuda else ("plain",))
    kept = _options(
        wishes.activation_checkpointing, ("none", "selective", "full") if cuda else ("none",)
    )
    first = Engine(
        budget=wishes.activation_budget,
        residual=cast(Residual, residual if wishes.residual == "auto" else wishes.residual),
        mlp=cast(MLP, mlp if wishes.mlp == "auto" else wishes.mlp),
        compile=cast(Compile, compile if wishes.compile == "auto" else wishes.compile),
        float8=wishes.float8,
    )
    engines = [(losses[0], kept[0])]
    engines += [(loss, kept[0]) for loss in losses[1:]]
    engines += [(losses[-1], checkpointing) for checkpointing in kept[1:]]
    for loss, checkpointing in engines:
        yield Setup(
            sequence_length=wishes.sequence_length,
            rows=wishes.rows,
            micro_batch=max(1, min(wishes.micro_batch, wishes.rows // wishes.gpus)),
            precision=cast(Precision, precision),
            weights=wishes.weights,
            engine=replace(
                first,
                cross_entropy=cast(CrossEntropy, loss),
                checkpointing=cast(Checkpointing, checkpointing),
            ),
            optimizer=wishes.optimizer,
            gpus=wishes.gpus,
            sharding=cast(Sharding, sharding or "none"),
            device=device.kind,
            gathered=gathered,
        )


def fuses_mlp(config: ModelConfig, wishes: Wishes, device: Device) -> bool:
    """Whether training can work GELU out inside the matrix products there (train/probe.py)."""
    gelu = FAMILIES[config.family].architecture.mlp == "gelu"
    narrow = wishes.precision != "fp32" and not wishes.float8
    return gelu and narrow and device.kind == "cuda" and device.bf16


def _most_rows(config: ModelConfig, setup: Setup, wanted: int, device: Device) -> int:
    """The largest of 1, 2, 4, ... `wanted` rows that fit, 0 when none do; without the compiler, as
    training tries it."""
    eager = replace(setup, engine=replace(setup.engine, compile="off"))
    limit = memory_limit(device, setup)
    fitting, rows = 0, 1
    while rows > fitting:
        if memory(config, replace(eager, micro_batch=rows)).reserved > limit:
            break
        fitting, rows = rows, min(2 * rows, wanted)
    return fitting


def memory_limit(device: Device, setup: Setup) -> float:
    """Bytes of the device that may be in use when training tries passes."""
    if device.kind == "cpu":
        return device.memory
    return memory_share(setup.engine.compile) * (device.memory - CONTEXT) + CONTEXT


def _come_to(config: ModelConfig, setup: Setup, device: Device) -> Choice:
    return Choice(setup, memory(config, setup), step_time(config, setup, device))


def remedies(
    config: ModelConfig, wishes: Wishes, device: Device, smaller: Mapping[str, ModelConfig]
) -> list[Remedy]:
    """What would make it fit: settings one after the other, more GPUs, less model, a larger GPU.

    Args:
        config, wishes, device: that do not go together.
        smaller: other models for the same rows and tokens, by how to ask for each.
    """
    found: list[Remedy] = []

    def note(change: str, wanted: Wishes, model: ModelConfig = config, on: Device = device) -> bool:
        needed = smallest(model, wanted, on).memory
        fits = choose(model, wanted, on) is not None
        found.append(Remedy(change, needed.reserved, fits))
        return fits

    before = smallest(config, wishes, device).memory.reserved
    for change, wanted in _cheaper(wishes, device):
        if smallest(config, wanted, device).memory.reserved >= before:
            continue
        if note(("and " if found else "") + change, wanted):
            break
        before = found[-1].reserved
    gpus = 2 * wishes.gpus
    while gpus <= MOST_GPUS and device.kind == "cuda":
        sharded = replace(wishes, gpus=gpus, sharding="fsdp", micro_batch=1)
        if choose(config, sharded, device):
            note(f"--gpus {gpus}: fsdp shares out weights and state", sharded)
            break
        gpus *= 2
    sizes = {words: parameters(model).blocks for words, model in smaller.items()}
    for words in sorted(sizes, key=lambda words: -sizes[words]):
        if sizes[words] < parameters(config).blocks and choose(smaller[words], wishes, device):
            note(f"a smaller model: {words}", wishes, smaller[words])
            break
    for gpu in sorted(GPUS, key=lambda gpu: gpu.price):
        other = find_device(gpu.name)
        larger = device.kind == "cpu" or other.memory > device.memory
        if larger and choose(config, wishes, other):
            note(f"another device: --gpu {gpu.name}", wishes, on=other)
            break
    return found


def _cheaper(wishes: Wishes, device: Device) -> Iterator[tuple[str, Wishes]]:
    """One setting after the other that takes less memory, those first that cost least."""
    if wishes.micro_batch > 1:
        wishes = replace(wishes, micro_batch=1)
        yield "--pretrain.micro_batch 1", wishes
    if wishes.activation_checkpointing not in ("auto", "full"):
        wishes = replace(wishes, activation_checkpointing="full")
        yield "--pretrain.activation_checkpointing full", wishes
    if wishes.cross_entropy not in ("auto", "chunked"):
        wishes = replace(wishes, cross_entropy="chunked")
        yield "--pretrain.cross_entropy chunked", wishes
    if wishes.optimizer.kind == "adamw":
        wishes = replace(wishes, optimizer=replace(wishes.optimizer, kind="adamw8bit"))
        yield "--optimizer.kind adamw8bit", wishes
    if wishes.weights == "fp32" and device.bf16:
        wishes = replace(wishes, weights="bf16")
        yield "--pretrain.weights bf16", wishes
    if not wishes.optimizer.offload:
        # Its float32 masters are on the CPU too; the rounding of 8 bits is not needed then.
        wishes = replace(wishes, optimizer=replace(wishes.optimizer, kind="adamw", offload=True))
        yield "--optimizer.kind adamw --optimizer.offload true (slow)", wishes


def _options(wish: str, free: tuple[str, ...]) -> tuple[str, ...]:
    return free if wish == "auto" else (wish,)
