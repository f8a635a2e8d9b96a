"""Compiling the training step, once, and going on without where that does not work.

In: a `Machine` that says how. Out: the forward function, tried.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import time
from collections.abc import Iterator
from pathlib import Path

import torch
import torch._functorch.config as autograd_config
from torch.nn import functional

from hornbook import model
from hornbook.errors import HornbookError
from hornbook.progress import warn
from hornbook.train.machine import Machine
from hornbook.train.objective import Forward, bind
from hornbook.train.precision import Precision
from hornbook.train.step import free_memory
from hornbook.train.trial import Trial, first_line

KEPT = ("torch.nn.attention._sdpa_kernel", "torch.nn.attention._backend_from_string")
"""What `attention.kernel_choice` becomes in a graph: depends on its arguments alone, which are part
of the graph. PyTorch keeps no graph with functions that it has not been told so of."""


def start_workers() -> None:
    """Start the processes that kernels are compiled in. They take some seconds to get ready, and
    until then kernels are compiled one after the other."""
    from torch._inductor.async_compile import maybe_warm_pool

    maybe_warm_pool()


@contextlib.contextmanager
def graphs_kept() -> Iterator[None]:
    """PyTorch keeps also graphs with autograd functions and a choice of attention kernel on disk,
    and finds only this code's.

    A second start of 12 layers with `gelu_matmul`, on a CPU, got its graphs (kernels not counted)
    after 2.2 s instead of 8.7. A graph is known by what Dynamo traced, which has the gradients of
    autograd functions, but not those of custom operations: with another formula, the graph of the
    old one would be found.
    """
    from torch._inductor import config as inductor_config

    with (
        autograd_config.patch(autograd_cache_allow_custom_autograd_functions=True),
        inductor_config.patch(unsafe_marked_cacheable_functions=dict.fromkeys(KEPT, _code())),
        torch.compiler.config.patch(cache_key_tag=_code()),  # type: ignore[attr-defined]
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
    _order_kernels(trial.device)
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


def _order_kernels(device: torch.device) -> None:
    """Have PyTorch put attention kernels into the order that it prefers for a GPU, which it does in
    the first call. A graph holds the order that there was: before and after, it is another one."""
    if device.type == "cuda":
        x = torch.zeros(1, 1, 8, 64, dtype=torch.float16, device=device)
        functional.scaled_dot_product_attention(x, x, x)


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
