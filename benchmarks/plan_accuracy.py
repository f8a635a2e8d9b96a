"""What `hornbook plan` predicts against real training steps, on one GPU.

    python benchmarks/plan_accuracy.py              # presets the plan was not calibrated with
    python benchmarks/plan_accuracy.py --calibrate  # those it was; prints new constants

Each case does five real steps of the trainer's own (`train/rehearsal.py`), of which three count, on
random tokens, at the settings given; the plan is asked for the very settings that the machine then
had. Peak memory is torch.cuda.max_memory_allocated. Cases run one after the other in one process,
and no further one begins after --seconds.

With --calibrate: GPT-2 124M whole, with half its layers, and with another loss, and a llama. From
the differences it reckons the constants of `plan/measured.py`, to be put there by hand with the
device's name.

Writes benchmarks/results/plan_accuracy.json (or plan_calibration.json).
"""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass, field
from typing import Any

from common import parser_for, start_afresh, write_result

from hornbook.model.config import ModelConfig
from hornbook.model.presets import PRESETS
from hornbook.optim.config import OptimizerConfig
from hornbook.plan.device import find_device
from hornbook.plan.memory import memory
from hornbook.plan.setup import Setup
from hornbook.plan.speed import step_time
from hornbook.train.config import PretrainConfig
from hornbook.train.rehearsal import Rehearsal, rehearse

LENGTH = 1024


@dataclass(frozen=True)
class Case:
    """One model at one setting."""

    name: str
    preset: str
    micro_batch: int
    micro_batches: int = 1
    layers: int = 0
    """0: as many as the preset has."""
    optimizer: str = "adamw"
    pretrain: dict[str, Any] = field(default_factory=dict)

    def config(self) -> ModelConfig:
        """The architecture, for rows of `LENGTH` tokens."""
        preset = PRESETS[self.preset]
        changes = {"layers": self.layers or preset.layers, "context": max(LENGTH, preset.context)}
        return dataclasses.replace(preset, **changes)  # type: ignore[arg-type]


REGIONAL = {"compile": "regional"}
LOW = {**REGIONAL, "weights": "bf16"}

HELD_OUT = (
    Case("GPT-2 124M, 16 rows x 4", "gpt2-124m", 16, 4),
    Case("712M, 16 rows", "gpt2-712m", 16, pretrain=REGIONAL),
    Case("Qwen3 0.6B, 16 rows", "qwen3-0.6b", 16, pretrain=REGIONAL),
    Case("GPT-2 355M, 32 rows, selective", "gpt2-355m", 32,
         pretrain={**REGIONAL, "activation_checkpointing": "selective"}),
    Case("Phi-2, bf16, 8-bit AdamW, 4 rows", "phi2", 4, optimizer="adamw8bit", pretrain=LOW),
    Case("Phi-2, the same, 16 rows x 2, full, chunked", "phi2", 16, 2, optimizer="adamw8bit",
         pretrain={**LOW, "activation_checkpointing": "full", "cross_entropy": "chunked"}),
    Case("Llama 350M, Muon, 16 rows", "llama-350m", 16, optimizer="muon", pretrain=REGIONAL),
    Case("GPT-2 355M, 16 rows, not compiled", "gpt2-355m", 16, pretrain={"compile": "off"}),
)  # fmt: skip

CALIBRATION = (
    Case("GPT-2 124M, 64 rows", "gpt2-124m", 64),
    Case("6 layers of it, 64 rows", "gpt2-124m", 64, layers=6),
    Case("6 layers of it, plain loss", "gpt2-124m", 64, layers=6,
         pretrain={"cross_entropy": "plain"}),
    Case("6 layers of it, not compiled, plain loss", "gpt2-124m", 32, layers=6,
         pretrain={"cross_entropy": "plain", "compile": "off"}),
    Case("12 layers, not compiled, plain loss", "gpt2-124m", 32,
         pretrain={"cross_entropy": "plain", "compile": "off"}),
    Case("Llama 125M, 32 rows", "llama-125m", 32, pretrain=REGIONAL),
    Case("GPT-2 124M, 1 row", "gpt2-124m", 1),
)  # fmt: skip

TINY = (
    Case("llama-1m, 4 rows", "llama-1m", 4),
    Case("qwen3-1m, 2 rows x 2, 2 layers", "qwen3-1m", 2, 2, layers=2),
)


def measure(case: Case) -> dict[str, Any]:
    """Real steps of a case beside their prediction."""
    config, optimizer = case.config(), OptimizerConfig(kind=case.optimizer)  # type: ignore[arg-type]
    rows = case.micro_batch * case.micro_batches
    pretrain = PretrainConfig(
        steps=1, global_batch_tokens=rows * LENGTH, micro_batch=case.micro_batch, **case.pretrain
    )
    start_afresh()
    began = time.perf_counter()
    done = rehearse(config, optimizer, pretrain, LENGTH, most_tokens=2**30)
    result = compare(config, optimizer, done)
    return {"case": case.name, "took_seconds": time.perf_counter() - began, **result}


def compare(config: ModelConfig, optimizer: OptimizerConfig, done: Rehearsal) -> dict[str, Any]:
    """Predicted and measured, for the settings that the steps ran with."""
    machine = done.machine
    setup = Setup(
        sequence_length=LENGTH,
        rows=done.rows,
        micro_batch=machine.micro_batches[-1][1],
        precision=machine.precision,
        weights=machine.weights,  # type: ignore[arg-type]
        engine=machine.engine(),
        optimizer=optimizer,
    )
    step = step_time(config, setup, find_device("this"))
    needed = memory(config, setup)
    rate = done.rows * LENGTH / done.seconds
    return {
        "settings": machine.describe(done.rows),
        "predicted_tokens_per_second": step.tokens_per_second,
        "measured_tokens_per_second": rate,
        "speed_ratio": step.tokens_per_second / rate,
        "predicted_peak_gb": needed.peak / 1e9,
        "measured_peak_gb": done.peak / 1e9,
        "memory_ratio": needed.peak / done.peak if done.peak else None,
        "setup": dataclasses.asdict(setup),
        "memory": dataclasses.asdict(needed),
        "step": dataclasses.asdict(step),
    }


def constants(measured: dict[str, dict[str, Any]]) -> dict[str, float]:
    """The corrections that the calibration cases ask for, where they ran."""
    whole, half, plain, eager_half, eager, _, one = (case.name for case in CALIBRATION)

    def between(first: str, second: str, key: str) -> float:
        return float(measured[first][key] - measured[second][key])

    found: dict[str, float] = {}
    pairs = {"compiled block": (whole, half), "eager block": (eager, eager_half)}
    for name, (more, less) in pairs.items():
        if more in measured and less in measured:
            found[name] = between(more, less, "measured_peak_gb") / between(
                more, less, "predicted_peak_gb"
            )
    for name, case in {"compiled logits": plain, "eager logits": eager_half}.items():
        if case in measured:
            memory_gb, setup = measured[case]["memory"], measured[case]["setup"]
            logits = PRESETS["gpt2-124m"].vocabulary_rows * setup["micro_batch"] * LENGTH
            over = measured[case]["measured_peak_gb"] - measured[case]["predicted_peak_gb"]
            found[f"{name}, bytes each"] = (memory_gb["logits"] + 1e9 * over) / logits
    if whole in measured:
        found["all rates, measured over predicted"] = 1 / measured[whole]["speed_ratio"]
    if one in measured:
        seconds = LENGTH / measured[one]["measured_tokens_per_second"]
        found["seconds of a compiled block at 1 row, at most"] = seconds / 14
    return found


def table(measured: list[dict[str, Any]]) -> list[dict[str, str]]:
    """Rows for docs/plan.md."""
    return [
        {
            "case": each["case"],
            "tokens/s: predicted": f"{each['predicted_tokens_per_second']:,.0f}",
            "measured": f"{each['measured_tokens_per_second']:,.0f}",
            "ratio": f"{each['speed_ratio']:.2f}",
            "peak GB: predicted": f"{each['predicted_peak_gb']:.1f}",
            "measured ": f"{each['measured_peak_gb']:.1f}",
            "ratio ": f"{each['memory_ratio']:.2f}" if each["memory_ratio"] else "-",
        }
        for each in measured
        if "error" not in each
    ]


def main() -> None:
    parser = parser_for(__doc__)
    parser.add_argument("--calibrate", action="store_true", help="the presets to calibrate with")
    parser.add_argument("--seconds", type=float, default=150, help="begin no case after so long")
    parser.add_argument("--only", nargs="*", default=[], help="cases whose names hold one of these")
    options = parser.parse_args()
    cases = TINY if options.tiny else CALIBRATION if options.calibrate else HELD_OUT
    began = time.perf_counter()
    measured: list[dict[str, Any]] = []
    for case in cases:
        if options.only and not any(word in case.name for word in options.only):
            continue
        if time.perf_counter() - began > options.seconds:
            print(f"{case.name}: left out, {options.seconds:.0f} s are over", flush=True)
            continue
        try:
            measured.append(measure(case))
        except Exception as error:  # one case must not cost the others
            measured.append({"case": case.name, "error": f"{type(error).__name__}: {error}"})
            print(f"{case.name}: {measured[-1]['error']}", flush=True)
            continue
        shown = " ".join(f"{key.strip()} {value}" for key, value in table(measured[-1:])[0].items())
        print(f"{shown}  ({measured[-1]['took_seconds']:.0f} s)", flush=True)
    result = {
        "what": "predictions of `hornbook plan` against real steps at T 1024",
        "cases": measured,
        "table": table(measured),
    }
    if options.calibrate:
        good = {each["case"]: each for each in measured if "error" not in each}
        result["constants"] = constants(good)
        for name, value in result["constants"].items():
            print(f"{name}: {value:.4g}")
    name = "plan_calibration" if options.calibrate else "plan_accuracy"
    write_result(options.out, name, result)


if __name__ == "__main__":
    main()
