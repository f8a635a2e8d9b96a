"""How fast one host is asked: a token bucket, a number of requests at a time, pauses.

In: a rate. Out: a context manager that lets a request begin when it is its turn.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Protocol

BURST = 5
"""Requests that may come at once after a quiet time; then they keep to the rate."""


class Clock(Protocol):
    """Time in seconds from any beginning, which never runs backwards. `stop` ends the sleep of
    other threads."""

    def now(self) -> float: ...
    def sleep(self, seconds: float) -> None: ...
    def stop(self) -> None: ...


class Stopped(Exception):
    """Nobody waits any more for what this thread does."""


class SystemClock:
    """The machine's monotonic clock."""

    def __init__(self) -> None:
        self._stopped = threading.Event()
        self.now, self.stop = time.monotonic, self._stopped.set

    def sleep(self, seconds: float) -> None:
        """Wait. Raises `Stopped` where, or as soon as, `stop` was called."""
        if self._stopped.wait(seconds):
            raise Stopped


class Pace:
    """The pace of one host; safe to use from several threads.

    The token bucket is kept as the time at which it will be full again (the generic cell rate
    algorithm, ITU-T I.371): each request moves that time by one interval.
    """

    def __init__(self, requests_per_minute: float, concurrency: int, clock: Clock):
        self._interval = 60 / requests_per_minute
        self._burst = BURST
        self._clock = clock
        self._full_at = clock.now()
        self._paused_until = clock.now()
        self._lock = threading.Lock()
        self._slots = threading.Semaphore(concurrency)

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Wait until a request may begin; leaving makes room for the next one."""
        with self._slots:
            with self._lock:
                ready = self._full_at - (self._burst - 1) * self._interval
                begin = max(self._clock.now(), ready)
                self._full_at = max(self._full_at, begin) + self._interval
            # A pause may begin, or grow, while this request waits for its turn.
            while (wait := max(begin, self._paused_until) - self._clock.now()) > 0:
                self._clock.sleep(wait)
            yield

    def pause(self, seconds: float) -> None:
        """Begin no request to this host within so many seconds (Retry-After)."""
        with self._lock:
            self._paused_until = max(self._paused_until, self._clock.now() + seconds)

    def slow_down(self, interval: float) -> None:
        """Leave at least `interval` seconds between two requests (Crawl-delay)."""
        with self._lock:
            if interval > self._interval:
                self._interval, self._burst = interval, 1
