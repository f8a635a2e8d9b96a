"""What `hornbook plan` predicts against real training steps.

    python benchmarks/plan_accuracy.py --devices 0 1 2 3    # measure, then compare
    python benchmarks/plan_accuracy.py --report             # compare again, without a GPU

Each case is some real steps of the trainer's own (`train/rehearsal.py`) on random tokens at the
settings given, in a process of its own: one that fails or hangs costs no other. A case's numbers
are written when it ends, to OUT/plan_accuracy/. The plan is then asked for the very settings that
the machine had. Peak memory is torch.cuda.max_memory_allocated.

`CALIBRATION` are the presets that the constants of `plan/measured.py` come from: the report reckons
what they should be, to be put there by hand, and `--report` shows what that gives. `HELD_OUT` are
other presets, with which nothing was calibrated: peak memory within 10 %, tokens/s within 20 %.

The report is OUT/plan_accuracy.json.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import os
import queue
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import machine, parser_for, write_result

from hornbook.files import read_json, write_json
from hornbook.model.config import ModelConfig
from hornbook.model.engine import Engine
from hornbook.model.presets import PRESETS
from hornbook.optim.config import OptimizerConfig
from hornbook.plan.device import Device, find_device
from hornbook.plan.memory import memory
from hornbook.plan.setup import Setup
from hornbook.plan.speed import step_time
from hornbook.train.config import PretrainConfig
from hornbook.train.rehearsal import rehearse

STEPS = 5
"""That count, after two that do not."""

CASE_SECONDS = 75
"""A case that takes longer ends itself. The longest are compiled whole, about 2 s a layer."""

ON: dict[str, Any] = {"compile": "on"}
REGIONAL: dict[str, Any] = {"compile": "regional"}
OFF: dict[str, Any] = {"compile": "off"}
SELECTIVE = {**REGIONAL, "activation_checkpointing": "selective"}
FULL = {**REGIONAL, "activation_checkpointing": "full", "cross_entropy": "chunked"}
PLAIN = {"cross_entropy": "plain"}
NARROW = {"weights": "bf16"}


@dataclass(frozen=True)
class Case:
    """One model at one setting."""

    preset: str
    micro_batch: int
    pretrain: dict[str, Any]
    micro_batches: int = 1
    length: int = 1024
    layers: int = 0
    """0: as many as the preset has."""
    optimizer: str = "adamw"

    @property
    def name(self) -> str:
        """`gpt2-124m, 6 layers, 64 x 1024, on, plain`, say."""
        parts = [self.preset, f"{self.micro_batch} x {self.length}"]
        if self.layers:
            parts.insert(1, f"{self.layers} layers")
        if self.micro_batches > 1:
            parts[-1] += f" x {self.micro_batches}"
        parts += [] if self.optimizer == "adamw" else [self.optimizer]
        parts += [key if value is True else value for key, value in self.pretrain.items()]
        return ", ".join(parts)

    def config(self) -> ModelConfig:
        """The architecture, for rows of `length` tokens."""
        preset = PRESETS[self.preset]
        context = max(self.length, preset.context)
        return dataclasses.replace(preset, layers=self.layers or preset.layers, context=context)


CALIBRATION = (
    Case("gpt2-124m", 64, ON),
    Case("gpt2-124m", 64, ON, layers=6),
    Case("gpt2-124m", 64, {**ON, **PLAIN}, layers=6),
    Case("gpt2-1.5b", 8, {**REGIONAL, **NARROW}, optimizer="adamw8bit"),
    Case("gpt2-124m", 1, ON, layers=6),
    Case("gpt2-124m", 32, {**OFF, **PLAIN}),
    Case("gpt2-124m", 32, {**OFF, **PLAIN}, layers=6),
    Case("gpt2-124m", 64, SELECTIVE),
    Case("gpt2-124m", 32, FULL, 2),
    Case("gpt2-124m", 16, REGIONAL, optimizer="muon"),
    Case("gpt2-124m", 1, REGIONAL),
    Case("gpt2-124m", 1, OFF),
    Case("llama-350m", 16, REGIONAL),
    Case("llama-350m", 4, REGIONAL, length=4096),
)

HELD_OUT = (
    Case("phi2", 4, {**REGIONAL, **NARROW}, optimizer="adamw8bit"),
    Case("phi2", 16, {**FULL, **NARROW}, 2, optimizer="adamw8bit"),
    Case("llama-60m", 16, ON, 2),
    Case("qwen3-15m", 64, ON, length=512),
    Case("llama-1b", 2, FULL, 2, length=4096),
    Case("gpt2-712m", 16, REGIONAL),
    Case("qwen3-0.6b", 8, REGIONAL, length=2048),
    Case("gpt2-774m", 8, REGIONAL, optimizer="adamw8bit"),
    Case("gpt2-355m", 32, SELECTIVE),
    Case("gpt2-355m", 16, OFF),
    Case("qwen3-125m", 16, REGIONAL, 2, optimizer="muon"),
)

TINY = (
    Case("llama-1m", 4, OFF, length=64),
    Case("qwen3-1m", 2, OFF, 2, length=64, layers=2),
    Case("gpt2-124m", 2, {**OFF, "float8": True}, length=64, layers=1),  # refused on a CPU
)


# ---------------------------------------------------------------------------------------- measuring


def measure(case: Case) -> dict[str, Any]:
    """Real steps of a case, and the settings they ran with."""
    config, optimizer = case.config(), OptimizerConfig(kind=case.optimizer)  # type: ignore[arg-type]
    rows = case.micro_batch * case.micro_batches
    pretrain = PretrainConfig(
        steps=1, global_batch_tokens=rows * case.length, micro_batch=case.micro_batch,
        # What the host needs to launch a pass is calibrated too.
        cuda_graph="off" if case in CALIBRATION else "auto", **case.pretrain,
    )  # fmt: skip
    began = time.perf_counter()
    done = rehearse(config, optimizer, pretrain, case.length, steps=STEPS, most_tokens=2**30)
    found = done.machine
    setup = Setup(
        sequence_length=case.length,
        rows=done.rows,
        micro_batch=found.micro_batches[-1][1],
        precision=found.precision,
        weights=found.weights,  # type: ignore[arg-type]
        engine=found.engine(),
        optimizer=optimizer,
        device="cpu" if found.device == "cpu" else "cuda",
        cuda_graph=found.cuda_graph,
    )
    return {
        "case": case.name,
        "device": "cpu" if found.device == "cpu" else found.device_name,
        "settings": found.describe(done.rows),
        "reasons": found.reasons,
        "took_seconds": time.perf_counter() - began,
        "step_seconds": done.seconds,
        "peak_bytes": done.peak,
        "config": dataclasses.asdict(config),
        "setup": dataclasses.asdict(setup),
        "machine": machine(),
    }


def file_of(out: Path, case: Case) -> Path:
    """Where the numbers of a case are kept."""
    return out / "plan_accuracy" / f"{re.sub(r'[^a-z0-9.]+', '-', case.name)}.json"


def measure_here(case: Case, out: Path) -> None:
    """Measure a case, for `CASE_SECONDS` at most; write its numbers, or its error, to its file."""
    signal.alarm(CASE_SECONDS)
    try:
        found = measure(case)
    except Exception as error:  # whatever it is, it is the result
        found = {"case": case.name, "error": f"{type(error).__name__}: {error}"[:500]}
    write_json(file_of(out, case), found)


def measure_apart(case: Case, out: Path, gpu: str) -> None:
    """Measure a case in a process of its own on one GPU."""
    path = file_of(out, case)
    command = [sys.executable, __file__, "--one", case.name, "--out", str(out)]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": gpu}
    began = time.perf_counter()
    with path.with_suffix(".log").open("wb") as log:
        code = subprocess.run(command, env=environment, stdout=log, stderr=log).returncode
    if not path.exists():
        late = f", as it took over {CASE_SECONDS} s" if code == -signal.SIGALRM else ""
        write_json(path, {"case": case.name, "error": f"ended with {code}{late}"})
    found, seconds = read_json(path), time.perf_counter() - began
    said = (
        found.get("error") or f"{found['step_seconds']:.4f} s, {found['peak_bytes'] / 1e9:.2f} GB"
    )
    print(f"{case.name}: {said} (GPU {gpu}, {seconds:.0f} s)", flush=True)


def measure_all(cases: list[Case], out: Path, gpus: list[str], seconds: float) -> None:
    """Measure the cases, as many at once as there are GPUs; begin none after `seconds`."""
    began = time.perf_counter()
    waiting: queue.SimpleQueue[Case] = queue.SimpleQueue()
    for case in cases:
        file_of(out, case).parent.mkdir(parents=True, exist_ok=True)
        file_of(out, case).unlink(missing_ok=True)
        waiting.put(case)

    def work(gpu: str) -> None:
        while time.perf_counter() - began < seconds:
            try:
                case = waiting.get_nowait()
            except queue.Empty:
                return
            measure_apart(case, out, gpu)

    with ThreadPoolExecutor(len(gpus)) as pool:
        list(pool.map(work, gpus))


# ---------------------------------------------------------------------------------------- reporting


def predicted(found: dict[str, Any]) -> dict[str, Any]:
    """What the plan says now for the settings of a case, beside what was measured."""
    values = dict(found["setup"])
    engine, optimizer = values.pop("engine"), values.pop("optimizer")
    setup = Setup(engine=Engine(**engine), optimizer=OptimizerConfig(**optimizer), **values)
    config = ModelConfig(**found["config"])
    step, needed = step_time(config, setup, _device(found["device"])), memory(config, setup)
    peak = found["peak_bytes"]
    return {
        **{
            name: found[name] for name in ("case", "step_seconds", "peak_bytes", "setup", "machine")
        },
        "tokens_per_second": setup.step_tokens / found["step_seconds"],
        "predicted_tokens_per_second": step.tokens_per_second,
        "speed_ratio": found["step_seconds"] / step.seconds,
        "predicted_peak_bytes": needed.peak,
        "memory_ratio": needed.peak / peak if peak else None,
        "memory": dataclasses.asdict(needed),
        "step": dataclasses.asdict(step),
    }


@functools.cache
def _device(name: str) -> Device:
    """Looked up once: a CPU is measured anew each time."""
    return find_device(name)


def constants(measured: dict[str, dict[str, Any]]) -> dict[str, float]:
    """What the calibration cases ask of `plan/measured.py`, where they ran."""
    (whole, half, plain, _, one_on, eager, eager_half, selective, full, _, one_regional, one_off,
     *_) = (case.name for case in CALIBRATION)  # fmt: skip
    found: dict[str, float] = {}

    def slope(name: str, more: str, less: str) -> None:
        """Measured over counted bytes of the six layers that two cases differ by."""
        if more in measured and less in measured:
            real = measured[more]["peak_bytes"] - measured[less]["peak_bytes"]
            counted = (
                measured[more]["predicted_peak_bytes"] - measured[less]["predicted_peak_bytes"]
            )
            found[name] = real / counted

    slope("compiled: block, times what it is now", whole, half)
    slope("eager: block, times what it is now", eager, eager_half)
    for name, case in {"compiled: logits": plain, "eager: logits": eager_half}.items():
        if case in measured:
            setup = measured[case]["setup"]
            logits = PRESETS["gpt2-124m"].vocabulary_rows * setup["micro_batch"] * 1024
            over = measured[case]["peak_bytes"] - measured[case]["predicted_peak_bytes"]
            found[f"{name}, bytes each"] = (measured[case]["memory"]["logits"] + over) / logits
    for name, case in {"selective": selective, "full": full}.items():
        if case in measured:
            found[f"{name}: peak, measured over predicted"] = 1 / measured[case]["memory_ratio"]
    if whole in measured:
        found["matmul and all rates, times"] = measured[whole]["speed_ratio"] ** -1
    launches = {"on": (one_on, 6), "regional": (one_regional, 12), "off": (one_off, 12)}
    for name, (case, layers) in launches.items():
        if case in measured:
            found[f"launch seconds, {name}"] = measured[case]["step_seconds"] / (layers + 2)
    return found


def table(measured: list[dict[str, Any]]) -> list[dict[str, str]]:
    """Rows for docs/plan.md."""
    return [
        {
            "case": each["case"],
            "tokens/s: predicted": f"{each['predicted_tokens_per_second']:,.0f}",
            "measured": f"{each['tokens_per_second']:,.0f}",
            "ratio": f"{each['speed_ratio']:.2f}",
            "peak GB: predicted": f"{each['predicted_peak_bytes'] / 1e9:.2f}",
            "measured ": f"{each['peak_bytes'] / 1e9:.2f}",
            "ratio ": f"{each['memory_ratio']:.2f}" if each["memory_ratio"] else "-",
        }
        for each in measured
    ]


def stored(out: Path) -> dict[str, dict[str, Any]]:
    """All that was measured: the last report's cases, and newer ones."""
    last = out / "plan_accuracy.json"
    found = {each["case"]: each for each in (read_json(last)["cases"] if last.exists() else [])}
    for path in sorted(last.with_suffix("").glob("*.json")):
        each = read_json(path)
        found[each["case"]] = each
    return found


def report(out: Path, groups: dict[str, list[Case]]) -> None:
    """Compare what was measured with what is predicted now; print and write it."""
    measured = stored(out)
    result: dict[str, Any] = {"what": "predictions of `hornbook plan` against real steps"}
    result["cases"] = list(measured.values())
    good = {name: predicted(each) for name, each in measured.items() if "step_seconds" in each}
    if good:  # of the machine that measured, not of the one that reports
        result["machine"] = next(iter(good.values()))["machine"]
    for group, cases in groups.items():
        result[group] = table([good[case.name] for case in cases if case.name in good])
        print(f"\n{group}: {len(result[group])} of {len(cases)}")
        for row in result[group]:
            print("  ".join(f"{name.strip()} {value}" for name, value in row.items()))
    for name in measured.keys() - good.keys():
        print(f"{name}: {measured[name]['error']}")
    result["predictions"] = list(good.values())
    result["constants"] = constants(good)
    print(json.dumps(result["constants"], indent=1))
    write_result(out, "plan_accuracy", result)


def main() -> None:
    parser = parser_for(__doc__)
    parser.add_argument(
        "--devices", nargs="+", help="GPUs to use at once",
        default=os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(","),
    )  # fmt: skip
    parser.add_argument("--seconds", type=float, default=400, help="begin no case after so long")
    parser.add_argument("--only", nargs="*", default=[""], help="cases whose names hold one")
    parser.add_argument("--report", action="store_true", help="measure nothing")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    groups = {"calibration": list(CALIBRATION), "held out": list(HELD_OUT)}
    if options.tiny:
        groups = {"rehearsal": list(TINY)}
    if options.one:
        every = {case.name: case for case in (*CALIBRATION, *HELD_OUT, *TINY)}
        measure_here(every[options.one], options.out)
        return
    cases = [case for group in groups.values() for case in group]
    wanted = [case for case in cases if any(word in case.name for word in options.only)]
    if not options.report:
        measure_all(wanted, options.out, options.devices, options.seconds)
    report(options.out, groups)


if __name__ == "__main__":
    main()
