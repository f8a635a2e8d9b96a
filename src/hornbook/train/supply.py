"""Where a run's batches come from, as one of its processes sees it.

In: a source. Out: its batches; and of a source with a state of its own (a feed) that state for the
checkpoints, its failures as those of all processes, and how much of the time it is waited for.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from hornbook.errors import HornbookError
from hornbook.tokens.batch import Batch, BatchSource, Resumable
from hornbook.tokens.feed_client import FIRST_TOLD_S, FeedGone
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

    def __init__(self, source: BatchSource, rows_per_step: int, world: World):
        world.check_rows(rows_per_step)
        self.source, self._rows, self._world = world.share_of(source), rows_per_step, world
        self._feed = source if isinstance(source, Resumable) else None
        self.note = ""
        self._waits: deque[tuple[float, float]] = deque(maxlen=WAIT_WINDOW)
        self._quiet_until = 0
        self._begun = False

    def trial_rows(self, step: int, vocabulary: int) -> Batch:
        """Rows as those after `step` finished steps, to try things with.

        Where there is a feed they are random: nobody waits for it before there is a step to do, and
        a run that has none left goes without.
        """
        if self._feed is None:
            return self.source.rows(step * self._rows, self._rows)
        shape = (-(-self._rows // self._world.size), self.source.sequence_length + 1)
        ids = torch.randint(vocabulary, shape, generator=torch.Generator().manual_seed(0))
        return Batch(ids[:, :-1].contiguous(), ids[:, 1:].contiguous())

    def close(self) -> None:
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
        if stored and stored["rows_per_step"] != self._rows:
            raise HornbookError(
                f"was trained with {stored['rows_per_step']} rows a step, not {self._rows}",
                where=folder,
                hint="Keep pretrain.global_batch_tokens and the sequence length, or use another "
                "run directory",
            )
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

    def values(self, step: int) -> dict[str, Any]:
        """What a checkpoint after `step` finished steps has to hold."""
        row = step * self._rows
        state = {} if self._feed is None else {"data": self._feed.state_at(row)}
        return {"rows": row, "rows_per_step": self._rows, **state}

    def whole(self, oldest: Checkpoint) -> None:
        """A checkpoint has become whole, and this is the oldest one now."""
        if self._feed is not None:
            self._feed.durable(oldest.state()["data"])

    def release(self) -> None:
        """The run is done: a feed need not keep its texts any longer."""
        if self._feed is not None:
            self._feed.release()

    # -------------------------------------------------------------------- while training

    @contextlib.contextmanager
    def batches(
        self, first: int, last: int, device: str, depth: int, weigh: Callable[[Batch], float]
    ) -> Iterator[Prefetcher]:
        """The batches of steps [first, last), prepared ahead (see `Prefetcher`)."""
        rows = self._rows
        requests = ((row, rows) for row in range(first * rows, last * rows, rows))
        with (
            Prefetcher(self.source, requests, device=device, depth=depth, weigh=weigh) as batches,
            contextlib.closing(self),  # else the prefetcher would end what it is reading first
        ):
            yield batches

    def next_batch(self, batches: Prefetcher) -> Batch | None:
        """The next batch; None where `close` was called in any process.

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

    def gaps(self) -> list[str]:
        """Of texts that are lost and were left out, what to say; each once."""
        gaps = [] if self._feed is None else self._feed.gaps()
        return [f"texts {first:,} to {end - 1:,} are lost: left out" for first, end in gaps]

    def waited(self, step: int, waited: float, seconds: float) -> str | None:
        """Take in a step, which took `seconds` with the waiting; in words, that it is too much."""
        if self._feed is None:
            return None
        if self._begun:  # the first step waits for the feed's first texts, once a start
            self._waits.append((waited, seconds))
        self._begun = True
        if len(self._waits) < WAIT_WINDOW:
            return None
        lasting = sorted(self._waits)
        if lasting[-1][0] > FIRST_TOLD_S:  # one outage, of which the client has spoken already
            lasting.pop()
        waits, times = zip(*lasting, strict=True)
        share = sum(waits) / max(sum(times), 1e-9)
        self.note = f"  waits for data {share:.0%}" if share > WAIT_SHARE else ""
        if not self.note or step < self._quiet_until:
            return None
        self._quiet_until = step + WAIT_TOLD_EVERY
        return (
            f"the feed does not keep up: {share:.0%} of the last {WAIT_WINDOW} steps' "
            "time was waiting for it"
        )
