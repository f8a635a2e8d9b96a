"""Several sources mixed by weight, each in its own order.

In: sources and their weights. Out: their documents, interleaved so that at every moment the bytes
of text of each source are in proportion to its weight, to within one document. The next document
is of the source that has given the fewest bytes for its weight, so the order is a pure function
of the sources' own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from hornbook.documents import byte_length
from hornbook.errors import HornbookError
from hornbook.gather.source import Cursor, Gathered, Gathering, Size, Source


@dataclass(frozen=True)
class Part:
    """One source of a mix: a name of its own, its weight (above 0), and the source."""

    name: str
    weight: float
    source: Source


class MixSource:
    """The sources as one.

    One that ends early leaves its share to the others. One that stops (`StopGathering`) stops the
    mix, because going on without it would give another order than waiting for it.
    """

    name = "mix"

    def __init__(self, parts: Sequence[Part]):
        self._parts = parts
        self.replayable = all(part.source.replayable for part in parts)
        names = [part.name for part in parts]
        for part in parts:
            where = f"gather.sources: {part.name}"
            if not part.weight > 0:
                raise HornbookError(f"weight must be above 0, not {part.weight}", where=where)
            if not re.fullmatch(r"\w[\w .-]*", part.name):  # it names a folder as well
                raise HornbookError("a name has letters, digits, '-', '_' and '.'", where=where)
            if names.count(part.name) > 1:
                raise HornbookError(
                    "two sources have this name", where=where, hint="Give each a `name` of its own"
                )

    def fingerprint(self) -> dict[str, Any]:
        """Weights and settings of the sources, by name."""
        return {
            part.name: {
                "source": part.source.name,
                "weight": part.weight,
                **part.source.fingerprint(),
            }
            for part in self._parts
        }

    def size(self, gathering: Gathering) -> Size:
        """The sum of the sizes, where all are known."""
        sizes = [part.source.size(gathering.part(part.name)) for part in self._parts]

        def total(numbers: Sequence[int | None]) -> int | None:
            known = [number for number in numbers if number is not None]
            return sum(known) if len(known) == len(numbers) else None

        return Size(
            total([size.documents for size in sizes]), total([size.bytes for size in sizes])
        )

    def documents(self, cursor: Cursor, gathering: Gathering) -> Iterator[Gathered]:
        """The documents of all sources; the cursor has one of each, and what it has given."""
        empty: Cursor = {part.name: {"cursor": {}, "bytes": 0} for part in self._parts}
        states = {name: dict(state) for name, state in (cursor or empty).items()}
        running = {
            part.name: part.source.documents(states[part.name]["cursor"], gathering.part(part.name))
            for part in self._parts
            if not states[part.name].get("ended")
        }
        weights = {part.name: part.weight for part in self._parts}
        while running:
            name = min(running, key=lambda name: states[name]["bytes"] / weights[name])
            step = next(running[name], None)
            if step is None:
                del running[name]
                states[name]["ended"] = True
                step = Gathered(None, states[name]["cursor"])
                if running:
                    gathering.note(f"{name} has no more text; the others go on without it")
            states[name]["cursor"] = step.cursor
            if step.document is not None:
                size = byte_length(step.document.text)
                states[name]["bytes"] += size
                gathering.count(f"bytes of {name}", size)
            yield Gathered(
                step.document, {name: dict(state) for name, state in states.items()}, step.bytes
            )
