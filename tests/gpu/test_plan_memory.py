"""Predicted peak memory against real steps, on the GPU that is here."""

from __future__ import annotations

import dataclasses
import gc
from typing import Any

import pytest
import torch

from hornbook.model.presets import PRESETS
from hornbook.optim.config import OptimizerConfig
from hornbook.plan.memory import memory
from hornbook.plan.setup import Setup
from hornbook.train.config import PretrainConfig
from hornbook.train.rehearsal import rehearse

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.mark.parametrize(
    ("preset", "rows", "changes"),
    [
        ("gpt2-124m", 16, {"compile": "regional"}),
        ("gpt2-124m", 16, {"compile": "regional", "activation_checkpointing": "full"}),
        ("qwen3-125m", 8, {"compile": "regional"}),
        ("gpt2-355m", 8, {"compile": "off", "cross_entropy": "chunked"}),
    ],
)
def test_peak_memory_within_a_tenth(preset: str, rows: int, changes: dict[str, Any]) -> None:
    model = dataclasses.replace(PRESETS[preset], context=1024)
    config = PretrainConfig(
        steps=1, micro_batch=rows, global_batch_tokens=rows * 1024, precision="bf16", **changes
    )
    gc.collect()  # what an earlier case left in cycles would count
    torch.cuda.empty_cache()
    done = rehearse(model, OptimizerConfig(), config, 1024)
    setup = Setup(
        1024,
        done.rows,
        done.machine.micro_batches[-1][1],
        precision=done.machine.precision,
        engine=done.machine.engine(),
        cuda_graph=done.machine.cuda_graph,
    )
    assert memory(model, setup).peak == pytest.approx(done.peak, rel=0.10)
