"""Two processes take the same decisions, start from the same weights and exchange no more than it
takes, whole or sharded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import agreeing
import pytest
import tiny_run
import torch
from tiny_run import PRETRAIN

from hornbook.model.decoder import Decoder
from hornbook.optim.config import OptimizerConfig
from hornbook.train.parallel import ALONE
from hornbook.train.sharding import Sharing
from hornbook.train.start import place

PROCESSES = 2


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each process found."""
    return found_on("cpu", tmp_path_factory.mktemp("agreement"))


def found_on(device: str, folder: Path) -> list[dict[str, Any]]:
    """What each process finds. Processes that wait for each other for ever end as a failure."""
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone",
        "--nproc-per-node", str(PROCESSES), agreeing.__file__, str(folder), device,
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    names = [folder / f"process-{rank}.json" for rank in range(PROCESSES)]
    return [json.loads(name.read_text()) for name in names]


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_compiling_that_fails_in_one_process_is_given_up_by_all(
    found: list[dict[str, Any]], kind: str
) -> None:
    sentence = "torch.compile does not work here, training goes on without it: no C compiler here"
    assert [process["compiled"][kind] for process in found] == [
        ["off", [f"{sentence} (in process 1 of 2)"]],
        ["off", [sentence]],
    ]


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_what_fails_in_one_process_is_found_by_all(found: list[dict[str, Any]], kind: str) -> None:
    assert [process["problem"][kind] for process in found] == [
        "no such kernel (in process 1 of 2)", "no such kernel",
    ]  # fmt: skip


def test_shards_are_drawn_as_the_whole(found: list[dict[str, Any]]) -> None:
    for process in found:
        assert process["weights"] == {"fp32": [], "bf16": []}


@pytest.mark.parametrize("family", ["gpt2", "phi", "qwen3"])
@pytest.mark.parametrize("weights", ["fp32", "bf16"])
def test_weights_drawn_late_are_those_drawn_at_once(family: str, weights: str) -> None:
    stock: dict[str, Any] = {"gpt2": {}, "phi": {"tied": False}, "qwen3": {}}[family]
    config = replace(tiny_run.MODEL, family=family, **stock)
    settings = replace(PRETRAIN, weights=weights, seed=5)
    with torch.device("meta"):
        model = Decoder(config, initialise=False)
    place(model, settings, Sharing(ALONE, settings, OptimizerConfig()), torch.device("cpu"))
    whole = Decoder(config, torch.Generator().manual_seed(5))
    dtype = torch.bfloat16 if weights == "bf16" else torch.float32
    for name, parameter in whole.named_parameters():
        assert torch.equal(model.get_parameter(name), parameter.to(dtype)), name
    for name, buffer in whole.named_buffers():
        assert torch.equal(model.get_buffer(name), buffer), name


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_samples_and_validation_are_those_of_one_process(
    found: list[dict[str, Any]], tmp_path: Path, kind: str
) -> None:
    first, second = (process["sampled"][kind] for process in found)
    assert first == second
    alone = agreeing.sampled(tmp_path)
    assert [first[i] for i in (1, 3)] == [alone[i] for i in (1, 3)]
    assert [first[i] for i in (0, 2)] == pytest.approx([alone[i] for i in (0, 2)], rel=1e-5)


def test_gradients_are_exchanged_once_a_step_where_memory_allows(
    found: list[dict[str, Any]],
) -> None:
    units, micro_batches = tiny_run.MODEL.layers + 1, agreeing.MICRO_BATCHES
    for process in found:
        counts = process["exchanged"]
        assert counts["ddp"] == {"allreduce_": 1}
        assert counts["fsdp, kept"] == {"_allgather_base_": units, "_reduce_scatter_base_": units}
        assert counts["fsdp"] == {
            # The first and last layers, embedding and head, are gathered for both passes at once.
            "_allgather_base_": micro_batches * (2 * units - 1),
            "_reduce_scatter_base_": micro_batches * units,
        }
        for name in ("hsdp, kept", "hsdp"):  # between the hosts
            assert counts[name]["allreduce_"] == units
