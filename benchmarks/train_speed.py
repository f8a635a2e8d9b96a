"""Training speed and memory against nanoGPT's code and stock transformers models, on one GPU.

    git clone https://github.com/karpathy/nanoGPT
    python benchmarks/train_speed.py --nanogpt nanoGPT/model.py
    python benchmarks/train_speed.py --nanogpt nanoGPT/model.py --only 124m --contestants ours \
        --ours '{"attention": "cudnn"}' --ours '{"cross_entropy": "fused"}'

Three works at T 1024, each a real training step on random tokens (see contestants.py for who does
what, arena.py for how it is measured):

- 124m: GPT-2 124M, 64 rows a step in one micro-batch, for all three contestants.
- 712m: 32 layers, 24 heads, width 1296; 32 rows a step; nanoGPT's code at its best micro-batch.
- phi2: Phi-2 (2.78B) within 40 GB (10^9 bytes, held by PyTorch's allocator); 32 rows a step, or 8
  in one micro-batch for the peer if it is faster so: without accumulation no gradients are kept
  during the forward pass, which leaves room for a larger micro-batch.

Settings given with --ours (several: the fastest counts) change those of the work's first line.
Writes benchmarks/results/train_speed_WORK.json.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

from arena import Options, compare
from common import parser_for, write_result
from contestants import PRESETS, Settings

from hornbook.model.presets import PRESETS as CONFIGS
from hornbook.plan.rules import what_to_compile

KERNELS: dict[str, Any] = {
    "attention": "cudnn",
    "residual": "bf16",
    "cross_entropy": "fused",
    "mlp": "fused",
}
"""What the probe is expected to choose on an H100 or H200; `compile` follows from the layers."""

FORTY: dict[str, Any] = {"memory_gb": 40.0, "weights": "bf16", "expandable_segments": True}


def ours(work: str, rows: int, micro_batch: int, **other: Any) -> Settings:
    """hornbook as it sets itself up, but for what is said."""
    compile = what_to_compile(CONFIGS[PRESETS[work]].layers, sharded=False)
    return Settings("ours", work, rows, micro_batch, **{**KERNELS, "compile": compile, **other})


STEPS = {"124m": 20, "712m": 20, "phi2": 10}
"""Timed steps of a turn; one of Phi-2 takes about 1.2 s."""

WORKS: dict[str, tuple[str, dict[str, list[Settings]]]] = {
    "124m": (
        "GPT-2 124M, micro-batch 64",
        {
            "ours": [ours("124m", 64, 64)],
            "nanogpt": [Settings("nanogpt", "124m", 64, 64)],
            "transformers": [Settings("transformers", "124m", 64, 64)],
        },
    ),
    "712m": (
        "712M, 32 layers x 1296, 24 heads",
        {
            "ours": [ours("712m", 32, 32), ours("712m", 32, 32, compile="on")],
            "nanogpt": [
                Settings("nanogpt", "712m", 32, 16),
                Settings("nanogpt", "712m", 32, 8),
                Settings("nanogpt", "712m", 32, 32),
            ],
        },
    ),
    "phi2": (
        "Phi-2 2.78B within 40 GB",
        {
            "ours": [
                ours("phi2", 32, 7, **FORTY, optimizer="adamw8bit"),
                ours("phi2", 32, 8, **FORTY, optimizer="adamw8bit", cross_entropy="chunked"),
                ours("phi2", 32, 16, **FORTY, optimizer="adamw8bit", checkpointing="selective"),
            ],
            "transformers": [
                Settings("transformers", "phi2", 32, 4, **FORTY),
                Settings("transformers", "phi2", 8, 8, **FORTY),
                Settings("transformers", "phi2", 32, 16, **FORTY, checkpointing="full"),
            ],
        },
    ),
}  # fmt: skip
"""Work -> title, contestants with the settings to try."""


def chosen(lineup: dict[str, list[Settings]], options: argparse.Namespace) -> Any:
    """The line-up with the command line's wishes: who takes part, with what settings."""
    wanted = options.contestants.split(",") if options.contestants else list(lineup)
    changes: dict[str, list[dict[str, Any]]] = {"ours": [json.loads(o) for o in options.ours]}
    for who, change in options.peer:
        changes.setdefault(who, []).append(json.loads(change))
    picked: dict[str, list[Settings]] = {}
    for who, candidates in lineup.items():
        if who not in wanted:
            continue
        if changes.get(who):
            candidates = [dataclasses.replace(candidates[0], **c) for c in changes[who]]
        if options.tiny:
            candidates = [tiny(settings) for settings in candidates]
        picked[who] = candidates
    return picked


def tiny(settings: Settings) -> Settings:
    """The same in small, for a rehearsal on a CPU: 4 rows of 64 tokens, nothing compiled."""
    loss = "plain" if settings.cross_entropy == "fused" else settings.cross_entropy
    return dataclasses.replace(
        settings, tiny=True, rows=min(4, settings.rows), micro_batch=min(2, settings.micro_batch),
        tokens=64, compile="off", attention="auto", cross_entropy=loss,
    )  # fmt: skip


def table(title: str, contestants: dict[str, dict[str, Any]]) -> list[dict[str, str]]:
    """Rows for docs/performance.md."""
    ours = contestants.get("ours", {})
    rows = []
    for who, numbers in contestants.items():
        if "tokens_per_second" not in numbers:
            continue
        row = {
            "work": title,
            "who": "hornbook" if who == "ours" else who,
            "settings": numbers["differs"],
            "tokens/s": f"{numbers['tokens_per_second']:,.0f}",
            "MFU": f"{numbers['mfu']:.1%}",
            "peak GB (reserved)": "-",
            "hornbook is": "",
        }
        if "peak_allocated_gb" in numbers:
            row["peak GB (reserved)"] = (
                f"{numbers['peak_allocated_gb']:.1f} ({numbers['peak_reserved_gb']:.1f})"
            )
        if who != "ours" and "tokens_per_second" in ours:
            ratio = ours["tokens_per_second"] / numbers["tokens_per_second"]
            row["hornbook is"] = f"{ratio:.2f} x as fast"
            if "peak_allocated_gb" in numbers:
                share = ours["peak_allocated_gb"] / numbers["peak_allocated_gb"]
                row["hornbook is"] += f", at {share:.2f} x the memory"
        rows.append(row)
    return rows


def main() -> None:
    parser = parser_for(__doc__)
    parser.add_argument("--nanogpt", type=Path, help="nanoGPT's model.py")
    parser.add_argument("--only", default=",".join(WORKS), help="works, e.g. 124m,phi2")
    parser.add_argument("--contestants", default="", help="e.g. ours,nanogpt; default all")
    parser.add_argument("--ours", action="append", default=[], metavar="JSON")
    parser.add_argument("--peer", action="append", nargs=2, default=[], metavar=("WHO", "JSON"))
    parser.add_argument("--steps", type=int, default=0, help="timed steps a turn")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--start-seconds", type=float, default=300, help="limit for compiling")
    options = parser.parse_args()
    how = Options(
        rounds=options.rounds,
        nanogpt=options.nanogpt,
        start_seconds=options.start_seconds,
    )
    for work in options.only.split(","):
        title, lineup = WORKS[work]
        how.count = 2 if options.tiny else options.steps or STEPS[work]
        print(f"{work}: {title}", flush=True)
        compared = compare(chosen(lineup, options), how)
        result = {
            "what": f"training tokens a second and peak memory: {title}, T 1024",
            "steps": how.count,
            "rounds": how.rounds,
            **compared,
            "table": table(title, compared["contestants"]),
        }
        write_result(options.out, f"train_speed_{work}", result)


if __name__ == "__main__":
    main()
