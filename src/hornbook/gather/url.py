"""The source `url`: plain files by address, each with its sha256 where that is known.

In: addresses. Out: the documents of the files behind them. A file is kept in OUT/work until all is
gathered, so that a gathering which was killed reads the same bytes again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from hornbook.documents import Document
from hornbook.errors import HornbookError
from hornbook.files import read_list
from hornbook.gather.client import Politeness
from hornbook.gather.config import UrlConfig
from hornbook.gather.download import shown
from hornbook.gather.remote_files import (
    Refused,
    RemoteFile,
    fetch_files,
    is_worth_another_run,
    read_file,
)
from hornbook.gather.source import Cursor, Gathered, Gathering, Size, StopGathering

_LINE = re.compile(r"(?P<url>\S+)(?:\s+sha256=(?P<sha256>[0-9a-fA-F]{64}))?")


class UrlSource:
    """Files by address, in the order given."""

    name = "url"
    replayable = True

    def __init__(self, config: UrlConfig):
        self._config = config
        self._files = [_file(line) for line in _lines(config)]
        if not self._files:
            raise HornbookError("no address is named", hint="hornbook gather url URL ... --out DIR")

    def fingerprint(self) -> dict[str, Any]:
        """The addresses and hashes."""
        urls = [[shown(file.url), file.sha256] for file in self._files]
        return {"urls": urls, "text_column": self._config.text_column}

    def size(self, gathering: Gathering) -> Size:
        """Not known before the files are here."""
        return Size()

    def documents(self, cursor: Cursor, gathering: Gathering) -> Iterator[Gathered]:
        """The documents of each file. A file that its server will not give is said and left out;
        one whose server does not work now comes after the others, in another run if need be.

        Raises:
            StopGathering: servers do not work now; all other files are gathered.
            HornbookError: bytes of another hash, an unreadable file, or no file at all.
        """
        client = gathering.client(Politeness(obey_robots=True))
        client.check_named(*(file.url for file in self._files))
        place: Cursor = {"file": 0, "documents": 0, "missing": 0, "later": []} | cursor
        done, failing = place["documents"], list[str]()
        numbers = [*range(place["file"], len(self._files)), *place["later"]]
        files = fetch_files(self._files, numbers, client, gathering.work, note=gathering.note)
        with contextlib.closing(files):
            for number, found in files:
                later = [each for each in place["later"] if each != number]
                if isinstance(found, Path):
                    yield from self._read(number, found, done, place, gathering)
                elif self._is_for_later(number, found):
                    gathering.note(f"later: {self._why(number, found)}")
                    later.append(number)
                    failing.append(self._why(number, found))
                else:
                    place["missing"] += 1
                    self._leave_out(number, found, place["missing"], gathering)
                done, follows = 0, max(place["file"], number + 1)
                place |= {"file": follows, "documents": 0, "later": later}
                yield Gathered(None, dict(place))
        if failing:
            raise _stopped(failing, every=len(failing) == len(self._files))

    def _read(
        self, number: int, path: Path, done: int, place: Cursor, gathering: Gathering
    ) -> Iterator[Gathered]:
        column, url = self._config.text_column, self._files[number].url
        for document, count, bytes in read_file(path, column, done, gathering):
            yield Gathered(_own(document, url), {**place, "documents": count}, bytes)

    def _is_for_later(self, number: int, error: Refused) -> bool:
        file = self._files[number]
        if file.sha256 and "sha256" in str(error):
            raise HornbookError(
                str(error),
                where=shown(file.url),
                hint="Is the hash right? If so, the file has changed",
            )
        return is_worth_another_run(error) and not self._config.leave_out_failing

    def _leave_out(self, number: int, error: Refused, missing: int, gathering: Gathering) -> None:
        where, why = shown(self._files[number].url), self._why(number, error)
        if missing == len(self._files):
            raise HornbookError(why, hint="Look for a mistake in the address")
        gathering.note(f"left out: {why}")
        gathering.count("files left out")
        gathering.quarantine(where, why)

    def _why(self, number: int, error: Refused) -> str:
        if isinstance(error, StopGathering):  # of the server, not of this file
            return f"{error.what} ({shown(self._files[number].url)})"
        return str(error)


def _stopped(failing: list[str], *, every: bool) -> StopGathering:
    """What to say of files whose servers do not work now."""
    more = f"; {len(failing) - 1} more could not be had either" if len(failing) > 1 else ""
    rest = "" if every else "All others are gathered. "
    return StopGathering(
        failing[0] + more,
        hint=f"{rest}Run the same command again later, or with --leave-out-failing true to end"
        " without what fails",
    )


def _own(document: Document, url: str) -> Document:
    """The document with its host as source and its address, where it has no better one."""
    host = urlsplit(url).hostname or ""
    return dataclasses.replace(document, source=host, url=document.url or shown(url))


def _lines(config: UrlConfig) -> list[str]:
    lines = [line.strip() for line in config.urls]
    if config.list_file is not None:
        lines += read_list(Path(config.list_file).expanduser())
    return lines


def _file(line: str) -> RemoteFile:
    found = _LINE.fullmatch(line)
    try:
        parts = urlsplit(found["url"]) if found else None
        right = parts is not None and parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        right = False
    if not right or found is None or parts is None:
        raise HornbookError(
            "is not an http(s) address, or its hash is not sha256=HEX with 64 digits",
            where=line.rpartition("@")[2],  # without a password
            hint="Files of this machine: hornbook gather files",
        )
    name = unquote(parts.path.rpartition("/")[2]) or parts.hostname or ""
    return RemoteFile(found["url"], name, sha256=(found["sha256"] or "").lower() or None)
