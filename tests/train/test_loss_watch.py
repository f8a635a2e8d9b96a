"""Targets, spikes, and a first loss that cannot be right."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest

from hornbook.errors import HornbookError
from hornbook.train.stop import LossWatch, target_loss, unlike_guessing


def watched(losses: list[float], factor: float = 1.5) -> tuple[LossWatch, list[int]]:
    """A watch after these losses, and the steps at which it reported a spike."""
    watch = LossWatch()
    return watch, [s for s, loss in enumerate(losses, 1) if watch.add(s, loss, factor)]


def test_a_spike_is_reported_once() -> None:
    losses = [4.0] * 20 + [7.0, 6.9, 4.0] + [4.0] * 60 + [9.0]
    assert watched(losses)[1] == [21, 84]


def test_no_spike_before_anything_is_usual_nor_for_a_falling_loss() -> None:
    assert watched([2.0, 9.0, 2.0])[1] == []
    assert watched([10 / step for step in range(1, 100)])[1] == []


def test_the_mean_is_of_fifty_steps_and_survives_a_checkpoint() -> None:
    watch, _ = watched([9.0] + [float(loss) for loss in range(60)])
    assert (watch.initial, len(watch.recent), watch.mean()) == (9.0, 50, sum(range(10, 60)) / 50)
    assert LossWatch(**json.loads(json.dumps(dataclasses.asdict(watch)))) == watch
    assert math.isnan(LossWatch().mean())


def test_the_training_loss_counts_after_fifty_steps_the_validation_loss_at_once() -> None:
    watch, _ = watched([3.0] + [1.0] * 48)
    assert watch.reached("1.5", None) is None
    watch.add(50, 1.0, 1.5)
    assert "1.0400 <= 1.5000" in str(watch.reached("1.5", None))
    assert "1.0400 <= 2.0000" in str(watch.reached("initial-1", 2.5))
    first, _ = watched([3.0])
    assert first.reached("initial - 1", 1.0) is None, "no validation loss to be relative to"
    first.initial_validation = 3.5
    assert first.reached("initial - 1", 2.5) is not None
    assert first.reached("initial-1.0", 2.6) is None
    assert watch.reached("", 0.0) is None


@pytest.mark.parametrize("text", ["low", "initial", "initial+1", "initial--1", "nan", "initial-x"])
def test_a_target_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(HornbookError, match=r"pretrain\.stop_at_loss: .* neither a number"):
        target_loss(text, None)


def test_a_first_loss_far_from_guessing_is_odd() -> None:
    assert unlike_guessing(10.9, 50257) is None
    assert "ln(50257) = 10.82" in str(unlike_guessing(14.0, 50257))
    assert unlike_guessing(2.0, 50257) is not None
