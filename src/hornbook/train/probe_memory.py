"""How many rows fit into a forward pass, and what has to be given up for it.

In: a `Trial` and a `Machine` whose kernels are chosen. Out: in the machine, the micro-batch, what
the backward pass computes again, and whether the loss holds all logits at once.

On a GPU passes are really run, without compiling: a compiled pass keeps less, so what fits here
fits there, and compiling several shapes would take minutes.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import replace

import torch

from hornbook.model.engine import Engine
from hornbook.optim.groups import set_learning_rate
from hornbook.plan.rules import (
    CPU_TOKENS,
    FILLING_TOKENS,
    GPU_TOKENS,
    cpu_micro_batch,
    even_rows,
    memory_share,
)
from hornbook.train.config import PretrainConfig
from hornbook.train.machine import Machine
from hornbook.train.precision import Precision
from hornbook.train.step import free_memory, is_out_of_memory
from hornbook.train.trial import Trial


def choose_memory(
    config: PretrainConfig,
    machine: Machine,
    trial: Trial,
    precision: Precision,
    optimizer: torch.optim.Optimizer,
) -> None:
    """Set the machine's micro-batch, activation checkpointing and cross-entropy.

    Raises:
        HornbookError: not even one row fits.
    """
    count, tokens = trial.batch.inputs.shape
    if trial.device.type == "cuda":
        with state_allocated(trial, optimizer):
            limit = memory_limit(trial.device, memory_share(machine.compile))
            if trial.world.size > 1 and not hasattr(trial.model, "unshard"):
                # DDP holds gradients a second time, as they are exchanged; no pass here is wrapped.
                limit -= sum(parameter.nbytes for parameter in trial.model.parameters())
            engines = _candidates(config, machine)
            if config.micro_batch:
                rows = min(config.micro_batch, count)
                engine = _first_that_fits(engines, trial, precision, rows, limit)
            else:
                wanted = min(count, max(1, GPU_TOKENS // tokens))
                enough = min(wanted, math.ceil(FILLING_TOKENS / tokens))
                engine, rows = _most_rows(engines, trial, precision, wanted, enough, limit)
                machine.reasons["micro_batch"] = f"{rows} of {wanted} rows that would pay fit"
        if machine.checkpointing == "budget":
            engine = replace(engine, checkpointing="budget")
        machine.use(replace(engine, compile=machine.compile))
    elif config.micro_batch:
        rows = min(config.micro_batch, count)
    else:
        rows = cpu_micro_batch(count, tokens, trial.model.config.vocabulary_rows)
        machine.reasons["micro_batch"] = f"about {CPU_TOKENS} tokens: larger ones are not faster"
    machine.micro_batches = [[1, even_rows(count, rows)]]


def _candidates(config: PretrainConfig, machine: Machine) -> list[Engine]:
    """What may be given up for memory, little by little: first that all logits are held at once,
    then activations. Nothing is compiled; `selective` stands in for what the compiler would do
    with an activation budget."""
    first = replace(machine.engine(), compile="off")
    if first.checkpointing == "budget":
        first = replace(first, checkpointing="selective")
    engines = [first]
    if config.cross_entropy == "auto":
        engines.append(replace(first, cross_entropy="chunked"))
    if config.activation_checkpointing == "auto":
        engines.append(replace(engines[-1], checkpointing="selective"))
        engines.append(replace(engines[-1], checkpointing="full"))
    return engines


def _first_that_fits(
    engines: list[Engine], trial: Trial, precision: Precision, rows: int, limit: float
) -> Engine:
    """The first of the engines that so many rows fit with. The last is not tried: if they do not
    fit with that either, the first step will halve them."""
    for engine in engines[:-1]:
        trial.model.engine = engine
        if trial.fits(precision, rows, limit=limit):
            return engine
    return engines[-1]


def _most_rows(
    engines: list[Engine],
    trial: Trial,
    precision: Precision,
    wanted: int,
    enough: int,
    limit: float,
) -> tuple[Engine, int]:
    """The first of the engines that `enough` rows fit with, or else the one that the most rows fit
    with; and the largest of 1, 2, 4, ... `wanted` rows that do."""
    most: dict[Engine, int] = {}
    for engine in engines:
        trial.model.engine = engine
        most[engine], rows = 0, 1
        while rows > most[engine] and trial.fits(precision, rows, limit=limit):
            most[engine], rows = rows, min(2 * rows, wanted)
        if most[engine] >= enough:
            break
    best = max(most, key=most.__getitem__)
    if most[best] == 0:
        raise trial.no_row_fits()
    return best, most[best]


def memory_limit(device: torch.device, share: float) -> float:
    """Bytes of the GPU that a pass may take, with what this process holds already."""
    free, total = torch.cuda.mem_get_info(device)
    # Of the present device: this function, unlike its sisters, refuses a device without index.
    allowed = torch.cuda.get_per_process_memory_fraction() * total
    return share * min(allowed, free + torch.cuda.memory_reserved(device))


@contextlib.contextmanager
def state_allocated(trial: Trial, optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """The optimizer's moments take their memory, as they do in training."""
    try:
        allocate_state(optimizer)
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise trial.no_row_fits() from error
    finally:
        optimizer.state.clear()
        optimizer.zero_grad(set_to_none=True)
        free_memory(trial.device)


def allocate_state(optimizer: torch.optim.Optimizer) -> None:
    """Have the optimizer allocate its moments, by a step of learning rate 0 on zero gradients.

    Parameters stay as they are; clear `optimizer.state` afterwards.
    """
    rates = [group["lr"] for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    set_learning_rate(optimizer, 0.0)
    optimizer.step()
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
