"""Several producers into one log, by weight, as long as readers are not too far behind.

In: producers with weights; a log. Out: texts in the log, each append with the state from which all
goes on after a restart.

Weights are shares of the bytes of text, since a trainer reads tokens: one text of a teacher to four
plays of an archive would be a share of 1 %, not of a fifth.

Whose turn it is depends on counts alone: an archive by itself gives the same texts whenever it was
interrupted. Where teachers take part, the order also depends on how fast they answer; the log says
what it was.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from hornbook.documents import Document, byte_length
from hornbook.errors import HornbookError
from hornbook.feed.config import FeedConfig
from hornbook.feed.log import LogWriter
from hornbook.feed.produce import Made, Producer, Unavailable
from hornbook.feed.retention import size_in_bytes
from hornbook.progress import say, warn

ARCHIVE = "archive"
"""Name of the producer that fills in for others."""

PATIENCE_SECONDS = 10.0
"""Spent waiting for a slow producer, from one pause of production to the next; then the archive
fills in for it."""

RESUME = 0.75
"""Of the limit: production that paused goes on below this, so that it works in long runs. Above it
the archive does not fill in: there is enough to read, and the slow teacher may have its turn."""

PLENTY = 10_000
"""Texts ahead of the fastest reader beyond which production gives way to who reads."""

_READING_SECONDS = 0.1
"""Whoever was given texts so short a time ago is reading: several batches are made meanwhile."""

_LONGEST_WAY = 0.02
"""Seconds that it gives way after a batch, at most: a teacher's takes seconds, and none of ours."""

USUAL_BYTES = 4096
"""Of a batch, as long as the producer has made none."""

UNWRITTEN_BYTES = 4 * 2**20
"""Texts handed to the log that are not on disk yet, at most; and one batch."""

IN_VAIN = 50
"""Texts of a producer that were rejected one after the other, before that is said."""

REMEMBERED, REMEMBERED_NEAR = 50_000, 10_000
"""Texts of the log that are read again on opening it, to know duplicates and near ones."""

_POLL_SECONDS = 0.05


@dataclass(frozen=True)
class MixerStatus:
    """How production goes.

    Args:
        produced: texts by producer, since the feed began, as far as they are in the log.
        produced_bytes: of those texts, which is what weights are about.
        rejected: texts by reason, likewise.
        filled_in: texts of the archive that stand for another producer's.
        paused: why nothing is made now, or "".
        unavailable: of each producer that has nothing now, why.
        problem: why no texts come, where that is not as it should be; or None.
    """

    produced: dict[str, int]
    produced_bytes: dict[str, int]
    rejected: dict[str, int]
    filled_in: int
    paused: str
    unavailable: dict[str, str]
    problem: str | None


class Mixer:
    """Runs producers.

    Args:
        log: takes the texts and the state.
        producers: with their weights.
        limits: how far ahead of its readers the log may be, and whether the archive fills in.
        readers: the number up to which the fastest reader has read.
        served: texts that readers were given so far.
        hold: asked now and then: why production has to pause, or None.
        patience: see `PATIENCE_SECONDS`.
    """

    def __init__(
        self,
        log: LogWriter,
        producers: Sequence[tuple[float, Producer]],
        limits: FeedConfig,
        readers: Callable[[], int],
        hold: Callable[[], str | None] = lambda: None,
        *,
        served: Callable[[], int] = lambda: 0,
        patience: float = PATIENCE_SECONDS,
    ):
        self._log, self._limits, self._hold, self._patience = log, limits, hold, patience
        self._producers = {producer.name: producer for _, producer in producers}
        self._shares = _shares(producers)
        state = self._written = log.last_state()
        """Of the last text that is on disk: what status() counts."""
        self._states: dict[str, Any] = state.get("producers", {})
        # With other shares than before, one that is new would have to catch up for all the past.
        is_same = state.get("shares") == self._shares
        self._turns = Counter[str](state["turns"] if is_same else {})
        """Bytes by whose turn it was; where the archive filled in, the other's usual ones."""
        self._usual = defaultdict[str, int](lambda: USUAL_BYTES)
        """Bytes of each producer's last batch."""
        self._filled_in = state.get("filled_in", 0)
        self._produced = Counter[str](state.get("produced", {}))
        self._bytes = Counter[str](state.get("bytes", {}))
        self._rejected = Counter[str](state.get("rejected", {}))
        self._making: dict[str, asyncio.Task[Made]] = {}
        self._unavailable: dict[str, str] = {}
        self._in_vain = defaultdict[str, Counter[str]](Counter)
        """Of each producer, why its texts were rejected since the last that was kept."""
        self._waited = defaultdict[str, float](float)
        """Seconds spent waiting for each producer since production last paused."""
        self._paused = ""
        self._served, self._was_served, self._read_at = served, 0, -math.inf
        self._ahead = _Ahead(log, readers, limits)
        self._unwritten: deque[tuple[asyncio.Future[int], int, dict[str, Any]]] = deque()
        """Of each append its number to come, its bytes, and the state after it."""

    async def run(self) -> None:
        """Make texts until cancelled; what was handed to the log stays there.

        Raises:
            HornbookError: a producer or the log cannot go on.
        """
        try:
            while self._producers:
                await self._until_there_is_room()
                began = time.monotonic()
                owed = self._owed()
                await self._append(owed, *await self._next(owed))
                await self._give_way(time.monotonic() - began)
        finally:
            for task in self._making.values():
                task.cancel()
            await asyncio.gather(*self._making.values(), return_exceptions=True)
            self._making.clear()
            for producer in self._producers.values():
                await producer.close()

    def status(self) -> MixerStatus:
        """How it goes at this moment; what is not on disk yet, as on a full one, does not count."""
        for future, _, state in self._unwritten:
            if not future.done() or future.exception() is not None:
                break
            self._written = state
        nothing = self._fruitless() | self._unavailable
        gone = [f"{name}: {why}" for name, why in sorted(nothing.items())]
        return MixerStatus(
            dict(self._written.get("produced", {})),
            dict(self._written.get("bytes", {})),
            dict(self._rejected),
            self._written.get("filled_in", 0),
            self._paused or self._log.problem or "",
            nothing,
            self._log.problem or self._hold() or "; ".join(gone) or None,
        )

    def _fruitless(self) -> dict[str, str]:
        """Of each producer of which nothing is kept any more, why."""
        return {
            name: f"its last {reasons.total():,} texts were rejected, most as"
            f" {reasons.most_common(1)[0][0]}"
            for name, reasons in self._in_vain.items()
            if reasons.total() >= IN_VAIN
        }

    def _owed(self) -> str:
        """The producer that is furthest behind its share."""
        total = self._turns.total() + 1
        return max(self._shares, key=lambda name: self._shares[name] * total - self._turns[name])

    async def _next(self, owed: str) -> tuple[str, Made]:
        """The next batch of the producer whose turn it is, or of the archive in its place."""
        task = self._task(owed)
        while not task.done():
            if (other := self._stand_in(owed)) is not None:
                owed, task = other, self._task(other)
            began = time.monotonic()
            await asyncio.wait({task}, timeout=_POLL_SECONDS)
            self._waited[owed] += time.monotonic() - began
        del self._making[owed]
        return owed, task.result()

    def _stand_in(self, owed: str) -> str | None:
        """Who fills in for one that is late: the archive; where there is none, who has texts."""
        has_nothing = owed in self._unavailable or owed in self._fruitless()
        is_late = has_nothing or self._waited[owed] >= self._patience
        if not self._limits.fill_in or not is_late or self._ahead.problem(RESUME):
            return None
        if ARCHIVE in self._producers:
            return ARCHIVE if owed != ARCHIVE else None
        others = (name for name in self._producers if name != owed and self._task(name).done())
        return next(others, None)

    def _task(self, name: str) -> asyncio.Task[Made]:
        """The batch that a producer is making; each makes one ahead."""
        if name not in self._making:
            self._making[name] = asyncio.create_task(self._make(name), name=name)
        return self._making[name]

    async def _make(self, name: str) -> Made:
        while True:
            try:
                made = await self._producers[name].make(self._states.get(name))
            except Unavailable as error:
                if name not in self._unavailable:
                    warn(f"feed: {name} has nothing now: {error.why}")
                self._unavailable[name] = error.why
                await asyncio.sleep(error.seconds)
            else:
                if self._unavailable.pop(name, None):
                    say(f"feed: {name} is back")
                return made

    async def _append(self, owed: str, maker: str, made: Made) -> None:
        self._states = {**self._states, maker: made.state}
        self._rejected += made.rejected
        self._judge(maker, made)
        self._task(maker)  # makes the next one meanwhile
        if not made.documents:
            return  # the state goes with the next texts; until then it is made again
        for document in made.documents:
            document.meta["producer"] = maker
        size = self._ahead.add(made.documents)
        self._produced[maker] += len(made.documents)
        self._bytes[maker] += size
        if owed == maker:
            self._usual[owed] = size
        # One batch of an archive in place of many small ones: the teacher's next is soon welcome.
        self._turns[owed] += min(size, self._usual[owed])
        self._filled_in += len(made.documents) if owed != maker else 0
        # Not in the loop's thread, which serves readers: a batch takes milliseconds to encode.
        state = self._state()
        number = await asyncio.to_thread(self._log.append, made.documents, state)
        self._unwritten.append((asyncio.wrap_future(number), size, state))
        await self._until_written()

    def _judge(self, maker: str, made: Made) -> None:
        """Say when nothing of a producer is kept any more, and when something is again."""
        before = maker in self._fruitless()
        self._in_vain[maker] = Counter() if made.documents else self._in_vain[maker] + made.rejected
        if made.documents and before:
            say(f"feed: texts of {maker} are kept again")
        elif not before and (why := self._fruitless().get(maker)):
            warn(f"feed: {maker}: {why}; it is asked for more")

    def _state(self) -> dict[str, Any]:
        """What the log keeps with the texts."""
        return {
            "producers": dict(self._states),
            "shares": self._shares,
            "turns": dict(self._turns),
            "bytes": dict(self._bytes),
            "filled_in": self._filled_in,
            "produced": dict(self._produced),
            "rejected": dict(self._rejected),
        }

    async def _until_written(self) -> None:
        """Wait while the disk is behind. Raises the log's `HornbookError`."""
        while self._unwritten:
            future, _, state = self._unwritten[0]
            waiting = sum(size for _, size, _ in self._unwritten)
            if not future.done() and waiting <= UNWRITTEN_BYTES:
                return
            if not future.done():
                await asyncio.wait({future})  # unlike `await future`, does not cancel it
            future.result()
            self._written = state
            self._unwritten.popleft()

    async def _give_way(self, took: float) -> None:
        """Rest as long as the batch took, where somebody reads and there is plenty to read: who is
        far behind wants what is there, and shares a processor with what makes more of it."""
        served, now = self._served(), time.monotonic()
        if served != self._was_served:
            self._was_served, self._read_at = served, now
        if now - self._read_at < _READING_SECONDS and self._ahead.texts() > PLENTY:
            await asyncio.sleep(min(took, _LONGEST_WAY))

    async def _until_there_is_room(self) -> None:
        while why := self._hold() or self._ahead.problem(RESUME if self._paused else 1.0):
            self._paused = why
            self._waited.clear()
            await asyncio.sleep(_POLL_SECONDS)
            await self._until_written()
        self._paused = ""


class _Ahead:
    """How far the log is ahead of its fastest reader, with what is not on disk yet."""

    def __init__(self, log: LogWriter, readers: Callable[[], int], limits: FeedConfig):
        self._readers, self._texts = readers, limits.ahead_texts
        self._bytes = size_in_bytes(limits.ahead_bytes, "feed.ahead_bytes")
        self._head, self._size = log.head, 0
        self._pieces: deque[tuple[int, int]] = deque()
        """Of pieces of the log the number after them, and their bytes."""
        for end, size in log.sizes(readers()):
            self._put(end, size)

    def add(self, documents: Sequence[Document]) -> int:
        """Count what is appended; returns its bytes."""
        size = sum(byte_length(document.text) for document in documents)
        self._head += len(documents)
        self._put(self._head, size)
        return size

    def texts(self) -> int:
        """How many are ahead."""
        return self._head - self._readers()

    def problem(self, share: float) -> str:
        """Why nothing is made where the limits are `share` of themselves; or ""."""
        read = self._readers()
        while self._pieces and self._pieces[0][0] <= read:
            self._size -= self._pieces.popleft()[1]
        texts = self.texts()
        if texts >= share * self._texts:
            return f"{texts:,} texts are ahead of the readers (feed.ahead_texts)"
        if self._size >= share * self._bytes:
            return f"{self._size:,} bytes are ahead of the readers (feed.ahead_bytes)"
        return ""

    def _put(self, end: int, size: int) -> None:
        self._pieces.append((end, size))
        self._size += size


def _shares(producers: Sequence[tuple[float, Producer]]) -> dict[str, float]:
    total = sum(weight for weight, _ in producers)
    if producers and (total <= 0 or min(weight for weight, _ in producers) < 0):
        raise HornbookError(
            "the weights of the archive and the teachers must not be negative, nor all 0",
            where="feed",
            hint="Leave the archive or the teacher out instead",
        )
    return {producer.name: weight / total for weight, producer in producers}


def open_producers(config: FeedConfig, log: LogWriter) -> list[tuple[float, Producer]]:
    """The archive and the teachers that the settings name, with their weights.

    What teachers wrote among the last `REMEMBERED` texts of the log is not taken again.
    """
    from hornbook.feed.archive import open_archive
    from hornbook.feed.reject import Rejects
    from hornbook.feed.teacher import open_teacher, teacher_names

    producers: list[tuple[float, Producer]] = []
    if (archive := open_archive(config)) is not None:
        producers.append((config.archive_weight, archive))
    if config.teachers:
        rejects, names = Rejects(config.languages), teacher_names(config.teachers)
        for name, teacher in zip(names, config.teachers, strict=True):
            producers.append((teacher.weight, open_teacher(teacher, name, config.seed, rejects)))
        for number, document in log.documents(max(log.first, log.head - REMEMBERED)):
            if document.meta.get("producer") in names:
                rejects.remember(document.text, near=number >= log.head - REMEMBERED_NEAR)
    return producers
