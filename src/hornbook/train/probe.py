"""Choosing precision, kernels and micro-batch by really running them.

In: the settings, and a `Trial` of the model on the first batch of the run. Out: a `Machine`. What
takes seconds is done without compiling; the choices are compiled once, by `compiling.start`.
"""

from __future__ import annotations

import math
import time
from dataclasses import replace

import torch

from hornbook.errors import HornbookError
from hornbook.model.engine import Compile, Engine
from hornbook.model.families import FAMILIES
from hornbook.model.gelu_matmul import has_kernel
from hornbook.plan.rules import what_to_compile
from hornbook.train.config import PretrainConfig
from hornbook.train.machine import Machine, asked, cpu_threads, device_name
from hornbook.train.precision import Precision, PrecisionName
from hornbook.train.probe_attention import fastest_attention
from hornbook.train.probe_memory import choose_memory
from hornbook.train.trial import Trial, first_line

BF16_WIDTH = 128
"""Narrower models use fp32 on a CPU: what bf16 gains there, if anything, is lost in the noise, and
two starts of the same run should choose the same."""

BF16_EMULATED = 2.0
"""Where a matrix product takes so many times as long in bf16 as in fp32, a CPU emulates it (40
times with AVX2 alone), and the model is not tried: with 124M parameters that took five minutes."""

CPU_TRIAL_TOKENS = 1024
"""Tokens of a forward and backward pass when a CPU's precisions are compared..."""

CPU_TRIAL_ROUNDS = 6
"""...so often each, by turns, and the fastest time of each counts..."""

CPU_TRIAL_SECONDS = 5.0
"""...but no further round begins after this long."""


def probe(config: PretrainConfig, trial: Trial, optimizer: torch.optim.Optimizer) -> Machine:
    """Find out how to train here.

    Args:
        config: what is asked for; `auto` and 0 are answered by trying.
        trial: the model in training mode and all rows of one step, on the device.
        optimizer: of the model, fresh; afterwards too.

    Raises:
        HornbookError: what was asked for does not work here, or one row does not fit in memory.
    """
    device = trial.device
    machine = Machine(
        device=device.type,
        device_name=device_name(device.type),
        precision="fp32",
        threads=cpu_threads(config.threads),
        torch=torch.__version__,
        asked=asked(config),
        weights=config.weights,
        processes=trial.world.size,
    )
    torch.set_num_threads(machine.threads)
    trial.model.engine = Engine()
    machine.precision = choose_precision(config, trial, machine.reasons)
    precision = Precision(machine.precision, device)
    machine.use(choose_engine(config, trial, precision, machine.reasons))
    choose_memory(config, machine, trial, precision, optimizer)
    return machine


# -------------------------------------------------------------------------------------- precision


def choose_precision(
    config: PretrainConfig, trial: Trial, reasons: dict[str, str]
) -> PrecisionName:
    """The precision asked for, if it works, or the best that does."""
    wanted = config.precision
    if config.weights == "bf16":
        wanted = "bf16"  # `check_training` refused any other
    if wanted == "fp32":
        return "fp32"
    # An old GPU computes bf16 by converting to fp32 and back: slower than both.
    emulated = trial.device.type == "cuda" and not torch.cuda.is_bf16_supported(
        including_emulation=False
    )
    if wanted != "auto":
        problem = "it has no bf16" if wanted == "bf16" and emulated else None
        problem = problem or trial.problem(Precision(wanted, trial.device))
        if problem is not None:
            field = "weights" if config.weights == "bf16" else "precision"
            raise HornbookError(
                f"{wanted} does not work on this {trial.device.type}: {problem}",
                where=f"pretrain.{field}",
                hint="Set it to fp32" if field == "weights" else "Set it to auto",
            )
        return wanted
    if trial.device.type == "cpu":
        return faster_on_cpu(trial, reasons)
    candidates: tuple[PrecisionName, ...] = ("fp16",) if emulated else ("bf16", "fp16")
    for name in candidates:
        problem = trial.problem(Precision(name, trial.device))
        if problem is None:
            reasons["precision"] = "this GPU has no bf16" if emulated else "tried"
            return name
        reasons["precision"] = f"{name} does not work: {problem}"
    return "fp32"


def faster_on_cpu(trial: Trial, reasons: dict[str, str]) -> PrecisionName:
    """bf16 where this CPU computes it, and so faster than fp32; many only emulate it, at a fraction
    of the speed, and tell nobody."""
    if trial.model.config.width < BF16_WIDTH:
        reasons["precision"] = "the model is too small to gain from bf16"
        return "fp32"
    (slowdown,) = trial.world.largest(bf16_slowdown())
    if slowdown > BF16_EMULATED:
        reasons["precision"] = f"this CPU has no bf16: {slowdown:.0f}x as slow"
        return "fp32"
    rows = min(len(trial.batch), max(1, CPU_TRIAL_TOKENS // trial.batch.inputs.shape[1]))
    best = {"fp32": math.inf, "bf16": math.inf}
    spent = 0.0  # by what all processes agree on, so that all stop after the same round
    for _ in range(CPU_TRIAL_ROUNDS):
        if spent > CPU_TRIAL_SECONDS:
            break
        plain = trial.seconds(Precision("fp32", trial.device), rows)
        best["fp32"] = min(best["fp32"], plain)
        try:
            seconds = trial.seconds(Precision("bf16", trial.device), rows)
        except (RuntimeError, FloatingPointError) as error:
            reasons["precision"] = f"bf16 does not work here: {first_line(error)}"
            return "fp32"
        best["bf16"] = min(best["bf16"], seconds)
        spent += plain + seconds
    gain = best["fp32"] / best["bf16"]
    reasons["precision"] = f"bf16 measured {gain:.1f}x as fast as fp32"
    return "bf16" if gain > 1 else "fp32"


def bf16_slowdown() -> float:
    """How many times as long as in fp32 a small matrix product takes in bf16 on this CPU; 0.1 s."""
    best = []
    for dtype in (torch.float32, torch.bfloat16):
        left, right = torch.ones(128, 256, dtype=dtype), torch.ones(256, 512, dtype=dtype)
        times = []
        for _ in range(4):
            began = time.perf_counter()
            left @ right
            times.append(time.perf_counter() - began)
        best.append(min(times))
    return best[1] / best[0]


# ----------------------------------------------------------------------------------------- kernels


def choose_engine(
    config: PretrainConfig, trial: Trial, precision: Precision, reasons: dict[str, str]
) -> Engine:
    """The kernels: those asked for, if they work, else the fastest here; memory comes later."""
    on_gpu = trial.device.type == "cuda"
    engine = Engine(float8=config.float8)
    if config.activation_checkpointing != "auto":
        engine = replace(engine, checkpointing=config.activation_checkpointing)
    if engine.checkpointing == "budget":
        engine = replace(engine, budget=config.activation_budget)
    if config.residual != "auto":
        engine = replace(engine, residual=config.residual)
    elif on_gpu and precision.name == "bf16":
        engine = replace(engine, residual="bf16")
    if config.attention != "auto":
        engine = _works("attention", replace(engine, attention=config.attention), trial, precision)
    elif on_gpu:
        kernel, reasons["attention"] = fastest_attention(trial, precision)
        engine = replace(engine, attention=kernel)
    if config.cross_entropy != "auto":
        engine = replace(engine, cross_entropy=config.cross_entropy)
        engine = _works("cross_entropy", engine, trial, precision)
    elif on_gpu:
        problem = _problem(replace(engine, cross_entropy="fused"), trial, precision)
        reasons["cross_entropy"] = f"fused does not work: {problem}" if problem else "fused works"
        engine = replace(engine, cross_entropy="plain" if problem else "fused")
    engine = _with_mlp(engine, config, trial, precision, reasons)
    engine = replace(engine, compile=_compile(config, trial))
    if engine.checkpointing == "budget" and engine.compile == "off":
        raise HornbookError(
            "a budget is kept by the compiler, and nothing is compiled",
            where="pretrain.activation_checkpointing",
            hint="Set pretrain.compile to on, or take selective",
        )
    return engine


def _with_mlp(
    engine: Engine,
    config: PretrainConfig,
    trial: Trial,
    precision: Precision,
    reasons: dict[str, str],
) -> Engine:
    """The engine, GELU inside its products where that is asked for, or works."""
    model = trial.model.config
    possible = (
        FAMILIES[model.family].architecture.mlp == "gelu"
        and precision.name != "fp32"
        and has_kernel(trial.device, model.width, model.mlp_width)
    )
    if config.mlp == "plain" or config.float8 or (config.mlp == "auto" and not possible):
        return engine
    if not possible:
        raise HornbookError(
            "fused is for 16 bits, families with GELU and NVIDIA GPUs",
            where="pretrain.mlp",
            hint="Set it to auto",
        )
    fused = replace(engine, mlp="fused")
    if config.mlp == "fused":
        return _works("mlp", fused, trial, precision)
    problem = _problem(fused, trial, precision)
    reasons["mlp"] = f"fused does not work: {problem}" if problem else "fused works"
    return engine if problem else fused


def _problem(engine: Engine, trial: Trial, precision: Precision) -> str | None:
    """Why an engine does not work; None when it does."""
    trial.model.engine = engine
    try:
        return trial.problem(precision)
    except Exception as error:  # Triton's errors, a C compiler's among them, have no common class
        return first_line(error)


def _works(setting: str, engine: Engine, trial: Trial, precision: Precision) -> Engine:
    """The engine with a setting that was asked for, or an error that says why it does not work."""
    problem = _problem(engine, trial, precision)
    if problem is not None:
        raise HornbookError(
            f"{getattr(engine, setting)} does not work here: {problem}",
            where=f"pretrain.{setting}",
            hint="Set it to auto",
        )
    return engine


def _compile(config: PretrainConfig, trial: Trial) -> Compile:
    """What to compile: by rule, as trying both would take a minute."""
    if config.compile != "auto":
        return config.compile
    if trial.device.type != "cuda":
        return "off"
    return what_to_compile(trial.model.config.layers, sharded=hasattr(trial.model, "unshard"))
