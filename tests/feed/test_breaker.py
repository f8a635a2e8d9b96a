"""The circuit breaker opens, waits longer and longer, lets one try, and closes."""

from __future__ import annotations

import pytest

from hornbook.feed.breaker import FAILURES, FIRST_PAUSE, LONGEST_PAUSE, Breaker, Limit
from hornbook.feed.produce import Unavailable


class Clock:
    def __init__(self) -> None:
        self.time = 100.0

    def __call__(self) -> float:
        return self.time


def refused(breaker: Breaker) -> Unavailable:
    with pytest.raises(Unavailable) as caught:
        breaker.check()
    return caught.value


def opened(clock: Clock) -> Breaker:
    breaker = Breaker(clock)
    for _ in range(FAILURES):
        breaker.check()
        breaker.failed("no answer")
    return breaker


def test_it_opens_after_failures_in_a_row() -> None:
    clock = Clock()
    breaker = Breaker(clock)
    for _ in range(FAILURES - 1):
        breaker.failed("no answer")
    breaker.succeeded()
    for _ in range(FAILURES - 1):
        breaker.failed("no answer")
    breaker.check()
    breaker.failed("no answer")
    assert refused(breaker).seconds == FIRST_PAUSE
    assert refused(breaker).why == "no answer"


def test_after_the_pause_one_request_tries_and_the_pause_doubles() -> None:
    clock = Clock()
    breaker = opened(clock)
    pause = FIRST_PAUSE
    for _ in range(10):
        clock.time += pause
        breaker.check()
        refused(breaker)  # a second one has to wait for the first
        breaker.failed("still no answer")
        pause = min(2 * pause, LONGEST_PAUSE)
        assert refused(breaker).seconds == pause
    assert pause == LONGEST_PAUSE
    clock.time += pause
    breaker.check()
    breaker.succeeded()
    for _ in range(FAILURES):
        breaker.check()
        breaker.failed("no answer")
    assert refused(breaker).seconds == FIRST_PAUSE


def test_late_failures_of_an_open_breaker_do_not_lengthen_the_pause() -> None:
    clock = Clock()
    breaker = opened(clock)
    for _ in range(50):
        breaker.failed("no answer")
    assert refused(breaker).seconds == FIRST_PAUSE


def test_what_would_fail_for_all_opens_at_once() -> None:
    breaker = Breaker(Clock())
    breaker.failed("HTML", at_once=True)
    assert refused(breaker).why == "HTML"


def test_hold_stops_all_and_then_lets_all_go() -> None:
    clock = Clock()
    breaker = Breaker(clock)
    breaker.hold(30, "429")
    assert refused(breaker).seconds == 30
    clock.time += 30
    breaker.check()
    breaker.check()


def test_a_held_trial_is_tried_again() -> None:
    clock = Clock()
    breaker = opened(clock)
    clock.time += FIRST_PAUSE
    breaker.check()
    breaker.hold(30, "429")
    clock.time += 30
    breaker.check()
    breaker.succeeded()
    breaker.check()
    breaker.check()


def test_the_limit_grows_by_one_a_window_and_is_halved_once_an_overload() -> None:
    clock = Clock()
    limit = Limit(4, 64, clock)
    for _ in range(5):
        limit.succeeded()
    assert int(limit) == 5
    for _ in range(10_000):
        limit.succeeded()
    assert int(limit) == 64
    began = clock.time
    clock.time += 1
    for _ in range(64):  # all of a window fail together
        limit.overloaded(began)
    assert int(limit) == 32
    for _ in range(10):
        clock.time += 1
        began = clock.time
        clock.time += 1
        limit.overloaded(began)
    assert int(limit) == 1
