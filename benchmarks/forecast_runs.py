"""How good are forecasts? Runs named beforehand, forecast from their first third, then compared.

    python benchmarks/forecast_runs.py --tokens wikipedia/tokens --work work --round 2
    python benchmarks/forecast_runs.py --tokens runs/mix/tokenize --work work --round 4   # a CPU
    python benchmarks/forecast_runs.py --tokens runs/mine/tokenize --work work --round 0  # rehearse

Each run trains at a constant rate and lets it fall over the last fifth. Its losses up to a third of
the constant part are fitted; forecast is the mean of the last 50 losses of that part, with an 80 %
band. Each round was declared before any of its runs was trained:

1. Six runs (`results/forecast_runs_1.json`), by a method that has changed since.
2. 2026-11-22, 16:45 UTC. Nine runs for one H200 (9 minutes with start-up), as `hornbook plan
   --write` and the recipes would train such sizes on 15,200 articles of English Wikipedia as
   `wikipedia.py` makes them (44M GPT-2 tokens; runs of 66M see them one and a half times): shapes
   from the plan's ladder, 3x96 to 12x768 (0.3M to 85M parameters without embeddings), and GPT-2
   124M; batches by the plan's rule for the tokens (16,384 up to 65M, 32,768 above); rates the
   plan's (Muon: 0.02 for matrices, 3e-3 for the rest; AdamW: 0.46 / width) or the recipe's,
   contexts theirs. Not chosen to look well: Muon with small steps is where the first round was too
   hopeful, GPT-2 with few tokens where it was too careful, and 3x96 has more tokens a parameter
   than any run that was learnt from.
3. 2026-11-22, 20:43 UTC, by the method that the second was declared with: is what was learnt from
   Wikipedia true of another text? Eight runs that a CPU core trains in minutes (89 together), of
   all four shapes, on 76 books of Project Gutenberg (every twentieth by name, from A to J; 34 MB)
   with a vocabulary of 4,096 trained on them. Qwen3's sizes and rates are what `plan --write` gives
   a CPU, the others' the quickstart's.
4. 2026-11-22, 21:34 UTC, by a method that was mended on the first and third rounds. Eight runs as
   those, each of another size, rate, batch or optimizer (four of another batch alone), on a mix of
   2,000 articles of Wikipedia, the books and 35 MB of Python (transformers 5.23, torch 2.13), with
   a vocabulary of 8,192 trained on it.
5. 2026-11-23, 02:48 UTC, by what was learnt from all rounds before: are larger runs forecast on a
   text that none of them had, where the second round missed? Eight for one H200, on 330 other books
   of Project Gutenberg (every fourth by name, from K to Z; 107 MB) with a vocabulary of 16,384
   trained on them. Twice AdamW in more than 15M parameters of blocks with few tokens, twice Muon
   in as many, Muon in small steps; sizes, shapes and batches that no run had together. The six
   with 32,768 tokens a step were declared with 36M and 50M tokens, trained, and refused: a third
   of them spans less than eightfold. At 03:12, before any was forecast, they were declared once
   more with 58M, and trained from nothing.

`results/forecast_runs_N.json` has a round's forecasts by the method of that time (the second was
trained last, on 2026-11-23). None is made again when the method changes: `forecast_slopes.py`
learns from their curves.

Writes to `--out` (two files): `forecast_runs_N.json`, and `forecast_runs_N_curves.json.gz` with
loss and rate of each step. Runs are written to `--work`, without checkpoints; `--only NAME ...`
trains those whose names begin so, and leaves the others' results as they are: several processes may
share a round.
"""

from __future__ import annotations

import argparse
import dataclasses
import gzip
import json
import math
import shutil
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import machine, parser_for, write_result
from filelock import FileLock
from recipe_run import QUIET

from hornbook.errors import HornbookError
from hornbook.evaluate.curve import AVERAGED, Curve, read_curve
from hornbook.evaluate.fit import ensemble
from hornbook.evaluate.forecast import check_enough
from hornbook.evaluate.slopes import LEARNT, Traits
from hornbook.files import atomic_path
from hornbook.model.count import parameters
from hornbook.model.presets import resolve
from hornbook.recipe import build_recipe
from hornbook.tokenizer.tokenizer import Tokenizer
from hornbook.train.pretrain import pretrain

FORECAST_AFTER = 1 / 3
"""Share of the constant part's tokens that is fitted."""

TIMES, SEED = 400, 1337
KEPT = ("step", "tokens", "loss", "learning_rate", "tokens_per_second")


@dataclass(frozen=True)
class Run:
    """A training run."""

    name: str
    why: str
    kind: str
    rate: float
    batch: int
    """Tokens of a step."""
    tokens: int
    """Of the whole run."""
    seed: int
    shape: tuple[int, int] | None = None
    """Layers and width, as `hornbook plan` shapes Qwen3; none: the preset's own."""
    length: int = 1024
    preset: str = "qwen3-1m"

    def settings(self) -> dict[str, Any]:
        """The recipe's sections."""
        model: dict[str, Any] = {"preset": self.preset, "context": self.length}
        if self.shape:
            layers, width = self.shape
            head_dim = 32 if width < 256 else 64
            gated = self.preset.startswith(("qwen3", "llama"))
            model |= {"layers": layers, "width": width, "head_dim": head_dim}
            model |= {"heads": width // head_dim, "kv_heads": width // head_dim}
            model["mlp_width"] = 64 * math.ceil(width * 8 / 3 / 64) if gated else 4 * width
        return {
            "name": self.name,
            "model": model,
            "optimizer": {
                "kind": self.kind, "learning_rate": self.rate, "schedule": "wsd",
                "decay_share": 0.2, "final_share": 0.0,
            },
            "pretrain": {
                **QUIET, "tokens": self.tokens, "global_batch_tokens": self.batch,
                "seed": self.seed, "evaluate_every": 0, "sample_tokens": 8,
            },
        }  # fmt: skip


SMALL_STEP, STEP = 2**14, 2**15
RUNS = (
    Run("qwen3 3x96, Muon", "smallest; many tokens a parameter",
        "muon", 3e-3, SMALL_STEP, 44_000_000, 11, (3, 96), 256),
    Run("qwen3 4x128, AdamW", "small, the rate that plan gives AdamW",
        "adamw", 3.6e-3, SMALL_STEP, 44_000_000, 12, (4, 128), 256),
    Run("qwen3 6x192, Muon", "the first round's worst small one, with the plan's batch",
        "muon", 3e-3, SMALL_STEP, 44_000_000, 13, (6, 192), 256),
    Run("qwen3 6x256, AdamW", "small, larger steps",
        "adamw", 1.8e-3, STEP, 66_000_000, 14, (6, 256), 256),
    Run("qwen3 8x384, Muon", "what plan --write makes of 66M tokens, within a size",
        "muon", 3e-3, STEP, 66_000_000, 15, (8, 384), 512),
    Run("qwen3 10x384, AdamW", "recipe qwen3-15m, with the batch of so few tokens",
        "adamw", 1.5e-3, STEP, 66_000_000, 16, (10, 384)),
    Run("qwen3 10x512, Muon", "middle; one token a parameter",
        "muon", 3e-3, SMALL_STEP, 44_000_000, 17, (10, 512), 512),
    Run("gpt2 124M, AdamW", "recipe gpt2-124m, with the batch of so few tokens",
        "adamw", 6e-4, SMALL_STEP, 30_000_000, 18, preset="gpt2-124m"),
    Run("qwen3 12x768, Muon", "as large, with the plan's optimizer",
        "muon", 3e-3, SMALL_STEP, 30_000_000, 19, (12, 768)),
)  # fmt: skip
"""The second round's runs, and why each is there."""

BOOKS = (
    Run("books: qwen3 3x96, AdamW", "what plan --write makes of 6 minutes, and its batch",
        "adamw", 4.8e-3, 512, 3_000_000, 31, (3, 96), 256),
    Run("books: qwen3 4x128, AdamW", "what it makes of 15 minutes",
        "adamw", 3.6e-3, 1024, 4_000_000, 32, (4, 128), 256),
    Run("books: qwen3 4x128, Muon", "the same with Muon",
        "muon", 3e-3, 1024, 4_000_000, 33, (4, 128), 256),
    Run("books: llama 4x128, AdamW", "the quickstart's size and rate",
        "adamw", 3e-3, 1024, 3_000_000, 34, (4, 128), 256, "llama-1m"),
    Run("books: gpt2 4x128, AdamW", "another shape",
        "adamw", 3e-3, 1024, 4_000_000, 35, (4, 128), 256, "gpt2-124m"),
    Run("books: phi2 4x128, AdamW", "another shape, larger steps",
        "adamw", 3e-3, 2048, 4_000_000, 36, (4, 128), 256, "phi2"),
    Run("books: qwen3 6x192, AdamW", "the next size of plan, few tokens a parameter",
        "adamw", 2.4e-3, 1024, 2_000_000, 37, (6, 192), 256),
    Run("books: qwen3 6x192, Muon", "the same with Muon",
        "muon", 3e-3, 1024, 2_000_000, 38, (6, 192), 256),
)  # fmt: skip
"""The third round's runs."""

MIX = (
    Run("mix: qwen3 2x64, Muon", "smallest; many tokens a parameter",
        "muon", 3e-3, 1024, 2_500_000, 41, (2, 64), 256),
    Run("mix: qwen3 3x96, Muon", "small noisy steps",
        "muon", 3e-3, 512, 2_500_000, 42, (3, 96), 256),
    Run("mix: qwen3 3x96, AdamW", "the rate that plan gives, larger steps",
        "adamw", 4.8e-3, 1024, 3_000_000, 43, (3, 96), 256),
    Run("mix: qwen3 4x128, AdamW", "the rate that plan gives, larger steps",
        "adamw", 3.6e-3, 2048, 3_500_000, 44, (4, 128), 256),
    Run("mix: llama 4x128, Muon", "Muon with another shape",
        "muon", 3e-3, 2048, 3_500_000, 45, (4, 128), 256, "llama-1m"),
    Run("mix: gpt2 4x128, AdamW", "small noisy steps, half the rate",
        "adamw", 1.5e-3, 512, 2_000_000, 46, (4, 128), 256, "gpt2-124m"),
    Run("mix: phi2 4x128, AdamW", "another shape",
        "adamw", 3e-3, 1024, 3_000_000, 47, (4, 128), 256, "phi2"),
    Run("mix: qwen3 6x192, AdamW", "few tokens a parameter",
        "adamw", 2.4e-3, 2048, 3_000_000, 48, (6, 192), 256),
)  # fmt: skip
"""The fourth round's runs."""

LATE = (
    Run("late: qwen3 4x192, AdamW", "small, the rate that plan gives AdamW",
        "adamw", 2.4e-3, SMALL_STEP, 40_000_000, 51, (4, 192), 256),
    Run("late: llama 6x256, Muon", "another shape with Muon, larger steps",
        "muon", 3e-3, STEP, 58_000_000, 52, (6, 256), 256, "llama-1m"),
    Run("late: llama 6x384, AdamW", "another shape, the rate that plan gives AdamW",
        "adamw", 1.2e-3, STEP, 58_000_000, 53, (6, 384), 512, "llama-1m"),
    Run("late: gpt2 8x512, AdamW", "where AdamW was forecast too high: 25M, few tokens",
        "adamw", 9e-4, STEP, 58_000_000, 54, (8, 512), 512, "gpt2-124m"),
    Run("late: qwen3 8x512, Muon", "where Muon was forecast too low: small steps",
        "muon", 3e-3, SMALL_STEP, 40_000_000, 55, (8, 512), 512),
    Run("late: qwen3 10x512, Muon", "nearly the same with steps twice as large",
        "muon", 3e-3, STEP, 58_000_000, 56, (10, 512), 512),
    Run("late: qwen3 12x768, AdamW", "where AdamW was forecast too high: 85M",
        "adamw", 6e-4, STEP, 58_000_000, 57, (12, 768), 512),
    Run("late: llama 12x768, Muon", "as large, with Muon",
        "muon", 3e-3, STEP, 58_000_000, 58, (12, 768), 512, "llama-1m"),
)  # fmt: skip
"""The fifth round's runs."""

SMALL = (
    Run("small, AdamW", "rehearsal", "adamw", 3e-3, 256, 480_000, 1, (2, 64), 128),
    Run("small, Muon", "rehearsal", "muon", 3e-3, 256, 480_000, 2, (2, 64), 128),
)

ROUNDS = {0: SMALL, 2: RUNS, 3: BOOKS, 4: MIX, 5: LATE}


def train(run: Run, tokens: Path, folder: Path) -> dict[str, Any]:
    """Train a run: where, the parameters of its blocks, and what is kept of each of its steps."""
    shutil.rmtree(folder, ignore_errors=True)
    recipe = build_recipe(run.settings(), run.name)
    model = resolve(recipe.model, Tokenizer.load(tokens / "tokenizer").size)
    pretrain(
        recipe.model, recipe.data, recipe.optimizer, recipe.pretrain, recipe.generate, tokens,
        folder,
    )  # fmt: skip
    shutil.rmtree(folder / "checkpoints")
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").open(encoding="utf-8")]
    steps = [{key: line[key] for key in KEPT} for line in lines if "learning_rate" in line]
    assert all(math.isfinite(step["loss"]) for step in steps), run.name
    return {
        "machine": machine(),
        "blocks": parameters(model).blocks,
        "vocabulary": model.vocabulary,
        "steps": steps,
    }


def curve_of(steps: list[dict[str, float]]) -> Curve:
    """What the product makes of the losses of steps."""
    with tempfile.TemporaryDirectory() as folder:
        metrics = Path(folder) / "metrics.jsonl"
        metrics.write_text("".join(json.dumps(step) + "\n" for step in steps), encoding="utf-8")
        return read_curve(metrics)


def compare(run: Run, trained: dict[str, Any]) -> dict[str, Any]:
    """The forecast from the first third of the constant part, and what came."""
    steps: list[dict[str, float]] = trained["steps"]
    peak = max(step["learning_rate"] for step in steps)
    constant = [step for step in steps if step["learning_rate"] >= 0.999 * peak]
    known = [s for s in steps if s["tokens"] <= FORECAST_AFTER * constant[-1]["tokens"]]
    ends = constant[-AVERAGED:]
    truth = statistics.fmean(step["loss"] for step in ends)
    curve = curve_of(known)
    check_enough(curve, "loss")
    began = time.perf_counter()
    x, y = curve.exposure[curve.fitted], curve.loss[curve.fitted]
    traits = Traits(x[-1] / trained["blocks"], run.batch, trained["vocabulary"], run.kind == "muon")
    made = ensemble(x, y, traits, TIMES, SEED, AVERAGED)
    seconds = time.perf_counter() - began
    # The constant part goes on: as many full-rate tokens come as tokens.
    middle = statistics.fmean(step["tokens"] for step in ends)
    at = float(curve.exposure[-1] + middle - curve.tokens[-1])
    low, forecast, high = (float(value) for value in made.at(at))
    return {
        "run": run.name,
        "steps fitted": int(curve.fitted.sum()),
        "tokens fitted": int(curve.tokens[-1]),
        "tokens forecast": int(middle),
        "loss then": round(float(curve.loss[-AVERAGED:].mean()), 4),
        "forecast": round(forecast, 4),
        "low": round(low, 4),
        "high": round(high, 4),
        "came": round(truth, 4),
        "error": round(forecast / truth - 1, 5),
        "inside": low <= truth <= high,
        "floor": round(made.best.floor, 4),
        "exponent": round(made.best.exponent, 4),
        "tokens a parameter": round(float(x[-1]) / trained["blocks"], 3),
        "gained by the falling rate": round(
            truth - statistics.fmean(step["loss"] for step in steps[-AVERAGED:]), 4
        ),
        "seconds to fit": round(seconds, 2),
    }


def as_text(row: dict[str, Any]) -> dict[str, str]:
    """A row of the page's table."""
    return {
        "run": row["run"],
        "fitted, M tokens": f"{row['tokens fitted'] / 1e6:.1f}",
        "forecast for, M": f"{row['tokens forecast'] / 1e6:.1f}",
        "loss then": f"{row['loss then']:.3f}",
        "forecast": f"{row['forecast']:.3f}",
        "80 % band": f"{row['low']:.3f} to {row['high']:.3f}",
        "came": f"{row['came']:.3f}",
        "error": f"{100 * row['error']:+.2f} %",
        "inside": "yes" if row["inside"] else "no",
    }


def keep(out: Path, number: int, name: str, trained: dict[str, Any]) -> dict[str, Any]:
    """Add a run's losses to those of its round, and return all; other processes may do the same."""
    out.mkdir(parents=True, exist_ok=True)
    file = out / f"forecast_runs_{number}_curves.json.gz"
    with FileLock(out / ".lock"):
        curves: dict[str, Any] = {}
        if file.exists():
            curves = json.loads(gzip.decompress(file.read_bytes()))
        curves[name] = trained
        with atomic_path(file) as path:
            path.write_bytes(gzip.compress(json.dumps(curves).encode(), mtime=0))
    return curves


def tabulate(out: Path, number: int, curves: dict[str, Any]) -> None:
    """Forecast the runs of a round that are there, and write the table."""
    rows: list[dict[str, Any]] = []
    refused: dict[str, str] = {}
    for run in ROUNDS[number]:
        try:
            rows += [compare(run, curves[run.name])] if run.name in curves else []
        except HornbookError as error:  # too little to forecast from: said, and the others go on
            refused[run.name] = str(error)
    if not rows:
        print(refused)
        return
    median = statistics.median(abs(row["error"]) for row in rows)
    write_result(out, f"forecast_runs_{number}", {
        "command": f"python benchmarks/forecast_runs.py --tokens DIR --work work --round {number}",
        "what": "forecast of the mean loss of the last 50 steps at a constant rate, from the first"
        " third of its tokens; 80 % band",
        "runs": [dataclasses.asdict(run) for run in ROUNDS[number]],
        "machine": curves[rows[0]["run"]]["machine"],  # that trained; any may fit and tabulate
        "trained on": [curves[row["run"]]["machine"] for row in rows],
        "learnt": dataclasses.asdict(LEARNT),
        "numbers": rows,
        "table": [
            *(as_text(row) for row in rows),
            *({"run": name, "error": "refused"} for name in refused),
        ],
        "refused": refused,
        "median error": round(median, 5),
        "inside": f"{sum(row['inside'] for row in rows)} of {len(rows)}",
    })  # fmt: skip
    for row in rows:
        mark = "inside" if row["inside"] else "OUTSIDE"
        print(
            f"{row['run']:<24} {row['forecast']:.3f} ({row['low']:.3f} to {row['high']:.3f})"
            f"  came {row['came']:.3f}  {100 * row['error']:+.2f} %  {mark}"
        )
    print(f"median error {100 * median:.2f} %; refused: {list(refused) or 'none'}")


def options() -> argparse.Namespace:
    parser = parser_for(__doc__, tiny=False)
    parser.add_argument("--tokens", type=Path, required=True, help="folder of token shards")
    parser.add_argument("--work", type=Path, default=Path("forecast-runs"))
    parser.add_argument("--only", nargs="+", default=[], help="names of runs, or their beginnings")
    parser.add_argument("--round", type=int, default=2, choices=ROUNDS, help="0: a rehearsal")
    return parser.parse_args()


def main() -> None:
    given = options()
    for run in ROUNDS[given.round]:
        if given.only and not run.name.startswith(tuple(given.only)):
            continue
        began = time.perf_counter()
        folder = given.work / run.name.replace(" ", "-").replace(",", "")
        trained = train(run, given.tokens, folder)
        tabulate(given.out, given.round, keep(given.out, given.round, run.name, trained))
        print(f"{run.name}: {time.perf_counter() - began:.0f} s with start-up", flush=True)


if __name__ == "__main__":
    main()
