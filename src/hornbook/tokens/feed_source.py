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
from typing import Any

import numpy as np
import torch

from hornbook.errors import HornbookError
from hornbook.tokenizer.config import TokenizeConfig
from hornbook.tokenizer.encoder import Encoder, choose_encoder
from hornbook.tokenizer.tokenizer import Tokenizer
from hornbook.tokens.batch import IGNORE, Batch
from hornbook.tokens.config import DataConfig
from hornbook.tokens.feed_client import FeedClient, TextsLost
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
    """One process's rows of a feed, of R processes those k with k modulo R = its rank.

    Each process reads the whole feed: it tokenizes more than 1M tokens/s, many times what a model
    takes that is worth several GPUs.
    """

    def __init__(
        self,
        client: FeedClient,
        tokenizer: Tokenizer,
        start: FeedState,
        *,
        cursor: str,
        rows_per_epoch: int,
        skip_lost: bool = False,
        rank: int = 0,
        size: int = 1,
    ):
        """
        Args:
            client: of the feed.
            tokenizer: whose ids the rows hold.
            start: where to begin.
            cursor: name of the place that the feed keeps texts from; only process 0 tells it.
            rows_per_epoch: how many are called an epoch; a feed has no end.
            skip_lost: go on behind texts that are lost; `gaps` has them.
            rank, size: this process among those that train.

        Raises:
            HornbookError: `start` was taken with another tokenizer.
        """
        self.sequence_length, self.rows_per_epoch = start.sequence_length, rows_per_epoch
        self._client, self._tokenizer, self._cursor = client, tokenizer, cursor
        self._skip_lost, self._rank, self._size = skip_lost, rank, size
        self._encoder: Encoder | None = None
        self._lock = threading.Lock()
        self._gaps: list[tuple[int, int]] = []
        self._unread: deque[str] = deque()
        """Texts from number `_packer.after` on."""
        self._answers: queue.Queue[list[str] | Exception] = queue.Queue(READ_AHEAD)
        self._reading = False
        self._stopping = threading.Event()
        self._begin(start)

    def _begin(self, start: FeedState) -> None:
        if start.tokenizer_sha256 != self._tokenizer.sha256:
            raise HornbookError(
                "this run was begun with another tokenizer",
                where=self._tokenizer.path,
                hint="Put the tokenizer.json of the first time there, or begin a new run",
            )
        assert start.sequence_length == self.sequence_length
        self._log = start.log
        self._packer = Packer(start, self._tokenizer.end_of_text)
        self._states = {start.row: start}

    def take_up(self, state: dict[str, Any]) -> None:
        """Begin at a state that `state_at` gave, before any rows are asked for.

        Raises:
            HornbookError: it was taken with another tokenizer.
        """
        self._begin(FeedState(**state))

    def rows(self, start: int, count: int) -> Batch:
        """This process's part of the next rows, [start, start + count), on the CPU.

        Waits for the feed where need be. Where a range does not divide evenly, the last row is one
        without targets: it weighs nothing, and all processes do equal passes, as FSDP needs it.

        Raises:
            FeedGone: the feed gave nothing for the set time.
            Stopped: `stop` was called.
            HornbookError: what else can be wrong with a feed (see `FeedClient.read`).
        """
        assert start == self._packer.row, "rows come in order"
        inputs = np.zeros((-(-count // self._size), self.sequence_length), np.int64)
        targets = np.full_like(inputs, IGNORE)
        filled = 0
        for k in range(start, start + count):
            while (row := self._packer.take()) is None:
                self._add_texts()
            if k % self._size == self._rank:
                inputs[filled], targets[filled] = row
                filled += 1
        with self._lock:
            self._states[start + count] = self._packer.state()
        return Batch(torch.from_numpy(inputs), torch.from_numpy(targets))

    def state_at(self, row: int) -> dict[str, Any]:
        """The state before `row`, the first one or the end of some `rows`; those of rows before it
        are forgotten."""
        with self._lock:
            self._states = {k: state for k, state in self._states.items() if k >= row}
            return dataclasses.asdict(self._states[row])

    def gaps(self) -> list[tuple[int, int]]:
        """The texts [first, next) that were lost and left out, since this was last asked."""
        with self._lock:
            gaps, self._gaps = self._gaps, []
        return gaps

    def durable(self, state: dict[str, Any]) -> None:
        """The oldest checkpoint that is kept begins at `state`: the feed is told."""
        if self._rank == 0:
            self._client.keep_from(self._log, self._cursor, FeedState(**state).next)

    def release(self) -> None:
        """The run is done: the feed need keep nothing for it."""
        if self._rank == 0:
            self._client.release(self._log, self._cursor)

    def stop(self) -> None:
        """End a `rows` in another thread; no further ones are given."""
        self._stopping.set()

    def describe(self) -> dict[str, Any]:
        """Address and log, as JSON."""
        return {"mode": "chunks", "feed": self._client.url, "log": self._log}

    def _add_texts(self) -> None:
        """Encode and pack some texts, at least one."""
        if not self._unread:
            self._unread.extend(self._next_answer())
        if self._encoder is None:
            # One process: gigatoken has threads of its own, and stays far ahead of a GPU.
            config = TokenizeConfig(workers=1)
            self._encoder = choose_encoder(self._tokenizer, config, list(self._unread))
        texts = [self._unread.popleft()]
        size = len(texts[0])
        while self._unread and size + len(self._unread[0]) <= ENCODED_AT_ONCE:
            texts.append(self._unread.popleft())
            size += len(texts[-1])
        for ids in self._encoder.encode_batch(texts):
            self._packer.add(ids)

    def _next_answer(self) -> list[str]:
        """The texts from number `_packer.after` on, as far as one answer of the feed has them."""
        while not self._stopping.is_set():
            if not self._reading:
                self._reading = True
                # A daemon: a request that the feed keeps open must not keep the process from
                # ending.
                threading.Thread(
                    target=self._read, args=(self._packer.after,), name="feed", daemon=True
                ).start()
            try:
                answer = self._answers.get(timeout=LOOK_S)
            except queue.Empty:
                continue
            if isinstance(answer, list):
                return answer
            self._reading = False
            if not (isinstance(answer, TextsLost) and self._skip_lost):
                raise answer
            with self._lock:
                self._gaps.append((self._packer.after, answer.first))
            self._packer.skip_to(answer.first)
        raise Stopped

    def _read(self, cursor: int) -> None:
        """In a thread: the answers from a cursor on, until it should stop or there is an error."""
        try:
            while delivery := self._client.read(self._log, cursor, self._stopping):
                self._put(delivery.texts)
                cursor = delivery.next
        except Exception as error:  # handed to who asks for rows, whatever it is
            self._put(error)

    def _put(self, answer: list[str] | Exception) -> None:
        while not self._stopping.is_set():
            with contextlib.suppress(queue.Full):
                self._answers.put(answer, timeout=LOOK_S)
                return
