"""The least memory a model trains in, and what that costs in speed, on one GPU.

    python benchmarks/memory.py
    python benchmarks/memory.py --only 124m --capped '{"micro_batch": 12, "weights": "bf16"}'

Each is a real run of hornbook's own parts at T 1024 and 524,288 tokens (512 rows) a step, on random
tokens, with PyTorch's allocator held to the cap (10^9 bytes; the CUDA context of about 0.5 GB comes
on top), beside a run of the same model without a cap, by turns in one session.

What fits is what `hornbook plan` predicts (docs/plan.md): with bf16 activations a row of 1,024
tokens takes 0.31 GB at 124M, 1.4 at 712M and 2.9 at 2.78B, a third of that with `selective`, and a
twentieth with `full`; beside it lie weights, gradients, optimizer state and the logits.

Settings given with --capped (several: the fastest counts) change those of the first line.
Writes benchmarks/results/memory_MODEL.json.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from arena import Options, compare
from common import parser_for, write_result
from contestants import Settings
from train_speed import ours, tiny

ROWS = 512
"""0.5M tokens a step."""

TARGETS = {
    "124m": {6.0: 0.85},
    "712m": {12.0: 0.75},
    "phi2": {24.0: 0.70, 16.0: 0.0},
}
"""Model -> GB -> share of the unconstrained speed that is asked for (0: whatever it costs)."""

TITLES = {"124m": "GPT-2 124M", "712m": "712M", "phi2": "Phi-2 2.78B"}


def _ours(work: str, micro_batch: int, memory_gb: float = 0.0, **other: Any) -> Settings:
    return ours(work, ROWS, micro_batch, memory_gb=memory_gb, expandable_segments=True, **other)


LOW = {"weights": "bf16", "optimizer": "adamw8bit"}
FULL = {"checkpointing": "full", "cross_entropy": "chunked"}

LINEUPS: dict[str, dict[str, list[Settings]]] = {
    "124m": {
        "unconstrained": [_ours("124m", 64)],
        "6": [
            _ours("124m", 8, 6.0, cuda_graph=True),
            _ours("124m", 20, 6.0, cross_entropy="chunked", checkpointing="selective"),
        ],
    },
    "712m": {
        "unconstrained": [_ours("712m", 32)],
        "12": [
            _ours("712m", 4, 12.0, **LOW),
            _ours("712m", 8, 12.0, checkpointing="selective", **LOW),
        ],
    },
    "phi2": {
        "unconstrained": [_ours("phi2", 16, **LOW)],
        "24": [
            _ours("phi2", 16, 24.0, **FULL, **LOW),
            _ours("phi2", 4, 24.0, checkpointing="selective", **LOW),
        ],
        "16": [_ours("phi2", 8, 16.0, weights="bf16", offload=True, **FULL)],
    },
}


def table(work: str, contestants: dict[str, dict[str, Any]]) -> list[dict[str, str]]:
    """Rows for docs/performance.md."""
    free = contestants.get("unconstrained", {}).get("tokens_per_second")
    rows = []
    for name, numbers in contestants.items():
        if "tokens_per_second" not in numbers:
            continue
        share = numbers["tokens_per_second"] / free if free else 0.0
        wanted = None if name == "unconstrained" else TARGETS[work][float(name)]
        rows.append(
            {
                "model": TITLES[work],
                "cap, GB": "-" if name == "unconstrained" else name,
                "settings": numbers["differs"],
                "peak GB (reserved)": f"{numbers.get('peak_allocated_gb', 0):.2f}"
                f" ({numbers.get('peak_reserved_gb', 0):.2f})",
                "tokens/s": f"{numbers['tokens_per_second']:,.0f}",
                "of the unconstrained": f"{share:.1%}" if free else "-",
                "asked for": "-" if not wanted else f"{wanted:.0%}",
            }
        )
    return rows


def main() -> None:
    parser = parser_for(__doc__)
    parser.add_argument("--only", default=",".join(LINEUPS), help="models, e.g. 124m,phi2")
    parser.add_argument("--caps", default="", help="of the caps of a model, e.g. 24")
    parser.add_argument("--capped", action="append", default=[], metavar="JSON")
    parser.add_argument("--free", action="append", default=[], metavar="JSON")
    parser.add_argument("--steps", type=int, default=2, help="timed steps of 0.5M tokens a turn")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--start-seconds", type=float, default=300, help="limit for compiling")
    options = parser.parse_args()
    how = Options(
        count=options.steps,
        rounds=options.rounds,
        start_seconds=options.start_seconds,
        turn_seconds=400.0,
    )
    for work in options.only.split(","):
        lineup: dict[str, list[Settings]] = {}
        for name, candidates in LINEUPS[work].items():
            if options.caps and name not in ("unconstrained", *options.caps.split(",")):
                continue
            changes = options.free if name == "unconstrained" else options.capped
            if changes:
                first = candidates[0]
                candidates = [dataclasses.replace(first, **json.loads(c)) for c in changes]
            lineup[name] = (
                [tiny(settings) for settings in candidates] if options.tiny else candidates
            )
        print(f"{work}: {TITLES[work]}", flush=True)
        compared = compare(lineup, how)
        result = {
            "what": f"tokens a second within little memory, {TITLES[work]}, T 1024, 0.5M a step",
            **compared,
            "table": table(work, compared["contestants"]),
        }
        write_result(options.out, f"memory_{work}", result)


if __name__ == "__main__":
    main()
