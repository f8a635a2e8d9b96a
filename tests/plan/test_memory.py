"""Counted bytes against what PyTorch really keeps, and how memory moves with the settings."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import pytest
import torch

from hornbook.model import cross_entropy
from hornbook.model.config import ModelConfig, ModelSettings
from hornbook.model.count import parameters
from hornbook.model.decoder import Decoder
from hornbook.model.engine import Checkpointing, Engine
from hornbook.model.presets import PRESETS, resolve
from hornbook.optim.config import OptimizerConfig
from hornbook.optim.groups import build_optimizer
from hornbook.plan import memory as memory_module
from hornbook.plan.matrices import products, state_bytes
from hornbook.plan.memory import block_bytes, kept_bytes, memory
from hornbook.plan.setup import Setup

ROWS, LENGTH = 2, 64
FAMILIES = ("gpt2-124m", "phi2", "llama-125m", "qwen3-125m")
GPT2 = PRESETS["gpt2-124m"]
NARROW = {"weights": "bf16", "optimizer": "adamw8bit"}


def small(preset: str, layers: int) -> ModelConfig:
    """The family at a width of 64, or 4 heads of 16 over 2."""
    base = PRESETS[preset]
    grouped = base.kv_heads < base.heads
    return dataclasses.replace(
        base, layers=layers, width=64, heads=4, kv_heads=2 if grouped else 4, head_dim=16,
        mlp_width=256, vocabulary=128, vocabulary_rows=128, exported_rows=None, context=LENGTH,
        rotary_fraction=0.5 if base.family == "phi" else 1.0,
    )  # fmt: skip


def loss_of(model: Decoder, ids: torch.Tensor) -> torch.Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return model.loss(model.hidden(ids), ids)


def kept_eager(config: ModelConfig, engine: Engine) -> int:
    """Bytes that autograd keeps, besides the weights; each storage once."""
    model = Decoder(config)
    model.engine = engine
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}
    alive = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss_of(model, torch.zeros(ROWS, LENGTH, dtype=torch.long))
    return sum(kept.values())


def kept_compiled(config: ModelConfig, engine: Engine) -> int:
    """Bytes that the compiler's partition of the training graph keeps; each storage once."""
    from functorch.compile import make_boxed_func, min_cut_rematerialization_partition
    from torch._dynamo.backends.common import aot_autograd
    from torch._inductor.decomposition import select_decomp_table

    model = Decoder(config)
    model.engine = engine
    kept: dict[int, int] = {}

    def partition(joint: Any, inputs: Any, **options: Any) -> Any:
        forward, backward = min_cut_rematerialization_partition(
            joint, inputs, compiler="inductor", **options
        )
        (output,) = (node for node in forward.graph.nodes if node.op == "output")
        for node in output.args[0][options["num_fwd_outputs"] :]:
            value = node.meta.get("val")
            if node.op != "placeholder" and isinstance(value, torch.Tensor):
                storage = value.untyped_storage()  # of a part, all that it is a part of
                kept[storage._cdata] = storage.nbytes()
        return forward, backward

    def graph(module: Any, _inputs: Any) -> Any:
        return make_boxed_func(module.forward)

    backend = aot_autograd(
        fw_compiler=graph,
        bw_compiler=graph,
        partition_fn=partition,
        decompositions=select_decomp_table,
    )
    torch._dynamo.reset()
    torch.compile(loss_of, backend=backend, dynamic=False)(
        model, torch.zeros(ROWS, LENGTH, dtype=torch.long)
    )
    return sum(kept.values())


def a_block_keeps(
    measure: Callable[[ModelConfig, Engine], int], preset: str, engine: Engine
) -> float:
    """Bytes a token of one more block."""
    two, three = (measure(small(preset, layers), engine) for layers in (2, 3))
    return (three - two) / (ROWS * LENGTH)


def copies(config: ModelConfig) -> float:
    """Bytes a token of a block's weights in bfloat16, which are kept too."""
    inside = sum(m.inputs * m.outputs for m in products(config) if m.in_block)
    return 2 * inside / (ROWS * LENGTH)


@pytest.mark.parametrize("residual", ["fp32", "bf16"])
@pytest.mark.parametrize("preset", ["gpt2-124m", "phi2"])
def test_a_block_keeps_what_was_counted(preset: str, residual: Literal["fp32", "bf16"]) -> None:
    engine = Engine(residual=residual)
    config = small(preset, 3)
    setup = Setup(LENGTH, ROWS, ROWS, engine=engine, device="cpu")
    counted = block_bytes(config, setup) + copies(config)
    # Rotated queries and keys are apart from the product they came from; the statistics of norms
    # are not counted.
    rotated = 4 * 64 if preset == "phi2" else 0
    assert a_block_keeps(kept_eager, preset, engine) == pytest.approx(counted + rotated, rel=0.10)


@pytest.mark.long
@pytest.mark.parametrize("residual", ["fp32", "bf16"])
@pytest.mark.parametrize("preset", FAMILIES)
def test_a_compiled_block_keeps_what_was_counted(
    preset: str, residual: Literal["fp32", "bf16"]
) -> None:
    engine = Engine(residual=residual, compile="on")
    config = small(preset, 3)
    counted = block_bytes(config, Setup(LENGTH, ROWS, ROWS, engine=engine)) + copies(config)
    assert a_block_keeps(kept_compiled, preset, engine) == pytest.approx(counted, rel=0.03)


@pytest.mark.long
@pytest.mark.parametrize("preset", FAMILIES)
def test_a_selectively_checkpointed_block_keeps_what_was_counted(preset: str) -> None:
    engine = Engine(residual="bf16", checkpointing="selective", compile="on")
    counted = kept_bytes(small(preset, 3), Setup(LENGTH, ROWS, ROWS, engine=engine))
    assert a_block_keeps(kept_compiled, preset, engine) == pytest.approx(counted, rel=0.03)


@pytest.mark.parametrize("kind", ["adamw", "adamw8bit", "muon"])
@pytest.mark.parametrize("preset", ["gpt2-124m", "gpt2-712m", "phi2", "qwen3-15m", "llama-1m"])
def test_optimizer_state_is_that_of_the_real_one(preset: str, kind: str) -> None:
    optimizer = OptimizerConfig(kind=kind, normalize=kind == "muon")  # type: ignore[arg-type]
    device = torch.device("meta")  # shapes without memory
    with device:
        model = Decoder(PRESETS[preset], initialise=False)
    rules = build_optimizer(model, optimizer, device)
    states = [rules.new_state(parameter) for parameter in model.parameters()]
    real = sum(tensor.nbytes for state in states for tensor in state.values())
    assert state_bytes(PRESETS[preset], optimizer) == pytest.approx(real, rel=1e-3)


def test_fixed_parts_are_exact() -> None:
    needed = memory(GPT2, Setup(1024, 64, 64))
    count = parameters(GPT2).total
    assert needed.weights - needed.copies == needed.all_gradients == 4 * count
    assert needed.optimizer == 8 * count
    narrow = memory(GPT2, Setup(1024, 64, 64, weights="bf16"))
    assert narrow.weights == narrow.all_gradients == 2 * count
    assert narrow.copies == 0


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("rows", [1, 8])
@pytest.mark.parametrize("preset", ["gpt2-124m", "phi2", "qwen3-15m"])
def test_with_more_recomputed_no_more_is_needed(preset: str, rows: int, compiled: bool) -> None:
    def at(checkpointing: Checkpointing) -> memory_module.Memory:
        engine = Engine(checkpointing=checkpointing, compile="on" if compiled else "off")
        return memory(PRESETS[preset], Setup(1024, 2 * rows, rows, engine=engine))

    none, selective, full = (at(each) for each in ("none", "selective", "full"))  # type: ignore[arg-type]
    assert none.peak >= selective.peak >= full.peak


def test_less_is_kept_with_more_checkpointing() -> None:
    def peak(checkpointing: Checkpointing, budget: float = 1.0) -> float:
        engine = Engine(checkpointing=checkpointing, budget=budget, compile="on")
        return memory(GPT2, Setup(1024, 64, 64, engine=engine)).activations

    assert peak("none") > peak("selective") > peak("full")
    assert peak("none") == peak("budget", 1.0) > peak("budget", 0.5) > peak("budget", 0.0)
    assert peak("budget", 0.0) == peak("full")


def test_sharding_divides_weights_gradients_and_state() -> None:
    alone = memory(PRESETS["phi2"], Setup(1024, 64, 4))
    shared = memory(PRESETS["phi2"], Setup(1024, 64, 4, gpus=8, sharding="fsdp"))
    copied = memory(PRESETS["phi2"], Setup(1024, 64, 4, gpus=8, sharding="ddp"))
    assert shared.weights - shared.copies == (alone.weights - alone.copies) / 8
    assert shared.optimizer == alone.optimizer / 8
    assert copied.weights - copied.copies == alone.weights - alone.copies
    assert shared.peak < alone.peak / 2


def test_fsdp_that_keeps_weights_gathered_holds_them_and_whole_gradients() -> None:
    model = PRESETS["gpt2-712m"]
    count = parameters(model)
    split = Setup(1024, 64, 4, gpus=8, sharding="fsdp")
    kept = memory(model, dataclasses.replace(split, gathered=True))
    assert kept.copies == 2 * count.total
    assert kept.gradients == 4 * count.total
    assert memory(model, split).copies < 2 * count.total / 4
    once = memory(model, dataclasses.replace(split, gathered=True, rows=32))
    assert once.gradients <= 4 * count.total / 8, "nothing waits where there is one micro-batch"


def test_a_process_on_a_cpu_as_measured() -> None:
    # Largest resident set of `rehearse` in fp32 on one thread (docs/plan.md), GB.
    for layers, vocabulary, gigabytes in ((10, 8192, 2.62), (10, 512, 2.27), (2, 8192, 1.22)):
        model = resolve(ModelSettings(preset="qwen3-15m", layers=layers), vocabulary)
        needed = memory(model, Setup(1024, 4, 4, precision="fp32", device="cpu"))
        assert needed.peak == pytest.approx(gigabytes * 1e9, rel=0.10)


def test_gradients_count_twice_where_several_micro_batches_are_compiled_as_one_graph() -> None:
    engine = Engine(checkpointing="full", cross_entropy="chunked", compile="on")
    model = PRESETS["phi2"]
    once = memory(model, Setup(1024, 1, 1, weights="bf16", engine=engine))
    often = memory(model, Setup(1024, 8, 1, weights="bf16", engine=engine))
    regional = dataclasses.replace(engine, compile="regional")
    by_block = memory(model, Setup(1024, 8, 1, weights="bf16", engine=regional))
    assert often.peak > once.peak + 0.9 * once.all_gradients
    assert by_block.peak < often.peak


def test_without_the_compiler_layer_norms_on_a_gpu_keep_float32() -> None:
    for preset, more in (("gpt2-124m", 2 * 2 * 768), ("phi2", 2 * 2560), ("llama-125m", 0)):
        engine = Engine(residual="bf16")
        on_gpu, on_cpu = (
            block_bytes(PRESETS[preset], Setup(1024, 8, 8, engine=engine, device=device))  # type: ignore[arg-type]
            for device in ("cuda", "cpu")
        )
        assert on_gpu == on_cpu + more


@pytest.mark.parametrize(
    ("preset", "micro_batches", "rows", "changes", "gigabytes"),
    [
        # One H200 (docs/plan.md), benchmarks/memory.py.
        ("phi2", 32, 16, NARROW, 62.74),
        ("gpt2-712m", 16, 32, {}, 60.98),
        ("gpt2-712m", 64, 8, {**NARROW, "kept": "selective"}, 9.67),
    ],
)  # fmt: skip
def test_peaks_are_those_of_real_steps(
    preset: str, micro_batches: int, rows: int, changes: dict[str, Any], gigabytes: float
) -> None:
    engine = Engine(
        residual="bf16", cross_entropy="fused", compile="regional",
        checkpointing=changes.get("kept", "none"),
    )  # fmt: skip
    setup = Setup(
        1024, micro_batches * rows, rows, weights=changes.get("weights", "fp32"), engine=engine,
        optimizer=OptimizerConfig(kind=changes.get("optimizer", "adamw")),
    )  # fmt: skip
    assert memory(PRESETS[preset], setup).peak == pytest.approx(gigabytes * 1e9, rel=0.03)


def test_chunks_are_those_of_the_loss() -> None:
    assert memory_module.CHUNK_LOGITS == cross_entropy.CHUNK_LOGITS
