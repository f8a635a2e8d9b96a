"""Run directories: which stage is done, with what settings, from what inputs.

In: a recipe and a directory. Out: `recipe.yaml`, and `stage.json` in each stage's folder, so that
a run after a crash goes on where it stopped, and a changed setting re-runs what depends on it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import hashlib
import json
import os
import platform
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hornbook import __version__
from hornbook.errors import HornbookError
from hornbook.files import TEMPORARY, disk_errors, lock_folder, read_json, write_json
from hornbook.progress import say
from hornbook.recipe import Recipe, load_recipe, read_recipe, write_recipe

RETIRED = "retired"
"""Folder in a run directory that keeps what a changed setting replaced."""

AT_EVERY_START = ("stage.json", "machine.json", "events.out.tfevents")
"""How names of files begin that a stage writes before there is anything to show."""


@dataclass
class StageRecord:
    """What `stage.json` says of one stage."""

    stage: str
    fingerprint: str
    """Hash of the settings that decide the result, and of the inputs."""
    settings: dict[str, Any]
    """All settings of the stage's sections, the horizon ones included."""
    inputs: dict[str, str]
    """Digests of what was read: the outputs of the stages before."""
    versions: dict[str, str]
    started: str
    ended: str = ""
    outcome: str = "running"
    """running, done, stopped (asked to leave; goes on when run again) or failed."""
    output: str = ""
    """Digest of what the stage wrote; the input of the stages after it."""
    summary: dict[str, Any] | None = None


class RunDirectory:
    """One run's directory and the state of its stages."""

    def __init__(self, path: Path):
        self.path = path
        self._recipe_before: Recipe | None = None

    @property
    def recipe_file(self) -> Path:
        return self.path / "recipe.yaml"

    def folder(self, stage: str) -> Path:
        """The folder a stage writes to."""
        return self.path / stage

    def recipe(self) -> Recipe:
        """The recipe that the directory was made with."""
        return load_recipe(str(self.recipe_file))

    def check_owner(self, recipe: Recipe) -> None:
        """Refuse a directory that is another recipe's, or no run directory at all."""
        if self.recipe_file.exists():
            owner = read_recipe(self.recipe_file).get("name", self.path.resolve().name)
            if owner != recipe.name:
                raise HornbookError(
                    f"this run directory belongs to the recipe {owner!r}, not {recipe.name!r}",
                    where=self.path,
                    hint="Choose another one with --run DIR",
                )
        elif self.path.is_dir() and any(
            child.name != ".lock" and child.suffix != TEMPORARY for child in self.path.iterdir()
        ):
            raise HornbookError(
                "this folder has files in it and is not a run directory",
                where=self.path,
                hint="Choose another one with --run DIR",
            )

    def adopt(self, recipe: Recipe) -> None:
        """Make the directory this recipe's, unless it is another one's."""
        self.check_owner(recipe)
        self._recipe_before = self.recipe() if self.recipe_file.exists() else None
        write_recipe(recipe, self.recipe_file)

    def lock(self) -> contextlib.AbstractContextManager[None]:
        """Keep other processes out of the directory while a command writes to it."""
        return lock_folder(self.path, "run directory", "--run")

    def record(self, stage: str) -> StageRecord | None:
        """The stage's record; None where it never ran or was killed before it could write one."""
        path = self.folder(stage) / "stage.json"
        if not path.exists():
            return None
        try:
            return StageRecord(**read_json(path))
        except TypeError:
            raise HornbookError(
                "is not a stage record of this version of hornbook",
                where=path,
                hint="Remove the stage's folder to run it again",
            ) from None

    def write_record(self, record: StageRecord) -> None:
        """Write `stage.json`, atomically."""
        write_json(self.folder(record.stage) / "stage.json", vars(record))

    def contents(self, stage: str) -> dict[Path, tuple[int, int]]:
        """Size and time of the files that hold what a stage has done."""
        found = ((path, path.stat()) for path in self.folder(stage).rglob("*") if path.is_file())
        return {
            path: (state.st_size, state.st_mtime_ns)
            for path, state in found
            if state.st_size and not path.name.startswith(AT_EVERY_START)
        }

    def retire(self, stage: str, why: str = "settings or inputs changed") -> Path | None:
        """Move a stage's folder away, and say why; returns where it is now.

        A stage that failed before it did anything leaves nothing to keep.
        """
        folder = self.folder(stage)
        if not self.contents(stage):
            with disk_errors(folder):
                shutil.rmtree(folder)
            return None
        stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
        target = self.path / RETIRED / f"{stage}-{stamp}"
        while target.exists():  # twice in one second
            target = target.with_name(f"{target.name}-again")
        with disk_errors(target):
            target.parent.mkdir(exist_ok=True)
            os.replace(folder, target)
        say(f"{stage}: {why}; the earlier result is kept in {target}")
        return target

    def put_back(self, stage: str, sections: Sequence[str], retired: Path | None) -> None:
        """After a start that was refused before it did anything: the result that was retired for
        it, and the stage's settings in the recipe, are as they were before `adopt`."""
        if retired:
            shutil.rmtree(self.folder(stage))
            os.replace(retired, self.folder(stage))
            with contextlib.suppress(OSError):  # holds other results
                retired.parent.rmdir()
        if self._recipe_before:
            own = {name: getattr(self._recipe_before, name) for name in sections}
            recipe = self.recipe()
            if (kept := dataclasses.replace(recipe, **own)) != recipe:
                write_recipe(kept, self.recipe_file)
                say(f"{stage}: did not begin; the run keeps the settings it had")


def digest(value: Any) -> str:
    """blake2b of a JSON-able value, in hex."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def now() -> str:
    """The time as ISO 8601 in UTC."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def versions() -> dict[str, str]:
    """What the result may depend on besides the settings."""
    import importlib.metadata

    found = {"hornbook": __version__, "python": platform.python_version()}
    for package in ("torch", "numpy", "tokenizers"):
        found[package] = importlib.metadata.version(package)
    found["platform"] = platform.platform()
    return found
