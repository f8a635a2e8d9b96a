"""What a run directory says about its run, read without trusting any of it to be complete.

In: a run directory, finished, half-way or just begun. Out: a `Run`. A file that is missing leaves
its part empty; a file or line that cannot be read is left out and named in `Run.notes`, except the
last line of a .jsonl file, which another process may be writing at this moment.
"""

from __future__ import annotations

import json
import math
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml

from hornbook.errors import HornbookError
from hornbook.files import TEMPORARY, json_objects
from hornbook.progress import bar

Column = npt.NDArray[np.float64]

TRAINING = (
    "step", "tokens", "seconds", "loss", "learning_rate", "gradient_norm", "tokens_per_second",
    "mfu", "memory_gb", "loader_wait", "micro_batch",
)  # fmt: skip
"""Columns of a training line in metrics.jsonl."""

VALIDATION = ("step", "tokens", "seconds", "validation_loss", "validation_bits_per_byte")
"""Columns of a validation line in metrics.jsonl."""

STAGES = ("prepare", "tokenize", "pretrain", "evaluate", "export")

LARGE_FILE = 50 * 2**20
"""Bytes of a file whose reading takes seconds, so that a progress bar is shown."""


@dataclass
class Event:
    """Something that happened at a step: a loss spike, a resume, a changed micro-batch."""

    step: int
    kind: str
    message: str


@dataclass
class Curves:
    """The numbers logged during training.

    Each column is float64 [lines]; steps rise strictly, and a number that is absent is NaN.
    """

    training: dict[str, Column]
    validation: dict[str, Column]
    events: list[Event]

    @property
    def last_step(self) -> int:
        """The last finished step; 0 before the first."""
        steps = self.training["step"]
        return int(steps[-1]) if len(steps) else 0

    def last(self, column: str) -> float:
        """The newest number of a training or validation column; NaN where there is none."""
        values = self.training.get(column, self.validation.get(column))
        assert values is not None, column
        known = values[np.isfinite(values)]
        return float(known[-1]) if len(known) else math.nan


@dataclass
class MixtureSource:
    """A folder of token shards that the run mixes in."""

    path: str
    weight: float
    manifest: dict[str, Any]
    """Its token manifest; empty where the folder is not here."""


@dataclass
class Run:
    """All that the report shows of one run directory."""

    path: Path
    name: str
    recipe: dict[str, Any]
    recipe_text: str
    stages: dict[str, dict[str, Any]]
    prepare: dict[str, Any]
    manifest: dict[str, Any]
    """Of the run's own tokens."""
    mixture: list[MixtureSource]
    """Folders trained on in place of the run's own tokens, where the recipe names some."""
    machine: dict[str, Any]
    architecture: dict[str, Any]
    curves: Curves
    samples: list[dict[str, Any]]
    evaluations: list[dict[str, Any]]
    metrics_written: float | None
    """When metrics.jsonl last grew, seconds since the epoch."""
    notes: list[str] = field(default_factory=list)
    """What could not be read."""


def read_run(path: Path) -> Run:
    """Read a run directory.

    Raises:
        HornbookError: when `path` is no run directory (neither a recipe nor a stage in it).
    """
    stages_here = [stage for stage in STAGES if (path / stage).is_dir()]
    if not stages_here and not (path / "recipe.yaml").is_file():
        raise HornbookError(
            "is not a run directory (no recipe.yaml and no stage folder in it)", where=path,
            hint="`hornbook report` takes folders such as runs/quickstart",
        )  # fmt: skip
    notes: list[str] = []
    metrics = path / "pretrain" / "metrics.jsonl"
    recipe_text = _read_text(path / "recipe.yaml", notes)
    recipe = _parse_recipe(recipe_text, notes)
    checkpoints = sorted(path.glob("pretrain/checkpoints/step-*/model.json"))
    architectures = [file for file in checkpoints if file.parent.suffix != TEMPORARY]
    return Run(
        path=path,
        name=path.resolve().name,
        recipe=recipe,
        recipe_text=recipe_text,
        stages={stage: _read_object(path / stage / "stage.json", notes) for stage in stages_here},
        prepare=_read_object(path / "prepare" / "prepare.json", notes),
        manifest=_read_object(path / "tokenize" / "manifest.json", notes),
        mixture=_read_mixture(recipe, notes),
        machine=_read_object(path / "pretrain" / "machine.json", notes),
        architecture=_read_object(architectures[-1], notes) if architectures else {},
        curves=_read_curves(metrics, notes),
        samples=list(_read_lines(path / "pretrain" / "samples.jsonl", notes)),
        evaluations=list(_read_lines(path / "evaluate" / "evals.jsonl", notes)),
        metrics_written=metrics.stat().st_mtime if metrics.exists() else None,
        notes=notes,
    )


def number(value: Any) -> float:
    """A JSON value as a float; NaN where it is not a number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.nan


def mapping(value: Any) -> dict[str, Any]:
    """A JSON value as an object; empty where it is none."""
    return value if isinstance(value, dict) else {}


def sequence(value: Any) -> list[Any]:
    """A JSON value as an array; empty where it is none."""
    return value if isinstance(value, list) else []


def _read_text(path: Path, notes: list[str]) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return ""
    except OSError as error:
        notes.append(f"{_short(path)} could not be read ({error.strerror}).")
        return ""


def _parse_recipe(text: str, notes: list[str]) -> dict[str, Any]:
    try:
        recipe = yaml.safe_load(text)
    except yaml.YAMLError:
        notes.append("recipe.yaml could not be read as YAML.")
        return {}
    return mapping(recipe)


def _read_object(path: Path, notes: list[str]) -> dict[str, Any]:
    text = _read_text(path, notes)
    if not text:
        return {}
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        notes.append(f"{_short(path)} could not be read as JSON; its part is left out.")
        return {}
    return value


def _read_mixture(recipe: dict[str, Any], notes: list[str]) -> list[MixtureSource]:
    """The sources that the recipe's data section names, with what their manifests say."""
    found = []
    for source in map(mapping, sequence(mapping(recipe.get("data")).get("sources"))):
        folder = str(source.get("path", ""))
        manifest = _read_object(Path(folder) / "manifest.json", notes)
        found.append(MixtureSource(folder, number(source.get("weight", 1.0)), manifest))
    return found


def _short(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"


def _read_lines(path: Path, notes: list[str]) -> Iterator[dict[str, Any]]:
    """The JSON objects of a .jsonl file, one a line."""
    if not path.exists():
        return
    size = path.stat().st_size
    damaged = 0
    with open(path, "rb") as handle:
        if size < LARGE_FILE:
            lines: Iterator[bytes] = iter(handle)
        else:
            lines = _with_bar(handle, f"reading {_short(path)}", size)
        for value in json_objects(lines):
            if value is None:
                damaged += 1
            else:
                yield value
    if damaged:
        notes.append(f"{damaged:,} unreadable line(s) of {_short(path)} were left out.")


def _with_bar(lines: Iterator[bytes], label: str, size: int) -> Iterator[bytes]:
    with bar(label, size) as progress:
        for number_of_line, line in enumerate(lines):
            yield line
            if number_of_line % 10_000 == 0:
                progress.advance(len(line) * 10_000)


class _Table:
    """Columns that grow line by line and are cut back when a step comes a second time."""

    def __init__(self, columns: tuple[str, ...]):
        self.columns = {name: array("d") for name in columns}

    def append(self, line: dict[str, Any]) -> None:
        step = number(line["step"])
        steps = self.columns["step"]
        if steps and steps[-1] >= step:  # the run went back to a checkpoint
            keep = int(np.searchsorted(np.asarray(steps), step))
            for values in self.columns.values():
                del values[keep:]
        for name, values in self.columns.items():
            values.append(number(line.get(name)))

    def finish(self) -> dict[str, Column]:
        return {name: np.array(values, dtype=np.float64) for name, values in self.columns.items()}


def _read_curves(path: Path, notes: list[str]) -> Curves:
    training, validation = _Table(TRAINING), _Table(VALIDATION)
    events: list[Event] = []
    for line in _read_lines(path, notes):
        if not math.isfinite(number(line.get("step"))):
            continue
        if "event" in line:
            kind, message = str(line["event"]), str(line.get("message", ""))
            events.append(Event(int(line["step"]), kind, message))
        elif "validation_loss" in line:
            validation.append(line)
        elif "loss" in line:
            training.append(line)
    return Curves(training.finish(), validation.finish(), events)
