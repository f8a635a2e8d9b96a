"""What the slopes of loss curves became: where the numbers of `evaluate/fit.py` come from.

    python benchmarks/forecast_slopes.py

In: `results/forecast_slopes_curves.json.gz`, the constant-rate parts of 22 runs, none of them in
`forecast_runs.py`: the first round of that (six), thirteen small ones on a CPU (Wikipedia,
vocabulary of 1,024) and three of the speedrun's. Of these last the means of 50 steps were kept:
between them the loss is drawn out, with noise of 0.05.

Each is forecast from parts of it: a third of the whole, of 70 % of it and of 50 %, half of the
whole and of 70 %, a sixth; where these have 100 steps and a six-fold range (a third has, of 17
runs). The slope that the rest had, as the law's exponent has it, is regressed (ridge, every run
with the same weight) on the slope at the last fitted point and, for each optimizer, on the
logarithm of tokens for each parameter.

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

from hornbook.evaluate import fit as module
from hornbook.evaluate.curve import AVERAGED
from hornbook.evaluate.fit import ensemble, fit

Column = npt.NDArray[np.float64]

CUTS = ((1.0, 3), (0.7, 3), (0.5, 3), (1.0, 2), (0.7, 2), (1.0, 6))
"""Share of a run that is looked at, and the part of this that is fitted: one in so many."""

RIDGE, TIMES, SEED = 0.05, 400, 1337


@dataclass(frozen=True)
class Hindcast:
    """A part of a run, what came after it, and the slopes before and after."""

    run: str
    kind: str
    muon: bool
    cut: tuple[float, int]
    x: Column
    y: Column
    at: float
    came: float
    per_parameter: float
    slope: float
    became: float


def hindcasts(curves: dict[str, Any]) -> list[Hindcast]:
    """All of them; those of a run are neighbours."""
    found = []
    for name, run in curves.items():
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
            found.append(Hindcast(
                name, run["kind"], run["muon"], (share, part), x[known], y[known], at, came,
                float(unit / run["blocks"]), law.exponent * law.scale / level,
                (1 - came / level) / reach,
            ))  # fmt: skip
    return found


def regress(rows: list[Hindcast]) -> tuple[float, dict[str, tuple[float, float]]]:
    """OWN and USUAL of `evaluate/fit.py`."""
    fresh = np.array([math.log(row.per_parameter) for row in rows])
    muon = np.array([float(row.muon) for row in rows])
    given = np.column_stack([[row.slope for row in rows], fresh, muon, muon * fresh])
    runs = [row.run for row in rows]
    weights = np.array([1 / runs.count(run) for run in runs])
    centre, spread = given.mean(axis=0), given.std(axis=0)
    terms = np.column_stack([np.ones(len(rows)), (given - centre) / spread])
    normal = (terms * weights[:, None]).T @ terms
    normal[1:, 1:] += RIDGE * weights.sum() * np.eye(given.shape[1])
    became = np.array([row.became for row in rows])
    solved = np.linalg.solve(normal, (terms * weights[:, None]).T @ became)
    own, slope, step, more = solved[1:] / spread
    usual = solved[0] - centre @ (solved[1:] / spread)
    return float(own), {
        "adamw": (float(usual), float(slope)), "muon": (float(usual + step), float(slope + more))
    }  # fmt: skip


def forecast(row: Hindcast, others: list[Hindcast]) -> tuple[float, bool]:
    """The error of the forecast, by the numbers of `others`, and whether the band held."""
    kept = module.OWN, module.USUAL
    module.OWN, module.USUAL = regress(others)
    made = ensemble(row.x, row.y, row.per_parameter, row.muon, TIMES, SEED, AVERAGED)
    module.OWN, module.USUAL = kept
    low, middle, high = made.at(row.at)
    return float(middle / row.came - 1), bool(low <= row.came <= high)


def main() -> None:
    given = parser_for(__doc__, tiny=False).parse_args()
    with gzip.open(RESULTS / "forecast_slopes_curves.json.gz", "rt", encoding="utf-8") as file:
        rows = hindcasts(json.load(file))
    own, usual = regress(rows)
    print(
        f"OWN = {own:.3f}", {name: tuple(round(v, 4) for v in two) for name, two in usual.items()}
    )
    by_run = [forecast(row, [other for other in rows if other.run != row.run]) for row in rows]
    by_kind = [forecast(row, [other for other in rows if other.kind != row.kind]) for row in rows]
    table, summary = [], {}
    for row, alone, strange in zip(rows, by_run, by_kind, strict=True):
        if row.cut == CUTS[0]:
            table.append({
                "run": row.run,
                "tokens a parameter": f"{row.per_parameter:.2f}",
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
        "own": own, "usual": usual, "summary": summary, "table": table,
    })  # fmt: skip


if __name__ == "__main__":
    main()
