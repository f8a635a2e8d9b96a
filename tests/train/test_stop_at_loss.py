"""`initial-1`: what the initial losses are, when they are measured; they outlive a stop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny_run

from hornbook.errors import HornbookError

RELATIVE = {"steps": 500, "stop_at_loss": "initial-1.5", "evaluate_every": 5}


def validations(folder: Path) -> list[tuple[int, float]]:
    lines = tiny_run.records(folder)
    return [(line["step"], line["validation_loss"]) for line in lines if "validation_loss" in line]


def test_the_validation_loss_is_measured_before_the_first_update(tmp_path: Path) -> None:
    outcome = tiny_run.fit(tmp_path, RELATIVE)
    measured = validations(tmp_path)
    assert measured[0][0] == 0
    assert tiny_run.records(tmp_path)[0]["tokens"] == 0
    assert outcome.reason == "target"
    assert measured[-1][1] <= measured[0][1] - 1.5 < measured[-2][1]
    assert outcome.step == measured[-1][0] < 50, "before there is a mean of 50 steps"
    assert "validation loss" in tiny_run.events(tmp_path, "target")[0]["message"]


def test_measuring_changes_no_step(tmp_path: Path) -> None:
    tiny_run.fit(tmp_path / "with", {**RELATIVE, "steps": 8, "stop_at_loss": "initial-5"})
    tiny_run.fit(tmp_path / "without", {**RELATIVE, "steps": 8, "stop_at_loss": ""})
    assert tiny_run.losses(tmp_path / "with") == tiny_run.losses(tmp_path / "without")
    assert validations(tmp_path / "with")[1:] == validations(tmp_path / "without")


def test_a_resumed_run_keeps_the_initial_losses(tmp_path: Path) -> None:
    tiny_run.fit(tmp_path, {**RELATIVE, "steps": 8})
    tiny_run.fit(tmp_path, RELATIVE)
    assert [step for step, _ in validations(tmp_path)].count(0) == 1
    assert validations(tmp_path)[-1][1] <= validations(tmp_path)[0][1] - 1.5


def test_both_initial_losses_are_checked_against_guessing(tmp_path: Path) -> None:
    far: Any = {"evaluate": lambda model: {"validation_loss": 9.0}}
    tiny_run.build(tmp_path, {**RELATIVE, "steps": 1}, **far).fit()
    odd = tiny_run.events(tmp_path, "initial_loss")
    assert [event["step"] for event in odd] == [0]
    assert "the first loss is 9.00" in odd[0]["message"]


@pytest.mark.parametrize("text", ["initial+1", "initial-0", "initial--1", "initial-inf"])
def test_what_is_no_target_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(HornbookError, match="neither a number nor like"):
        tiny_run.fit(tmp_path, {"stop_at_loss": text})
