"""The mixer: shares, limits, the archive filling in, and the same texts whatever happens to it."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools
import json
import multiprocessing
import os
import random
import re
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hornbook.documents import Document
from hornbook.errors import HornbookError
from hornbook.feed import log as log_module
from hornbook.feed import mixer as mixer_module
from hornbook.feed.config import FeedConfig
from hornbook.feed.log import LogWriter
from hornbook.feed.mixer import RESUME, Mixer, open_producers
from hornbook.feed.produce import Made, Producer, Unavailable


class Counting:
    """Makes numbered texts in batches of a size, after `before()`."""

    def __init__(
        self, name: str, batch: int, before: Callable[[], float] = lambda: 0.0, letters: int = 20
    ):
        self.name, self._batch, self._before, self._letters = name, batch, before, letters
        self.closed = False

    async def make(self, state: Any) -> Made:
        await asyncio.sleep(self._before())
        begin = state or 0
        texts = [f"{self.name} {begin + i} ".ljust(self._letters) for i in range(self._batch)]
        return Made([Document(text) for text in texts], begin + self._batch)

    async def close(self) -> None:
        self.closed = True


@contextlib.contextmanager
def log_in(folder: Path) -> Iterator[LogWriter]:
    log = LogWriter.create_or_open(folder)
    try:
        yield log
    finally:
        log.close()


def run_until(mixer: Mixer, done: Callable[[], bool], seconds: float = 30.0) -> None:
    """Run a mixer until something is so, then stop it as the server does."""

    async def both() -> None:
        running = asyncio.create_task(mixer.run())
        deadline = time.monotonic() + seconds
        while not done() and not running.done():
            assert time.monotonic() < deadline, mixer.status()
            await asyncio.sleep(0.005)
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running

    asyncio.run(both())


def texts_of(folder: Path) -> list[str]:
    with log_in(folder) as log:
        return [document.text for _, document in log.documents()]


def makers(folder: Path) -> list[str]:
    with log_in(folder) as log:
        return [document.meta["producer"] for _, document in log.documents()]


@settings(max_examples=10, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0.05, 1.0), st.integers(1, 20)), min_size=1, max_size=4),
    st.integers(0, 1),
)
def test_shares_hold_within_a_batch_at_any_moment(
    tmp_path_factory: pytest.TempPathFactory, given: list[tuple[float, int]], restarts: int
) -> None:
    folder = tmp_path_factory.mktemp("feed")
    total = sum(weight for weight, _ in given)
    for run in range(restarts + 1):
        producers: list[tuple[float, Producer]] = [
            (weight, Counting(f"p{i}", batch, letters=letters(i)))
            for i, (weight, batch) in enumerate(given)
        ]
        with log_in(folder) as log:
            mixer = Mixer(log, producers, FeedConfig(), lambda: 0)
            run_until(mixer, lambda log=log, run=run: log.head >= 300 * (run + 1))
    made = makers(folder)
    most = max(batch * letters(i) for i, (_, batch) in enumerate(given))
    size = Counter[str]()
    for name in made:
        size[name] += letters(int(name[1]))
        for i, (weight, _) in enumerate(given):
            share = size[f"p{i}"] - weight / total * size.total()
            assert abs(share) <= most * (1 if len(given) < 3 else 2)


def letters(number: int) -> int:
    """Bytes of each text of a producer: weights are shares of those, not of texts."""
    return (10, 10, 40, 160)[number]


def test_limits_are_never_exceeded_by_more_than_a_batch(tmp_path: Path) -> None:
    read = 0
    highest = 0
    pauses: list[int] = []
    with log_in(tmp_path) as log:
        limits = FeedConfig(ahead_texts=100)
        mixer = Mixer(log, [(1.0, Counting("archive", 7))], limits, lambda: read)

        def step() -> bool:
            nonlocal read, highest
            highest = max(highest, log.head - read)
            if log.head - read >= 100:
                pauses.append(log.head)
                read += 40  # more than a quarter of the limit, so that it goes on
            return read >= 400

        run_until(mixer, step)
    assert 100 <= highest < 107
    assert len(pauses) == 10


def test_it_goes_on_at_three_quarters_of_the_limit(tmp_path: Path) -> None:
    read = 0
    with log_in(tmp_path) as log:
        mixer = Mixer(log, [(1.0, Counting("archive", 5))], FeedConfig(ahead_texts=100),
                      lambda: read)  # fmt: skip
        run_until(mixer, lambda: log.head == 100)

        async def a_while() -> None:
            nonlocal read
            running = asyncio.create_task(mixer.run())
            await asyncio.sleep(0.2)
            read = 100 - int(100 * RESUME)
            await asyncio.sleep(0.3)
            assert log.head == 100
            read += 1
            async with asyncio.timeout(10):
                while log.head - read < 100:
                    await asyncio.sleep(0.01)
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running

        asyncio.run(a_while())
        assert log.head - read in range(100, 106)


@pytest.mark.parametrize(
    ("is_read", "behind", "gives_way"),
    [(True, 20_000, True), (True, 100, False), (False, 20_000, False)],
)
def test_it_gives_way_to_who_reads_what_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_read: bool, behind: int, gives_way: bool
) -> None:
    rests: list[float] = []
    sleep = asyncio.sleep

    async def resting(seconds: float) -> None:
        if seconds not in (0.0, 0.005, mixer_module._POLL_SECONDS):
            rests.append(seconds)
        await sleep(seconds)

    monkeypatch.setattr(asyncio, "sleep", resting)
    served = itertools.count(1) if is_read else itertools.repeat(0)
    with log_in(tmp_path) as log:
        limits = FeedConfig(ahead_texts=10**6)
        mixer = Mixer(
            log, [(1.0, Counting("archive", 7))], limits, lambda: log.head - behind,
            served=lambda: next(served),
        )  # fmt: skip
        run_until(mixer, lambda: log.head > 200)
    assert bool(rests) == gives_way
    assert all(0 < each <= 0.02 for each in rests)


def test_bytes_bound_it_too_also_after_a_restart(tmp_path: Path) -> None:
    for read in (0, 0, 150):
        producer = Counting("archive", 2, letters=10_000)
        with log_in(tmp_path) as log:
            limits = FeedConfig(ahead_bytes="3 MB")
            mixer = Mixer(log, [(1.0, producer)], limits, lambda read=read: read)
            run_until(mixer, lambda mixer=mixer: "bytes are ahead" in mixer.status().paused)
        assert producer.closed
        ahead = len(makers(tmp_path)) - read
        assert 300 - 60 <= ahead <= 304  # what was there before is counted in whole blocks


def test_the_archive_fills_in_for_one_that_is_gone_and_ends_when_it_is_back(
    tmp_path: Path,
) -> None:
    gone = True

    def teacher() -> float:
        if gone:
            raise Unavailable("nobody there", 0.05)
        return 0.0

    producers = [(0.5, Counting("archive", 5)), (0.5, Counting("teacher", 1, teacher))]
    with log_in(tmp_path) as log:
        mixer = Mixer(log, producers, FeedConfig(), lambda: 0)
        run_until(mixer, lambda: log.head > 200)
        status = mixer.status()
        assert status.unavailable == {"teacher": "nobody there"}
        assert status.problem == "teacher: nobody there"
        assert status.produced == {"archive": status.produced["archive"]}
        assert 90 <= status.filled_in <= status.produced["archive"] * 0.6
    gone = False
    with log_in(tmp_path) as log:
        head = log.head
        mixer = Mixer(log, producers, FeedConfig(), lambda: 0)
        run_until(mixer, lambda: log.head > head + 400)
        assert mixer.status().unavailable == {}
    after = makers(tmp_path)[head:]
    # Nothing is caught up: the archive's texts stood for the teacher's.
    assert 0.4 < after.count("teacher") / len(after) < 0.6


def test_one_of_which_everything_is_rejected_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Rejected(Counting):
        good = False

        async def make(self, state: Any) -> Made:
            made = await super().make(state)
            if self.good:
                return made
            return Made([], made.state, Counter(too_long=4, loop=1))

    teacher = Rejected("teacher", 5, lambda: 0.001)
    with log_in(tmp_path) as log:
        mixer = Mixer(log, [(1.0, teacher)], FeedConfig(), lambda: 0)
        run_until(mixer, lambda: mixer.status().problem is not None)
        status = mixer.status()
        said = r"teacher: its last \d+ texts were rejected, most as too_long"
        assert re.fullmatch(said, status.problem or "")
        assert list(status.unavailable) == ["teacher"] and log.head == 0
        teacher.good = True
        run_until(mixer, lambda: log.head > 0)
        assert mixer.status().problem is None and not mixer.status().unavailable
    shown = capsys.readouterr().err
    assert shown.count("texts were rejected") == 1 and "are kept again" in shown


def test_a_rejected_one_is_filled_in_for(tmp_path: Path) -> None:
    class Rejected(Counting):
        async def make(self, state: Any) -> Made:
            return Made([], (await super().make(state)).state, Counter(loop=5))

    producers = [(0.5, Counting("archive", 7)), (0.5, Rejected("teacher", 5, lambda: 0.001))]
    with log_in(tmp_path) as log:
        mixer = Mixer(log, producers, FeedConfig(), lambda: log.head)
        run_until(mixer, lambda: mixer.status().filled_in > 100)


@pytest.mark.parametrize("is_gone", [True, False])
def test_one_teacher_does_not_starve_another(tmp_path: Path, is_gone: bool) -> None:
    class Fruitless(Counting):
        async def make(self, state: Any) -> Made:
            if is_gone:
                raise Unavailable("it is gone", 0.05)
            return Made([], (await super().make(state)).state, Counter(loop=5))

    producers = [(0.9, Fruitless("gone", 5, lambda: 0.001)), (0.1, Counting("here", 7))]
    with log_in(tmp_path) as log:
        mixer = Mixer(log, producers, FeedConfig(), lambda: log.head)
        run_until(mixer, lambda: log.head > 200)
        assert mixer.status().filled_in > 100


def test_without_leave_nothing_fills_in(tmp_path: Path) -> None:
    def gone() -> float:
        raise Unavailable("nobody there", 0.05)

    producers = [(0.5, Counting("archive", 5)), (0.5, Counting("teacher", 1, gone))]
    with log_in(tmp_path) as log:
        mixer = Mixer(log, producers, FeedConfig(fill_in=False), lambda: 0)
        began = time.monotonic()
        run_until(mixer, lambda: time.monotonic() > began + 0.3)
        assert log.head == 5


def test_the_archive_fills_in_for_a_slow_one_while_readers_are_near(tmp_path: Path) -> None:
    read = 0
    producers = [(0.5, Counting("archive", 10)), (0.5, Counting("teacher", 1, lambda: 0.08))]
    with log_in(tmp_path) as log:
        limits = FeedConfig(ahead_texts=600)
        mixer = Mixer(log, producers, limits, lambda: read, patience=0.4)
        run_until(mixer, lambda: log.head >= 450)
        made = mixer.status().produced
        assert 3 <= made["teacher"] < 100 and made["archive"] > 400
        filled_in = mixer.status().filled_in
        assert filled_in > 200
        # With enough to read the teacher is waited for, and has its share.
        run_until(mixer, lambda: log.head >= 465)
        assert mixer.status().filled_in <= filled_in + 10
        read = 400
        run_until(mixer, lambda: log.head >= 700)
        assert mixer.status().filled_in > filled_in + 100


def test_a_slow_teacher_writes_all_it_can_beside_large_batches(tmp_path: Path) -> None:
    archive = Counting("archive", 1, lambda: 0.005, letters=10_000)
    producers = [(0.9, archive), (0.1, Counting("teacher", 1, lambda: 0.02))]
    with log_in(tmp_path) as log:
        mixer = Mixer(log, producers, FeedConfig(), lambda: log.head, patience=0)
        run_until(mixer, lambda: log.head >= 150)
        made = mixer.status().produced
    # Four batches of the archive to one; it was asked after ten only.
    assert made["teacher"] > 0.13 * made["archive"]


def test_a_full_disk_pauses_production_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_module, "_RETRY_SECONDS", 0.01)
    monkeypatch.setattr(mixer_module, "UNWRITTEN_BYTES", 10_000)
    made = 0

    def count() -> float:
        nonlocal made
        made += 1
        return 0.0

    def write(file: int, data: bytes) -> int:
        if is_full:
            raise OSError(errno.ENOSPC, "No space left on device")
        return os_write(file, data)

    is_full, os_write = False, os.write
    monkeypatch.setattr(os, "write", write)
    with log_in(tmp_path) as log:
        mixer = Mixer(log, [(1.0, Counting("archive", 1, count, 1000))], FeedConfig(), lambda: 0)

        async def through_a_full_disk() -> None:
            nonlocal is_full
            running = asyncio.create_task(mixer.run())
            async with asyncio.timeout(20):
                while log.head < 5:
                    await asyncio.sleep(0.01)
                is_full = True
                while mixer.status().paused != "the disk is full":
                    await asyncio.sleep(0.01)
                before = made
                await asyncio.sleep(0.3)
                head = log.head
                assert made - before <= 13, "no more than may wait for the disk"
                is_full = False
                while log.head < head + 50:
                    await asyncio.sleep(0.01)
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

        asyncio.run(through_a_full_disk())
        assert mixer.status().paused == "" and mixer.status().problem is None
    numbers = [int(text.split()[1]) for text in texts_of(tmp_path)]
    assert numbers == list(range(len(numbers)))


def test_a_producer_that_is_new_does_not_catch_up_for_the_past(tmp_path: Path) -> None:
    alone, other = Counting("archive", 10), Counting("teacher", 10)
    with log_in(tmp_path) as log:
        mixer = Mixer(log, [(1.0, alone)], FeedConfig(), lambda: 0)
        run_until(mixer, lambda: log.head >= 1000)
    with log_in(tmp_path) as log:
        head = log.head
        mixer = Mixer(log, [(0.5, alone), (0.5, other)], FeedConfig(), lambda: 0)
        run_until(mixer, lambda: log.head >= head + 200)
    assert makers(tmp_path)[head : head + 200].count("teacher") == 100


def test_what_is_not_on_disk_is_not_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_module, "_RETRY_SECONDS", 0.01)
    producers = [(0.5, Counting("archive", 7)), (0.5, Counting("teacher", 3))]
    write, refused = os.write, []

    def full(file: int, data: bytes) -> int:
        refused.append(len(data))
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with log_in(tmp_path) as log:
        mixer = Mixer(log, producers, FeedConfig(), lambda: 0)

        def counted() -> int:
            status = mixer.status()
            texts = sum(status.produced.values())
            assert sum(status.produced_bytes.values()) == 20 * texts <= 20 * log.head
            return texts

        def step() -> bool:
            if log.head >= 100 and not refused:
                monkeypatch.setattr(os, "write", full)
            if len(refused) >= 10 and os.write is full:
                assert mixer._produced.total() > log.head == counted()
                monkeypatch.setattr(os, "write", write)
            return counted() >= 200

        run_until(mixer, step)
    with log_in(tmp_path) as log:
        mixer = Mixer(log, producers, FeedConfig(), lambda: 0)
        assert sum(mixer.status().produced.values()) == log.head


def test_texts_and_state_agree_after_every_restart(tmp_path: Path) -> None:
    head = 0
    for _ in range(5):
        with log_in(tmp_path) as log:
            producers = [(0.7, Counting("a", 3)), (0.3, Counting("b", 2))]
            head += 40
            run_until(Mixer(log, producers, FeedConfig(), lambda: 0),
                      lambda log=log, head=head: log.head >= head)  # fmt: skip
            assert sum(log.last_state()["produced"].values()) == log.head
    texts = [text.strip() for text in texts_of(tmp_path)]
    for name in "ab":
        numbers = [int(text.split()[1]) for text in texts if text.startswith(name)]
        assert numbers == list(range(len(numbers)))


def test_hold_pauses_and_says_why(tmp_path: Path) -> None:
    why: str | None = "run-1 has read to 12"
    with log_in(tmp_path) as log:
        mixer = Mixer(log, [(1.0, Counting("archive", 5))], FeedConfig(), lambda: 0, lambda: why)
        run_until(mixer, lambda: mixer.status().paused == "run-1 has read to 12")
        assert log.head == 0
        why = None
        run_until(mixer, lambda: log.head > 50)


def test_errors_of_producers_and_of_the_log_end_it(tmp_path: Path) -> None:
    def broken() -> float:
        raise HornbookError("the archive is broken")

    with log_in(tmp_path / "a") as log:
        producers = [(1.0, Counting("archive", 5)), (1.0, Counting("other", 5, broken))]
        mixer = Mixer(log, producers, FeedConfig(), lambda: 0)
        with pytest.raises(HornbookError, match="archive is broken"):
            asyncio.run(mixer.run())
        assert all(producer.closed for _, producer in producers)


def test_weights_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    with log_in(tmp_path) as log, pytest.raises(HornbookError, match="nor all 0"):
        Mixer(log, [(0.0, Counting("archive", 5))], FeedConfig(), lambda: 0)


def test_without_producers_there_is_nothing_to_do(tmp_path: Path) -> None:
    with log_in(tmp_path) as log:
        asyncio.run(Mixer(log, [], FeedConfig(), lambda: 0).run())


def produce_from(folder: str, archive: str) -> None:
    """Produce until killed."""
    config = FeedConfig(folder=folder, archive=archive, validation_texts=20, seed=11)
    log = LogWriter.create_or_open(Path(folder))
    mixer = Mixer(log, open_producers(config, log), config, lambda: log.head - 100)
    asyncio.run(mixer.run())


def archive_in(folder: Path) -> Path:
    path = folder / "archive.jsonl"
    lines = [json.dumps({"text": f"text {i} " + "word " * (i % 90)}) + "\n" for i in range(2_000)]
    path.write_text("".join(lines))
    return path


@pytest.mark.parametrize("kills", [3, pytest.param(60, marks=pytest.mark.long)])
def test_an_archive_gives_the_same_texts_however_often_it_is_killed(
    tmp_path: Path, kills: int
) -> None:
    archive = archive_in(tmp_path)
    folder, whole = tmp_path / "killed", tmp_path / "whole"
    context = multiprocessing.get_context("spawn")
    chance = random.Random(4)
    heads = []
    for _ in range(kills):
        child = context.Process(target=produce_from, args=(str(folder), str(archive)))
        child.start()
        assert child.pid is not None
        deadline = time.monotonic() + 60
        before = heads[-1] if heads else 0
        log_folder = folder / "log"
        size = sum(each.stat().st_size for each in log_folder.glob("*.log"))
        while sum(each.stat().st_size for each in log_folder.glob("*.log")) <= size + 32:
            assert child.is_alive() and time.monotonic() < deadline
            time.sleep(0.002)
        time.sleep(chance.uniform(0, 0.05))
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        with log_in(folder) as log:
            heads.append(log.head)
        assert heads[-1] > before
    config = FeedConfig(folder=str(whole), archive=str(archive), validation_texts=20, seed=11)
    with log_in(whole) as log:
        mixer = Mixer(log, open_producers(config, log), config, lambda: 0)
        run_until(mixer, lambda: log.head >= heads[-1])
    assert texts_of(whole)[: heads[-1]] == texts_of(folder)
