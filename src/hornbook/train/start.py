"""What happens between a model and its first step: its weights' type, the machine, the length.

In: settings, the model, the run's folder. Out: a `Machine`, a forward function, seconds a step.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import torch

from hornbook.errors import HornbookError
from hornbook.model.decoder import Decoder
from hornbook.optim.sharding import copy_rows
from hornbook.tokens.batch import Batch
from hornbook.train import horizon
from hornbook.train.compiling import start, start_workers
from hornbook.train.config import PretrainConfig
from hornbook.train.machine import FILE, Machine
from hornbook.train.objective import Forward
from hornbook.train.parallel import World
from hornbook.train.probe import probe
from hornbook.train.sharding import Sharing
from hornbook.train.step import Pending, Stepper
from hornbook.train.trial import Trial


def prepare_weights(model: Decoder, config: PretrainConfig, device: torch.device) -> None:
    """Store the parameters in the type that is asked for, and change the products for 8 bits of
    `device`, to which the model is about to go.

    Buffers, such as tables of rotary angles, stay float32.
    """
    if config.weights == "bf16":
        for parameter in model.parameters():
            parameter.data = parameter.data.to(torch.bfloat16)
    if config.float8:
        from hornbook.model.float8 import convert

        convert(model, device)


def place(model: Decoder, config: PretrainConfig, sharing: Sharing, device: torch.device) -> None:
    """Move this process's part of a model to the device, ready to train.

    A model on `meta` gets its initial weights here: every process draws all of them, one parameter
    after the other, and keeps its own rows. So they depend on the seed alone, and no process ever
    holds more than its part and one whole parameter.
    """
    prepare_weights(model, config, device)
    sharing.prepare(model)
    if config.compile != "off" and device.type == "cuda":
        start_workers()
    if model.embedding.weight.is_meta:
        # As `to_empty` does it, which would also empty buffers that have their numbers.
        model._apply(  # type: ignore[no-untyped-call]
            lambda t: torch.empty_like(t, device=device) if t.is_meta else t
        )
        model.initialise(torch.Generator().manual_seed(config.seed), put=copy_rows)
    model.to(device).train()


def choose_machine(
    config: PretrainConfig,
    trial: Trial,
    optimizer: torch.optim.Optimizer,
    folder: Path,
    stored: dict[str, Any],
) -> tuple[Machine, Forward, str | None]:
    """Take the choices of an earlier start where they hold, else make them by trying.

    Args:
        config: what is asked for.
        trial: the model and the rows of a step.
        optimizer: of the model, fresh.
        folder: of the stage, with the machine.json of an earlier start.
        stored: state of the checkpoint that is gone on from; empty: none.

    Returns:
        The choices, model and objective bound so, and in words what is unlike what the checkpoint
        was trained with.
    """
    # Read by process 0 alone: one that saw another file, or none yet, would take another way.
    found = Machine.read(folder) if trial.world.is_main else None
    values = trial.world.share(dataclasses.asdict(found) if found else None)
    earlier = Machine(**values) if values else None
    if earlier is None and stored:
        earlier = Machine.from_json(
            stored["machine"],
            f"the newest checkpoint in {folder}",
            hint="Use the version of hornbook that wrote it",
        )
    holds = earlier is not None and earlier.answers(config, trial.device.type, trial.world.size)
    if earlier is not None and not trial.world.any(not holds)[0]:
        machine = dataclasses.replace(earlier, torch=torch.__version__)
        torch.set_num_threads(machine.threads)
    else:
        machine = probe(config, trial, optimizer)
        if earlier is not None:
            # A run keeps its length in steps on whatever machine it goes on.
            machine.steps_per_minute = earlier.steps_per_minute
    if trial.world.size > 1:
        machine = agreed(machine, trial.world)
    forward = start(machine, trial, config.compile)
    difference = machine.difference(earlier) if earlier is not None and stored else None
    return machine, forward, difference


def agreed(machine: Machine, world: World) -> Machine:
    """The choices of process 0, with the smallest micro-batch of any."""
    (rows,) = world.smallest(machine.micro_batches[-1][1])
    machine = Machine(**world.share(dataclasses.asdict(machine)))
    if rows < machine.micro_batches[-1][1]:
        machine.micro_batches = [[1, int(rows)]]
    return machine


def stop_for_memory(machine: Machine, folder: Path, world: World, step: int) -> NoReturn:
    """Memory ran out in this one of several processes, and the others wait for it in vain.

    Its smaller micro-batch is written down first, so that the run goes on with that.
    """
    own = folder / f"process-{world.rank}"  # all of them may be here at once
    machine.write(own)
    (own / FILE).replace(folder / FILE)
    own.rmdir()
    raise HornbookError(
        f"out of memory in process {world.rank} of {world.size}",
        where=f"step {step}",
        hint="The same command goes on from the last checkpoint, with a micro-batch of "
        f"{machine.micro_batch(step)} rows",
    )


def calibrate(
    stepper: Stepper,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    weight: float,
    micro_batch: Callable[[], int],
    shrink: Callable[[int, int], None],
    *,
    step: int,
    minutes: float,
) -> float:
    """Seconds of a step, from steps of learning rate 0 that leave no trace.

    Args:
        stepper: made for this alone.
        optimizer: its learning rate is 0.
        batch: the rows of a step, on the device.
        weight: of the batch.
        micro_batch: rows of a forward pass, as they are now.
        shrink: as in `Stepper.step`.
        step: number of the step to come.
        minutes: budget of the run.
    """
    in_flight: list[Pending] = []

    def rehearse() -> None:
        in_flight.append(stepper.step(step, batch, micro_batch(), weight, smaller=shrink))
        # As in training: the numbers of one step are read while the next one runs.
        if len(in_flight) > stepper.pipelined:
            in_flight.pop(0).result()

    seconds = horizon.seconds_of_step(rehearse, minutes * 60)
    optimizer.zero_grad(set_to_none=True)
    optimizer.state.clear()
    return seconds
