"""Rows of a run that is trained from a feed.

In: a feed, a tokenizer, and the state to begin from. Out: a `BatchSource` whose rows come in order,
each a pure function of the feed's log; and the states to go on from, which checkpoints keep.

A thread asks for texts ahead of those that are packed, so that a feed that is far away does not
slow the rows down. What it read ahead is not part of the state: after a kill it is read again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import queue
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from hornbook.errors import HornbookError
from hornbook.tokenizer.config import TokenizeConfig
from hornbook.tokenizer.encoder import Encoder, choose_encoder
from hornbook.tokenizer.tokenizer import Tokenizer
from hornbook.tokens.batch import IGNORE, Batch
from hornbook.tokens.config import DataConfig
from hornbook.tokens.feed_client import Delivery, FeedClient, TextsLost
from hornbook.tokens.feed_packer import FeedState, Packer

READ_AHEAD = 4
"""Answers of the feed that wait to be packed, each of `data.feed_batch` texts."""

ENCODED_AT_ONCE = 2**17
"""Characters that are encoded at a time: a whole answer, of up to 4 MB, would keep a small model
waiting for a second."""

LOOK_S = 0.2
"""How often who waits for the feed looks whether it should stop."""


class Stopped(Exception):
    """`FeedSource.stop` was called: nobody wants the rows any more."""


def first_state(
    config: DataConfig, client: FeedClient, tokenizer: Tokenizer, sequence_length: int
) -> FeedState:
    """The state of a run that begins, at the text that `data.feed_start` names.

    Raises:
        HornbookError: that is no number of a text, or lies beyond the log's end.
    """
    info = client.info()
    named = {"oldest": info.first, "latest": info.head}
    try:
        number = named[config.feed_start] if config.feed_start in named else int(config.feed_start)
    except ValueError:
        number = -1
    if not 0 <= number <= info.head:
        raise HornbookError(
            f"must be oldest, latest or a number up to {info.head:,}, not {config.feed_start!r}",
            where="data.feed_start",
        )
    return FeedState(
        info.log, 0, number, 0, tokenizer.end_of_text, tokenizer.sha256, sequence_length
    )


class FeedSource:
    """Rows from a feed: asked for in order, or again from any row whose state is held."""

    def __init__(
        self,
        client: FeedClient,
        tokenizer: Tokenizer,
        start: FeedState,
        *,
        name: str,
        rows_per_epoch: int,
        skip_lost: bool = False,
        lost: Callable[[int, int], None] = lambda first, next: None,
    ):
        """
        Args:
            client: of the feed.
            tokenizer: whose ids the rows hold.
            start: where to begin.
            name: of the cursor that the feed keeps texts for; empty: another process tells it.
            rows_per_epoch: how many are called an epoch; a feed has no end.
            skip_lost: go on behind texts that are lost.
            lost: told of each such gap, the numbers [first, next).

        Raises:
            HornbookError: `start` was taken with another tokenizer or sequence length.
        """
        _check(start, tokenizer)
        self.sequence_length, self.rows_per_epoch = start.sequence_length, rows_per_epoch
        self._client, self._tokenizer, self._name = client, tokenizer, name
        self._skip_lost, self._lost = skip_lost, lost
        self._encoder: Encoder | None = None
        self._states = {start.row: start}
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._reader: _Reader | None = None
        self._packer = Packer(start, tokenizer.end_of_text)
        self._unread: deque[str] = deque()
        """Texts from number `_packer.after` on."""
        self._kept: queue.SimpleQueue[int] = queue.SimpleQueue()
        if name:
            threading.Thread(target=self._keep, name="feed cursor", daemon=True).start()

    def take_up(self, state: dict[str, Any]) -> None:
        """Begin at a state that `state_at` gave, before any rows are asked for.

        Raises:
            HornbookError: it was taken with another tokenizer.
        """
        start = FeedState(**state)
        _check(start, self._tokenizer)
        assert start.sequence_length == self.sequence_length
        self._states = {start.row: start}
        self._packer = Packer(start, self._tokenizer.end_of_text)

    def rows(self, start: int, count: int) -> Batch:
        """Rows [start, start + count), on the CPU; waits for the feed where need be.

        Raises:
            FeedGone: the feed gave nothing for the set time.
            Stopped: `stop` was called.
            HornbookError: what else can be wrong with a feed (see `FeedClient.read`).
        """
        if start != self._packer.row:
            self._rewind(start)
        self._remember()
        inputs = np.empty((count, self.sequence_length), np.int64)
        targets = np.empty_like(inputs)
        for slot in range(count):
            while (row := self._packer.take()) is None:
                self._add_texts()
            inputs[slot], targets[slot] = row
        self._remember()
        return Batch(torch.from_numpy(inputs), torch.from_numpy(targets))

    def share(self, rank: int, size: int) -> FeedShare:
        """Process `rank`'s rows, see `Resumable`. Each reads the whole feed: it tokenizes more than
        1M tokens/s, many times what a model takes that is worth several GPUs."""
        return FeedShare(self, rank, size)

    def state_at(self, row: int) -> dict[str, Any]:
        """The state before `row`, the first row or the end of some `rows` since `durable`."""
        with self._lock:
            return dataclasses.asdict(self._states[row])

    def durable(self, state: dict[str, Any]) -> None:
        """The oldest checkpoint that is kept begins at `state`: the feed is told, beside all else,
        and states of rows before it are forgotten."""
        oldest = FeedState(**state)
        with self._lock:
            for row in [row for row in self._states if row < oldest.row]:
                del self._states[row]
        if self._name:
            self._kept.put(oldest.next)

    def stop(self) -> None:
        """End a `rows` in another thread; no further ones are given."""
        self._stopping.set()
        if self._reader is not None:
            self._reader.stop.set()
        self._kept.put(-1)

    def describe(self) -> dict[str, Any]:
        """Address, log and rows, as JSON."""
        with self._lock:
            state = next(iter(self._states.values()))
        return {
            "mode": "chunks",
            "feed": self._client.url,
            "log": state.log,
            "sequence_length": self.sequence_length,
            "rows_per_epoch": self.rows_per_epoch,
            "tokenizer_sha256": state.tokenizer_sha256,
        }

    def _remember(self) -> None:
        state = self._packer.state()
        with self._lock:
            self._states[state.row] = state

    def _rewind(self, row: int) -> None:
        """Go back to a row that was given before."""
        with self._lock:
            assert row in self._states, f"row {row} does not follow, and its state is not held"
            state = self._states[row]
        if self._reader is not None:
            self._reader.stop.set()
            self._reader = None
        self._packer = Packer(state, self._tokenizer.end_of_text)
        self._unread.clear()

    def _add_texts(self) -> None:
        if not self._unread:
            self._unread.extend(self._next_delivery().texts)
        if self._encoder is None:
            # One process: gigatoken has threads of its own, and stays far ahead of a GPU.
            config = TokenizeConfig(workers=1)
            self._encoder = choose_encoder(self._tokenizer, config, list(self._unread))
        texts = [self._unread.popleft()]
        size = len(texts[0])
        while self._unread and size + len(self._unread[0]) <= ENCODED_AT_ONCE:
            texts.append(self._unread.popleft())
            size += len(texts[-1])
        for number, ids in enumerate(self._encoder.encode_batch(texts), self._packer.after):
            self._packer.add(number, ids)

    def _next_delivery(self) -> Delivery:
        while True:
            if self._stopping.is_set():
                raise Stopped
            if self._reader is None:
                self._reader = _Reader(self._client, self._packer.state().log, self._packer.after)
            try:
                item = self._reader.answers.get(timeout=LOOK_S)
            except queue.Empty:
                continue
            if isinstance(item, Delivery):
                return item
            self._reader = None
            if not (isinstance(item, TextsLost) and self._skip_lost):
                raise item
            self._lost(self._packer.after, item.first)
            self._packer.skip_to(item.first)

    def _keep(self) -> None:
        while (number := self._kept.get()) >= 0:
            self._client.keep_from(self._name, number)


class FeedShare:
    """One process's rows of a feed: those k with k % size == rank.

    Where a range does not divide evenly, the last row is one without targets: it weighs nothing,
    and all processes do equal passes, as FSDP needs it.
    """

    def __init__(self, source: FeedSource, rank: int, size: int):
        self._source, self._rank, self._size = source, rank, size
        self.sequence_length, self.rows_per_epoch = source.sequence_length, source.rows_per_epoch

    def rows(self, start: int, count: int) -> Batch:
        """This process's part of rows [start, start + count)."""
        batch = self._source.rows(start, count)
        mine = [k for k in range(count) if (start + k) % self._size == self._rank]
        missing = -(-count // self._size) - len(mine)
        index = torch.tensor(mine + [0] * missing)
        targets = batch.targets[index]
        targets[len(mine) :] = IGNORE
        return Batch(batch.inputs[index], targets)

    def describe(self) -> dict[str, Any]:
        """As the whole source says."""
        return self._source.describe()


class _Reader:
    """A thread that reads texts from a cursor on until it is stopped or meets an error."""

    def __init__(self, client: FeedClient, log: str, cursor: int):
        self.stop = threading.Event()
        self.answers: queue.Queue[Delivery | Exception] = queue.Queue(READ_AHEAD)
        self._client, self._log = client, log
        # A daemon: a request that the feed keeps open must not keep the process from ending.
        threading.Thread(target=self._work, args=(cursor,), name="feed", daemon=True).start()

    def _work(self, cursor: int) -> None:
        while True:
            try:
                delivery = self._client.read(self._log, cursor, self.stop)
            except Exception as error:  # handed to who asks for rows, whatever it is
                self._put(error)
                return
            if delivery is None or not self._put(delivery):
                return
            cursor = delivery.next

    def _put(self, item: Delivery | Exception) -> bool:
        while not self.stop.is_set():
            with contextlib.suppress(queue.Full):
                self.answers.put(item, timeout=LOOK_S)
                return True
        return False


def _check(state: FeedState, tokenizer: Tokenizer) -> None:
    if state.tokenizer_sha256 != tokenizer.sha256:
        raise HornbookError(
            "this run was begun with another tokenizer",
            where=tokenizer.path,
            hint="Put the tokenizer.json of the first time there, or begin a new run",
        )
