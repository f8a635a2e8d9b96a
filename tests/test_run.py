"""Run directories and stages: what is skipped, continued, run again, refused."""

from __future__ import annotations

import errno
import json
import multiprocessing
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hornbook import stages
from hornbook.errors import HornbookError
from hornbook.files import read_json
from hornbook.gather.config import SourceConfig as GatherSource
from hornbook.recipe import Recipe, build_recipe
from hornbook.run import RETIRED, RunDirectory
from hornbook.stages import Result, run_stages, stages_of
from hornbook.tokens.config import SourceConfig


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The road with stages that only note that they ran."""
    ran: list[str] = []

    def noting(name: str) -> Callable[[Recipe, RunDirectory], Result]:
        def execute(recipe: Recipe, run: RunDirectory) -> Result:
            """Note it."""
            ran.append(name)
            (run.folder(name) / "result").write_text(json.dumps(recipe.tokenize.vocabulary))
            return Result(f"{name} {recipe.tokenize.vocabulary if name == 'tokenize' else ''}")

        return execute

    road = {name: replace(stage, execute=noting(name)) for name, stage in stages.STAGES.items()}
    monkeypatch.setattr(stages, "STAGES", road)
    return ran


NAMES = list(stages.STAGES)


def test_what_is_done_is_skipped(tmp_path: Path, calls: list[str]) -> None:
    run = RunDirectory(tmp_path / "run")
    assert run_stages(Recipe(), run, NAMES)
    assert calls == NAMES
    assert run_stages(Recipe(), run, NAMES)
    assert calls == NAMES
    record = read_json(run.folder("pretrain") / "stage.json")
    assert record["outcome"] == "done"
    assert record["settings"]["pretrain"]["steps"] == 0
    assert record["versions"]["torch"]


def test_a_changed_setting_runs_again_only_what_depends_on_it(
    tmp_path: Path, calls: list[str]
) -> None:
    run = RunDirectory(tmp_path / "run")
    run_stages(Recipe(), run, NAMES)
    calls.clear()
    recipe = Recipe()
    recipe.tokenize.vocabulary = 77
    run_stages(recipe, run, NAMES)
    assert calls == ["tokenize", "pretrain"], "prepare stays, and pretrain's output is the same"
    retired = list((run.path / RETIRED).iterdir())
    assert {path.name.rpartition("-202")[0] for path in retired} == {"tokenize", "pretrain"}
    assert all((path / "result").exists() for path in retired), "nothing is lost"


def test_a_raised_horizon_continues_in_place(tmp_path: Path, calls: list[str]) -> None:
    run = RunDirectory(tmp_path / "run")
    run_stages(Recipe(), run, NAMES)
    calls.clear()
    recipe = Recipe()
    recipe.pretrain.steps = 10
    run_stages(recipe, run, NAMES)
    assert calls == ["pretrain"]
    assert not (run.path / RETIRED).exists()


def test_how_many_workers_prepare_changes_nothing_that_is_done(
    tmp_path: Path, calls: list[str]
) -> None:
    run = RunDirectory(tmp_path / "run")
    run_stages(Recipe(), run, NAMES)
    calls.clear()
    recipe = Recipe()
    recipe.prepare.workers, recipe.prepare.memory_megabytes = 3, 64
    run_stages(recipe, run, NAMES)
    assert not calls and not (run.path / RETIRED).exists()


def test_an_evaluation_file_written_anew_prepares_again(tmp_path: Path, calls: list[str]) -> None:
    run, recipe = RunDirectory(tmp_path / "run"), Recipe()
    (tmp_path / "quiz.txt").write_text("a question")
    recipe.prepare.decontaminate = [str(tmp_path / "quiz.txt"), "hellaswag"]
    run_stages(recipe, run, ["prepare"])
    (tmp_path / "quiz.txt").write_text("another question")
    run_stages(recipe, run, ["prepare"])
    assert calls == ["prepare", "prepare"]


def test_failure_is_recorded_and_the_stage_runs_again(
    tmp_path: Path, calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunDirectory(tmp_path / "run")
    good = stages.STAGES["tokenize"]

    def fail(recipe: Recipe, run: RunDirectory) -> Result:
        """Fail."""
        raise HornbookError("no good")

    broken = replace(good, execute=fail)
    monkeypatch.setitem(stages.STAGES, "tokenize", broken)
    with pytest.raises(HornbookError, match="no good"):
        run_stages(Recipe(), run, NAMES)
    record = run.record("tokenize")
    assert record is not None
    assert record.outcome == "failed"
    assert "no good" in record.summary["error"]
    monkeypatch.setitem(stages.STAGES, "tokenize", good)
    assert run_stages(Recipe(), run, NAMES)
    assert calls == NAMES


def failing(stage: stages.Stage, error: Exception, *names: str) -> stages.Stage:
    """A stage that writes some files and then fails."""

    def fail(recipe: Recipe, run: RunDirectory) -> Result:
        """Fail."""
        for name in names:
            (run.folder(stage.name) / name).parent.mkdir(exist_ok=True)
            (run.folder(stage.name) / name).write_text("" if name == "metrics.jsonl" else "{}")
        raise error

    return replace(stage, execute=fail)


STARTED = ("machine.json", "metrics.jsonl", "tensorboard/events.out.tfevents.1.host")
"""What a training leaves that was refused before its first step."""


@pytest.mark.parametrize("change", ["model.preset", "pretrain.steps", "again"])
def test_a_refused_start_changes_nothing(
    tmp_path: Path,
    calls: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    change: str,
) -> None:
    run = RunDirectory(tmp_path / "run")
    run.adopt(Recipe())
    run_stages(Recipe(), run, NAMES)
    record = run.record("pretrain")
    refused, good = HornbookError("does not fit"), stages.STAGES["pretrain"]
    monkeypatch.setitem(stages.STAGES, "pretrain", failing(good, refused, *STARTED))
    recipe = Recipe(description="another")
    if change == "model.preset":
        recipe.model.preset = "llama-5m"  # another fingerprint: the earlier result is moved away
    else:
        recipe.pretrain.steps = 10
    run.adopt(recipe)
    with pytest.raises(HornbookError, match="does not fit"):
        run_stages(recipe, run, ["pretrain"], again=change == "again")
    assert run.recipe() == replace(Recipe(), description="another"), "other settings stay"
    assert run.record("pretrain") == record
    assert (run.folder("pretrain") / "result").exists()
    assert not (run.path / RETIRED).exists()
    assert "did not begin; the run keeps the settings it had" in capsys.readouterr().err
    calls.clear()
    assert run_stages(run.recipe(), run, NAMES) and not calls


def test_a_failure_in_the_middle_keeps_its_settings(
    tmp_path: Path, calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunDirectory(tmp_path / "run")
    run.adopt(Recipe())
    run_stages(Recipe(), run, NAMES)
    failed = failing(stages.STAGES["pretrain"], HornbookError("disk full"), "checkpoint")
    monkeypatch.setitem(stages.STAGES, "pretrain", failed)
    recipe = Recipe()
    recipe.pretrain.steps = 10
    run.adopt(recipe)
    with pytest.raises(HornbookError, match="disk full"):
        run_stages(recipe, run, ["pretrain"])
    record = run.record("pretrain")
    assert record is not None and record.outcome == "failed"
    assert run.recipe() == recipe


@pytest.mark.parametrize("error", [HornbookError("does not fit"), ZeroDivisionError()])
def test_a_start_that_failed_leaves_nothing_to_keep(
    tmp_path: Path,
    calls: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
) -> None:
    run, good = RunDirectory(tmp_path / "run"), stages.STAGES["pretrain"]
    run.adopt(Recipe())
    run_stages(Recipe(), run, ["prepare", "tokenize"])
    monkeypatch.setitem(stages.STAGES, "pretrain", failing(good, error, *STARTED))
    recipe = Recipe()
    recipe.model.preset = "llama-5m"
    with pytest.raises(type(error)):
        run_stages(recipe, run, ["pretrain"])
    monkeypatch.setitem(stages.STAGES, "pretrain", good)
    run_stages(Recipe(), run, ["pretrain"])
    assert not (run.path / RETIRED).exists()
    assert not (run.folder("pretrain") / "machine.json").exists(), "it is another model's"
    assert "changed" not in capsys.readouterr().err


def test_a_stage_needs_the_ones_before_it(tmp_path: Path, calls: list[str]) -> None:
    with pytest.raises(HornbookError, match=r"tokenize needs prepare.*hornbook prepare --run"):
        run_stages(Recipe(), RunDirectory(tmp_path / "run"), ["tokenize"])


def test_input_files_are_part_of_the_fingerprint(tmp_path: Path, calls: list[str]) -> None:
    text = tmp_path / "text.txt"
    text.write_text("one")
    recipe = Recipe()
    recipe.prepare.inputs = [str(text)]
    run = RunDirectory(tmp_path / "run")
    run_stages(recipe, run, ["prepare"])
    text.write_text("one and another")
    run_stages(recipe, run, ["prepare"])
    assert calls == ["prepare", "prepare"]


def test_inputs_that_are_gone_leave_what_was_made_of_them(tmp_path: Path, calls: list[str]) -> None:
    text = tmp_path / "text.txt"
    text.write_text("one")
    recipe = Recipe()
    recipe.prepare.inputs = [str(text)]
    run = RunDirectory(tmp_path / "run")
    run_stages(recipe, run, ["prepare"])
    text.unlink()
    assert run_stages(recipe, run, ["prepare", "tokenize"])
    assert calls == ["prepare", "tokenize"]
    recipe.prepare.split_salt = "another"
    with pytest.raises(HornbookError, match=r"text\.txt: no such file"):
        run_stages(recipe, run, ["prepare"])
    assert (run.folder("prepare") / "result").exists(), "what cannot be made again stays"


@pytest.mark.parametrize(
    ("stage", "settings"),
    [
        ("tokenize", {"tokenize": {"kind": "file", "file": "other.txt"}}),
        ("evaluate", {"evaluate": {"text": "other.txt"}}),
    ],
)
def test_other_files_that_are_read_are_part_of_the_fingerprint(
    tmp_path: Path,
    calls: list[str],
    monkeypatch: pytest.MonkeyPatch,
    stage: str,
    settings: dict[str, Any],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other.txt").write_text("one")
    recipe = build_recipe(settings, "test")
    run = RunDirectory(tmp_path / "run")
    run_stages(recipe, run, NAMES)
    run_stages(recipe, run, NAMES)
    assert calls == NAMES
    (tmp_path / "other.txt").write_text("another")
    run_stages(recipe, run, NAMES)
    assert calls[len(NAMES)] == stage


def test_hidden_files_and_the_home_folder_in_inputs(
    tmp_path: Path, calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    texts = tmp_path / "texts"
    texts.mkdir()
    (texts / "one.txt").write_text("one")
    recipe = Recipe()
    recipe.prepare.inputs = ["~/texts"]
    run = RunDirectory(tmp_path / "run")
    run_stages(recipe, run, ["prepare"])
    (texts / ".DS_Store").write_text("a file manager was here")
    run_stages(recipe, run, ["prepare"])
    assert calls == ["prepare"]
    (texts / "two.txt").write_text("two")
    run_stages(recipe, run, ["prepare"])
    assert calls == ["prepare", "prepare"]


def test_a_stage_alone_refuses_what_is_older_than_its_own_source(
    tmp_path: Path, calls: list[str]
) -> None:
    run = RunDirectory(tmp_path / "run")
    run_stages(Recipe(), run, NAMES)
    record = run.record("prepare")
    assert record is not None
    record.output = "other documents"
    run.write_record(record)
    with pytest.raises(HornbookError, match=r"prepare has changed since.*hornbook tokenize --run"):
        run_stages(Recipe(), run, ["pretrain"])
    assert run_stages(Recipe(), run, NAMES)


def test_a_mixture_of_token_folders_needs_no_text_of_its_own() -> None:
    recipe = Recipe()
    assert stages_of(recipe) == NAMES[1:], "nothing to gather"
    recipe.data.sources = [SourceConfig("elsewhere")]
    assert stages_of(recipe) == ["pretrain", "export"]
    recipe.evaluate.text = "book.txt"
    assert stages_of(recipe) == ["pretrain", "evaluate", "export"]
    recipe.prepare.inputs = ["texts"]
    assert stages_of(recipe) == NAMES[1:]
    recipe.gather.sources = [GatherSource("files")]
    assert stages_of(recipe) == NAMES


def test_again_does_a_finished_stage_from_nothing(
    tmp_path: Path, calls: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    run = RunDirectory(tmp_path / "run")
    run_stages(Recipe(), run, ["prepare"])
    run_stages(Recipe(), run, ["prepare"], again=True)
    assert "changed" not in "".join(capsys.readouterr())
    assert calls == ["prepare", "prepare"]
    (kept,) = (run.path / RETIRED).iterdir()
    assert (kept / "result").exists()


def test_a_run_directory_belongs_to_one_recipe(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    run.adopt(Recipe(name="first"))
    run.adopt(Recipe(name="first"))
    with pytest.raises(HornbookError, match="belongs to the recipe 'first', not 'second'"):
        run.adopt(Recipe(name="second"))


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.doc").write_text("precious")
    with pytest.raises(HornbookError, match="is not a run directory"):
        RunDirectory(tmp_path).adopt(Recipe())


def test_a_directory_whose_first_file_was_half_written_is_taken_up(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml.tmp").write_text("name: fir")
    RunDirectory(tmp_path).adopt(Recipe(name="first"))
    assert RunDirectory(tmp_path).recipe().name == "first"


def test_what_was_retired_in_the_same_second_stays_too(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    for number in range(3):
        run.folder("prepare").mkdir(parents=True)
        (run.folder("prepare") / "result").write_text(str(number))
        run.retire("prepare")
    kept = {path.read_text() for path in (run.path / RETIRED).glob("*/result")}
    assert kept == {"0", "1", "2"}


def _hold_lock(path: str, ready: Any, leave: Any) -> None:
    with RunDirectory(Path(path)).lock():
        ready.set()
        leave.wait(30)


def test_two_processes_cannot_work_in_one_run_directory(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ready, leave = context.Event(), context.Event()
    other = context.Process(target=_hold_lock, args=(str(tmp_path / "run"), ready, leave))
    other.start()
    try:
        assert ready.wait(30)
        with (
            pytest.raises(HornbookError, match="another hornbook process"),
            RunDirectory(tmp_path / "run").lock(),
        ):
            pass
    finally:
        leave.set()
        other.join()
    with RunDirectory(tmp_path / "run").lock():
        pass


@pytest.mark.parametrize(
    ("code", "problem"),
    [(errno.EROFS, "cannot write here"), (errno.ENOSPC, "the disk is full")],
)
def test_disk_trouble_is_said_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, problem: str
) -> None:
    run = RunDirectory(tmp_path / "run")
    run.adopt(Recipe())
    before = run.recipe_file.read_text()

    def refuse(*_: object) -> None:
        raise OSError(code, "simulated")

    monkeypatch.setattr("os.fsync", refuse)
    with pytest.raises(HornbookError, match=problem):
        run.adopt(Recipe(description="changed"))
    assert run.recipe_file.read_text() == before
    assert [p.name for p in run.path.iterdir()] == ["recipe.yaml"], "nothing half-written stays"
