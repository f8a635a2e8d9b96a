"""Compiling the training step, once, and going on without where that does not work.

In: a `Machine` that says how. Out: the forward function, tried.
"""

from __future__ import annotations

import time

from hornbook.errors import HornbookError
from hornbook.progress import warn
from hornbook.train.machine import Machine
from hornbook.train.objective import Forward, bind
from hornbook.train.precision import Precision
from hornbook.train.step import free_memory
from hornbook.train.trial import Trial, first_line


def start(machine: Machine, trial: Trial, wanted: str) -> Forward:
    """Model and objective as the machine says, after a pass over a micro-batch where compiled.

    Args:
        machine: the choices; the micro-batch gets smaller where compiled it does not fit, and
            `compile` becomes `off` where it does not work.
        trial: model and rows.
        wanted: `pretrain.compile`; unless it is `auto`, compiling must work.

    Raises:
        HornbookError: compiling is asked for and does not work; one row does not fit in memory.
    """
    trial.model.engine = machine.engine()
    forward = bind(trial.objective, trial.model)
    if machine.compile == "off":
        return forward
    began = time.perf_counter()
    try:
        if hasattr(trial.model, "unshard"):  # that it fits is for the whole model to say
            rows = machine.micro_batches[-1][1]
            trial.apart().fits(Precision(machine.precision, trial.device), rows)
        _try_compiled(forward, machine, trial)
    except HornbookError:
        raise
    except Exception as error:  # the compiler's errors have no common class
        problem = first_line(error)
        if wanted != "auto" or machine.checkpointing == "budget":
            field = "compile" if wanted != "auto" else "activation_checkpointing"
            raise HornbookError(
                f"torch.compile does not work here: {problem}",
                where=f"pretrain.{field}",
                hint="Set it to auto",
            ) from error
        warn(f"torch.compile does not work here, training goes on without it: {problem}")
        machine.reasons["compile"] = f"does not work: {problem}"
        machine.compile = "off"
        trial.model.engine = machine.engine()
        return bind(trial.objective, trial.model)
    machine.reasons["compile"] = f"took {time.perf_counter() - began:.0f} s"
    return forward


def _try_compiled(forward: Forward, machine: Machine, trial: Trial) -> None:
    """Run the compiled forward function, with smaller micro-batches until one fits.

    Memory running out says nothing against compiling; the micro-batch is too large.
    """
    precision = Precision(machine.precision, trial.device)
    rows = machine.micro_batches[-1][1]
    while not trial.fits(precision, rows, forward):
        if rows == 1:
            raise trial.no_row_fits()
        rows //= 2
        free_memory(trial.device)
        warn(f"out of memory: trying a micro-batch of {rows} rows")
        machine.reasons["micro_batch"] = "the first half, quarter, ... that fits in memory"
    if rows != machine.micro_batches[-1][1]:
        machine.micro_batches = [[1, rows]]
