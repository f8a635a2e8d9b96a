"""The trainer on a real feed: what it writes, when it waits, and how it ends."""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny_feed_run
import tiny_run
from tests.feed.serving import Served, serving

from hornbook.errors import HornbookError
from hornbook.feed.log import LogWriter
from hornbook.files import read_json
from hornbook.tokens import feed_client

IMPATIENT = {"feed_give_up_minutes": 0.02}
TEXTS = [f"text {n} " + "word " * random.Random(n).randrange(12) for n in range(300)]


@pytest.fixture
def feed(tmp_path: Path) -> Iterator[Served]:
    log = LogWriter.create_or_open(tmp_path / "feed")
    with contextlib.closing(log), serving(log) as served:
        served.add(*TEXTS)
        yield served


def test_resumes_to_the_same_losses_and_lines(tmp_path: Path, feed: Served) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    tiny_feed_run.fit(whole, feed.url, {"steps": 23})
    for steps, batch in ((7, 1), (18, 64), (23, 5)):
        tiny_feed_run.fit(parts, feed.url, {"steps": steps}, {"feed_batch": batch})
    assert tiny_run.losses(whole / "pretrain") == tiny_run.losses(parts / "pretrain")
    lines = (parts / "pretrain" / "train.log").read_text()
    assert lines == (whole / "pretrain" / "train.log").read_text()
    first = tiny_run.losses(whole / "pretrain")[0][1]
    assert lines.startswith(f"Epoch: 0001 Step count: 1 loss = {first:.6f}\n")
    assert "\nEpoch: 0003 Step count: 3 loss = " in lines


def test_two_processes_learn_what_one_does(tmp_path: Path, feed: Served) -> None:
    """Rank r takes the rows k = r modulo the number of ranks; rows that do not divide evenly, too;
    begun by one process and gone on with by two."""
    one, two = tmp_path / "one", tmp_path / "two"
    uneven = {"global_batch_tokens": 7 * tiny_run.LENGTH}
    tiny_feed_run.fit(one, feed.url, {"steps": 8, **uneven})
    tiny_feed_run.fit(two, feed.url, {"steps": 3, **uneven})
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
        tiny_feed_run.__file__, str(two), feed.url, json.dumps({"steps": 8, **uneven}),
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    whole = tiny_run.losses(one / "pretrain")
    assert tiny_run.losses(two / "pretrain") == [
        (step, pytest.approx(loss, rel=1e-5)) for step, loss in whole
    ]
    rows = read_json(one / "seen-0.json")[-5 * 7 :]
    for rank in range(2):
        mine = [row for k, row in enumerate(rows, 3 * 7) if k % 2 == rank]
        assert read_json(two / f"seen-{rank}.json")[-len(mine) :] == mine


def test_a_run_keeps_to_its_kind_of_data(tmp_path: Path, feed: Served) -> None:
    tiny_feed_run.fit(tmp_path / "run", feed.url, {"steps": 2})
    with pytest.raises(HornbookError, match="was begun with a feed"):
        tiny_run.fit(tmp_path / "run" / "pretrain", {"steps": 4}, model=tiny_feed_run.MODEL)
    tiny_run.fit(tmp_path / "other" / "pretrain", {"steps": 2}, model=tiny_feed_run.MODEL)
    with pytest.raises(HornbookError, match="was begun without a feed"):
        tiny_feed_run.fit(tmp_path / "other", feed.url, {"steps": 4})


def test_a_feed_with_another_log(tmp_path: Path, feed: Served) -> None:
    """In the same place: a run goes on with its own numbers only, and holds none of the others."""
    tiny_feed_run.fit(tmp_path / "run", feed.url, {"steps": 2})
    log = LogWriter.create_or_open(tmp_path / "other")
    with contextlib.closing(log), serving(log) as other:
        other.add(*TEXTS)
        with pytest.raises(HornbookError, match="serves another log"):
            tiny_feed_run.fit(tmp_path / "run", other.url, {"steps": 4})
        assert other.cursors.all() == {}
    assert len(tiny_run.losses(tmp_path / "run" / "pretrain")) == 2


def test_gives_up_with_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the feed keeps what the oldest one needs, until the run is done."""
    monkeypatch.setattr(feed_client, "POLL_SECONDS", 1)
    log, run = LogWriter.create_or_open(tmp_path / "feed"), tmp_path / "run"
    with contextlib.closing(log), serving(log) as feed:
        feed.add(*TEXTS[:100])
        with pytest.raises(HornbookError, match="gave nothing for"):
            tiny_feed_run.fit(run, feed.url, {}, IMPATIENT)
        trained = len(tiny_run.losses(run / "pretrain"))
        assert 12 < trained < 40
        checkpoints = sorted((run / "pretrain" / "checkpoints").iterdir())
        assert checkpoints[-1].name == f"step-{trained:08d}"
        rows = [read_json(path / "state.json")["data"]["row"] for path in checkpoints]
        assert rows == [trained // 6 * 6 * 8, trained * 8], "where training is, not the prefetcher"
        begun = read_json(run / "pretrain" / "feed.json")
        assert begun["start"]["next"] == 0
        assert begun["cursor"].startswith("run-")
        needed = read_json(checkpoints[0] / "state.json")["data"]["next"]
        assert feed.cursors.all() == {begun["cursor"]: needed}
        feed.add(*TEXTS[100:])
        tiny_feed_run.fit(run, feed.url)
        assert feed.cursors.all() == {}
        tiny_feed_run.fit(tmp_path / "whole", feed.url)
    whole = tiny_run.losses(tmp_path / "whole" / "pretrain")
    assert tiny_run.losses(run / "pretrain") == whole


def test_lost_texts_end_a_run_or_are_passed_over_aloud(tmp_path: Path) -> None:
    """A run that was done and goes on holds no texts in between."""
    log, run = LogWriter.create_or_open(tmp_path / "feed", segment_bytes=2000), tmp_path / "run"
    with contextlib.closing(log), serving(log) as feed:
        for begin in range(0, 300, 10):
            feed.add(*TEXTS[begin : begin + 10])
        tiny_feed_run.fit(run, feed.url, {"steps": 3})
        assert feed.cursors.all() == {}
        first = log.drop_before(200)
        assert first > 100
        with pytest.raises(HornbookError, match=f"no longer kept.*feed-skip-lost.*text {first}"):
            tiny_feed_run.fit(run, feed.url, {"steps": 6})
        assert list(feed.cursors.all().values()) == [first]
        tiny_feed_run.fit(run, feed.url, {"steps": 6}, {"feed_skip_lost": True})
    lost = tiny_run.events(run / "pretrain", "feed_lost")
    assert [event["message"].split(" to ")[1] for event in lost] == [
        f"{first - 1:,} are lost: left out"
    ]
    assert len(tiny_run.losses(run / "pretrain")) == 6


def test_what_is_done_needs_no_feed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A run that was killed between its last checkpoint and the note that it is done."""
    log, run = LogWriter.create_or_open(tmp_path / "feed"), tmp_path / "run"
    with contextlib.closing(log), serving(log) as feed:
        feed.add(*TEXTS)
        tiny_feed_run.fit(run, feed.url, {"steps": 3})
    (run / "pretrain" / "machine.json").unlink()  # even where all is tried out again
    outcome = tiny_feed_run.fit(run, feed.url, {"steps": 3}, IMPATIENT)
    assert (outcome.reason, outcome.step) == ("finished", 3)
    assert "goes on keeping texts for this run" in capfd.readouterr().err


@pytest.mark.long
def test_two_processes_give_up_together(tmp_path: Path) -> None:
    log, run = LogWriter.create_or_open(tmp_path / "feed"), tmp_path / "run"
    with contextlib.closing(log), serving(log) as feed:
        feed.add(*TEXTS[:100])
        command = [
            sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
            tiny_feed_run.__file__, str(run), feed.url, "{}",
            json.dumps({"feed_give_up_minutes": 0.05}),
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert "gave nothing for" in done.stderr
    trained = tiny_run.losses(run / "pretrain")
    newest = max((run / "pretrain" / "checkpoints").iterdir())
    assert newest.name == f"step-{len(trained):08d}"
