"""Readers' places: each text goes to one consumer of a group until it is acknowledged."""

from __future__ import annotations

import secrets
import shutil
import sqlite3
import tempfile
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from hornbook.errors import HornbookError
from hornbook.feed.cursors import Cursors, Lease


class Sharing(RuleBasedStateMachine):
    """A group of consumers against a model of it: who has which number, and what is done."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.now = 100.0
        self.cursors = Cursors(self.folder, lambda: self.now)
        self.first = self.head = 0
        self.given_up = 0
        self.open: dict[str, tuple[Lease, float]] = {}
        self.ended: list[str] = []
        self.done: set[int] = set()

    @rule(count=st.integers(0, 20))
    def more_texts(self, count: int) -> None:
        self.head += count

    @rule(n=st.integers(1, 8), seconds=st.sampled_from([5.0, 60.0]))
    def lease(self, n: int, seconds: float) -> None:
        self.given_up = self.first
        held = {
            number
            for lease, deadline in self.open.values()
            if deadline > self.now
            for number in range(lease.first, lease.next)
        }
        wanted = set(range(self.first, self.head)) - held - self.done
        new = self.cursors.lease("group", self.first, self.head, n, seconds)
        for name, (lease, deadline) in list(self.open.items()):
            clipped = Lease(name, max(lease.first, self.first), lease.next, lease.seconds)
            self.open[name] = (clipped, deadline)
            if clipped.first >= lease.next or (new is not None and clipped.first == new.first):
                assert deadline <= self.now or clipped.first >= lease.next
                del self.open[name]
                self.ended.append(name)
        if new is None:
            assert not wanted
            return
        numbers = set(range(new.first, new.next))
        assert numbers and numbers <= wanted and len(numbers) <= n
        assert new.first == min(wanted)
        self.open[new.id] = (new, self.now + seconds)

    @rule(data=st.data(), done=st.booleans())
    def end_one(self, data: st.DataObject, done: bool) -> None:
        if not self.open:
            return
        name = data.draw(st.sampled_from(self.by_number()))
        lease, deadline = self.open[name]
        end = self.cursors.acknowledge if done else self.cursors.release
        in_time = self.now < deadline
        assert end("group", name) is in_time
        if in_time:
            del self.open[name]
            self.ended.append(name)
            self.done |= set(range(lease.first, lease.next)) if done else set()

    @rule(data=st.data())
    def fewer_were_sent(self, data: st.DataObject) -> None:
        live = [name for name in self.by_number() if self.open[name][1] > self.now]
        if not live:
            return
        name = data.draw(st.sampled_from(live))
        lease, deadline = self.open[name]
        following = data.draw(st.integers(lease.first + 1, lease.next))
        self.cursors.shorten("group", name, following)
        self.open[name] = (Lease(name, lease.first, following, lease.seconds), deadline)

    @rule(seconds=st.sampled_from([1.0, 10.0, 100.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def restart(self) -> None:
        """The monotonic clock begins anew, and so does the time of every lease."""
        self.cursors.close()
        self.now = 1.0
        self.cursors = Cursors(self.folder, lambda: self.now)
        self.open = {
            name: (lease, self.now + lease.seconds) for name, (lease, _) in self.open.items()
        }

    @rule(count=st.integers(1, 5))
    def drop(self, count: int) -> None:
        self.first = min(self.first + count, self.head)

    @invariant()
    def what_is_not_acknowledged_is_kept(self) -> None:
        if self.cursors.groups():
            wanted = set(range(self.given_up, self.head)) - self.done
            assert self.cursors.groups()["group"] <= min(wanted, default=self.head)
        for name in self.ended:
            assert not self.cursors.acknowledge("group", name)

    def by_number(self) -> list[str]:
        """The open leases: their ids are random, their numbers are not."""
        return sorted(self.open, key=lambda name: self.open[name][0].first)

    def teardown(self) -> None:
        self.cursors.close()
        shutil.rmtree(self.folder)


TestSharing = Sharing.TestCase
TestSharing.settings = settings(
    max_examples=20,
    stateful_step_count=20,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],  # each step syncs to a disk that others use
)


def test_a_cursor_goes_forward_only(tmp_path: Path) -> None:
    with Cursors(tmp_path) as cursors:
        assert cursors.lowest() is None and cursors.highest() == 0
        cursors.set("run-1", 10)
        cursors.set("run-1", 5)
        cursors.set("run-2", 7)
        assert cursors.all() == {"run-1": 10, "run-2": 7}
        assert cursors.lowest() == ("run-2", 7) and cursors.highest() == 10
    with Cursors(tmp_path) as cursors:
        assert cursors.all() == {"run-1": 10, "run-2": 7}
        cursors.forget("run-2")
        cursors.forget("run-2")
        assert cursors.lowest() == ("run-1", 10)


def test_a_consumer_holds_what_it_has_not_acknowledged(tmp_path: Path) -> None:
    with Cursors(tmp_path) as cursors:
        lease = cursors.lease("group", 3, 50, 10, 60.0)
        assert lease is not None and (lease.first, lease.next) == (3, 13)
        cursors.set("run", 40)
        assert cursors.lowest() == ("group", 3) and cursors.highest() == 40
        assert cursors.acknowledge("group", lease.id)
        assert not cursors.acknowledge("group", lease.id)
        assert not cursors.acknowledge("other", lease.id)
        assert cursors.groups() == {"group": 13}
        cursors.forget("group")
        assert cursors.groups() == {}


def test_what_could_not_be_written_has_not_happened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Cursors(tmp_path) as cursors:
        lease = cursors.lease("group", 0, 50, 10, 60.0)
        assert lease is not None

        def full(size: int) -> str:
            raise sqlite3.OperationalError("database or disk is full")

        monkeypatch.setattr(secrets, "token_hex", full)  # in the middle of each of these
        for work in (
            lambda: cursors.release("group", lease.id),
            lambda: cursors.shorten("group", lease.id, 5),
            lambda: cursors.lease("group", 0, 50, 10, 60.0),
        ):
            with pytest.raises(HornbookError, match="full"):
                work()
        monkeypatch.undo()
        other = cursors.lease("group", 0, 50, 10, 60.0)
        assert other is not None and (other.first, other.next) == (10, 20)
        assert cursors.release("group", lease.id)
        again = cursors.lease("group", 0, 50, 10, 60.0)
        assert again is not None and (again.first, again.next) == (0, 10)


def test_the_wall_clock_ends_no_lease(tmp_path: Path) -> None:
    with Cursors(tmp_path) as cursors:
        lease = cursors.lease("group", 0, 10, 10, 60.0)
        assert lease is not None
        with patch("time.time", lambda: 1e12):
            assert cursors.lease("group", 0, 10, 10, 60.0) is None
        with patch("time.time", lambda: 0.0):
            assert cursors.acknowledge("group", lease.id)


def test_the_head_is_no_reader_and_does_not_go_back(tmp_path: Path) -> None:
    with Cursors(tmp_path) as cursors:
        cursors.set("run", 10)
        assert cursors.delivered() == 10
        for head in (40, 30):
            cursors.note_head(head)
        assert cursors.delivered() == 40 and cursors.highest() == 10
        assert cursors.all() == {"run": 10} and cursors.lowest() == ("run", 10)
        cursors.set("run", 50)
    with Cursors(tmp_path) as cursors:
        assert cursors.delivered() == 50


def test_a_folder_from_before_the_head_was_noted(tmp_path: Path) -> None:
    Cursors(tmp_path).close()
    with sqlite3.connect(tmp_path / "state.sqlite") as database:
        database.execute("DROP TABLE head")
    with Cursors(tmp_path) as cursors:
        assert cursors.delivered() == 0
        cursors.set("run", 10)
        assert cursors.delivered() == 10
        cursors.note_head(20)
        assert cursors.delivered() == 20


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "state.sqlite").write_bytes(b"no database at all, but long enough" * 100)
    with pytest.raises(HornbookError, match=r"state.sqlite: is damaged .* trainers know their own"):
        Cursors(tmp_path)
