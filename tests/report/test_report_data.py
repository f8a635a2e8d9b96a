"""Run directories are read whatever state they are in."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

from hornbook.errors import HornbookError
from hornbook.report import words
from hornbook.report.data import read_run
from hornbook.report.facts import key_numbers, quality, remarks, state, summary


def metrics_of(folder: Path, text: str) -> Path:
    (folder / "pretrain").mkdir(parents=True)
    (folder / "pretrain" / "metrics.jsonl").write_text(text, encoding="utf-8")
    return folder


def line(step: int, **more: object) -> str:
    values = {"step": step, "tokens": step * 10, "seconds": step * 0.5, "loss": 5.0 - step / 10}
    return json.dumps({**values, **more}) + "\n"


def test_a_finished_run_is_read_whole(new_run: Callable[..., Path]) -> None:
    run = read_run(new_run(steps=300))
    assert run.notes == []
    assert run.curves.last_step == 300
    assert run.curves.training["loss"].shape == (300,)
    assert np.isnan(run.curves.training["mfu"]).all()
    assert run.curves.validation["step"].tolist() == list(range(30, 301, 30))
    assert [(e.step, e.kind) for e in run.curves.events] == [(100, "resumed"), (151, "loss_spike")]
    assert list(run.stages) == ["prepare", "tokenize", "pretrain", "evaluate"]


def test_a_half_written_last_line_is_ignored(tmp_path: Path) -> None:
    run = read_run(metrics_of(tmp_path / "r", line(1) + line(2) + '{"step": 3, "lo'))
    assert run.curves.training["step"].tolist() == [1, 2]
    assert run.notes == []


def test_a_damaged_line_inside_is_left_out_and_said(tmp_path: Path) -> None:
    run = read_run(metrics_of(tmp_path / "r", line(1) + "\x00\x00\n" + "[1]\n" + line(2)))
    assert run.curves.training["step"].tolist() == [1, 2]
    assert run.notes == ["2 unreadable line(s) of pretrain/metrics.jsonl were left out."]


def test_numbers_may_be_null_nan_huge_or_text(tmp_path: Path) -> None:
    text = line(1, loss=None) + line(2, loss=math.nan) + line(3, loss="x") + line(4, tokens=10**400)
    run = read_run(metrics_of(tmp_path / "r", text + '{"step": null, "loss": 1}\n'))
    assert np.isnan(run.curves.training["loss"][:3]).all()
    assert math.isnan(run.curves.training["tokens"][3])
    assert run.curves.last("loss") == 4.6


def test_steps_that_come_again_replace_the_earlier_ones(tmp_path: Path) -> None:
    text = line(1) + line(2) + line(3, loss=9.0) + line(2) + line(3, loss=1.0)
    run = read_run(metrics_of(tmp_path / "r", text))
    assert run.curves.training["step"].tolist() == [1, 2, 3]
    assert run.curves.last("loss") == 1.0


def test_damaged_json_and_yaml_are_named(new_run: Callable[..., Path]) -> None:
    folder = new_run(steps=20)
    (folder / "prepare" / "prepare.json").write_text('{"read": ')
    (folder / "recipe.yaml").write_text("a: [")
    run = read_run(folder)
    assert run.prepare == {} and run.recipe == {}
    assert any("prepare/prepare.json" in note for note in run.notes)
    assert any("recipe.yaml" in note for note in run.notes)


@pytest.mark.parametrize("exists", [True, False])
def test_what_is_no_run_directory_is_refused(tmp_path: Path, exists: bool) -> None:
    folder = tmp_path / "other"
    if exists:
        folder.mkdir()
    with pytest.raises(HornbookError, match="is not a run directory") as caught:
        read_run(folder)
    assert str(folder) in str(caught.value)


def test_the_checkpoint_being_written_is_not_read(new_run: Callable[..., Path]) -> None:
    folder = new_run(steps=20)
    unfinished = folder / "pretrain" / "checkpoints" / "step-00000099.tmp"
    unfinished.mkdir()
    (unfinished / "model.json").write_text('{"family"')
    run = read_run(folder)
    assert run.architecture["family"] == "llama" and run.notes == []


def test_the_summary_says_what_how_long_and_how_good(new_run: Callable[..., Path]) -> None:
    text = summary(read_run(new_run(steps=300)))
    for part in (
        "llama model of 5.87 million parameters", "from random weights", "4.94 MB of text",
        "shakespeare", "300 steps (2.46 million tokens) in 1 min 4", "1.722 bits per byte",
        "3.700 nats",
    ):  # fmt: skip
        assert part in text, text


def test_a_run_from_a_feed_does_not_count_its_sample_as_the_text(
    new_run: Callable[..., Path],
) -> None:
    folder = new_run(steps=300)
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    recipe["data"] = {**recipe.get("data", {}), "feed": "http://127.0.0.1:8765"}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    run = read_run(folder)
    assert "on the texts of a live feed" in summary(run)
    shown = {fact.label: fact for fact in key_numbers(run)}
    assert "Training text" not in shown
    assert not shown["Tokens trained on"].note


def test_an_evaluation_of_an_earlier_model_is_not_this_ones(new_run: Callable[..., Path]) -> None:
    folder = new_run(steps=300)
    assert quality(read_run(folder)).origin == "all held-out text"
    with open(folder / "pretrain" / "metrics.jsonl", "a") as metrics:
        metrics.write(line(301, tokens=1e9))
    found = quality(read_run(folder))
    assert found.origin == "the fixed validation set"
    assert found.perplexity == pytest.approx(math.exp(found.loss))


def test_a_running_run_says_how_far_it_is(new_run: Callable[..., Path]) -> None:
    run = read_run(new_run(steps=400, logged=100, outcome="running", evaluated=False))
    assert run.metrics_written is not None
    assert "going on: 100 steps (25.0 % of the 400 steps" in state(run, run.metrics_written + 20)
    assert "20 s before" in state(run, run.metrics_written + 20)
    assert "or it was killed" in state(run, run.metrics_written + 86400)


def test_outcomes_in_words(new_run: Callable[..., Path]) -> None:
    folder = new_run(steps=50)
    assert state(read_run(folder)) == ""
    record = json.loads((folder / "pretrain" / "stage.json").read_text())
    for outcome, words_of_it in (("stopped", "was stopped after 50 steps"), ("failed", "boom")):
        record |= {"outcome": outcome, "summary": {"error": "ValueError: boom"}}
        (folder / "pretrain" / "stage.json").write_text(json.dumps(record))
        assert words_of_it in state(read_run(folder))


def test_rising_held_out_loss_is_remarked(tmp_path: Path) -> None:
    losses = [4.0, 3.0, 3.5]
    lines = [json.dumps({"step": i + 1, "validation_loss": loss}) for i, loss in enumerate(losses)]
    (remark,) = remarks(read_run(metrics_of(tmp_path / "r", "\n".join(lines) + "\n")))
    assert "lowest at step 2 (3.000)" in remark and "3.500" in remark
    falling = metrics_of(tmp_path / "s", line(1, validation_loss=3.0))
    assert remarks(read_run(falling)) == []


def test_unknown_numbers_are_not_shown(tmp_path: Path) -> None:
    folder = tmp_path / "empty"
    (folder / "prepare").mkdir(parents=True)
    assert key_numbers(read_run(folder)) == []


def test_numbers_in_words() -> None:
    assert [words.count(x) for x in (0, 1234, 1_234_567, 2.5e9, 999_900_000)] == [
        "0", "1,234", "1.23 million", "2.50 billion", "1,000 million"
    ]  # fmt: skip
    assert [words.size(x) for x in (12, 5_300_000, 114e3)] == ["12 bytes", "5.30 MB", "114 kB"]
    assert [words.duration(x) for x in (0.25, 59, 60, 220, 3600, 12_300, 90_061)] == [
        "0.2 s", "59 s", "1 min", "3 min 40 s", "1 h", "3 h 25 min", "1 d 1 h"
    ]  # fmt: skip
    assert words.duration(59.7) == "1 min"
    assert [words.plain(x) for x in (3.2, 40.447, 0.000612, 1834.2, 100.0)] == [
        "3.200", "40.45", "0.000612", "1,834", "100.0"
    ]  # fmt: skip
    assert words.share(0.0512) == "5.1 %"
    for say in (words.count, words.size, words.duration, words.plain, words.share):
        assert say(math.nan) == words.NOTHING
