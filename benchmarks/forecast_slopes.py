"""What the slopes of loss curves became: where the numbers of `evaluate/slopes.py` come from.

    python benchmarks/forecast_slopes.py

In: the constant-rate parts of 32 runs, none of them in the second round of `forecast_runs.py`.
`results/forecast_slopes_curves.json.gz` has the first round of that (six), thirteen small ones on a
CPU (Wikipedia, vocabulary of 1,024), three of the speedrun's, two of Phi-2 from a feed. Of the
speedrun's the means of 50 steps were kept: between them the loss is drawn out, with noise of 0.05.
`results/forecast_runs_3_curves.json.gz` has the third round, eight on books.

Each is forecast from parts of it: a third of the whole, of 70 % of it and of 50 %, half of the
whole and of 70 %, a sixth; where these have 100 steps and a six-fold range. The slope that the rest
had, as the law's exponent has it, is regressed (ridge, every run with the same weight) on the slope
at the last fitted point and on the run's traits.

Out: the numbers; and how well each run is forecast by those of all runs but itself, and of all runs
of other kinds, in `--out`: `forecast_slopes.json`.
"""

from __future__ import annotations

import gzip
import json
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from common import RESULTS, parser_for, write_result

from hornbook.evaluate import slopes as module
from hornbook.evaluate.curve import AVERAGED
from hornbook.evaluate.fit import ensemble, fit
from hornbook.evaluate.slopes import Traits
from hornbook.files import read_json

Column = npt.NDArray[np.float64]

CUTS = ((1.0, 3), (0.7, 3), (0.5, 3), (1.0, 2), (0.7, 2), (1.0, 6))
"""Share of a run that is looked at, and the part of this that is fitted: one in so many."""

RIDGE, TIMES, SEED = 0.05, 400, 1337

NUMBERS = ("USUAL", "OWN", "HIGH", "STEP", "FRESH", "MUON")
"""Of `evaluate/slopes.py`, in the order in which `regress` finds them."""


@dataclass(frozen=True)
class Hindcast:
    """A part of a run, what came after it, and the slopes before and after."""

    run: str
    kind: str
    cut: tuple[float, int]
    x: Column
    y: Column
    at: float
    came: float
    traits: Traits
    level: float
    slope: float
    became: float


def curves() -> dict[str, Any]:
    """Of each run: kind, parameters of the blocks, vocabulary, muon; tokens after the first loss
    that is kept, tokens of a step, and the losses."""
    found: dict[str, Any] = _read("forecast_slopes_curves")
    for run in read_json(RESULTS / "forecast_runs_3.json")["runs"]:
        trained = _read("forecast_runs_3_curves")[run["name"]]
        steps = trained["steps"]
        peak = max(step["learning_rate"] for step in steps)
        steps = [step for step in steps if step["learning_rate"] >= 0.999 * peak]
        found[run["name"]] = {
            "kind": "books", "muon": run["kind"] == "muon", "blocks": trained["blocks"],
            "vocabulary": 4096, "first": steps[0]["tokens"], "step": run["batch"],
            "loss": [step["loss"] for step in steps],
        }  # fmt: skip
    return found


def _read(name: str) -> dict[str, Any]:
    with gzip.open(RESULTS / f"{name}.json.gz", "rt", encoding="utf-8") as file:
        content: dict[str, Any] = json.load(file)
    return content


def hindcasts(name: str, run: dict[str, Any]) -> list[Hindcast]:
    """The parts of a run."""
    found = []
    loss = np.array(run["loss"])
    tokens = run["first"] + run["step"] * np.arange(len(loss))
    for share, part in CUTS:
        seen = tokens <= share * tokens[-1]
        x, y = tokens[seen], loss[seen]
        known = x <= x[-1] / part
        if known.sum() < 100 or x[-1] / part < 6 * x[0]:
            continue
        at, came, unit = float(x[-AVERAGED // 2]), float(y[-AVERAGED:].mean()), x[known][-1]
        law = fit(x[known], y[known])
        level = law.floor + law.scale
        reach = (1 - (at / unit) ** -law.exponent) / law.exponent
        traits = Traits(
            float(unit / run["blocks"]), run["step"], run["vocabulary"], bool(run["muon"])
        )
        found.append(Hindcast(
            name, run["kind"], (share, part), x[known], y[known], at, came, traits, level,
            law.exponent * law.scale / level, (1 - came / level) / reach,
        ))  # fmt: skip
    return found


def regress(rows: list[Hindcast]) -> dict[str, float]:
    """`NUMBERS`."""
    given = []
    for row in rows:
        high, step, fresh = row.traits.named(row.level).values()
        terms = (
            row.slope,
            high,
            math.log(step),
            math.log(fresh),
            row.traits.muon * math.log(fresh),
        )
        given.append(terms)
    table = np.array(given)
    runs = [row.run for row in rows]
    weights = np.array([1 / runs.count(run) for run in runs])
    centre, spread = np.average(table, axis=0, weights=weights), table.std(axis=0)
    columns = np.column_stack([np.ones(len(rows)), (table - centre) / spread])
    normal = (columns * weights[:, None]).T @ columns
    normal[1:, 1:] += RIDGE * weights.sum() * np.eye(table.shape[1])
    became = np.array([row.became for row in rows])
    solved = np.linalg.solve(normal, (columns * weights[:, None]).T @ became)
    slopes = solved[1:] / spread
    values = (solved[0] - centre @ slopes, *slopes)
    return {name: float(value) for name, value in zip(NUMBERS, values, strict=True)}


def forecast(row: Hindcast, others: list[Hindcast]) -> tuple[float, bool]:
    """The error of the forecast, by the numbers of `others`, and whether the band held."""
    kept = {name: getattr(module, name) for name in NUMBERS}
    for name, value in regress(others).items():
        setattr(module, name, value)
    made = ensemble(row.x, row.y, row.traits, TIMES, SEED, AVERAGED)
    for name, value in kept.items():
        setattr(module, name, value)
    low, middle, high = made.at(row.at)
    return float(middle / row.came - 1), bool(low <= row.came <= high)


def main() -> None:
    given = parser_for(__doc__, tiny=False).parse_args()
    rows = [row for name, run in curves().items() for row in hindcasts(name, run)]
    numbers = regress(rows)
    print(", ".join(f"{name} = {value:.4f}" for name, value in numbers.items()))
    for name, values in zip(
        module.SEEN,
        zip(*(row.traits.named(row.level).values() for row in rows), strict=True),
        strict=True,
    ):
        print(f"{name}: {min(values):.3g} to {max(values):.3g}")
    by_run = [forecast(row, [other for other in rows if other.run != row.run]) for row in rows]
    by_kind = [forecast(row, [other for other in rows if other.kind != row.kind]) for row in rows]
    table, summary = [], {}
    for row, alone, strange in zip(rows, by_run, by_kind, strict=True):
        if row.cut == CUTS[0]:
            table.append({
                "run": row.run,
                "tokens a parameter": f"{row.traits.per_parameter:.2g}",
                "error, by other runs": f"{100 * alone[0]:+.1f} %",
                "inside": "yes" if alone[1] else "no",
                "error, by other kinds": f"{100 * strange[0]:+.1f} %",
                "inside ": "yes" if strange[1] else "no",
            })  # fmt: skip
    whole = [row.cut == CUTS[0] for row in rows]
    for name, found in (("by other runs", by_run), ("by other kinds", by_kind)):
        for which, chosen in (("a third of the whole", whole), ("all parts", [True] * len(rows))):
            kept = [each for each, keep in zip(found, chosen, strict=True) if keep]
            errors, inside = np.abs([e for e, _ in kept]), sum(held for _, held in kept)
            said = f"median error {100 * np.median(errors):.1f} %, {inside} of {len(kept)} inside"
            summary[f"{which}, {name}"] = said
            print(f"{which}, {name}: {said}")
    write_result(given.out, "forecast_slopes", {
        "what": "runs forecast from a third of their constant part, with slopes regressed on other"
        " runs, and on those of other kinds",
        "numbers": numbers, "summary": summary, "table": table,
    })  # fmt: skip


if __name__ == "__main__":
    main()
