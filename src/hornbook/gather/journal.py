"""The journal of a gathering: what is written, what waits to be, and where the source is.

In: documents, cursors and item states, in transactions. Out: the same after a process was killed
at any moment. `OUT/journal.sqlite` is an SQLite database (write-ahead log, every commit synced);
one process writes it, from one thread.

Tables: `state` (cursor, counts, settings), `shard` (whole shards), `pending` (documents that were
fetched and not yet put into a shard), `written` (ids of those that were), `item` (queues and
visited sets of the sources).
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
import sqlite3
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hornbook.documents import Document
from hornbook.errors import HornbookError
from hornbook.files import disk_full
from hornbook.gather.inputs import JOURNAL
from hornbook.gather.source import Cursor, Item

VERSION = 1

WORK = "work"
"""The folder beside the journal where sources put partial downloads."""

_TABLES = """
CREATE TABLE state(key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE shard(number INTEGER PRIMARY KEY, documents INTEGER, bytes INTEGER, sha256 TEXT);
CREATE TABLE pending(number INTEGER PRIMARY KEY, id BLOB UNIQUE, characters INTEGER, row BLOB);
CREATE TABLE written(id BLOB PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE item(number INTEGER PRIMARY KEY, namespace TEXT, key TEXT, state TEXT,
    tries INTEGER DEFAULT 0, note TEXT DEFAULT '', value TEXT DEFAULT '', UNIQUE(namespace, key));
CREATE INDEX item_by_state ON item(namespace, state, number);
"""


@dataclass(frozen=True)
class ShardRow:
    """A shard that is whole: its number, documents, bytes of the file and their sha256."""

    number: int
    documents: int
    bytes: int
    sha256: str


class Journal:
    """An open journal, always inside a transaction; `commit` ends it and begins the next.

    Attributes:
        path: of the database.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection):
        self.path, self._connection = path, connection
        self._begin()

    @classmethod
    @contextlib.contextmanager
    def open(cls, folder: Path, fingerprint: dict[str, Any]) -> Iterator[Journal]:
        """Open the journal of `folder`, or begin one.

        Raises:
            HornbookError: it is of other settings or of another version, or it is damaged. While
                it is open, so are what SQLite says of damage and of a full disk.
        """
        path = folder / JOURNAL
        with _journal_errors(path):
            connection = sqlite3.connect(path, isolation_level=None)
            try:
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("PRAGMA synchronous = FULL")
                journal = cls(path, connection)
                journal._check(json.loads(json.dumps(fingerprint)))
                yield journal
            finally:
                connection.close()  # what was not committed is undone

    def _check(self, fingerprint: dict[str, Any]) -> None:
        (version,) = self._connection.execute("PRAGMA user_version").fetchone()
        if version == 0:
            for statement in _TABLES.split(";"):
                self._connection.execute(statement)
            self._connection.execute(f"PRAGMA user_version = {VERSION}")
            self.set("fingerprint", fingerprint)
            self.commit()
        elif version != VERSION:
            raise HornbookError(
                f"is a journal of version {version}, this hornbook reads {VERSION}",
                where=self.path,
                hint="Go on with the hornbook that began it, or choose another folder",
            )
        elif (before := self.get("fingerprint")) != fingerprint and self._is_begun():
            changed = [k for k in {**before, **fingerprint} if before.get(k) != fingerprint.get(k)]
            key = changed[0]
            raise HornbookError(
                f"was begun with other settings: {key} was {json.dumps(before.get(key))[:200]}, "
                f"now {json.dumps(fingerprint.get(key))[:200]}",
                where=self.path.parent,
                hint="Give the same settings to go on, or choose another folder with --out",
            )
        elif before != fingerprint:  # nothing came of those settings: a start that was refused
            self._connection.execute("DELETE FROM item")
            self._connection.execute("DELETE FROM state")
            shutil.rmtree(self.path.parent / WORK, ignore_errors=True)
            self.set("fingerprint", fingerprint)
            self.commit()

    def _is_begun(self) -> bool:
        return bool(self.cursor or self.shards or self.pending_characters())

    def _begin(self) -> None:
        self._connection.execute("BEGIN IMMEDIATE")
        self._connection.execute("SAVEPOINT step")

    def commit(self) -> None:
        """Make everything until here durable."""
        self._connection.execute("COMMIT")
        self._begin()

    def step(self) -> None:
        """Remember this point for `undo`."""
        self._connection.execute("RELEASE step")
        self._connection.execute("SAVEPOINT step")

    def undo(self) -> None:
        """Take back what was done since `step` or `commit`."""
        self._connection.execute("ROLLBACK TO step")

    def get(self, key: str) -> Any:
        """A value of the state, None where it was never set."""
        row = self._connection.execute("SELECT value FROM state WHERE key = ?", (key,)).fetchone()
        return json.loads(row[0]) if row else None

    def set(self, key: str, value: Any) -> None:
        """Set a value of the state; JSON."""
        self._connection.execute("REPLACE INTO state VALUES (?, ?)", (key, json.dumps(value)))

    @property
    def cursor(self) -> Cursor:
        """Where the source goes on; `{}` at the beginning."""
        return self.get("cursor") or {}

    @property
    def shards(self) -> list[ShardRow]:
        """The shards that are whole, in order."""
        rows = self._connection.execute("SELECT * FROM shard ORDER BY number")
        return [ShardRow(*row) for row in rows]

    def items(self, namespace: str) -> ItemTable:
        """The items of one source."""
        return ItemTable(self._connection, namespace)

    def knows(self, document: Document) -> bool:
        """Whether a document of this id waits or is written."""
        id = bytes.fromhex(document.id)
        row = self._connection.execute(
            "SELECT 1 FROM pending WHERE id = ? UNION ALL SELECT 1 FROM written WHERE id = ?",
            (id, id),
        )
        return row.fetchone() is not None

    def add_pending(self, document: Document) -> None:
        """Keep a document until its shard is written."""
        row = zlib.compress(json.dumps(dataclasses.asdict(document)).encode(), 1)
        self._connection.execute(
            "INSERT INTO pending(id, characters, row) VALUES (?, ?, ?)",
            (bytes.fromhex(document.id), len(document.text), row),
        )

    def pending_characters(self) -> int:
        """Characters of text that wait."""
        query = "SELECT COALESCE(SUM(characters), 0) FROM pending"
        (characters,) = self._connection.execute(query).fetchone()
        return int(characters)

    def pending(self) -> Iterator[Document]:
        """The documents that wait, in order."""
        for (row,) in self._connection.execute("SELECT row FROM pending ORDER BY number"):
            yield Document(**json.loads(zlib.decompress(row)))

    def add_shard(self, shard: ShardRow) -> None:
        """Note a shard that is whole; not durable before `commit`."""
        self._connection.execute(
            "INSERT INTO shard VALUES (?, ?, ?, ?)", dataclasses.astuple(shard)
        )

    def empty_pending(self) -> None:
        """Note that what waited is written; not durable before `commit`."""
        self._connection.execute("INSERT INTO written SELECT id FROM pending")
        self._connection.execute("DELETE FROM pending")


class ItemTable:
    """Keys in the order they were added, each with a state (todo, done, ...).

    Changes become durable together with the next step of the source that is kept; what a source
    changed after its last step is undone when it stops there.
    """

    def __init__(self, connection: sqlite3.Connection, namespace: str):
        self._connection, self._namespace = connection, namespace

    def add(self, keys: Iterable[str], state: str = "todo", value: str = "") -> int:
        """Add the keys that are not known yet, and say how many."""
        before = self._connection.total_changes
        self._connection.executemany(
            "INSERT OR IGNORE INTO item(namespace, key, state, value) VALUES (?, ?, ?, ?)",
            ((self._namespace, key, state, value) for key in keys),
        )
        return self._connection.total_changes - before

    def next(self, limit: int, state: str = "todo") -> list[Item]:
        """The first items of a state."""
        rows = self._connection.execute(
            "SELECT key, state, tries, note, value FROM item WHERE namespace = ? AND state = ? "
            "ORDER BY number LIMIT ?",
            (self._namespace, state, limit),
        )
        return [Item(*row) for row in rows]

    def get(self, key: str) -> Item | None:
        """One item."""
        row = self._connection.execute(
            "SELECT key, state, tries, note, value FROM item WHERE namespace = ? AND key = ?",
            (self._namespace, key),
        ).fetchone()
        return Item(*row) if row else None

    def set(self, key: str, state: str, note: str = "") -> None:
        """Set the state of a known key; its tries become one more."""
        changed = self._connection.execute(
            "UPDATE item SET state = ?, note = ?, tries = tries + 1 "
            "WHERE namespace = ? AND key = ?",
            (state, note, self._namespace, key),
        )
        assert changed.rowcount == 1, key

    def count(self) -> dict[str, int]:
        """How many items are in each state."""
        return dict(
            self._connection.execute(
                "SELECT state, COUNT(*) FROM item WHERE namespace = ? GROUP BY state",
                (self._namespace,),
            ).fetchall()
        )


@contextlib.contextmanager
def _journal_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE):
            raise disk_full(path) from error
        raise HornbookError(
            f"cannot be used as a journal ({error})",
            where=path,
            hint="Is the folder yours to write, and on a local disk?",
        ) from error
    except sqlite3.DatabaseError as error:
        raise HornbookError(
            f"is damaged ({error})",
            where=path,
            hint="Remove the folder and gather again; the shards in it can still be read",
        ) from error
