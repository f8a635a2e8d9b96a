"""`build_report`: run directories in, one self-contained report.html out.

The page carries its styles, its script, the chart library and the numbers of the curves; it loads
nothing. Its Content-Security-Policy allows no other script than these (by their hashes), so text
that a model wrote or that was found in a document cannot become one.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.resources
import time
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from hornbook import __version__
from hornbook.errors import HornbookError
from hornbook.files import write_text
from hornbook.report import charts, facts, tables
from hornbook.report.data import Run, mapping, read_run
from hornbook.report.datasets import datasets
from hornbook.report.forecast import forecasts
from hornbook.report.glossary import GLOSSARY
from hornbook.report.samples import sample_groups

MOST_RUNS = 8
"""Runs in one report: as many as there are colours to tell them apart by."""


def build_report(runs: list[Path], out: Path) -> Path:
    """Write the report of one run, or of several overlaid.

    Args:
        runs: run directories; what is not there yet is left out of the report.
        out: the HTML file to write (atomically).

    Returns:
        `out`.

    Raises:
        HornbookError: a path is no run directory, there is none or too many, or `out` cannot be
            written.
    """
    if not runs:
        raise HornbookError("no run directory given", hint="Try `hornbook report runs/quickstart`")
    if len(runs) > MOST_RUNS:
        raise HornbookError(
            f"a report compares at most {MOST_RUNS} runs, and {len(runs)} were given",
            hint="Leave some out",
        )
    found = [read_run(path) for path in runs]
    for run, name in zip(found, distinct_names(runs), strict=True):
        run.name = name
    write_text(out, render(found))
    return out


def distinct_names(paths: list[Path]) -> list[str]:
    """Folder names, with as many parent folders before them as it takes to tell them apart."""
    parts = [path.resolve().parts for path in paths]
    if len(set(parts)) < len(parts):
        raise HornbookError("the same run directory was given twice", hint="Give it once")
    length = 1
    while len({part[-length:] for part in parts}) < len(parts):
        length += 1
    return ["/".join(part[-length:]) for part in parts]


def render(runs: list[Run]) -> str:
    """The page as HTML text that can be written as UTF-8."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    built, ahead = charts.build_charts(runs), forecasts(runs)
    scripts = [Markup(_chart_library()), Markup(_asset("report.js"))]
    page = environment.from_string(_asset("report.html.jinja")).render(
        version=__version__,
        title=" · ".join(run.name for run in runs),
        made=facts.stamp(time.time()),
        styles=Markup(_asset("uPlot.min.css") + _asset("report.css")),
        scripts=scripts,
        script_hashes=Markup(" ".join(_policy_hash(script) for script in scripts)),
        pages=[_page(run) for run in runs],
        comparison=tables.comparison(runs),
        charts=built,
        chart_note=_chart_note(runs),
        forecasts=ahead,
        chart_data={
            **_chart_data(runs, built),
            "forecasts": [{"id": each["id"], **each["picture"]} for each in ahead],
        },
        samples=sample_groups(runs),
        evaluation=tables.evaluations(runs),
        datasets=datasets(runs),
        differences=tables.recipe_differences(runs),
        glossary=GLOSSARY,
    )
    # Lone surrogates (a model can sample half a character) have no UTF-8, and NUL no HTML.
    return page.encode("utf-8", "replace").decode("utf-8").replace("\0", "\ufffd")


def _page(run: Run) -> dict[str, Any]:
    """What the template shows of one run."""
    return {
        "name": run.name,
        "description": str(run.recipe.get("description") or ""),
        "summary": facts.summary(run),
        "state": facts.state(run),
        "notes": [*facts.remarks(run), *run.notes],
        "facts": facts.key_numbers(run),
        "events": tables.events(run),
        "event_count": len(run.curves.events),
        "milestones": tables.milestones(run),
        "tables": tables.what_was_run(run),
        "recipe_text": run.recipe_text,
        "reproduce": _reproduce(run),
    }


def _chart_data(runs: list[Run], built: list[dict[str, Any]]) -> dict[str, Any]:
    """What the page's script draws."""
    return {
        "runs": [
            {
                "name": run.name,
                "clock": charts.build_clock(run),
                "marks": [
                    {"step": event.step, "letter": tables.letter(event.kind)}
                    for event in run.curves.events[-charts.MOST_MARKS :]
                ],
            }
            for run in runs
        ],
        "charts": [{"id": chart["id"], "curves": chart["curves"]} for chart in built],
    }


def _chart_note(runs: list[Run]) -> str:
    """How to read the charts."""
    windows = sorted({charts.window_of(run) for run in runs} - {1})
    steps = " to ".join(f"{window:,}" for window in dict.fromkeys((*windows[:1], *windows[-1:])))
    mean = f"Strong lines are means over {steps} logged steps. " if steps else ""
    return (
        f"{mean}Held-out: on text that is not trained on. Drag across a chart to look closer,"
        " double-click to go back; click a name in the legend to hide its line."
    )


def _reproduce(run: Run) -> list[dict[str, str]]:
    """The way to the same run on another machine, step by step."""
    folder = f"runs/{run.path.resolve().name}"
    steps = [
        {
            "text": f"Install this version of hornbook ({_hornbook_version(run)}) and the versions"
            " listed under “What was run”.",
            "command": "",
        },
        {
            "text": "Save the recipe above as recipe.yaml, put the input files where it says, and"
            " run all stages. Stopped or killed, the same command goes on where it was.",
            "command": f"hornbook run recipe.yaml --run {folder}",
        },
        {
            "text": "Make this page again, try the model, and turn it into a directory that other"
            " tools load.",
            "command": f'hornbook report {folder}\nhornbook generate {folder} "Once upon a time"\n'
            f"hornbook export {folder} --out my-model",
        },
    ]
    return steps if run.recipe_text else steps[2:]


def _hornbook_version(run: Run) -> str:
    for record in run.stages.values():
        versions = mapping(record.get("versions"))
        if "hornbook" in versions:
            return str(versions["hornbook"])
    return __version__


def _asset(name: str) -> str:
    folder = importlib.resources.files("hornbook.report") / "assets"
    return (folder / name).read_text(encoding="utf-8")


def _chart_library() -> str:
    """uPlot with its licence, which must go wherever it goes."""
    licence = _asset("uPlot.LICENSE.txt").replace("*/", "")
    return f"/* uPlot\n{licence}*/\n{_asset('uPlot.iife.min.js')}"


def _policy_hash(script: str) -> str:
    """How a Content-Security-Policy names one inline script."""
    digest = hashlib.sha256(script.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
