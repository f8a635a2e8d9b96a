"""What several GPUs give: tokens a second of one against all of them, and the same losses.

    python benchmarks/scaling.py --out benchmarks/results             # all GPUs of this machine
    python benchmarks/scaling.py --out build/rehearsal --tiny --device cpu     # a rehearsal

One group of processes runs every case through the real `Trainer`. "alone" is each process training
by itself at the same time, with the same tokens a step. Speeds are medians of the steps after the
first three. Prints a table, writes scaling.json.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

import torch
from common import parser_for, step_lines, write_result

from hornbook.files import read_json, write_json
from hornbook.model.config import ModelConfig, ModelSettings
from hornbook.model.decoder import Decoder
from hornbook.model.presets import resolve
from hornbook.optim.config import OptimizerConfig
from hornbook.tokens.batch import Batch
from hornbook.train.config import PretrainConfig
from hornbook.train.objective import NextToken
from hornbook.train.parallel import World, joined
from hornbook.train.trainer import Trainer

SETTLED = 3
"""Steps before those that count."""

WIDE = {"layers": 32, "heads": 24, "kv_heads": 24, "width": 1296, "mlp_width": 5184}
"""GPT-2's shape at 712M parameters."""

# name, model, sharding ("alone": each process by itself), steps, goes on in the folder of
CASES = (
    ("124M alone", "124M", "alone", 20, None),
    ("124M ddp", "124M", "ddp", 20, None),
    ("712M alone", "712M", "alone", 7, None),
    ("712M ddp", "712M", "ddp", 9, None),
    ("712M fsdp", "712M", "fsdp", 9, None),
    ("124M fsdp", "124M", "fsdp", 12, None),
    ("124M fsdp, then alone", "124M", "alone", 20, "124M fsdp"),
)


WHOLE = (("124M", "alone"), ("124M", "ddp"))
"""Compiled as one graph; the others by the block, which takes less time, and with FSDP must be."""


class Rows:
    """Rows that count up from a token that follows from the row's number: learnable, and cheap."""

    rows_per_epoch = 10**9

    def __init__(self, length: int, vocabulary: int):
        self.sequence_length, self._vocabulary = length, vocabulary

    def rows(self, start: int, count: int) -> Batch:
        """Rows [start, start + count)."""
        first = (torch.arange(start, start + count) * 7919 % self._vocabulary)[:, None]
        tokens = (first + torch.arange(self.sequence_length + 1)) % self._vocabulary
        return Batch(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous())

    def describe(self) -> dict[str, Any]:
        """Nothing that anyone reads here."""
        return {}


def model_of(name: str, tiny: bool) -> ModelConfig:
    """The architecture of a case, without dropout."""
    other: dict[str, Any] = WIDE if name == "712M" else {}
    if tiny:
        other = {"layers": 2, "heads": 2, "kv_heads": 2, "width": 64, "mlp_width": 256}
    context = 64 if tiny else 1024
    settings = ModelSettings(preset="gpt2-124m", context=context, dropout=0.0, **other)
    return resolve(settings, 300 if tiny else 50257)


def run_case(
    case: tuple[str, str, str, int, str | None],
    world: World,
    root: Path,
    arguments: argparse.Namespace,
) -> dict[str, Any]:
    """Train as a case says; what process 0 found."""
    name, model, sharding, steps, after = case
    config = model_of(model, arguments.tiny)
    alone = sharding == "alone"
    here = World(device=world.device) if alone else world
    folder = root / (after or name)
    if alone and not world.is_main:
        folder = root / f"{name} {world.rank}"  # beside, so that all GPUs are as busy
    tokens = config.context * 64 if arguments.tiny else {"124M": 2**18, "712M": 2**17}[model]
    pretrain = PretrainConfig(
        steps=steps, global_batch_tokens=tokens, device=world.device.type, gpus=world.size,
        micro_batch={"124M": 32, "712M": 16}[model], sharding="auto" if alone else sharding,  # type: ignore[arg-type]
        compile="off" if arguments.tiny else "on" if (model, sharding) in WHOLE else "regional",
        checkpoint_every=0, checkpoint_minutes=0, tensorboard=False, evaluate_every=0,
    )  # fmt: skip
    decoder = Decoder(config, torch.Generator().manual_seed(1))
    optimizer = OptimizerConfig(schedule="constant", warmup_steps=0, learning_rate=3e-4)
    began = time.perf_counter()
    trainer = Trainer(
        decoder, Rows(config.context, config.vocabulary), NextToken(), pretrain, optimizer, folder,
        world=here,
    )  # fmt: skip
    if not any(name == other[4] for other in CASES):
        # Nobody goes on from here; writing 8.5 GB would take longer than training.
        trainer._store.save = lambda *arguments, **options: None  # type: ignore[method-assign]
    trainer.fit()
    if not world.is_main:
        return {}
    lines = step_lines(folder)
    new = lines[12:] if after else lines
    return {
        "case": name,
        "gpus": here.size,
        "tokens_per_second": statistics.median(r["tokens_per_second"] for r in new[SETTLED:]),
        "memory_gb": new[-1]["memory_gb"],
        "losses": [line["loss"] for line in lines],
        "seconds": time.perf_counter() - began,
        "machine": read_json(folder / "machine.json"),
    }


def work(arguments: argparse.Namespace) -> None:
    """One of the processes: every case in turn; process 0 writes results down as they come."""
    began = time.perf_counter()
    root = Path(arguments.worker)
    found: list[dict[str, Any]] = []
    with joined(arguments.device) as world:
        for case in CASES:
            if world.any(time.perf_counter() - began > arguments.limit)[0]:
                result = {"case": case[0], "error": "not run: out of time"}
            else:
                try:
                    result = run_case(case, world, root, arguments)
                except Exception as error:
                    traceback.print_exc()
                    result = {"case": case[0], "error": f"{type(error).__name__}: {error}"}
            if world.device.type == "cuda":
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
            found.append(result)
            if world.is_main:
                write_json(root / "found.json", found)


def ratio(result: dict[str, Any], found: list[dict[str, Any]]) -> float:
    """Its speed over that of one GPU; NaN where that is not known."""
    for other in found:
        if other["case"] == result["case"].split()[0] + " alone" and "error" not in other:
            return float(result["tokens_per_second"] / other["tokens_per_second"])
    return float("nan")


def page_table(found: list[dict[str, Any]]) -> list[dict[str, str]]:
    """Rows for docs/performance.md."""
    return [
        {
            "case": result["case"],
            "GPUs": str(result["gpus"]),
            "tokens/s": f"{result['tokens_per_second']:,.0f}",
            "over one GPU": f"{ratio(result, found):.2f} x",
            "peak GB a GPU": f"{result['memory_gb']:.1f}",
        }
        for result in found
        if "error" not in result
    ]


def table(found: list[dict[str, Any]]) -> str:
    """What was found, for people."""
    by_name = {result["case"]: result for result in found}
    lines = [
        f"{'case':<24}{'GPUs':>5}{'tokens/s':>12}{'ratio':>7}{'GB':>7}  largest loss difference"
    ]
    for result in found:
        if "error" in result:
            lines.append(f"{result['case']:<24}  {result['error'][:100]}")
            continue
        alone = by_name.get(result["case"].split()[0] + " alone", {})
        difference = float("nan")
        if "losses" in alone:
            pairs = zip(result["losses"], alone["losses"], strict=False)
            difference = max(abs(a - b) for a, b in pairs)
        lines.append(
            f"{result['case']:<24}{result['gpus']:>5}{result['tokens_per_second']:>12,.0f}"
            f"{ratio(result, found):>7.2f}{result['memory_gb']:>7.1f}  {difference:.2e}"
        )
    return "\n".join(lines)


def main() -> int:
    """Start the processes, wait for them, show what they found."""
    parser = parser_for(__doc__)
    parser.add_argument("--gpus", type=int, default=0, help="0: all")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--limit", type=float, default=150.0, help="seconds; no case begins later")
    parser.add_argument("--worker", default="", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        work(arguments)
        return 0
    gpus = arguments.gpus or (torch.cuda.device_count() if arguments.device == "cuda" else 2)
    with tempfile.TemporaryDirectory() as root:
        command = [
            sys.executable, "-m", "torch.distributed.run", "--standalone",
            "--nproc-per-node", str(gpus), __file__, *sys.argv[1:], "--worker", root,
        ]  # fmt: skip
        environment = {"OMP_NUM_THREADS": "4", **os.environ}
        try:
            subprocess.run(command, env=environment, timeout=arguments.limit + 60)
        except subprocess.TimeoutExpired:
            print("stopped: a case did not end")
        results = Path(root) / "found.json"
        found = read_json(results) if results.exists() else []
    device = torch.cuda.get_device_name() if arguments.device == "cuda" else "CPU"
    result = {"device": device, "gpus": gpus, "cases": found, "table": page_table(found)}
    write_result(arguments.out, "scaling", result)
    print(f"{gpus} x {device}, torch {torch.__version__}")
    print(table(found))
    return 0 if found and not any("error" in result for result in found) else 1


if __name__ == "__main__":
    sys.exit(main())
