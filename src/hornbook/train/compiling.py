"""Compiling the training step, once, and going on without where that does not work.

In: a `Machine` that says how. Out: the forward function, tried.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
import torch._functorch.config as autograd_config

from hornbook import model
from hornbook.errors import HornbookError
from hornbook.progress import warn
from hornbook.train.machine import Machine
from hornbook.train.objective import Forward, bind
from hornbook.train.precision import Precision
from hornbook.train.step import free_memory
from hornbook.train.trial import Trial, first_line


@contextlib.contextmanager
def loading_compiler(wanted: bool) -> Iterator[None]:
    """With `wanted`, import the compiler in a thread, which takes a second, and start the processes
    that kernels are compiled in, which takes them some more, beside what is done in here.

    That must not import anything, as parts of the compiler import each other.
    """
    with ThreadPoolExecutor(1) as background:
        if wanted:
            background.submit(_load_compiler)  # compiling meets again whatever fails in it
        yield


def _load_compiler() -> None:
    from torch._inductor import compile_fx  # noqa: F401
    from torch._inductor.async_compile import maybe_warm_pool

    maybe_warm_pool()


@contextlib.contextmanager
def graphs_kept() -> Iterator[None]:
    """PyTorch also finds graphs of autograd functions in its cache on disk, which takes it half of
    the time (CPU, 12 layers with `gelu_matmul`: 2.2 s instead of 8.7), and only those of this code.

    It knows a graph by what Dynamo traced. That has the gradients of autograd functions, but not
    those of custom operations: another formula would find the old one's graph.
    """
    with (
        autograd_config.patch(autograd_cache_allow_custom_autograd_functions=True),
        torch.compiler.config.patch(cache_key_tag=_code()),
    ):
        yield


@functools.cache
def _code() -> str:
    """The code of the model."""
    files = sorted(Path(model.__path__[0]).rglob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


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
        with graphs_kept():
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
