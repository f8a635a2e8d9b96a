"""A source that gives documents of a script, and a process that is killed while it gathers them."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hornbook.documents import Document
from hornbook.gather.collect import collect
from hornbook.gather.config import GatherConfig
from hornbook.gather.source import Cursor, Gathered, Gathering, Size, Source


def text_of(number: int, length: int) -> str:
    """Text that is not the same for two numbers and does not pack to nothing."""
    words = f"{number} {number * 7919 % 10007} "
    return (words * (length // len(words) + 1))[:length]


@dataclass
class ScriptedSource:
    """Documents of the given lengths; a length of 0 is a step without a document.

    The items table is used as a source does: keys are added in one step and marked in another.
    """

    lengths: list[int]
    replayable: bool
    name: str = "scripted"
    before_step: Callable[[int], None] = field(default=lambda number: None, repr=False)
    given: list[int] = field(default_factory=list)

    def fingerprint(self) -> dict[str, Any]:
        return {"lengths": self.lengths}

    def size(self, gathering: Gathering) -> Size:
        return Size(len(self.lengths), sum(self.lengths))

    def documents(self, cursor: Cursor, gathering: Gathering) -> Iterator[Gathered]:
        for number in range(cursor.get("next", 0), len(self.lengths)):
            new = gathering.items.add([f"item {number}"])
            assert new, "what a step that was not kept added is gone"
            gathering.items.set(f"item {number}", "done")
            gathering.count("steps")
            self.before_step(number)
            self.given.append(number)
            document = None
            if length := self.lengths[number]:
                url = f"http://scripted/{number}"
                document = Document(text_of(number, length), source=self.name, url=url)
            yield Gathered(document, {"next": number + 1}, self.lengths[number])
        gathering.count("ends")


def in_process(work: Callable[[], None]) -> int:
    """Run `work` in a forked process; its exit code, -9 when it was killed."""
    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join()
    assert process.exitcode is not None
    return process.exitcode


def kill_self() -> None:
    """What `kill -9` does."""
    os.kill(os.getpid(), signal.SIGKILL)


def shards_of(out: Path) -> dict[str, bytes]:
    """The shards of a folder by name."""
    return {path.name: path.read_bytes() for path in sorted(out.glob("documents-*"))}


def gather_whole(source: Source, config: GatherConfig, out: Path) -> dict[str, bytes]:
    """Gather without disturbance."""
    collect(source, config, out)
    return shards_of(out)
