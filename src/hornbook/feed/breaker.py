"""What keeps a teacher from being overrun: a circuit breaker, and a limit that adapts.

In: how each request went. Out: whether the next may go, and how many at a time. Neither knows of
HTTP. Time is the monotonic clock's.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from hornbook.feed.produce import Unavailable

FAILURES = 10
"""Failures in a row after which nothing is asked for a while."""

FIRST_PAUSE, LONGEST_PAUSE = 5.0, 120.0
"""Seconds: the pause doubles from the one to the other as long as nothing succeeds."""

LONGEST_HOLD = 600.0
"""Seconds: a Retry-After that is longer is looked into again."""


class Breaker:
    """Stops asking what fails again and again; after a pause one request tries whether it works.

    (M. Nygard, "Release It!", 2007: closed, open and half-open.)
    """

    def __init__(self, now: Callable[[], float] = time.monotonic):
        self._now = now
        self._failures = 0
        self._pause = FIRST_PAUSE
        self._until = 0.0
        self._is_open = self._is_tried = False
        self._why = ""

    def check(self) -> None:
        """Call before each request. Raises `Unavailable` when it must not go."""
        left = self._until - self._now()
        if left > 0:
            raise Unavailable(self._why, left)
        if self._is_open:
            if self._is_tried:
                raise Unavailable(self._why, 1.0)
            self._is_tried = True

    def succeeded(self) -> None:
        """A request was answered."""
        self._failures, self._pause = 0, FIRST_PAUSE
        self._is_open = self._is_tried = False

    def failed(self, why: str, *, at_once: bool = False) -> None:
        """A request was not answered; `at_once`: others would not be either, so open now."""
        self._failures += 1
        self._why = why
        if self._now() < self._until:
            return  # asked before the others failed
        if at_once or self._is_tried or self._failures >= FAILURES:
            self._until = self._now() + self._pause
            self._pause = min(2 * self._pause, LONGEST_PAUSE)
            self._is_open, self._is_tried = True, False

    def hold(self, seconds: float, why: str) -> None:
        """Let nothing go for `seconds`, `LONGEST_HOLD` at most: what is asked said so."""
        self._until = max(self._until, self._now() + min(seconds, LONGEST_HOLD))
        self._is_tried = False
        self._why = why


class Limit:
    """Requests at a time: one more after each window that went well, half after an overload.

    (Additive increase, multiplicative decrease: Chiu and Jain, 1989.)
    """

    def __init__(self, start: float, most: float, now: Callable[[], float] = time.monotonic):
        self._value, self._most, self._now = max(1.0, min(start, most)), most, now
        self._cut_at = float("-inf")

    def __int__(self) -> int:
        return int(self._value)

    def succeeded(self) -> None:
        """A request went well."""
        self._value = min(self._most, self._value + 1 / self._value)

    def overloaded(self, began: float) -> None:
        """The request that `began` then was too much; those sent before the last cut say nothing
        about the limit after it."""
        if began > self._cut_at:
            self._value = max(1.0, self._value / 2)
            self._cut_at = self._now()
