"""What a feed costs the trainer in waiting, and when that is said."""

from __future__ import annotations

from unittest import mock

from hornbook.tokens.batch import Resumable
from hornbook.train.parallel import ALONE
from hornbook.train.supply import WAIT_WINDOW, Supply


def told(waits: list[float]) -> list[str]:
    """What is said of steps of one second that waited so long each."""
    supply = Supply(mock.create_autospec(Resumable, instance=True), 8, ALONE)
    said = [supply.waited(step, waited, 1.0) for step, waited in enumerate(waits)]
    return [message for message in said if message]


def test_waiting_is_said_once_where_it_lasts() -> None:
    assert told([0.002] * 3 * WAIT_WINDOW) == []
    assert len(told([0.1] * 3 * WAIT_WINDOW)) == 1
    assert "10% of the last 50 steps" in told([0.1] * 2 * WAIT_WINDOW)[0]


def test_the_first_texts_of_a_start_do_not_count() -> None:
    assert told([30.0] + [0.0] * 2 * WAIT_WINDOW) == []


def test_one_outage_is_not_a_feed_that_is_too_slow() -> None:
    one = [0.0] * WAIT_WINDOW + [90.0] + [0.0] * WAIT_WINDOW
    assert told(one) == []
    assert len(told([0.0] * WAIT_WINDOW + [90.0, 90.0] + [0.0] * WAIT_WINDOW)) == 1
    assert len(told([*one[:WAIT_WINDOW], 15.0, *one[WAIT_WINDOW + 1 :]])) == 1
