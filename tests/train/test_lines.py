"""Steps as lines: their form, the length of an epoch, and what a resumed run writes again."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import tiny_run

from hornbook.train.lines import line_of


def test_the_form() -> None:
    assert line_of(90, 6.702834, 30) == "Epoch: 0003 Step count: 30 loss = 6.702834\n"
    assert line_of(1, math.nan, 30) == "Epoch: 0001 Step count: 1 loss = nan\n"


def test_lines_on_the_screen_and_in_the_log(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {"steps": 12, "log_style": "lines", "epoch_steps": 5}
    tiny_run.fit(tmp_path, settings)
    expected = [line_of(step, loss, 5) for step, loss in tiny_run.losses(tmp_path)]
    assert (tmp_path / "train.log").read_text() == "".join(expected)
    assert capsys.readouterr().out == "".join(expected)
    assert expected[-1].startswith("Epoch: 0003 Step count: 2 ")


def test_another_length_of_an_epoch_counts_from_the_beginning(tmp_path: Path) -> None:
    tiny_run.fit(tmp_path, {"steps": 4, "log_every": 2})
    assert not (tmp_path / "train.log").exists()
    tiny_run.fit(tmp_path, {"steps": 6, "log_style": "lines", "epoch_steps": 3})
    lines = (tmp_path / "train.log").read_text().splitlines()
    shown = [(1, 2), (2, 1), (2, 2), (2, 3)]
    assert [line.split(" loss")[0] for line in lines] == [
        f"Epoch: {epoch:04d} Step count: {count}" for epoch, count in shown
    ]
