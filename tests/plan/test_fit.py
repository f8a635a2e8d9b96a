"""Which settings are chosen, and what is proposed when none fit."""

from __future__ import annotations

import dataclasses

import pytest

from hornbook.model.presets import PRESETS
from hornbook.optim.config import OptimizerConfig
from hornbook.plan.device import Device, find_device
from hornbook.plan.fit import REPLAY_GAIN, choose, memory_limit, remedies, smallest
from hornbook.plan.setup import Wishes
from hornbook.train import replay

PHI2, GPT2 = PRESETS["phi2"], PRESETS["gpt2-124m"]
SMALL = PRESETS["llama-350m"]
HALF_MILLION = Wishes(1024, 524288)


def a_gpu_of(gigabytes: float) -> Device:
    return dataclasses.replace(find_device("h100"), memory=gigabytes * 1e9)


def test_nothing_is_given_up_where_there_is_room() -> None:
    choice = choose(GPT2, HALF_MILLION, find_device("h100"))
    assert choice is not None
    assert choice.setup.micro_batch == 64
    assert choice.setup.engine.checkpointing == "none"
    assert choice.setup.engine.compile == "on"


def test_the_less_memory_the_smaller_and_the_more_is_computed_again() -> None:
    order = ["none", "selective", "full"]
    tokens, given_up = [], []
    for gigabytes in (80, 40, 30, 20, 15):
        choice = choose(PRESETS["gpt2-712m"], HALF_MILLION, a_gpu_of(gigabytes))
        assert choice is not None
        assert choice.memory.peak <= memory_limit(a_gpu_of(gigabytes), choice.setup)
        tokens.append(choice.setup.micro_batch)
        given_up.append(order.index(choice.setup.engine.checkpointing))
    assert given_up == sorted(given_up)
    assert tokens[0] > tokens[-1]


def test_gelu_goes_into_the_products_where_training_would_put_it() -> None:
    def mlp(preset: str, gpu: str, **wishes: object) -> str:
        wanted = dataclasses.replace(HALF_MILLION, **wishes)  # type: ignore[arg-type]
        choice = choose(PRESETS[preset], wanted, find_device(gpu))
        assert choice is not None
        return choice.setup.engine.mlp

    assert mlp("gpt2-124m", "h100") == mlp("gpt2-124m", "a100-40gb", precision="fp16") == "fused"
    assert mlp("gpt2-124m", "h100", mlp="plain") == mlp("gpt2-124m", "t4") == "plain"
    assert mlp("gpt2-124m", "h100", precision="fp32") == "plain"
    assert mlp("gpt2-124m", "h100", float8=True) == mlp("llama-125m", "h100") == "plain"


def test_small_micro_batches_are_replayed() -> None:
    def graph(rows: int, **wishes: object) -> bool:
        asked = {"cuda_graph": "auto", "micro_batch": rows, **wishes}
        wanted = dataclasses.replace(HALF_MILLION, **asked)  # type: ignore[arg-type]
        choice = choose(GPT2, wanted, find_device("h200"))
        assert choice is not None
        return choice.setup.cuda_graph

    assert REPLAY_GAIN == replay.GAIN
    assert graph(1)
    assert graph(8)
    assert not graph(64)
    assert not graph(1, cuda_graph="off")
    assert not graph(1, precision="fp16")
    assert not graph(1, gpus=2)
    assert graph(64, cuda_graph="on")


def test_what_is_asked_for_is_kept() -> None:
    wishes = dataclasses.replace(
        HALF_MILLION,
        micro_batch=4,
        precision="fp16",
        compile="off",
        activation_checkpointing="full",
        cross_entropy="plain",
        residual="fp32",
    )
    choice = choose(GPT2, wishes, find_device("h100"))
    assert choice is not None
    setup = choice.setup
    assert (setup.micro_batch, setup.precision) == (4, "fp16")
    engine = setup.engine
    assert (engine.compile, engine.checkpointing) == ("off", "full")
    assert (engine.cross_entropy, engine.residual) == ("plain", "fp32")


def test_a_card_without_bf16_gets_fp16_and_no_bf16_weights() -> None:
    t4 = find_device("t4")
    choice = choose(GPT2, HALF_MILLION, t4)
    assert choice is not None
    assert choice.setup.precision == "fp16"
    assert not any(
        "weights bf16" in remedy.change for remedy in remedies(PHI2, HALF_MILLION, t4, {})
    )


def test_phi2_on_24_gb_as_a_known_recipe_has_it() -> None:
    assert choose(PHI2, HALF_MILLION, a_gpu_of(24)) is None
    low = dataclasses.replace(
        HALF_MILLION, weights="bf16", optimizer=OptimizerConfig(kind="adamw8bit")
    )
    choice = choose(PHI2, low, a_gpu_of(40))
    assert choice is not None
    assert smallest(PHI2, low, a_gpu_of(24)).memory.reserved < 24e9


@pytest.mark.parametrize("gpu", ["rtx4090", "a100-40gb", "t4"])
def test_when_nothing_fits_it_says_what_would(gpu: str) -> None:
    device = find_device(gpu)
    found = remedies(PHI2, HALF_MILLION, device, {"--model.preset llama-350m": SMALL})
    assert any(remedy.fits for remedy in found)
    for remedy in found:
        assert remedy.reserved < smallest(PHI2, HALF_MILLION, device).memory.reserved + 1e9
    changes = " ".join(remedy.change for remedy in found)
    for part in ("adamw8bit", "--gpus", "--model.preset", "--gpu "):
        assert part in changes


def test_settings_that_were_asked_for_are_what_has_to_change() -> None:
    asked = dataclasses.replace(HALF_MILLION, micro_batch=64, activation_checkpointing="none")
    device = a_gpu_of(24)
    model = PRESETS["gpt2-355m"]
    choice = choose(model, asked, device)
    assert choice is not None  # a smaller micro-batch, as training would take
    assert choice.setup.micro_batch < 64
    changes = [remedy.change for remedy in remedies(PHI2, asked, device, {})]
    assert changes[0] == "--pretrain.micro_batch 1"
    assert changes[1].endswith("activation_checkpointing full")


def test_many_gpus_copy_what_fits_and_share_out_what_does_not() -> None:
    gpu = find_device("a100-40gb")
    small = choose(GPT2, dataclasses.replace(HALF_MILLION, gpus=4), gpu)
    large = choose(PHI2, dataclasses.replace(HALF_MILLION, gpus=4), gpu)
    assert small is not None
    assert large is not None
    assert (small.setup.sharding, large.setup.sharding) == ("ddp", "fsdp")
    assert small.setup.micro_batches == 512 // (4 * small.setup.micro_batch)
    # Gathered block by block, so compiled by the block, however few there are.
    assert (small.setup.engine.compile, large.setup.engine.compile) == ("on", "regional")
    wishes = dataclasses.replace(HALF_MILLION, gpus=4, sharding="fsdp")
    sharded = choose(GPT2, wishes, gpu)
    assert sharded is not None
    assert sharded.setup.engine.compile == "regional"


def test_micro_batches_are_alike_as_training_cuts_them() -> None:
    wishes = Wishes(1024, 96 * 1024)
    choice = choose(GPT2, wishes, find_device("h200"))
    assert choice is not None
    assert choice.setup.micro_batch == 48  # not 64 and 32


@pytest.mark.parametrize("gigabytes", [10, 15, 20, 24, 40])
def test_a_remedy_that_fits_is_one_that_would_be_chosen(gigabytes: float) -> None:
    device = a_gpu_of(gigabytes)
    for remedy in remedies(PHI2, HALF_MILLION, device, {}):
        if remedy.fits and "adamw8bit" in remedy.change:
            optimizer = OptimizerConfig(kind="adamw8bit")
            assert choose(PHI2, dataclasses.replace(HALF_MILLION, optimizer=optimizer), device)
