"""The roofline: what was measured comes out again, and times move as work does."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from hornbook.model.count import parameters
from hornbook.model.engine import Engine
from hornbook.model.presets import PRESETS
from hornbook.optim.config import OptimizerConfig
from hornbook.plan.device import find_device
from hornbook.plan.matrices import products
from hornbook.plan.setup import Setup
from hornbook.plan.speed import attention_share, step_time

H200 = find_device("h200")
COMPILED = Engine(compile="on", residual="bf16", cross_entropy="fused", mlp="fused")
MUON = OptimizerConfig(kind="muon")
GPT2 = PRESETS["gpt2-124m"]


@pytest.mark.parametrize("preset", PRESETS)
def test_products_are_the_matrices_that_the_model_has(preset: str) -> None:
    config = PRESETS[preset]
    inside = sum(m.inputs * m.outputs * m.number for m in products(config) if m.in_block)
    assert inside == pytest.approx(parameters(config).blocks, rel=0.01)


def test_shares_lie_between_those_measured() -> None:
    rates = {64: 0.2, 128: 0.4}
    assert attention_share(rates, 96) == pytest.approx(0.3)
    assert attention_share(rates, 32) == pytest.approx(0.1)
    assert attention_share(rates, 256) == 0.4


WITHIN = {"weights": "bf16", "optimizer": OptimizerConfig(kind="adamw8bit")}
BY_BLOCK = dataclasses.replace(COMPILED, compile="regional")


@pytest.mark.parametrize(
    ("preset", "rows", "micro_batch", "changes", "tokens_per_second"),
    [
        # One H200 (docs/plan.md): the calibration's, bound by the GPU and by the host.
        ("gpt2-124m", 64, 64, {}, 605_402),
        ("gpt2-124m", 1, 1, {"engine": BY_BLOCK}, 35_734),
        ("gpt2-124m", 16, 16, {"engine": BY_BLOCK, "optimizer": MUON}, 379_599),
        # Models that nothing was fitted to.
        ("gpt2-712m", 32, 32, {"engine": BY_BLOCK}, 99_286),
        ("phi2", 512, 16, {"engine": BY_BLOCK, **WITHIN}, 35_067),
        ("phi2", 4, 4, {"engine": BY_BLOCK, **WITHIN}, 29_926),
    ],
)
def test_what_was_measured_comes_out_again(
    preset: str, rows: int, micro_batch: int, changes: dict[str, Any], tokens_per_second: float
) -> None:
    setup = dataclasses.replace(Setup(1024, rows, micro_batch, engine=COMPILED), **changes)
    predicted = step_time(PRESETS[preset], setup, H200).tokens_per_second
    assert predicted == pytest.approx(tokens_per_second, rel=0.10)


def test_work_takes_time() -> None:
    def seconds(**changes: object) -> float:
        setup = dataclasses.replace(Setup(1024, 64, 16, engine=COMPILED), **changes)  # type: ignore[arg-type]
        return step_time(GPT2, setup, H200).seconds

    assert seconds(rows=128) == pytest.approx(2 * seconds(), rel=0.05)
    assert seconds(engine=dataclasses.replace(COMPILED, compile="off")) > 1.2 * seconds()
    assert seconds(engine=dataclasses.replace(COMPILED, checkpointing="full")) > 1.2 * seconds()
    assert seconds(engine=dataclasses.replace(COMPILED, mlp="plain")) > seconds()
    assert seconds(precision="fp32") > 1.5 * seconds()
    assert seconds(optimizer=MUON) > seconds()
    assert seconds(optimizer=OptimizerConfig(offload=True)) > seconds()


def test_two_gpus_are_nearly_twice_as_fast_and_never_more() -> None:
    def rate(gpus: int, sharding: str) -> float:
        setup = Setup(1024, 512, 64, engine=COMPILED, gpus=gpus, sharding=sharding)  # type: ignore[arg-type]
        return step_time(GPT2, setup, H200).tokens_per_second

    alone = rate(1, "none")
    for sharding in ("ddp", "fsdp"):
        assert 1.8 * alone < rate(2, sharding) <= 2.05 * alone
    assert rate(2, "ddp") < 2 * alone, "a step that is one graph exchanges when it has ended"


def test_a_faster_gpu_is_faster() -> None:
    setup = Setup(1024, 16, 16, engine=COMPILED)
    rates = [
        step_time(GPT2, setup, find_device(name)).tokens_per_second
        for name in ("t4", "rtx3090", "rtx4090", "a100-40gb", "h100", "h200", "b200")
    ]
    assert rates == sorted(rates)
    # Known: 18,800 tokens/s on a T4 (fp16), 142,000 on an A100 (LLMs-from-scratch, chapter 5).
    assert rates[0] == pytest.approx(18_800, rel=0.3)
    assert rates[3] == pytest.approx(142_000, rel=0.4)
