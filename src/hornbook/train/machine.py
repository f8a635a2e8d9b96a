"""What a run was given by its machine: device, precision, kernels, micro-batch, threads.

In: what `probe.py` found by trying. Out: `machine.json`, from which a resumed run takes the same
choices, because other ones would give other last bits.
"""

from __future__ import annotations

import dataclasses
import os
import platform
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from hornbook.errors import HornbookError
from hornbook.files import read_json, write_json
from hornbook.model.engine import (
    MLP,
    AttentionKernel,
    Checkpointing,
    Compile,
    CrossEntropy,
    Engine,
    Residual,
)
from hornbook.plan.gpus import peak_flops
from hornbook.train.config import PretrainConfig
from hornbook.train.precision import PrecisionName

FILE = "machine.json"

OTHER_CHOICES = (
    "weights",
    "attention",
    "checkpointing",
    "cross_entropy",
    "residual",
    "mlp",
    "float8",
    "cuda_graph",
)
"""Said in the one line for the user where they are not the plain ones."""

ASKED = (
    "device",
    "precision",
    "attention",
    "cross_entropy",
    "activation_checkpointing",
    "activation_budget",
    "residual",
    "mlp",
    "weights",
    "float8",
    "compile",
    "cuda_graph",
    "threads",
    "micro_batch",
    "deterministic",
)
"""Settings that the choices answer to; when one changes, the machine is probed anew."""


@dataclass
class Machine:
    """The choices of a run. Those from `attention` to `float8` are the fields of `Engine`; their
    defaults are how versions that did not write them trained.

    Attributes:
        device: cpu, cuda or mps.
        device_name: for people, and to notice another machine.
        precision: fp32, bf16 or fp16.
        threads: CPU threads of PyTorch's operators.
        torch: PyTorch's version.
        asked: the settings that were answered.
        reasons: why, for each choice that was not simply asked for.
        micro_batches: [first step (counted from 1), rows] of every micro-batch size, in order.
        steps_per_minute: as calibrated for `pretrain.minutes`; None where that is not used.
        weights: type in which weights are stored.
        processes: that train together.
    """

    device: str
    device_name: str
    precision: PrecisionName
    threads: int
    torch: str
    asked: dict[str, Any]
    reasons: dict[str, str] = field(default_factory=dict)
    micro_batches: list[list[int]] = field(default_factory=list)
    steps_per_minute: float | None = None
    weights: Literal["fp32", "bf16"] = "fp32"
    attention: AttentionKernel = "auto"
    checkpointing: Checkpointing = "none"
    budget: float = 1.0
    cross_entropy: CrossEntropy = "plain"
    residual: Residual = "fp32"
    mlp: MLP = "plain"
    compile: Compile = "off"
    float8: bool = False
    cuda_graph: bool = False
    processes: int = 1

    def engine(self) -> Engine:
        """How the decoder is to compute."""
        return Engine(**{f.name: getattr(self, f.name) for f in dataclasses.fields(Engine)})

    def use(self, engine: Engine) -> None:
        """Take over an engine's choices."""
        for name, value in dataclasses.asdict(engine).items():
            setattr(self, name, value)

    def micro_batch(self, step: int) -> int:
        """Rows of one forward pass in step number `step`."""
        return [rows for first, rows in self.micro_batches if first <= step][-1]

    def change_micro_batch(self, step: int, rows: int) -> None:
        """Use `rows` from `step` on. Writing this down makes a resumed run do the same."""
        earlier = [entry for entry in self.micro_batches if entry[0] < step]
        self.micro_batches = [*earlier, [step, rows]]

    def peak_flops(self) -> float | None:
        """FLOPs a second that the device could do in this precision, where that is known."""
        if self.device != "cuda" or self.precision == "fp32":
            return None
        return peak_flops(self.device_name)

    def answers(self, config: PretrainConfig, device: str, processes: int = 1) -> bool:
        """Whether these choices still hold: same settings, made on the device that is used now, by
        as many processes.

        With `auto` that may be another one: a GPU that was not there when the run began.
        """
        same_device = (self.device, self.device_name) == (device, device_name(device))
        same_device &= self.processes == processes
        # A setting that an earlier version did not have was not asked for.
        return same_device and {**asked(PretrainConfig()), **self.asked} == asked(config)

    def difference(self, earlier: Machine) -> str | None:
        """In words, what is not as in an earlier start; None when all that counts is the same."""
        engine = (f.name for f in dataclasses.fields(Engine))
        for name in (
            "device_name", "processes", "precision", *engine, "threads", "micro_batches", "torch"
        ):  # fmt: skip
            now, before = getattr(self, name), getattr(earlier, name)
            if now != before:
                return f"{name.replace('_', ' ')} {now} instead of {before}"
        return None

    def describe(self, rows_per_step: int) -> str:
        """One line for the user."""
        rows = self.micro_batches[-1][1]
        threads = f", CPU threads: {self.threads}" if self.device == "cpu" else ""
        reason = f" ({self.reasons['precision']})" if "precision" in self.reasons else ""
        usual, others = Machine("", "", "fp32", 0, "", {}), ""
        if self.processes > 1:
            others = f"; {self.processes} processes"
        for name in OTHER_CHOICES:
            value = getattr(self, name)
            if value != getattr(usual, name):
                others += f"; {name.replace('_', ' ')} {'on' if value is True else value}"
        return (
            f"machine: {self.device_name}{threads}; {self.precision}{reason}; compile "
            f"{self.compile}; micro-batch {rows} of {rows_per_step} rows{others}"
        )

    def write(self, folder: Path) -> None:
        """Write machine.json; durable when this returns."""
        write_json(folder / FILE, dataclasses.asdict(self))

    @staticmethod
    def read(folder: Path) -> Machine | None:
        """The machine.json of an earlier start; None when there is none."""
        path = folder / FILE
        if not path.exists():
            return None
        return Machine.from_json(
            read_json(path), path, hint="Remove it: the choices in the checkpoint count then"
        )

    @staticmethod
    def from_json(values: dict[str, Any], where: str | Path, *, hint: str) -> Machine:
        """The choices as `write` stored them, or an earlier version, which knew fewer; fields that
        nobody knows are a `HornbookError`."""
        if isinstance(values.get("compile"), bool):
            values = {**values, "compile": "on" if values["compile"] else "off"}
        try:
            return Machine(**values)
        except TypeError as error:
            raise HornbookError(
                f"was written by another version ({error})", where=where, hint=hint
            ) from error


def asked(config: PretrainConfig) -> dict[str, Any]:
    """The settings that the choices answer to."""
    return {name: getattr(config, name) for name in ASKED}


def pick_device(wanted: str = "auto") -> torch.device:
    """The device to use: `auto` tries CUDA, then MPS, and takes the CPU otherwise.

    Raises `HornbookError` when a named device does not work here.
    """
    if wanted != "auto":
        problem = device_problem(wanted)
        if problem is not None:
            raise HornbookError(
                f"{wanted} does not work here: {problem}",
                where="pretrain.device",
                hint="`hornbook doctor` shows what works; `auto` takes the best of it",
            )
        return torch.device(wanted)
    return torch.device(
        next(name for name in ("cuda", "mps", "cpu") if device_problem(name) is None)
    )


def device_problem(name: str) -> str | None:
    """Why a device does not compute, found by computing on it; None when it does."""
    if name == "cuda" and not torch.cuda.is_available():
        return "PyTorch sees no CUDA device"
    if name == "mps" and not torch.backends.mps.is_available():
        return "PyTorch sees no Metal device"
    try:
        ones = torch.ones(8, 8, device=name)
        total = float((ones @ ones).sum())
    except (RuntimeError, AssertionError) as error:
        return str(error).splitlines()[0]
    return None if total == 512.0 else "it computes wrong numbers"


def device_name(device: str) -> str:
    """The device's name as its maker or system gives it; empty when it is not here."""
    if device == "cuda":
        return torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    if device == "mps":
        return f"Metal ({platform.processor()})" if torch.backends.mps.is_available() else ""
    return _processor_name()


def _processor_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def cpu_threads(wanted: int) -> int:
    """Threads to use: `wanted`, or PyTorch's own choice bounded by a container's CPU quota."""
    return wanted or min(torch.get_num_threads(), _cpu_quota())


def _cpu_quota() -> int:
    """Whole CPUs that the container may use (cgroup v2), which the number of cores hides."""
    path = Path("/sys/fs/cgroup/cpu.max")
    quota, _, period = (path.read_text() if path.exists() else "max 1").partition(" ")
    return sys.maxsize if quota == "max" else max(1, round(int(quota) / int(period)))


def memory_gigabytes(device: torch.device) -> float | None:
    """Peak memory so far, in 10^9 bytes: of the GPU's tensors, or of the process on a CPU."""
    if device.type == "cuda":
        # `max_memory_allocated` sorts all counters to find this one, in each step.
        counters = torch.cuda.memory_stats_as_nested_dict()
        return float(counters["allocated_bytes"]["all"]["peak"]) / 1e9
    if device.type == "mps":
        return torch.mps.driver_allocated_memory() / 1e9
    if os.name != "posix":
        return None
    import resource  # POSIX only

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / 1e9
