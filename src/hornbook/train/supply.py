"""Where a run's batches come from, as one of its processes sees it.

In: a source. Out: its batches; and of a source with a state of its own (a feed) that state for the
checkpoints, its failures as those of all processes, and how much of the time it is waited for.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from hornbook.errors import HornbookError
from hornbook.tokens.batch import Batch, BatchSource, Resumable
from hornbook.tokens.feed_client import FeedGone
from hornbook.tokens.feed_source import Stopped
from hornbook.tokens.prefetch import Prefetcher
from hornbook.train.checkpoint_files import Checkpoint
from hornbook.train.parallel import World

WAIT_WINDOW, WAIT_SHARE, WAIT_TOLD_EVERY = 50, 0.01, 500
"""Waiting for data is worth saying above this share of the last steps' time, once in so many."""


class Supply:
    """The source of a run.

    Attributes:
        source: gives this process's part of any rows.
        note: for the bar, what share of the last steps' time a feed is waited for, if too much.
    """

    def __init__(self, source: BatchSource, world: World):
        self.source, self._world = world.share_of(source), world
        self._feed = source if isinstance(source, Resumable) else None
        self.note = ""
        self._waits: deque[tuple[float, float]] = deque(maxlen=WAIT_WINDOW)
        self._quiet_until = 0
        self._begun = False

    def rows(self, start: int, count: int) -> Batch:
        """Rows to try things with. Raises KeyboardInterrupt where `stop` was called."""
        try:
            return self.source.rows(start, count)
        except Stopped:
            raise KeyboardInterrupt from None

    def stop(self) -> None:
        """No more rows are wanted: whoever waits for some is let go."""
        if self._feed is not None:
            self._feed.stop()

    # ------------------------------------------------------------------------ its state

    def take_up(self, stored: dict[str, Any], oldest: Checkpoint | None, folder: Path) -> None:
        """Go on from a checkpoint's values, or from nothing.

        Args:
            stored: the values; empty: the run begins.
            oldest: the oldest checkpoint that is kept.
            folder: of the stage, for errors.
        """
        if stored and ("data" in stored) != (self._feed is not None):
            raise HornbookError(
                f"was begun {'with' if 'data' in stored else 'without'} a feed",
                where=folder,
                hint="Keep data.feed as it was, or use another run directory",
            )
        if self._feed is not None:
            if stored:
                self._feed.take_up(stored["data"])
            self._feed.durable(oldest.state()["data"] if oldest else self._feed.state_at(0))

    def values(self, row: int) -> dict[str, Any]:
        """What a checkpoint before `row` has to hold."""
        if self._feed is None:
            return {}
        state = self._feed.state_at(row)
        if not self._world.is_main:  # process 0 does it when the checkpoint is whole
            self._feed.durable(state)
        return {"data": state}

    def whole(self, oldest: Checkpoint) -> None:
        """A checkpoint has become whole, and this is the oldest one now."""
        if self._feed is not None:
            self._feed.durable(oldest.state()["data"])

    # -------------------------------------------------------------------- while training

    @contextlib.contextmanager
    def batches(
        self,
        requests: Iterable[tuple[int, int]],
        device: str,
        depth: int,
        weigh: Callable[[Batch], float],
    ) -> Iterator[Prefetcher]:
        """The batches of these requests, prepared ahead (see `Prefetcher`); `stop` at the end, for
        else it would wait for what it is reading."""
        prefetcher = Prefetcher(self.source, requests, device=device, depth=depth, weigh=weigh)
        with prefetcher:
            try:
                yield prefetcher
            finally:
                self.stop()

    def next_batch(self, batches: Prefetcher) -> Batch | None:
        """The next batch; None where `stop` was called in any process.

        Raises:
            FeedGone: in all processes, where the feed of one of them gives no more.
        """
        if self._feed is None:
            return next(batches)
        batch, failure = None, None
        try:
            batch = next(batches)
        except Stopped:
            pass
        except HornbookError as error:
            failure = error
        stopped, failed = self._world.largest(
            batch is None and failure is None, self._world.rank if failure else -1
        )
        if failed >= 0:
            words = None
            if failure is not None:
                words = [failure.what, failure.where and str(failure.where), failure.hint]
            what, where, hint = self._world.share(words, int(failed))
            raise FeedGone(what, where=where, hint=hint) from failure
        return None if stopped else batch

    def waited(self, step: int, waited: float, seconds: float) -> str | None:
        """Take in a step, which took `seconds` with the waiting; in words, that it is too much."""
        if self._feed is None:
            return None
        if self._begun:  # the first step waits for the feed's first texts, once a start
            self._waits.append((waited, seconds))
        self._begun = True
        if len(self._waits) < WAIT_WINDOW:
            return None
        waits, times = zip(*self._waits, strict=True)
        share = sum(waits) / max(sum(times), 1e-9)
        self.note = f"  waits for data {share:.0%}" if share > WAIT_SHARE else ""
        if not self.note or step < self._quiet_until:
            return None
        self._quiet_until = step + WAIT_TOLD_EVERY
        return (
            f"the feed does not keep up: {share:.0%} of the last {WAIT_WINDOW} steps' "
            "time was waiting for it"
        )
