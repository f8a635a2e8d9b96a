"""What the slopes of loss curves became: where the numbers of `evaluate/slopes.py` come from.

    python benchmarks/forecast_slopes.py

In: the constant-rate parts of 49 runs. `results/forecast_slopes_curves.json.gz` has the first round
of `forecast_runs.py` (six), thirteen small ones on a CPU (Wikipedia, vocabulary of 1,024), three of
the speedrun's, two of Phi-2 from a feed. Of the speedrun's the means of 50 steps were kept: between
them the loss is drawn out, with noise of 0.05. `results/forecast_runs_N_curves.json.gz` has the
rounds since: nine on a GPU, eight on books, eight on a mix. Those of the second and fourth were
forecast by numbers that had not seen them (in their own files); afterwards they are learnt from.

Each is forecast from parts of it: a third of the whole, of 70 % of it and of 50 %, half of the
whole and of 70 %, a sixth; where these have 100 steps and a six-fold range, which is less than
`hornbook forecast` asks for. The slope that the rest had, as the law's exponent has it, is
regressed (ridge, every run with the same weight) on the slope at the last fitted point and on the
run's traits.

Out: the numbers; and how well each run is forecast by those of all runs but itself, and of all runs
of other kinds, in `--out`: `forecast_slopes.json`. Only the second is a test: two of the speedrun's
and the two of Phi-2 are much alike.
"""

from __future__ import annotations

import dataclasses
import gzip
import itertools
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from common import RESULTS, parser_for, write_result
from forecast_runs import curve_of

from hornbook.evaluate.curve import AVERAGED
from hornbook.evaluate.fit import ensemble, fit
from hornbook.evaluate.slopes import Learnt, Traits, expected, terms

Column = npt.NDArray[np.float64]

CUTS = ((1.0, 3), (0.7, 3), (0.5, 3), (1.0, 2), (0.7, 2), (1.0, 6))
"""Share of a run that is looked at, and the part of this that is fitted: one in so many."""

ROUNDS = {2: "second round", 3: "books", 4: "mix"}
"""Rounds of `forecast_runs.py` with their own curves, and the kind that each is."""

RIDGE, TIMES, SEED = 0.05, 400, 1337


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
    """Of each run: kind, parameters of the blocks, vocabulary, muon; losses at the constant rate,
    tokens of a step, and `first`: tokens up to the first of these, weighted with the rate."""
    found: dict[str, Any] = _read("forecast_slopes_curves")
    for number, kind in ROUNDS.items():
        for name, trained in _read(f"forecast_runs_{number}_curves").items():
            curve = curve_of(trained["steps"])
            found[name] = {
                "kind": kind, "muon": name.endswith("Muon"), "blocks": trained["blocks"],
                "vocabulary": trained["vocabulary"], "step": curve.tokens_per_step,
                "first": float(curve.exposure[curve.fitted][0]), "loss": curve.loss[curve.fitted],
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
        at, came, unit = float(x[-AVERAGED // 2]), float(y[-AVERAGED:].mean()), float(x[known][-1])
        law = fit(x[known], y[known])
        level = law.floor + law.scale
        reach = (1 - (at / unit) ** -law.exponent) / law.exponent
        traits = Traits(unit / run["blocks"], run["step"], run["vocabulary"], run["muon"])
        found.append(Hindcast(
            name, run["kind"], (share, part), x[known], y[known], at, came, traits, level,
            law.exponent * law.scale / level, (1 - came / level) / reach,
        ))  # fmt: skip
    return found


def regress(rows: list[Hindcast]) -> Learnt:
    """What these say of slopes."""
    named = [row.traits.named(row.level, row.slope) for row in rows]
    table = np.array([
        terms(np.array(row.slope), each, row.traits.muon)
        for row, each in zip(rows, named, strict=True)
    ])  # fmt: skip
    runs = [row.run for row in rows]
    weights = np.array([1 / runs.count(run) for run in runs])
    centre = np.average(table, axis=0, weights=weights)
    spread = np.sqrt(np.average((table - centre) ** 2, axis=0, weights=weights))
    columns = np.column_stack([np.ones(len(rows)), (table - centre) / spread])
    normal = (columns * weights[:, None]).T @ columns
    normal[1:, 1:] += RIDGE * weights.sum() * np.eye(table.shape[1])
    became = np.array([row.became for row in rows])
    solved = np.linalg.solve(normal, (columns * weights[:, None]).T @ became)
    slopes = solved[1:] / spread
    seen = {
        name: (min(each[name] for each in named), max(each[name] for each in named))
        for name in named[0]
    }
    return Learnt(float(solved[0] - centre @ slopes), *map(float, slopes), seen=seen)


def forecast(row: Hindcast, learnt: Learnt) -> dict[str, Any]:
    """The error of the forecast, whether the band held, and the error of the expected slope."""
    made = ensemble(row.x, row.y, row.traits, TIMES, SEED, AVERAGED, learnt)
    low, middle, high = made.at(row.at)
    slope = expected(np.array([row.slope]), row.slope, row.level, row.traits, learnt)[0]
    return {
        "error": float(middle / row.came - 1),
        "inside": bool(low <= row.came <= high),
        "slope": float(slope - row.became),
    }


def forecasts(rows: list[Hindcast], by: str) -> list[dict[str, Any]]:
    """Each row's, by the numbers of the rows that are of other runs (or kinds) than it."""
    names = [getattr(row, by) for row in rows]
    learnt = {
        name: regress([row for row in rows if getattr(row, by) != name]) for name in set(names)
    }
    return [forecast(row, learnt[name]) for row, name in zip(rows, names, strict=True)]


def said(found: list[dict[str, Any]]) -> str:
    """How good forecasts are, in words."""
    errors, slopes = (np.array([each[name] for each in found]) for name in ("error", "slope"))
    inside = sum(each["inside"] for each in found)
    return (
        f"median error {100 * np.median(np.abs(errors)):.1f} %, {inside} of {len(found)} inside,"
        f" slopes off by {np.sqrt(np.mean(slopes**2)):.3f}"
    )


def as_text(kind: str, runs: list[dict[str, Any]]) -> dict[str, str]:
    """A kind's row of the page's table."""
    trained = [run["tokens a parameter"] for run in runs]
    row = {
        "kind of run": kind,
        "runs": str(len(runs)),
        "tokens a parameter": f"{min(trained):.2g} to {max(trained):.2g}",
    }
    for by, space in (("other runs", ""), ("other kinds", " ")):
        errors = [run[f"by {by}"]["error"] for run in runs]
        row[f"by {by}: median error"] = f"{100 * np.median(np.abs(errors)):.1f} %"
        row[f"from, to{space}"] = f"{100 * min(errors):+.1f} to {100 * max(errors):+.1f} %"
        row[f"inside{space}"] = str(sum(run[f"by {by}"]["inside"] for run in runs))
    return row


def main() -> None:
    given = parser_for(__doc__, tiny=False).parse_args()
    rows = [row for name, run in curves().items() for row in hindcasts(name, run)]
    learnt = regress(rows)
    whole = [row.cut == CUTS[0] for row in rows]
    by_run, by_kind = forecasts(rows, "run"), forecasts(rows, "kind")
    summary = {
        "a third of the whole, by other runs": said([*itertools.compress(by_run, whole)]),
        "a third of the whole, by other kinds": said([*itertools.compress(by_kind, whole)]),
        "all parts, by other runs": said(by_run),
        "all parts, by other kinds": said(by_kind),
    }
    alone = [*itertools.compress(zip(rows, by_run, by_kind, strict=True), whole)]
    runs = [
        {"run": row.run, "kind": row.kind, "tokens a parameter": row.traits.tokens_per_parameter}
        | {"by other runs": near, "by other kinds": strange}
        for row, near, strange in alone
    ]
    kinds = dict.fromkeys(row.kind for row, _, _ in alone)
    table = [as_text(kind, [each for each in runs if each["kind"] == kind]) for kind in kinds]
    print(json.dumps({"learnt": dataclasses.asdict(learnt), **summary}, indent=1))
    write_result(given.out, "forecast_slopes", {
        "what": "runs forecast from a third of their constant part, with slopes regressed on other"
        " runs, and on those of other kinds",
        "learnt": dataclasses.asdict(learnt), "summary": summary, "runs": runs, "table": table,
    })  # fmt: skip


if __name__ == "__main__":
    main()
