"""Steps from steps, tokens and minutes."""

from __future__ import annotations

from itertools import count
from typing import Any

import pytest

from hornbook.errors import HornbookError
from hornbook.train import horizon
from hornbook.train.config import PretrainConfig


def config(**values: Any) -> PretrainConfig:
    return PretrainConfig(**values)


def test_rows_of_a_step_are_whole() -> None:
    assert horizon.rows_per_step(config(global_batch_tokens=16384), 256) == 64
    assert horizon.rows_per_step(config(global_batch_tokens=1000), 256) == 4
    assert horizon.rows_per_step(config(global_batch_tokens=1), 256) == 1


def test_the_shortest_length_counts() -> None:
    assert horizon.total_steps(config(steps=100), 4096, None) == 100
    assert horizon.total_steps(config(tokens=4097), 4096, None) == 2
    assert horizon.total_steps(config(minutes=2.5), 4096, 100.0) == 250
    assert horizon.total_steps(config(steps=100, tokens=40960, minutes=1), 4096, 50.0) == 10


@pytest.mark.parametrize("values", [{}, {"steps": -1}, {"minutes": float("inf")}])
def test_a_run_without_a_length_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(HornbookError, match="pretrain"):
        horizon.check_horizon(config(**values))


def test_minutes_pay_for_evaluations_and_what_was_spent() -> None:
    # A step of 4,096 tokens takes 0.5 s; an evaluation of 8,192 tokens as much, every 9 steps.
    budget = config(minutes=1, evaluate_tokens=8192, evaluate_every=9)
    steps = horizon.calibrated_steps(budget, 4096, 0.5, spent_seconds=9.5)
    assert steps == 90
    assert steps * 0.5 + steps / 9 * 0.5 + 0.5 + 9.5 == 60
    only_at_the_end = config(minutes=1, evaluate_tokens=8192, evaluate_every=0)
    assert horizon.calibrated_steps(only_at_the_end, 4096, 0.5, 9.5) == 100


def test_training_gets_half_of_a_budget_that_evaluation_would_eat() -> None:
    greedy = config(minutes=1, evaluate_tokens=10**9, evaluate_every=1)
    assert horizon.calibrated_steps(greedy, 4096, 0.5, 0.0) == 60


def test_calibration_leaves_the_slow_first_step_out(monkeypatch: pytest.MonkeyPatch) -> None:
    done = count(1)
    now = [0.0]

    def rehearse() -> None:
        now[0] += 30.0 if next(done) == 1 else 2.0

    monkeypatch.setattr(horizon.time, "perf_counter", lambda: now[0])
    assert horizon.seconds_of_step(rehearse, 60.0) == 2.0
    assert next(done) == horizon.CALIBRATION_STEPS + 1


def test_a_noisy_moment_does_not_shorten_the_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    # The first does not count; then most steps meet something else that the machine does.
    times = iter([30.0, *[0.3, 0.2, 0.21, 0.5, 0.9, 0.4] * 4, *[9.0] * 9])

    def rehearse() -> None:
        now[0] += next(times)

    monkeypatch.setattr(horizon.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(horizon, "CALIBRATION_SECONDS", 40.0)
    assert horizon.seconds_of_step(rehearse, 3600.0) == pytest.approx(0.205, abs=0.01)
