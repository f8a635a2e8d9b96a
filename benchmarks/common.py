"""What the benchmarks share: options, the device, and what a results file says of its origin.

In: a script's docstring, its numbers. Out: a parser with `--out` and `--tiny`; a JSON file with the
command and machine that its numbers come from, as `tables.py` wants them.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import shlex
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from hornbook.files import write_json
from hornbook.plan.gpus import peak_flops
from hornbook.train.machine import device_name

RESULTS = Path(__file__).parent / "results"

DEFAULT_PEAK = 989e12
"""H100 and H200, dense bf16; for GPUs that hornbook's table does not name."""


def parser_for(description: str | None, *, tiny: bool = True) -> argparse.ArgumentParser:
    """A parser with `--out` and perhaps `--tiny`; the description is a script's docstring."""
    parser = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    if tiny:
        parser.add_argument("--tiny", action="store_true", help="rehearse in small, on a CPU")
    return parser


def best_device() -> torch.device:
    """The GPU, or the CPU for a rehearsal."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def synchronize() -> None:
    """Wait for the GPU, where there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def start_afresh() -> None:
    """Give back the memory and the compiled code of what was measured before."""
    gc.collect()
    torch.compiler.reset()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak() -> float:
    """FLOPs a second of the GPU's data sheet."""
    return peak_flops(device_name("cuda")) or DEFAULT_PEAK


def step_lines(folder: Path) -> list[dict[str, Any]]:
    """The steps in a run's metrics.jsonl."""
    text = (folder / "metrics.jsonl").read_text(encoding="utf-8")
    return [line for line in map(json.loads, text.splitlines()) if "loss" in line]


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    return {
        "gpu": device_name("cuda") or None,
        "cpu": device_name("cpu"),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cudnn": torch.backends.cudnn.version(),
        "transformers": _version("transformers"),
    }


def write_result(out: Path, name: str, result: dict[str, Any]) -> None:
    """Write out/NAME.json: the numbers, the command and the machine."""
    write_json(out / f"{name}.json", {"command": _command(), "machine": machine(), **result})


def _command() -> str:
    """What was called: without where results went, and where else files lie on this machine."""
    words = list(sys.argv[1:])
    if "--out" in words:
        at = words.index("--out")
        del words[at : at + 2]
    words = [Path(word).name if "/" in word else word for word in words]
    return shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *words])


def _version(library: str) -> str | None:
    try:
        return version(library)
    except PackageNotFoundError:
        return None
