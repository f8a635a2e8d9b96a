"""A few real training steps of a model on random tokens, to see how fast it is and what it takes.

In: an architecture and settings; no text. Out: a `Rehearsal`. The steps are the trainer's own, on
the machine that probing chooses; nothing is kept.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from hornbook.model.config import ModelConfig
from hornbook.model.decoder import Decoder
from hornbook.optim.config import OptimizerConfig
from hornbook.optim.groups import build_optimizer
from hornbook.tokens.batch import Batch
from hornbook.train.compiling import start
from hornbook.train.config import PretrainConfig
from hornbook.train.horizon import rows_per_step
from hornbook.train.machine import Machine, pick_device
from hornbook.train.objective import NextToken
from hornbook.train.precision import Precision
from hornbook.train.probe import probe
from hornbook.train.process import settings_restored
from hornbook.train.replay import choose_replay
from hornbook.train.start import prepare_weights
from hornbook.train.step import Stepper
from hornbook.train.trial import Trial

WARM_UP = 2
"""Steps that do not count: they compile, tune and allocate."""

MOST_TOKENS = {"cuda": 2**18, "cpu": 2**13, "mps": 2**14}
"""Tokens of a step at most; of a larger one only so much is rehearsed, as it would take minutes."""


@dataclass(frozen=True)
class Rehearsal:
    """What the steps were like.

    Attributes:
        machine: the choices they ran with.
        rows: of a step as rehearsed, at most those asked for.
        seconds: of a step.
        peak: bytes allocated at most (CUDA; 0 elsewhere).
    """

    machine: Machine
    rows: int
    seconds: float
    peak: int


def rehearse(
    model: ModelConfig,
    optimizer_config: OptimizerConfig,
    config: PretrainConfig,
    sequence_length: int,
    *,
    steps: int = 3,
    most_tokens: int = 0,
) -> Rehearsal:
    """Do `steps` real steps after some that do not count.

    Args:
        model: the architecture, with new weights.
        optimizer_config: the recipe's `optimizer` section.
        config: the recipe's `pretrain` section; what is `auto` is found by trying.
        sequence_length: tokens of a row.
        steps: that count.
        most_tokens: of a step; of a larger one only so much is rehearsed. 0: `MOST_TOKENS`.

    Raises:
        HornbookError: what is asked for does not work here, or does not fit.
    """
    device = pick_device(config.device)
    most = max(1, (most_tokens or MOST_TOKENS[device.type]) // sequence_length)
    rows = min(rows_per_step(config, sequence_length), most)
    ids = torch.randint(0, model.vocabulary, (rows, sequence_length + 1))
    batch = Batch(ids[:, :-1].contiguous(), ids[:, 1:].contiguous()).to(device)
    with settings_restored():
        if device.type == "cuda":
            torch.set_float32_matmul_precision("high")
        with device:  # 2.8 billion weights take 20 s to draw on a processor
            decoder = Decoder(model).train()
        prepare_weights(decoder, config, device)
        optimizer = build_optimizer(decoder, optimizer_config, device)
        trial = Trial(decoder, NextToken(), batch, device)
        machine = probe(config, trial, optimizer)
        forward = start(machine, trial, config.compile)
        replay = choose_replay(config, machine, trial, optimizer, forward)
        stepper = Stepper(
            decoder,
            forward,
            optimizer,
            Precision(machine.precision, device),
            gradient_clip=optimizer_config.gradient_clip,
            seed=config.seed,
            replay=replay,
        )
        weight = float(batch.targets.numel())

        def several(first: int, count: int) -> None:
            """Handed over one after the other, as in training; then their numbers are read."""
            handed = [
                stepper.step(
                    number, batch, machine.micro_batch(number), weight,
                    smaller=machine.change_micro_batch,
                )
                for number in range(first, first + count)
            ]  # fmt: skip
            for pending in handed:
                pending.result()

        several(1, WARM_UP)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        began = time.perf_counter()
        several(WARM_UP + 1, steps)
        seconds = (time.perf_counter() - began) / steps
    peak = torch.cuda.max_memory_allocated() if device.type == "cuda" else 0
    if replay is not None:
        peak += replay.bytes
    return Rehearsal(machine, rows, seconds, peak)
