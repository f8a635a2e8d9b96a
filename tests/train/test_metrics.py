"""Lines that survive, and lines that are cut back."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from hornbook.errors import HornbookError
from hornbook.train.metrics import JsonLines, MetricsLog, cut_back


def steps(path: Path) -> list[int]:
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


def started(folder: Path, step: int, *, tensorboard: bool = False) -> MetricsLog:
    """The log of a run that goes on from `step`, evaluated and sampled there."""
    return MetricsLog(folder, step, evaluated=step, sampled=step, tensorboard=tensorboard)


def test_goes_on_from_a_step(tmp_path: Path) -> None:
    with started(tmp_path, 0) as log:
        for step in range(1, 8):
            log.numbers({"step": step, "loss": step / 10})
            log.sample(step, {"prompt": "a", "text": "ü\u2028b\n"})
            log.event(step, "loss_spike", "high")
    with started(tmp_path, 5) as log:
        log.numbers({"step": 6, "loss": 0.5})
    assert steps(tmp_path / "metrics.jsonl") == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6]
    samples = (tmp_path / "samples.jsonl").read_text("utf-8").split("\n")
    assert len(samples) == 6
    assert json.loads(samples[0]) == {"step": 1, "prompt": "a", "text": "ü\u2028b\n"}


def test_evaluations_and_samples_that_no_checkpoint_knows_are_left_out(tmp_path: Path) -> None:
    with started(tmp_path, 0) as log:
        for step in (2, 4):
            log.numbers({"step": step, "loss": 1.0})
            log.numbers({"step": step, "validation_loss": 1.0})
            log.sample(step, {"prompt": "a", "text": "b"})
    # The checkpoint of step 4 was made before its evaluation and samples.
    with MetricsLog(tmp_path, 4, evaluated=2, sampled=2, tensorboard=False):
        assert steps(tmp_path / "metrics.jsonl") == [2, 2, 4]
        assert steps(tmp_path / "samples.jsonl") == [2]


def test_half_written_last_line_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    for rubbish in (b'{"step": 2, "lo', b'{"step": 2}', b'{"step": 2, "x": "\xc3', b"\0\0\0\0"):
        path.write_bytes(b'{"step": 1}\n' + rubbish)
        cut_back(path, 9, 9)
        assert path.read_bytes() == b'{"step": 1}\n'


def test_uncut_files_are_not_rewritten(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n')
    before = path.stat().st_ino
    cut_back(path, 2, 2)
    assert path.stat().st_ino == before


def test_each_line_is_on_its_way_at_once_and_is_json(tmp_path: Path) -> None:
    with started(tmp_path, 0) as log:
        log.numbers({"step": 1, "loss": math.nan, "mfu": math.inf})
        line = (tmp_path / "metrics.jsonl").read_text()
        assert json.loads(line) == {"step": 1, "loss": None, "mfu": None}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has a disk that is always full")
def test_a_full_disk_is_said_also_when_closing_tries_once_more() -> None:
    lines = JsonLines(Path("/dev/full"))
    for fails in (lambda: lines.write({"step": 1}), lines.close):
        with pytest.raises(HornbookError, match="the disk is full"):
            fails()


def test_writes_tensorboard_files(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for first in (0, 3):
        with started(tmp_path, first, tensorboard=True) as log:
            for step in range(first + 1, first + 6):
                log.numbers({"step": step, "loss": float(step + first), "mfu": None})
    read = EventAccumulator(str(tmp_path / "tensorboard"))
    read.Reload()
    assert read.Tags()["scalars"] == ["loss"]
    assert [(e.step, e.value) for e in read.Scalars("loss")] == [
        (1, 1), (2, 2), (3, 3), (4, 7), (5, 8), (6, 9), (7, 10), (8, 11),
    ]  # fmt: skip
