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
from hornbook.gather.download import DownloadError, shown
from hornbook.gather.remote_files import (
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
        """The documents of each file. A file that its server will not give is said and left out.

        Raises:
            StopGathering: a server does not work now.
            HornbookError: bytes of another hash, an unreadable file, or no file at all.
        """
        client = gathering.client(Politeness(obey_robots=True))
        client.check_named(*(file.url for file in self._files))
        begin, within = cursor.get("file", 0), cursor.get("documents", 0)
        missing = cursor.get("missing", 0)
        files = fetch_files(self._files, client, gathering.work, first=begin, note=gathering.note)
        with contextlib.closing(files):
            for number, found in files:
                file = self._files[number]
                if isinstance(found, DownloadError):
                    missing += 1
                    self._leave_out(file, found, missing, gathering)
                else:
                    done, column = within if number == begin else 0, self._config.text_column
                    for document, count, bytes in read_file(found, column, done, gathering):
                        place = {"file": number, "documents": count, "missing": missing}
                        yield Gathered(_own(document, file.url), place, bytes)
                place = {"file": number + 1, "documents": 0, "missing": missing}
                yield Gathered(None, place)

    def _leave_out(
        self, file: RemoteFile, error: DownloadError, missing: int, gathering: Gathering
    ) -> None:
        where = shown(file.url)
        if file.sha256 and "sha256" in str(error):
            raise HornbookError(
                str(error), where=where, hint="Is the hash right? If so, the file has changed"
            )
        if is_worth_another_run(error):
            raise StopGathering(
                str(error), where=where, hint="Run the same command again later: it goes on"
            )
        if missing == len(self._files):
            raise HornbookError(str(error), where=where, hint="Look for a mistake in the address")
        gathering.note(f"left out: {error}")
        gathering.count("files left out")
        gathering.quarantine(where, str(error))


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
