"""The `forecast` verb: how much longer a run has to train for a loss, or for a model's quality.

In: parsed words and the `forecast` section of a recipe. Out: an exit code; RUN/forecast/
forecast.json and forecast.txt, the picture in report.html, and the answer on stdout.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hornbook.errors import HornbookError, check_limits
from hornbook.evaluating import evaluation_texts
from hornbook.files import read_json, write_json, write_text
from hornbook.recipe import Recipe, load_recipe
from hornbook.run import RunDirectory
from hornbook.stages import tokens_folder

if TYPE_CHECKING:
    from jsonargparse import Namespace

    from hornbook.evaluate.cost import Cost
    from hornbook.evaluate.curve import Curve
    from hornbook.evaluate.forecast import Forecast
    from hornbook.evaluate.reference import Reference
    from hornbook.model.config import ModelConfig

WIDTH = 100
"""Columns of the answer, on the screen and in the report."""


def main(arguments: Namespace, overrides: dict[str, Any]) -> int:
    """Forecast the run `arguments.run`."""
    from hornbook.report.build import build_report

    run = RunDirectory(Path(arguments.run))
    if not run.recipe_file.is_file():
        raise HornbookError(
            "is no run directory (no recipe.yaml in it)", where=run.path,
            hint="`hornbook forecast` takes folders such as runs/quickstart",
        )  # fmt: skip
    found = forecast_run(run, load_recipe(str(run.recipe_file), overrides))
    folder = run.path / "forecast"
    values = {"format": 1, "run": run.path.resolve().name, **dataclasses.asdict(found)}
    text = "\n".join(lines(found)) + "\n"
    write_text(folder / "forecast.txt", text)
    write_json(folder / "forecast.json", values)
    page = build_report([run.path], run.path / "report.html")
    if arguments.json:
        sys.stdout.write(json.dumps(values) + "\n")
    else:
        sys.stdout.write(f"{text}picture       {page}\n")
    return 0


def forecast_run(run: RunDirectory, recipe: Recipe) -> Forecast:
    """Read the run, measure the reference where one is asked for, and forecast."""
    from hornbook.evaluate.curve import read_curve
    from hornbook.evaluate.forecast import check_enough, forecast
    from hornbook.evaluate.laws import Place
    from hornbook.evaluate.reference import documents_to_measure, measure, reference_of
    from hornbook.model.count import parameters
    from hornbook.model.presets import resolve
    from hornbook.tokenizer.tokenizer import Tokenizer
    from hornbook.tokens.manifest import Manifest

    config = recipe.forecast
    limits = [
        ("bootstrap", config.bootstrap >= 100, "at least 100"),
        ("price", (config.price or 0) >= 0, "0 or more"),
        ("seed", config.seed >= 0, "0 or more"),
        ("target_loss", config.target_loss is None or config.target_loss > 0, "above 0"),
    ]
    check_limits(config, "forecast", limits)
    if config.reference and config.target_loss is not None:
        raise HornbookError(
            "a target loss and a reference are both given", where="forecast", hint="Give one"
        )
    curve = read_curve(run.folder("pretrain") / "metrics.jsonl", config.column)
    check_enough(curve, config.column)
    tokens = tokens_folder(recipe, run)
    model = resolve(recipe.model, Tokenizer.load(tokens / "tokenizer").size)
    count, totals = parameters(model), Manifest.read(tokens).totals("train")
    place = Place(
        float(count.total), float(count.blocks), float(curve.tokens[-1]),
        curve.now, totals.bytes / max(1, totals.tokens), model.vocabulary,
        recipe.optimizer.kind == "muon",
    )  # fmt: skip
    target: float | Reference | None = config.target_loss
    apart = 0.0
    if config.reference:
        texts = documents_to_measure(
            evaluation_texts(recipe, [run.folder("prepare") / "validation"])
        )
        own, step = measure(run.path, texts, recipe.evaluate)
        # The newest checkpoint is older than the newest loss, where the run is still training.
        apart = curve.loss_at(step or 0) - own.loss
        target = reference_of(config.reference, texts, own, place, recipe.evaluate)
    devices = _devices(run, recipe, curve, model)
    return forecast(
        curve, config.column, target, place, apart, devices, config.bootstrap, config.seed
    )


def _devices(run: RunDirectory, recipe: Recipe, curve: Curve, model: ModelConfig) -> list[Cost]:
    """The run's own device, and others."""
    from hornbook.evaluate.cost import costs
    from hornbook.planning import wishes_of

    machine = read_json(run.folder("pretrain") / "machine.json")
    wishes = wishes_of(recipe, model)
    wishes = dataclasses.replace(wishes, gpus=max(wishes.gpus, machine.get("processes", 1)))
    config = recipe.forecast
    return costs(
        curve.tokens_per_second, str(machine.get("device_name", "")), model, wishes, config.gpu,
        config.price,
    )  # fmt: skip


def lines(found: Forecast) -> list[str]:
    """The answer in words."""
    from hornbook.plan.show import duration, number

    def three(values: list[float]) -> str:
        return f"{values[1]:.3f} ({values[0]:.3f} to {values[2]:.3f})"

    def more(value: float | None) -> str:
        if value is None:
            return "never"
        return f"{number(value - found.tokens)} more" if value > found.tokens else "before now"

    out = [
        f"now           {found.loss:.3f} {found.unit} after {number(found.tokens)} tokens",
        f"floor         {three(found.floor)}: what this curve comes near and never reaches",
        f"exponent      {three(found.exponent)}: how fast it comes near",
        *(f"at {number(each['tokens']):<11}{_beside_laws(each)}" for each in found.ahead),
        "              in brackets: where 80 % of the curves lie that the data allow",
    ]
    if found.target is not None:
        named = f" ({found.target_name})" if found.target_name else ""
        out += ["", f"target        {found.target:.3f}{named}"]
        out += [f"              {found.target_note}"] if found.target_note else []
        out += _answer(found)
        level = "calibrated here" if found.calibrated else "at their own level"
        out += [f"published laws, {level}:"] if found.laws else []
        out += [
            f"  {more(law['tokens']):<18}by {law['name']} ({law['source']})" for law in found.laws
        ]
        out += _disagreement(found)
        out += ["time:"] if found.costs else []
        for cost in found.costs:
            low, middle, high = ("no end seen" if h is None else duration(h) for h in cost["hours"])
            span = "" if low == high else f" ({low} to {high})"
            money = cost["dollars"][1]
            price = "" if money is None else f", {_dollars(money)}"
            mark = "as measured" if cost["measured"] else "by plan"
            out.append(f"  {cost['device']:<18}{middle}{span}{price}, {mark}")
    out += ["", *(f"note: {note}" for note in found.notes)]
    return [line for long in out for line in _wrapped(long)]


def _dollars(money: float) -> str:
    return "under $0.01" if money < 0.01 else f"${money:,.2f}"


def _wrapped(line: str) -> list[str]:
    """A long line in several, below the words that it begins with."""
    indent = " " * (6 if line.startswith("note: ") else 14)
    return textwrap.wrap(line, WIDTH, subsequent_indent=indent) or [""]


def _beside_laws(each: dict[str, Any]) -> str:
    """The loss after so many tokens, and what laws say of it: outside the band they disagree."""
    low, middle, high = each["loss"]
    said = f"{middle:.3f} ({low:.3f} to {high:.3f})"
    laws = each["laws"].values()
    if not laws:
        return said
    word = "agree" if low <= min(laws) and max(laws) <= high else "disagree"
    return f"{said}    published laws {word}: {min(laws):.3f} to {max(laws):.3f}"


def _disagreement(found: Forecast) -> list[str]:
    known = [law["tokens"] for law in found.laws if law["tokens"]]
    middle = found.total[1] if found.laws else None
    if not known and middle is None:
        return []
    if not known or middle is None:
        return ["  they disagree with the run's own curve, which the answer above is by"]
    factor = max(*known, middle) / min(*known, middle)
    by = f"{factor:.1f}" if factor < 1000 else "over 1,000"
    return [f"  in all tokens, they and the run's own curve differ by a factor of {by}"]


def _answer(found: Forecast) -> list[str]:
    from hornbook.evaluate.laws import TOKENS_PER_PARAMETER
    from hornbook.plan.show import number

    if found.outcome == "reached":
        return ["answer        reached already"]
    low, middle, high = found.total
    share = f"{100 * (found.reach or 0):.0f} % of the curves that the data allow reach it"
    if found.outcome == "expected" and middle is not None and low is not None:
        more = number(middle - found.tokens)
        least = number(low - found.tokens)
        most = "no end seen" if high is None else number(high - found.tokens)
        return [
            f"answer        {more} more tokens (80 %: {least} to {most}), {number(middle)} in all",
            f"              {share}",
        ]
    if found.outcome == "never":
        said = ["answer        never: the floor of this curve is above it"]
        larger = "a larger model is needed, of"
    else:
        said = [f"answer        not within 100 times the tokens so far; {share}"]
        larger = "a larger model gets there, one of"
    sizes = [size["parameters"] for size in found.sizes if size["parameters"]]
    if sizes:
        smallest, largest = number(min(sizes)), number(max(sizes))
        wanted = smallest if smallest == largest else f"{smallest} to {largest}"
        each = TOKENS_PER_PARAMETER
        said.append(f"              {larger} about {wanted} parameters and {each} tokens for each,")
        by = f"by {len(sizes)} of {len(found.sizes)} laws; by the others no size gets there"
        said.append(f"              {by if len(sizes) < len(found.sizes) else 'by published laws'}")
    elif found.sizes:
        said.append("              by the published laws no size of model gets there")
    return said
