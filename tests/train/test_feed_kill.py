"""Trainer and feed are real processes, killed at random moments: the same losses, bit for bit.

The seed of the moments is in every message; `HORNBOOK_KILL_SEED` repeats one.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny_feed_run
import tiny_run
from tests.feed.feed_process import FeedProcess, feed_process

STEPS = 40
TEXTS = [f"text {n} " + "word " * random.Random(n).randrange(12) for n in range(120)]


def start(
    folder: Path, feed: FeedProcess, *settings: dict[str, object], processes: int = 1
) -> subprocess.Popen[bytes]:
    """A process that trains in `folder` on the feed, or leads several that do."""
    words = [json.dumps(each) for each in settings]
    several = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    first = [sys.executable, *(several if processes > 1 else [])]
    command = [*first, tiny_feed_run.__file__, str(folder), feed.url, *words]
    folder.mkdir(exist_ok=True)
    with open(folder / "said", "ab") as said:
        return subprocess.Popen(command, stdout=said, stderr=said, start_new_session=True)


def steps_done(folder: Path) -> int:
    path = folder / "pretrain" / "metrics.jsonl"
    return path.read_bytes().count(b'"gradient_norm"') if path.exists() else 0


def wait_for_steps(process: subprocess.Popen[bytes], folder: Path, steps: int) -> None:
    """Until it has come this far, or has ended."""
    while process.poll() is None and steps_done(folder) < steps:
        time.sleep(0.001)


def finish(folder: Path, feed: FeedProcess, processes: int = 1) -> None:
    process = start(folder, feed, processes=processes)
    assert process.wait(120) == 0, (folder / "said").read_text()


def column(folder: Path) -> list[tuple[int, float]]:
    return tiny_run.losses(folder / "pretrain")


@pytest.fixture
def feed(tmp_path: Path) -> Iterator[FeedProcess]:
    with feed_process(tmp_path / "served", TEXTS, "--feed.validation_texts", "5") as served:
        yield served


def kill_and_restart(
    which: str, process: subprocess.Popen[bytes], feed: FeedProcess, pause: float
) -> None:
    """End `trainer`, `feed` or `both` at once; a feed comes back after a pause."""
    if which != "trainer":
        feed.kill()
    if which != "feed":
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if which != "trainer":
        time.sleep(pause)
        feed.start()


def train_with_kills(folder: Path, feed: FeedProcess, kills: list[str], processes: int = 1) -> None:
    seed = int(os.environ.get("HORNBOOK_KILL_SEED", random.randrange(10**6)))
    print(f"HORNBOOK_KILL_SEED={seed}")
    moments, process = random.Random(seed), start(folder, feed, processes=processes)
    for which in kills:
        if process.poll() is not None:
            process = start(folder, feed, processes=processes)
        wait_for_steps(process, folder, min(steps_done(folder) + moments.randint(1, 8), STEPS))
        time.sleep(moments.uniform(0, 0.02))
        kill_and_restart(which, process, feed, moments.uniform(0, 0.5))
    if process.wait(120) != 0:
        finish(folder, feed, processes)


def check_alike(folder: Path, feed: FeedProcess, processes: int = 1) -> None:
    """The undisturbed run comes last: the log is the same."""
    whole = folder.with_name("undisturbed")
    if processes > 1:
        finish(whole, feed, processes)
    else:
        tiny_feed_run.fit(whole, feed.url)
    assert len(column(folder)) == STEPS
    assert column(folder) == column(whole)
    logs = [(path / "pretrain" / "train.log").read_text() for path in (folder, whole)]
    assert logs[0] == logs[1]


def test_trainer_and_feed_are_killed(tmp_path: Path, feed: FeedProcess) -> None:
    train_with_kills(tmp_path / "killed", feed, ["trainer", "both", "feed"])
    check_alike(tmp_path / "killed", feed)


@pytest.mark.long
@pytest.mark.parametrize("which", ["trainer", "feed", "both"])
def test_killed_again_and_again(tmp_path: Path, feed: FeedProcess, which: str) -> None:
    train_with_kills(tmp_path / "killed", feed, [which] * 5)
    check_alike(tmp_path / "killed", feed)


@pytest.mark.long
def test_several_processes_are_killed(tmp_path: Path, feed: FeedProcess) -> None:
    train_with_kills(tmp_path / "killed", feed, ["trainer", "both", "feed"], processes=2)
    check_alike(tmp_path / "killed", feed, processes=2)


@pytest.mark.long
def test_an_interrupt_while_the_feed_is_down(tmp_path: Path, feed: FeedProcess) -> None:
    folder = tmp_path / "run"
    process = start(folder, feed, {"steps": 100_000, "checkpoint_every": 0})
    wait_for_steps(process, folder, 5)
    feed.kill()
    done = -1
    while done != (done := steps_done(folder)):
        time.sleep(1.0)  # all that was read ahead is used up
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 130, (folder / "said").read_text()
    newest = max((folder / "pretrain" / "checkpoints").iterdir())
    assert newest.name == f"step-{steps_done(folder):08d}"


@pytest.mark.long
def test_a_feed_that_is_not_there_yet(tmp_path: Path, feed: FeedProcess) -> None:
    feed.kill()
    process = start(tmp_path / "run", feed, {"steps": 2})
    time.sleep(3)
    assert process.poll() is None, (tmp_path / "run" / "said").read_text()
    feed.start()
    assert process.wait(120) == 0, (tmp_path / "run" / "said").read_text()


@pytest.mark.long
def test_an_end_that_saves_where_the_feed_never_comes_back(
    tmp_path: Path, feed: FeedProcess
) -> None:
    folder = tmp_path / "run"
    process = start(folder, feed, {"steps": 100_000}, {"feed_give_up_minutes": 0.02})
    wait_for_steps(process, folder, 5)
    feed.kill()
    assert process.wait(60) == 2
    assert "error: " in (folder / "said").read_text()
    newest = max((folder / "pretrain" / "checkpoints").iterdir())
    assert newest.name == f"step-{steps_done(folder):08d}"
