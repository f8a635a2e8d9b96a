"""Choosing precision, compilation and micro-batch by really running them.

In: the model and the first batch of the run. Out: a `Machine` and the forward function to train
with. Weights, optimizer and random numbers are as before afterwards.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import torch

from hornbook.errors import HornbookError
from hornbook.model.decoder import Decoder
from hornbook.optim.groups import set_learning_rate
from hornbook.progress import warn
from hornbook.tokens.batch import Batch
from hornbook.train.config import PretrainConfig
from hornbook.train.machine import Machine, asked, cpu_threads, device_name
from hornbook.train.objective import Forward, Objective, bind
from hornbook.train.precision import Precision, PrecisionName
from hornbook.train.step import accumulate, even_size, free_memory, is_out_of_memory

CPU_TOKENS = 4096
"""Tokens of a micro-batch on a CPU. Measured flat within noise from 1,024 to 16,384."""

CPU_LOGITS = 2**26
"""Logits of a micro-batch on a CPU: 256 MiB in float32, held about three times."""

BF16_WIDTH = 128
"""Narrower models use fp32 on a CPU: what bf16 gains there, if anything, is lost in the noise, and
two starts of the same run should choose the same."""

CPU_TRIAL_TOKENS = 1024
"""Tokens of a forward and backward pass when a CPU's precisions are compared..."""

CPU_TRIAL_ROUNDS = 6
"""...so often each, by turns, and the fastest time of each counts..."""

CPU_TRIAL_SECONDS = 5.0
"""...but no further round begins after this long."""

GPU_MEMORY_SHARE = 0.85
"""Part of the GPU's memory that a micro-batch may take; the rest is for evaluation and sampling."""

GPU_GAIN = 1.02
"""A micro-batch twice as large must be this much faster to be worth its memory."""


@dataclass
class Trial:
    """Forward and backward passes whose gradients are thrown away."""

    model: Decoder
    objective: Objective
    batch: Batch
    device: torch.device

    def seconds(self, precision: Precision, rows: int, forward: Forward | None = None) -> float:
        """Time of a pass over `rows` rows. Raises FloatingPointError when it is not finite."""
        forward = forward or bind(self.objective, self.model, compiled=False)
        batch = self.batch[:rows]
        self._wait()
        start = time.perf_counter()
        try:
            sums = accumulate(forward, batch, rows, self._weight(batch), precision)
            loss = float(torch.stack(sums.losses).sum())
            self._wait()
        finally:
            self.model.zero_grad(set_to_none=True)
        if not math.isfinite(loss):
            raise FloatingPointError(f"the loss is {loss}")
        return time.perf_counter() - start

    def _weight(self, batch: Batch) -> float:
        return max(1.0, self.objective.weight(batch))

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        elif self.device.type == "mps":
            torch.mps.synchronize()


def probe(
    config: PretrainConfig,
    model: Decoder,
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    device: torch.device,
) -> tuple[Machine, Forward]:
    """Find out how to train here.

    Args:
        config: what is asked for; `auto` and 0 are answered by trying.
        model: on `device`, in training mode.
        objective: the loss.
        optimizer: of the model, fresh.
        batch: all rows of one step, on `device`.
        device: where to train.

    Raises:
        HornbookError: what was asked for does not work here, or one row does not fit in memory.
    """
    machine = Machine(
        device=device.type,
        device_name=device_name(device.type),
        precision="fp32",
        compile=False,
        threads=cpu_threads(config.threads),
        torch=torch.__version__,
        asked=asked(config),
    )
    torch.set_num_threads(machine.threads)
    trial = Trial(model, objective, batch, device)
    reasons = machine.reasons
    machine.precision = choose_precision(config.precision, trial, reasons)
    precision = Precision(machine.precision, device)
    if config.micro_batch:
        rows = min(config.micro_batch, len(batch))
    elif device.type == "cuda":
        rows = largest_micro_batch(trial, precision, optimizer)
        reasons["micro_batch"] = "the largest of the powers of two tried that fits and is faster"
    else:
        tokens = batch.inputs.shape[1]
        rows = cpu_micro_batch(len(batch), tokens, model.config.vocabulary_rows)
        reasons["micro_batch"] = f"about {CPU_TOKENS} tokens: larger ones are not faster here"
    machine.micro_batches = [[1, even_size(len(batch), rows)]]
    forward = _choose_compile(config.compile, machine, trial, precision)
    return machine, forward


# -------------------------------------------------------------------------------------- precision


def choose_precision(wanted: str, trial: Trial, reasons: dict[str, str]) -> PrecisionName:
    """The precision asked for, if it works, or the best that does."""
    if wanted == "fp32":
        return "fp32"
    if wanted != "auto":
        name: PrecisionName = wanted  # type: ignore[assignment]  # the recipe checked it
        problem = precision_problem(name, trial)
        if problem is not None:
            raise HornbookError(
                f"{wanted} does not work on this {trial.device.type}: {problem}",
                where="pretrain.precision",
                hint="Set it to auto",
            )
        return name
    if trial.device.type == "cpu":
        return faster_on_cpu(trial, reasons)
    # An old GPU computes bf16 by converting to fp32 and back: slower than both.
    has_bf16 = trial.device.type != "cuda" or torch.cuda.is_bf16_supported(
        including_emulation=False
    )
    candidates: tuple[PrecisionName, ...] = ("bf16", "fp16") if has_bf16 else ("fp16",)
    for name in candidates:
        problem = precision_problem(name, trial)
        if problem is None:
            reasons["precision"] = "tried" if has_bf16 else "this GPU has no bf16"
            return name
        reasons["precision"] = f"{name} does not work: {problem}"
    return "fp32"


def precision_problem(name: PrecisionName, trial: Trial) -> str | None:
    """Why a training step in this precision does not work; None when it does."""
    try:
        trial.seconds(Precision(name, trial.device), 1)
    except (RuntimeError, FloatingPointError) as error:
        if is_out_of_memory(error):
            raise _no_row_fits(trial) from error
        return str(error).splitlines()[0]
    return None


def faster_on_cpu(trial: Trial, reasons: dict[str, str]) -> PrecisionName:
    """bf16 where this CPU computes it, and so faster than fp32; many only emulate it, at a fraction
    of the speed, and tell nobody."""
    if trial.model.config.width < BF16_WIDTH:
        reasons["precision"] = "the model is too small to gain from bf16"
        return "fp32"
    rows = min(len(trial.batch), max(1, CPU_TRIAL_TOKENS // trial.batch.inputs.shape[1]))
    best = {"fp32": math.inf, "bf16": math.inf}
    began = time.perf_counter()
    for turn in range(CPU_TRIAL_ROUNDS):
        if turn > 0 and time.perf_counter() - began > CPU_TRIAL_SECONDS:
            break
        best["fp32"] = min(best["fp32"], trial.seconds(Precision("fp32", trial.device), rows))
        try:
            seconds = trial.seconds(Precision("bf16", trial.device), rows)
        except (RuntimeError, FloatingPointError) as error:
            reasons["precision"] = f"bf16 does not work here: {str(error).splitlines()[0]}"
            return "fp32"
        best["bf16"] = min(best["bf16"], seconds)
    gain = best["fp32"] / best["bf16"]
    reasons["precision"] = f"bf16 measured {gain:.1f}x as fast as fp32"
    return "bf16" if gain > 1 else "fp32"


# ------------------------------------------------------------------------------------ micro-batch


def cpu_micro_batch(rows: int, sequence_length: int, vocabulary_rows: int) -> int:
    """Rows of a micro-batch on a CPU: by rule, not by timing, so that two runs choose the same."""
    most = min(CPU_TOKENS // sequence_length, CPU_LOGITS // (sequence_length * vocabulary_rows))
    return min(rows, max(1, most))


def largest_micro_batch(
    trial: Trial, precision: Precision, optimizer: torch.optim.Optimizer
) -> int:
    """Rows of a micro-batch on a GPU: doubled while it fits and gains speed."""
    limit = GPU_MEMORY_SHARE * torch.cuda.mem_get_info(trial.device)[1]
    best, best_speed = 0, 0.0
    rows = 1
    try:
        allocate_state(optimizer)
        while rows <= len(trial.batch):
            speed = _rows_per_second(trial, precision, rows, limit)
            if speed is None or speed < GPU_GAIN * best_speed:
                break
            best, best_speed = rows, speed
            rows *= 2
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
    finally:
        optimizer.state.clear()
        optimizer.zero_grad(set_to_none=True)
        free_memory(trial.device)
        torch.cuda.reset_peak_memory_stats()
    if best == 0:
        raise _no_row_fits(trial)
    return best


def _rows_per_second(trial: Trial, precision: Precision, rows: int, limit: float) -> float | None:
    """Speed of a micro-batch, the second time it runs; None when it takes too much memory."""
    free_memory(trial.device)
    torch.cuda.reset_peak_memory_stats()
    trial.seconds(precision, rows)
    speed = rows / trial.seconds(precision, rows)
    return speed if torch.cuda.max_memory_reserved() <= limit else None


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


# --------------------------------------------------------------------------------------- compiling


def _choose_compile(wanted: str, machine: Machine, trial: Trial, precision: Precision) -> Forward:
    """The forward function, compiled where that is asked for or pays (CUDA) and works."""
    if wanted == "on" or (wanted == "auto" and machine.device == "cuda"):
        forward = bind(trial.objective, trial.model, compiled=True)
        start = time.perf_counter()
        try:
            _try_compiled(forward, machine, trial, precision)
        except HornbookError:
            raise
        except Exception as error:  # the compiler's errors have no common class
            problem = (str(error).splitlines() or [type(error).__name__])[0]
            if wanted == "on":
                raise HornbookError(
                    f"torch.compile does not work here: {problem}",
                    where="pretrain.compile",
                    hint="Set it to auto or off",
                ) from error
            warn(f"torch.compile does not work here, training goes on without it: {problem}")
            machine.reasons["compile"] = f"does not work: {problem}"
        else:
            machine.compile = True
            machine.reasons["compile"] = f"compiled in {time.perf_counter() - start:.0f} s"
            return forward
    return bind(trial.objective, trial.model, compiled=False)


def _try_compiled(forward: Forward, machine: Machine, trial: Trial, precision: Precision) -> None:
    """Run the compiled forward function, with smaller micro-batches until one fits.

    Memory running out says nothing against compiling; the micro-batch asked for is too large.
    """
    rows = machine.micro_batch(1)
    while not _fits(forward, trial, precision, rows):
        if rows == 1:
            raise _no_row_fits(trial)
        rows //= 2
        free_memory(trial.device)
        warn(f"out of memory: trying a micro-batch of {rows} rows")
        machine.reasons["micro_batch"] = "the first half, quarter, ... that fits in memory"
    machine.micro_batches = [[1, rows]]


def _fits(forward: Forward, trial: Trial, precision: Precision, rows: int) -> bool:
    """Whether a pass over `rows` rows finds the memory it needs."""
    try:
        trial.seconds(precision, rows, forward)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return False
    return True


def _no_row_fits(trial: Trial) -> HornbookError:
    return HornbookError(
        f"one row of {trial.batch.inputs.shape[1]:,} tokens does not fit in memory",
        hint="Take a smaller model (model.preset) or a shorter model.context",
    )
