"""The tables of the report.

In: `Run`s. Out: `Table`s of ready-made text cells: what was run, evaluation, differences between
recipes, the curves in numbers, events. Cells are plain text; the template escapes them.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from hornbook.report.charts import evenly_spaced, running_mean, window_of
from hornbook.report.data import Column, Run, mapping, number, sequence
from hornbook.report.facts import key_numbers
from hornbook.report.words import NOTHING, count, duration, plain

MOST_ROWS = 12
"""Rows of the table of the curves."""

MOST_EVENTS = 40
"""Events listed one by one."""

EVENT_WORDS = {
    "loss_spike": "Loss spike",
    "nan": "Not a number",
    "micro_batch": "Micro-batch changed",
    "resumed": "Resumed",
    "stopped": "Stopped",
    "horizon": "Horizon changed",
    "target": "Target reached",
    "initial_loss": "Initial loss is odd",
    "overflow": "Gradient overflow (fp16)",
    "machine": "Other machine",
}
"""Kinds of events as people say them; others are shown under their own name."""

MEASURES = {
    "loss": "Loss (nats/token)",
    "perplexity": "Perplexity",
    "bits_per_byte": "Bits per byte",
    "bytes_per_token": "Bytes per token",
    "tokens": "Tokens",
    "bytes": "Bytes",
    "documents": "Documents",
}
"""Measures of evals.jsonl in the order in which they are shown; others follow."""


@dataclass
class Table:
    """A table of text cells; the first cell of a row is its heading."""

    title: str
    columns: list[str]
    rows: list[list[str]]

    def numeric(self, column: int) -> bool:
        """Whether all cells of a column are numbers, so that they are aligned to the right."""
        if column == 0 and len(self.columns) == 2:
            return False
        return all(re.match(r"^[-–]?[\d.,]*( %| \w+)?$", row[column]) for row in self.rows)


def facts_table(title: str, facts: Mapping[str, str]) -> Table:
    """A table of two columns."""
    return Table(title, ["", ""], [[name, value] for name, value in facts.items()])


def comparison(runs: list[Run]) -> Table:
    """The key numbers of several runs side by side, a column for each run."""
    facts = [{fact.label: fact for fact in key_numbers(run)} for run in runs]
    labels = dict.fromkeys(label for values in facts for label in values)
    rows = [
        [label, *(values[label].value if label in values else NOTHING for values in facts)]
        for label in labels
    ]
    return Table("Side by side", ["", *(run.name for run in runs)], rows)


def evaluations(runs: list[Run]) -> Table | None:
    """The different lines of evals.jsonl of all runs."""
    lines = [
        (run, line)
        for run in runs
        for i, line in enumerate(run.evaluations)
        if line not in run.evaluations[:i]
    ]
    if not lines:
        return None
    names = ["step", "split"]
    found = {
        key
        for _, line in lines
        for key, value in line.items()
        if key not in (*names, "model", "stride", "context") and math.isfinite(number(value))
    }
    measures = [key for key in MEASURES if key in found] + sorted(found - MEASURES.keys())
    columns = ["Run" if len(runs) > 1 else "Model", "Step", "Text"]
    rows = [
        [
            run.name if len(runs) > 1 else str(line.get("model", run.name)),
            count(number(line.get("step"))),
            str(line.get("split", NOTHING)),
            *(_measure(key, number(line.get(key))) for key in measures),
        ]
        for run, line in lines
    ]
    columns += [MEASURES.get(key, _spoken(key)) for key in measures]
    return Table("Measured on held-out text", columns, rows)


def recipe_differences(runs: list[Run]) -> Table | None:
    """The settings that are not the same in all recipes; None where all are."""
    recipes = [dict(_flatten(run.recipe)) for run in runs]
    keys = dict.fromkeys(key for recipe in recipes for key in recipe)
    rows = []
    for key in keys:
        cells = [_cell(recipe[key]) if key in recipe else NOTHING for recipe in recipes]
        if key not in ("name", "description") and len(set(cells)) > 1:
            rows.append([key, *cells])
    if not rows:
        return None
    return Table("Only what differs", ["Setting", *(run.name for run in runs)], rows)


def milestones(run: Run) -> Table | None:
    """The curves in some rows of numbers: steps with a held-out loss, else evenly spaced ones."""
    training, validation = run.curves.training, run.curves.validation
    steps = validation["step"] if len(validation["step"]) else training["step"]
    if not len(steps):
        return None
    chosen = evenly_spaced(len(steps), MOST_ROWS)
    mean = running_mean(training["loss"], window_of(run))
    rows = []
    for step in steps[chosen]:
        cells = [f"{step:,.0f}"]
        cells += [count(_at(step, training["step"], training["tokens"])),
                  duration(_at(step, training["step"], training["seconds"])),
                  plain(_at(step, training["step"], mean))]  # fmt: skip
        for column in ("validation_loss", "validation_bits_per_byte"):
            cells.append(plain(_at(step, validation["step"], validation[column], exact=True)))
        rows.append(cells)
    columns = ["Step", "Tokens", "Time", "Training loss (mean)", "Held-out loss", "Bits per byte"]
    return Table("Losses along the way", columns, rows)


def events(run: Run) -> Table | None:
    """What happened during training; kinds that happened too often are counted."""
    found = run.curves.events
    if not found:
        return None
    rows = [
        [letter(event.kind), f"{event.step:,}", EVENT_WORDS.get(event.kind, _spoken(event.kind)),
         event.message[:500]]
        for event in found[:MOST_EVENTS]
    ]  # fmt: skip
    for kind, times in Counter(event.kind for event in found[MOST_EVENTS:]).items():
        rows.append(["", "later", EVENT_WORDS.get(kind, _spoken(kind)), f"{times:,} more times"])
    return Table("Marked in the loss chart", ["Mark", "Step", "What", "Message"], rows)


def letter(kind: str) -> str:
    """The letter that marks an event in the chart."""
    return EVENT_WORDS.get(kind, kind)[:1].upper() or "?"


def what_was_run(run: Run) -> list[Table]:
    """Versions, machine and stages."""
    tables = []
    if versions := _versions(run):
        tables.append(facts_table("Versions", versions))
    if run.machine:
        tables.append(facts_table("Machine, as found by trying", _machine(run.machine)))
    if run.stages:
        rows = [
            [name, str(record.get("outcome") or "under way"), _when(record.get("started")),
             _when(record.get("ended"))]
            for name, record in run.stages.items()
        ]  # fmt: skip
        tables.append(Table("Stages", ["Stage", "Outcome", "Started (UTC)", "Ended (UTC)"], rows))
    return tables


def _versions(run: Run) -> dict[str, str]:
    """Versions of the newest stage that recorded any, the git commit where there is one."""
    for record in reversed(run.stages.values()):
        if versions := mapping(record.get("versions")):
            return {_spoken(str(key)): str(value) for key, value in versions.items()}
    return {}


def _machine(machine: Mapping[str, Any]) -> dict[str, str]:
    """What was chosen for the machine, each choice with its reason where one was noted."""
    reasons = mapping(machine.get("reasons"))
    rows = {}
    for key, value in _flatten({k: v for k, v in machine.items() if k not in ("asked", "reasons")}):
        reason = f" ({reasons[key]})" if key in reasons else ""
        rows[_spoken(key)] = (_micro_batches(value) or _cell(value)) + reason
    return rows


def _micro_batches(value: Any) -> str:
    """[[1, 16], [300, 8]] as "16 rows from step 1, 8 rows from step 300"; else nothing."""
    changes = [entry for entry in sequence(value) if len(sequence(entry)) == 2]
    return ", ".join(f"{rows} rows from step {step}" for step, rows in changes)


def _at(step: float, steps: Column, values: Column, exact: bool = False) -> float:
    """The value logged at a step, or (unless `exact`) at the last one before it."""
    row = int(np.searchsorted(steps, step, side="right")) - 1
    if row < 0 or (exact and steps[row] != step):
        return math.nan
    return float(values[row])


def _measure(key: str, value: float) -> str:
    return count(value) if key in ("tokens", "bytes", "documents") else plain(value)


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested mappings as dotted keys."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _cell(value: Any) -> str:
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list):
        return ", ".join(_cell(item) for item in value) if value else "none"
    return str(value)[:500]


def _spoken(key: str) -> str:
    words = key.replace("_", " ").replace(".", ": ")
    return words[:1].upper() + words[1:]


def _when(moment: Any) -> str:
    """An ISO 8601 time without its seconds' fraction."""
    text = str(moment or "")
    return re.sub(r"^(\d{4}-\d\d-\d\d)T(\d\d:\d\d:\d\d).*$", r"\1 \2", text) or NOTHING
