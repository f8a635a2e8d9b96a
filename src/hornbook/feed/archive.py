"""Texts drawn from an archive in a keyed order, so that one number is the whole state.

In: a zip, Parquet or jsonl file, or a folder. Out: batches of documents without end, an epoch after
the other, each in another order; and the validation set, texts which are never among them.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from hornbook.documents import Document, byte_length, mend_surrogates
from hornbook.errors import HornbookError
from hornbook.feed.archive_index import BROKEN, Part, locate, open_parts
from hornbook.feed.config import FeedConfig
from hornbook.feed.produce import Made
from hornbook.feed.reject import LONGEST, Languages
from hornbook.gather.cut import cut
from hornbook.progress import say, warn
from hornbook.tokens.order import derive_key, permute

BATCH_TEXTS, BATCH_CHARACTERS = 64, 2**17
"""Of a batch, at most; but one text in any case. Teachers' texts come between batches, so they
must not be large: 64 whole plays would be ten minutes of a small model's writing."""

FIRST_TEXTS = 100
"""Texts after which an archive of which most are broken is given up."""

_TRIED = 5
"""Texts that are read on opening, from all over it: where all are broken, it is the whole archive,
or its column."""

_NAMED = 10
"""Broken texts that are named; the others are counted."""


@dataclass(frozen=True)
class Broken:
    """A text that cannot be read."""

    why: str


class Archive:
    """The texts of an archive, by index. Threads may share it.

    Args:
        path: of the archive.
        column: that holds the text; None: found by its name.
        scratch: folder for indices, and what has to be unpacked.
    """

    def __init__(self, path: Path, column: str | None, scratch: Path):
        self._parts: list[Part] = open_parts(path, column, scratch)
        self._ends = list(itertools.accumulate(map(len, self._parts)))
        self._lock = threading.Lock()
        self._where = path
        self._read = 0
        self._broken: set[int] = set()
        labels = "\n".join(part.label for part in self._parts).encode("utf-8", "surrogatepass")
        self.fingerprint = hashlib.blake2b(labels, digest_size=8).hexdigest()
        """Another one when the archive is another, and so its order."""
        if len(self) == 0:
            raise HornbookError("has no texts", where=path, hint="Check --feed.archive")
        places = np.linspace(0, len(self) - 1, min(_TRIED, len(self)), dtype=np.int64)
        tried = [self._look(index) for index in places.tolist()]
        problems = [each.why for each in tried if isinstance(each, Broken)]
        if len(problems) == len(tried):
            what = f"of {len(tried)} texts that were tried none can be read; one: {problems[0]}"
            raise HornbookError(what, where=path)

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def text(self, index: int) -> Document | Broken:
        """The text at an index.

        Raises:
            HornbookError: more than half of the texts are broken, so the whole archive is.
        """
        with self._lock:
            self._read += 1
            found = self._look(index)
            if isinstance(found, Broken) and index not in self._broken:
                self._count(index, found)
        return found

    def _look(self, index: int) -> Document | Broken:
        part, place = locate(self._ends, index)
        try:
            found = self._parts[part].read(place)
        except BROKEN as error:
            return Broken(str(error))
        found.text = mend_surrogates(found.text)
        return found if found.text.strip() else Broken("has no text")

    def _count(self, index: int, broken: Broken) -> None:
        self._broken.add(index)
        if len(self._broken) <= _NAMED:
            more = "; further ones are only counted" if len(self._broken) == _NAMED else ""
            warn(f"{self._where}: text {index + 1:,} is left out: {broken.why}{more}")
        seen = min(self._read, len(self))
        if seen >= min(FIRST_TEXTS, len(self)) and 2 * len(self._broken) > seen:
            raise HornbookError(
                f"{len(self._broken):,} of the first {seen:,} texts are broken; one: {broken.why}",
                where=self._where,
                hint="Is --feed.archive_text_column right? Else make the archive again",
            )


class ArchiveProducer:
    """Draws an archive's texts, all but those held out.

    Its state is how far it is: position p of epoch e is text `permute(p)` under a key of the
    epoch. The first `held_out` texts under a key that does not depend on the epoch are the
    validation set, for ever.
    """

    name = "archive"

    def __init__(self, archive: Archive, config: FeedConfig):
        self._archive, self._seed = archive, config.seed
        self._languages = Languages(config.languages)
        wanted = config.validation_texts
        self.held_out = min(wanted, len(archive) // 10)
        """Texts of the validation set, with those of them that are broken."""
        if self.held_out < wanted:
            say(f"archive: {self.held_out:,} of its {len(archive):,} texts are held out")
        order = np.arange(self.held_out, dtype=np.int64)
        self._held_out = permute(order, len(archive), derive_key(self._seed, "validation"))
        self._is_held_out = frozenset(self._held_out.tolist())
        self._order_of = f"{archive.fingerprint}-{config.seed}"
        self._in_vain = 0
        """Positions since the last text that was kept."""

    async def make(self, state: Any) -> Made:
        """The next batch. See `Producer`."""
        return await asyncio.to_thread(self._make, state)

    async def close(self) -> None:
        """Nothing to do."""

    def validation(self, cursor: int, most_texts: int, most_bytes: int) -> tuple[int, list[str]]:
        """Texts of the validation set from number `cursor` on, and the cursor after them.

        Broken ones have a number and are left out. At least one text, unless none is left.
        """
        texts: list[str] = []
        size = 0
        while cursor < self.held_out and len(texts) < most_texts:
            found = self._archive.text(int(self._held_out[cursor]))
            if isinstance(found, Document):
                size += byte_length(found.text)
                if texts and size > most_bytes:
                    break
                texts.append(found.text)
            cursor += 1
        return cursor, texts

    def _make(self, state: Any) -> Made:
        position = begin = self._position(state)
        documents: list[Document] = []
        rejected: Counter[str] = Counter()
        size = 0
        for index in self._order(position):
            if len(documents) >= BATCH_TEXTS or size >= BATCH_CHARACTERS:
                break
            position += 1
            if index in self._is_held_out:
                continue
            found = self._archive.text(index)
            if isinstance(found, Broken):
                rejected["broken"] += 1
            elif reason := self._languages.reason(found.text):
                rejected[reason] += 1
            else:
                documents += pieces(found, index)
                size += len(found.text)
        if begin < len(self._archive) <= position:
            texts = len(self._archive) - self.held_out
            say(f"archive: its {texts:,} texts were all drawn; from here on again, reordered")
        self._in_vain = 0 if documents else self._in_vain + position - begin
        if self._in_vain > len(self._archive):
            raise HornbookError(
                "of the archive not one text is kept",
                where="feed.archive", hint="Are feed.languages its languages?",
            )  # fmt: skip
        return Made(documents, {"position": position, "order": self._order_of}, rejected)

    def _order(self, position: int) -> Iterator[int]:
        """The texts from a position to the end of its epoch, of 256 positions at most."""
        size = len(self._archive)
        epoch, place = divmod(position, size)
        places = np.arange(place, min(place + 4 * BATCH_TEXTS, size))
        yield from permute(places, size, derive_key(self._seed, "archive", epoch)).tolist()

    def _position(self, state: Any) -> int:
        if state is None:
            return 0
        if state["order"] != self._order_of:
            warn("the archive or feed.seed is another one than before: texts are drawn from the "
                 "beginning, and the validation set is another one too")  # fmt: skip
            return 0
        position: int = state["position"]
        return position


def pieces(document: Document, index: int) -> Iterator[Document]:
    """The document, cut where it is longer than a text may be."""
    document.meta["index"] = index
    if len(document.text) <= LONGEST:
        yield document
        return
    for start, end in cut(document.text, LONGEST):
        place = {**document.meta, "characters": [start, end]}
        yield replace(document, text=document.text[start:end], meta=place, id="")


def archive_path(config: FeedConfig) -> Path | None:
    """Where `feed.archive` is; None: none is named. Raises `HornbookError`: it is not there."""
    if config.archive is None:
        return None
    path = Path(config.archive).expanduser()
    if not path.exists():
        raise HornbookError(
            "no such file or folder",
            where=f"feed.archive: {path}",
            hint="Look for a typing mistake in the path (the recipe feed-cpu's own comes from"
            " `hornbook quickstart`)",
        )
    return path


def open_archive(config: FeedConfig) -> ArchiveProducer | None:
    """The producer of `feed.archive`; None: there is no archive."""
    path = archive_path(config)
    if path is None:
        return None
    archive = Archive(path, config.archive_text_column, Path(config.folder) / "archive")
    return ArchiveProducer(archive, config)
