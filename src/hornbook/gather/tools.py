"""What a gathering hands to its source: client, items, counters, quarantine, messages.

In: the gathering's settings, folder and journal. Out: an object that is a `Gathering`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hornbook.files import disk_errors
from hornbook.gather.config import GatherConfig
from hornbook.gather.journal import WORK, Journal
from hornbook.processes import usable_cores
from hornbook.progress import say

if TYPE_CHECKING:
    from hornbook.gather.client import PoliteClient, Politeness

QUARANTINE = "quarantine.jsonl"
MOST_QUARANTINE_BYTES = 100 * 2**20
"""Beyond this, what cannot be read is counted and not kept."""


class Tools:
    """The `Gathering` of a source, or of one inside a mix (`part`)."""

    def __init__(self, config: GatherConfig, out: Path, journal: Journal, name: str = ""):
        self._config, self._out, self._journal, self._name = config, out, journal, name
        self.items = journal.items(name)
        self.workers = config.workers or usable_cores()
        self.work = out / WORK / name
        self.counts: Counter[str] = Counter()
        self.clients: list[PoliteClient] = []
        self._closing = contextlib.ExitStack()
        self._quarantined: set[str] | None = None
        self.note: Callable[[str], None] = say

    def __enter__(self) -> Tools:
        with disk_errors(self._out):
            self.work.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, *exception: object) -> None:
        self._closing.close()

    def part(self, name: str) -> Tools:
        """The same with items and a folder of its own; counters and clients are shared."""
        part = Tools(self._config, self._out, self._journal, f"{self._name}/{name}".strip("/"))
        part.counts, part.clients, part._closing = self.counts, self.clients, self._closing
        part.note = self.note
        part.quarantine = self.quarantine  # type: ignore[method-assign]
        return part.__enter__()

    def client(self, politeness: Politeness, *, secrets: tuple[str, ...] = ()) -> PoliteClient:
        """A client with the source's manners; what the user set wins over them."""
        from hornbook.gather.client import PoliteClient

        network = self._config.network
        given: dict[str, Any] = {
            "contact": network.contact,
            "requests_per_minute": network.requests_per_minute,
            "concurrency": network.concurrency,
            "allow_private": network.allow_private,
        }
        politeness = dataclasses.replace(
            politeness,
            largest_bytes=network.largest_megabytes * 10**6,
            **{name: value for name, value in given.items() if value},
        )
        client = self._closing.enter_context(
            PoliteClient(politeness, secrets=secrets, note=self.note)
        )
        self.clients.append(client)
        return client

    def count(self, what: str, amount: int = 1) -> None:
        """Add to a line of the closing table."""
        self.counts[what] += amount

    def quarantine(self, key: str, why: str, text: str = "") -> None:
        """Keep what could not be read, once; a killed gathering may meet it again."""
        path = self._out / QUARANTINE
        self.count("quarantined")
        with disk_errors(path), open(path, "a+b") as file:
            if self._quarantined is None:
                self._quarantined = _keys(file)
            if key in self._quarantined or file.tell() > MOST_QUARANTINE_BYTES:
                return
            self._quarantined.add(key)
            file.write(json.dumps({"key": key, "why": why, "text": text}).encode() + b"\n")


def _keys(file: Any) -> set[str]:
    """The keys that are in the file; a last line that was cut off by a kill is removed."""
    file.seek(0)
    keys, whole = set(), 0
    for line in file:
        if line.endswith(b"\n"):
            whole += len(line)
            keys.add(json.loads(line)["key"])
    file.truncate(whole)
    file.seek(0, os.SEEK_END)
    return keys
