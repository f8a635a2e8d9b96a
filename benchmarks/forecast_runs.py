"""How good are forecasts? Runs named beforehand, forecast from their first third, then compared.

    python benchmarks/forecast_runs.py --text wikipedia.jsonl.zst --rank-file r50k_base.tiktoken --work work
    python benchmarks/forecast_runs.py --text wikipedia.jsonl.zst --work work --small    # a CPU
    python benchmarks/forecast_runs.py --tabulate benchmarks/results                     # no training

`RUNS` was written down before any of them was trained, and what the fit assumes was settled on made-up
curves and on other runs (`docs/forecast.md`), so that nothing here was chosen to look well. Each run
trains at a constant rate and lets it fall over the last fifth. Its losses up to a third of the
constant part are fitted; forecast is the mean of the last 50 losses of that part, with an 80 % band.

The text is 6,696 English Wikipedia articles (22M GPT-2 tokens): JSON lines with `text`, as in
`wikipedia.py`. Every hundredth document is held out. The token shards are made once, in `--work`; the
runs are written there, too, without checkpoints (`--only NAME ...` trains some of them, and leaves the
others' results as they are). Per step, loss and rate of each are kept.

Writes to `--out` (two files): `forecast_runs.json`, the table, and `forecast_runs_curves.json.gz`.
One H200: about 6 minutes. `--small`: two small models, about a minute each.
"""  # noqa: E501 (a command is one line)

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
from recipe_run import QUIET

from hornbook.documents import write_documents
from hornbook.evaluate.curve import AVERAGED, read_curve
from hornbook.evaluate.fit import ensemble
from hornbook.evaluate.forecast import check_enough
from hornbook.files import atomic_path
from hornbook.gather.readers import read_inputs
from hornbook.recipe import build_recipe
from hornbook.tokenizer.config import TokenizeConfig
from hornbook.tokens.tokenize import tokenize
from hornbook.train.pretrain import pretrain

HOLD_OUT_EVERY = 100
FORECAST_AFTER = 1 / 3
"""Share of the constant part's tokens that is fitted."""

TIMES, SEED = 400, 1337
KEPT = ("step", "tokens", "loss", "learning_rate", "tokens_per_second")


@dataclass(frozen=True)
class Run:
    """A training run: model, optimizer, tokens of a step and of the whole."""

    name: str
    preset: str
    kind: str
    rate: float
    batch: int
    tokens: int
    seed: int
    shape: tuple[int, int, int] | None = None
    """Layers, width, heads, where they are not the preset's."""
    length: int = 512

    def settings(self) -> dict[str, Any]:
        """The recipe's sections."""
        model: dict[str, Any] = {"preset": self.preset, "context": self.length}
        if self.shape:
            layers, width, heads = self.shape
            model |= {"layers": layers, "width": width, "heads": heads, "kv_heads": heads}
            model |= {"head_dim": width // heads, "mlp_width": 3 * width}
        return {
            "name": self.name,
            "model": model,
            "data": {"mode": "chunks"},
            "optimizer": {
                "kind": self.kind, "learning_rate": self.rate, "schedule": "wsd",
                "decay_share": 0.2, "final_share": 0.0, "warmup_steps": 100,
            },
            "pretrain": {
                **QUIET, "tokens": self.tokens, "global_batch_tokens": self.batch,
                "seed": self.seed, "evaluate_every": 0, "sample_tokens": 8,
            },
        }  # fmt: skip


RUNS = (
    Run("llama 4x128, AdamW", "llama-1m", "adamw", 3e-3, 8192, 40_000_000, 1, (4, 128, 2)),
    Run("llama 6x192, Muon", "llama-1m", "muon", 3e-3, 8192, 40_000_000, 2, (6, 192, 3)),
    Run("llama 8x256, AdamW", "llama-5m", "adamw", 2e-3, 8192, 40_000_000, 3, (8, 256, 4)),
    Run("llama 8x384, Muon", "llama-15m", "muon", 3e-3, 16384, 40_000_000, 4, (8, 384, 6)),
    Run("gpt2 124M, AdamW", "gpt2-124m", "adamw", 6e-4, 8192, 21_000_000, 5, length=1024),
    Run("gpt2 124M, Muon", "gpt2-124m", "muon", 3e-3, 8192, 21_000_000, 6, length=1024),
)
"""The runs of the table. More than one pass (40M tokens are 1.8) only for the small models."""

SMALL = (
    Run("llama 2x64, AdamW", "llama-1m", "adamw", 3e-3, 256, 480_000, 1, (2, 64, 2), 128),
    Run("llama 2x48, Muon", "llama-1m", "muon", 3e-3, 256, 480_000, 2, (2, 48, 2), 128),
)
"""The rehearsal, with 1,024 tokens of its own."""

SMALL_TEXT = 3000
"""Documents of the rehearsal."""


def make_tokens(text: Path, folder: Path, rank_file: str | None, small: bool) -> Path:
    """Token shards of the text, made once."""
    tokens = folder / ("tokens-small" if small else "tokens")
    if (tokens / "manifest.json").exists():
        return tokens
    documents = list(read_inputs([text]))[: SMALL_TEXT if small else None]
    prepared = folder / "prepare"
    shutil.rmtree(prepared, ignore_errors=True)
    for split in ("train", "validation"):
        (prepared / split).mkdir(parents=True)
        held_out = split == "validation"
        chosen = [d for n, d in enumerate(documents) if (n % HOLD_OUT_EVERY == 0) == held_out]
        write_documents(chosen, prepared / split)
    config = TokenizeConfig(kind="gpt2", file=rank_file)
    if small:
        config = TokenizeConfig(kind="bpe", vocabulary=1024)
    tokenize(config, prepared, tokens)
    return tokens


def train(run: Run, tokens: Path, folder: Path) -> list[dict[str, float]]:
    """Train a run; what is kept of each of its steps."""
    shutil.rmtree(folder, ignore_errors=True)
    recipe = build_recipe(run.settings(), run.name)
    pretrain(
        recipe.model, recipe.data, recipe.optimizer, recipe.pretrain, recipe.generate, tokens,
        folder,
    )  # fmt: skip
    shutil.rmtree(folder / "checkpoints")
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").open(encoding="utf-8")]
    return [{key: line[key] for key in KEPT} for line in lines if "learning_rate" in line]


def compare(run: Run, steps: list[dict[str, float]]) -> dict[str, Any]:
    """The forecast from the first third of the constant part, and what came."""
    peak = max(step["learning_rate"] for step in steps)
    constant = [step for step in steps if step["learning_rate"] >= 0.999 * peak]
    known = [s for s in steps if s["tokens"] <= FORECAST_AFTER * constant[-1]["tokens"]]
    ends = constant[-AVERAGED:]
    truth = statistics.fmean(step["loss"] for step in ends)
    with tempfile.TemporaryDirectory() as folder:
        metrics = Path(folder) / "metrics.jsonl"
        metrics.write_text("".join(json.dumps(step) + "\n" for step in known), encoding="utf-8")
        curve = read_curve(metrics)
    check_enough(curve, "loss")
    began = time.perf_counter()
    made = ensemble(curve.exposure[curve.fitted], curve.loss[curve.fitted], TIMES, SEED, AVERAGED)
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
        "drift": round(made.drift, 5),
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


def write(out: Path, curves: dict[str, Any], runs: tuple[Run, ...]) -> None:
    """The table and the kept losses."""
    rows = [compare(run, curves[run.name]["steps"]) for run in runs if run.name in curves]
    errors = [abs(row["error"]) for row in rows]
    out.mkdir(parents=True, exist_ok=True)
    with atomic_path(_curves_file(out)) as path, gzip.open(path, "wt", encoding="utf-8") as file:
        json.dump(curves, file)
    write_result(out, "forecast_runs", {
        "what": "forecast of the mean loss of the last 50 steps at a constant rate, from the first"
        " third of its tokens; 80 % band",
        "runs": [dataclasses.asdict(run) for run in runs],
        "trained on": [curves[row["run"]]["machine"] for row in rows],
        "numbers": rows,
        "table": [as_text(row) for row in rows],
        "median error": round(statistics.median(errors), 5),
        "inside": f"{sum(row['inside'] for row in rows)} of {len(rows)}",
    })  # fmt: skip
    for row in rows:
        mark = "inside" if row["inside"] else "OUTSIDE"
        print(
            f"{row['run']:<22} {row['forecast']:.3f} ({row['low']:.3f} to {row['high']:.3f})"
            f"  came {row['came']:.3f}  {100 * row['error']:+.2f} %  {mark}"
        )
    print(f"median error {100 * statistics.median(errors):.2f} %")


def _curves_file(out: Path) -> Path:
    return out / "forecast_runs_curves.json.gz"


def _kept_curves(out: Path) -> dict[str, Any]:
    if not _curves_file(out).exists():
        return {}
    with gzip.open(_curves_file(out), "rt", encoding="utf-8") as file:
        found: dict[str, Any] = json.load(file)
    return found


def options() -> argparse.Namespace:
    parser = parser_for(__doc__, tiny=False)
    parser.add_argument("--text", type=Path, help="the articles, as JSON lines")
    parser.add_argument("--rank-file", help="r50k_base.tiktoken, instead of a download")
    parser.add_argument("--work", type=Path, default=Path("forecast-runs"))
    parser.add_argument("--only", nargs="+", default=[], help="names of runs, or their beginnings")
    parser.add_argument("--small", action="store_true", help="rehearse with two small models")
    parser.add_argument("--tabulate", type=Path, metavar="DIR", help="only fit what is kept there")
    return parser.parse_args()


def main() -> None:
    given = options()
    runs = SMALL if given.small else RUNS
    if given.tabulate:
        write(given.tabulate, _kept_curves(given.tabulate), runs)
        return
    curves = _kept_curves(given.out)
    tokens = make_tokens(given.text, given.work, given.rank_file, given.small)
    for run in runs:
        if given.only and not run.name.startswith(tuple(given.only)):
            continue
        began = time.perf_counter()
        steps = train(run, tokens, given.work / run.name.replace(" ", "-").replace(",", ""))
        curves[run.name] = {"machine": machine(), "steps": steps}
        assert all(math.isfinite(step["loss"]) for step in steps), run.name
        write(given.out, curves, tuple(r for r in runs if r.name in curves))
        print(f"{run.name}: {time.perf_counter() - began:.0f} s with start-up", flush=True)


if __name__ == "__main__":
    main()
