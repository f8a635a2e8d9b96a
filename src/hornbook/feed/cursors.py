"""Where the readers of a feed are: cursors of training runs, and leases of consumers that share.

In: what readers say. Out: the same after a crash; the lowest number that someone still wants; and
the number below which texts may have been read, by readers that say nothing too.

A cursor is a promise to keep what is behind it. A group of consumers gets each text once: a lease
is a range of numbers that one of them has for some seconds; acknowledged it is done, else it comes
back. So a text may be delivered twice, never not at all. Deadlines run on the monotonic clock and
begin anew after a restart, so that no jump of the wall clock ends a lease.

`FEED/state.sqlite` is written ahead and synced at each commit; threads may share the object.
"""

from __future__ import annotations

import contextlib
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from hornbook.errors import HornbookError
from hornbook.files import disk_full

STATE = "state.sqlite"
VERSION = 1
ANONYMOUS = "anonymous"
"""The consumer of requests that name none; nothing is kept for it."""

_HEAD = """
CREATE TABLE IF NOT EXISTS head(one INTEGER PRIMARY KEY CHECK (one = 1), next INTEGER NOT NULL);
"""
_TABLES = f"""{_HEAD}
CREATE TABLE IF NOT EXISTS cursor(name TEXT PRIMARY KEY, next INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS consumer(name TEXT PRIMARY KEY, next INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS lease(id TEXT PRIMARY KEY, consumer TEXT NOT NULL,
    first INTEGER NOT NULL, next INTEGER NOT NULL, seconds REAL NOT NULL);
"""


@dataclass(frozen=True)
class Lease:
    """Numbers [first, next) that one consumer has for `seconds`."""

    id: str
    first: int
    next: int
    seconds: float


class Cursors:
    """The readers' places.

    Args:
        folder: of the feed.
        clock: seconds that never go back.
    """

    def __init__(self, folder: Path, clock: Callable[[], float] = time.monotonic):
        self._path, self._clock = folder / STATE, clock
        self._lock = threading.Lock()
        self._deadlines: dict[str, float] = {}
        with self._errors():
            self._database = sqlite3.connect(
                self._path, isolation_level=None, check_same_thread=False
            )
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = FULL")
            (version,) = self._database.execute("PRAGMA user_version").fetchone()
            if version == 0:  # else nothing is written, which a full disk would not let us do
                self._database.executescript(_TABLES + f"PRAGMA user_version = {VERSION};")
            elif version != VERSION:
                raise HornbookError(
                    f"is of version {version}, this hornbook reads {VERSION}",
                    where=self._path,
                    hint="Go on with the hornbook that began the feed",
                )
            for name, seconds in self._database.execute("SELECT id, seconds FROM lease"):
                self._deadlines[name] = clock() + seconds

    def close(self) -> None:
        """Close the database."""
        with self._lock:
            self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *problem: object) -> None:
        self.close()

    def set(self, name: str, next: int) -> None:
        """Keep what is from number `next` on for `name`; a cursor never goes back."""
        with self._transaction() as database:
            database.execute(
                "INSERT INTO cursor VALUES (?, ?)"
                " ON CONFLICT(name) DO UPDATE SET next = MAX(next, excluded.next)",
                (name, next),
            )

    def all(self) -> dict[str, int]:
        """The cursors: of each name the number that it wants next."""
        with self._transaction() as database:
            return dict(database.execute("SELECT name, next FROM cursor ORDER BY name"))

    def groups(self) -> dict[str, int]:
        """The consumers: of each the first number that is not acknowledged."""
        with self._transaction() as database:
            return dict(
                database.execute(
                    "SELECT name, MIN(consumer.next, IFNULL((SELECT MIN(first) FROM lease WHERE"
                    " consumer = name), consumer.next)) FROM consumer ORDER BY name"
                )
            )

    def forget(self, name: str) -> None:
        """Forget a cursor or consumer: nothing is kept for it any more."""
        with self._transaction() as database:
            database.execute("DELETE FROM cursor WHERE name = ?", (name,))
            database.execute("DELETE FROM consumer WHERE name = ?", (name,))
            for lease in self._open(name):
                self._end(lease)

    def lowest(self) -> tuple[str, int] | None:
        """Who wants the lowest number, and which; None: nobody is known."""
        places = [*self.all().items(), *self.groups().items()]
        places = [place for place in places if place[0] != ANONYMOUS]
        return min(places, key=lambda place: place[1], default=None)

    def highest(self) -> int:
        """A number below which everything that any known reader was given is."""
        with self._transaction() as database:
            rows = database.execute("SELECT next FROM cursor UNION SELECT next FROM consumer")
            return max((row[0] for row in rows), default=0)

    def note_head(self, head: int) -> None:
        """Write down that texts below `head` may have been read; it never goes back.

        What was read between the last note and a crash is missing here: so it is noted often, and
        only where the crash comes with damage to the log's end are such numbers given again.
        """
        with self._transaction() as database:
            database.execute(_HEAD)  # a feed of an earlier release has no such table
            database.execute(
                "INSERT INTO head VALUES (1, ?)"
                " ON CONFLICT(one) DO UPDATE SET next = MAX(next, excluded.next)",
                (head,),
            )

    def delivered(self) -> int:
        """A number below which everything that any reader was given is, registered or not, as far
        as it was noted."""
        with self._transaction() as database:
            tables = database.execute("SELECT name FROM sqlite_master").fetchall()
            noted = database.execute("SELECT next FROM head") if ("head",) in tables else []
            head = max((int(row[0]) for row in noted), default=0)
        return max(self.highest(), head)

    def lease(self, group: str, first: int, head: int, n: int, seconds: float) -> Lease | None:
        """A range of numbers that no other consumer of the group has.

        Ranges that came back go out again first, the lowest of them; then what is new.

        Args:
            group: the consumers' common name.
            first: first number that the log keeps: a new group begins there, and what is before it
                is given up.
            head: the number after the log's last.
            n: numbers, at most.
            seconds: how long the range is the consumer's.

        Returns:
            None when there is nothing.
        """
        with self._transaction() as database:
            self._give_up_before(group, first)
            database.execute("INSERT OR IGNORE INTO consumer VALUES (?, ?)", (group, first))
            back = [each for each in self._open(group) if self._is_over(each)]
            if back:
                self._end(back[0])
                begin, end = back[0].first, min(back[0].first + n, back[0].next)
                self._free(group, end, back[0].next)
            else:
                query = "SELECT next FROM consumer WHERE name = ?"
                (begin,) = database.execute(query, (group,)).fetchone()
                end = min(begin + n, head)
                if begin >= end:
                    return None
                database.execute("UPDATE consumer SET next = ? WHERE name = ?", (end, group))
            return self._begin(group, begin, end, seconds)

    def shorten(self, group: str, lease: str, next: int) -> None:
        """Give back the numbers from `next` on, but never the first: fewer texts were sent than
        leased."""
        with self._transaction() as database:
            for old in self._open(group):
                if old.id == lease and old.first < next < old.next:
                    database.execute("UPDATE lease SET next = ? WHERE id = ?", (next, lease))
                    self._free(group, next, old.next)

    def acknowledge(self, group: str, lease: str) -> bool:
        """The texts of a lease are done. False: it is unknown, or its time was over."""
        return self._finish(group, lease, give_back=False)

    def release(self, group: str, lease: str) -> bool:
        """Give a lease back at once. False: it is unknown, or its time was over."""
        return self._finish(group, lease, give_back=True)

    def _finish(self, group: str, lease: str, *, give_back: bool) -> bool:
        with self._transaction():
            for old in self._open(group):
                if old.id == lease and not self._is_over(old):
                    self._end(old)
                    if give_back:
                        self._free(group, old.first, old.next)
                    return True
        return False

    def _open(self, group: str) -> list[Lease]:
        """The leases that are not done, by number."""
        query = "SELECT id, first, next, seconds FROM lease WHERE consumer = ? ORDER BY first"
        return [Lease(*row) for row in self._database.execute(query, (group,))]

    def _is_over(self, lease: Lease) -> bool:
        return self._deadlines[lease.id] <= self._clock()

    def _begin(self, group: str, first: int, next: int, seconds: float) -> Lease:
        lease = Lease(secrets.token_hex(8), first, next, seconds)
        values = (lease.id, group, first, next, seconds)
        self._database.execute("INSERT INTO lease VALUES (?, ?, ?, ?, ?)", values)
        self._deadlines[lease.id] = self._clock() + seconds
        return lease

    def _free(self, group: str, first: int, next: int) -> None:
        """Numbers that anyone may have: a lease whose time is over, now and after a restart."""
        if first < next:
            self._begin(group, first, next, 0.0)

    def _end(self, lease: Lease) -> None:
        self._database.execute("DELETE FROM lease WHERE id = ?", (lease.id,))
        del self._deadlines[lease.id]

    def _give_up_before(self, group: str, first: int) -> None:
        """Forget what the log no longer has."""
        for statement in (
            "UPDATE consumer SET next = MAX(next, ?) WHERE name = ?",
            "UPDATE lease SET first = MAX(first, ?) WHERE consumer = ?",
        ):
            self._database.execute(statement, (first, group))
        for lease in self._open(group):
            if lease.next <= first:
                self._end(lease)

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """All or nothing, and durable; deadlines are of the same transaction."""
        with self._lock, self._errors():
            deadlines = self._deadlines.copy()
            try:
                with self._database:  # commits, or rolls back
                    self._database.execute("BEGIN IMMEDIATE")
                    yield self._database
            except BaseException:
                self._deadlines = deadlines
                raise

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.DatabaseError as error:
            code = getattr(error, "sqlite_errorcode", None)
            if code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE):
                raise disk_full(self._path) from error
            if isinstance(error, sqlite3.OperationalError):
                what, hint = "cannot be used", "Is the folder yours to write, and on a local disk?"
            else:
                what = "is damaged"
                hint = "Remove it: readers' places are lost, no texts; trainers know their own"
            raise HornbookError(f"{what} ({error})", where=self._path, hint=hint) from error
