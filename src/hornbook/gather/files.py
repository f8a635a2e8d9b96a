"""The source `files`: text files of any kind, and folders and archives of them.

In: paths. Out: their documents. Each step's cursor says which file and which document in it, so
that a gathering that was killed does not begin again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from typing import Any

from hornbook.errors import HornbookError
from hornbook.gather.config import FilesConfig
from hornbook.gather.inputs import find_inputs
from hornbook.gather.readers import Reading, read_with_cursor
from hornbook.gather.source import Cursor, Gathered, Gathering, Size


class FilesSource:
    """Files, read in sorted order."""

    name = "files"
    replayable = True

    def __init__(self, config: FilesConfig):
        self._config = config
        self._inputs = find_inputs(config.inputs, option="--")

    def fingerprint(self) -> dict[str, Any]:
        """The settings, and which files and logs of feeds there are and how large."""
        found = [file for each in self._inputs for file in each.files]
        files = [[file.inside, file.bytes, *([file.log] if file.log else [])] for file in found]
        digest = hashlib.blake2b(json.dumps(files).encode(), digest_size=8).hexdigest()
        return {**dataclasses.asdict(self._config), "files": [len(files), digest]}

    def size(self, gathering: Gathering) -> Size:
        """Bytes of the files."""
        return Size(bytes=sum(file.bytes for each in self._inputs for file in each.files))

    def documents(self, cursor: Cursor, gathering: Gathering) -> Iterator[Gathered]:
        """All documents after the cursor.

        Raises:
            HornbookError: something cannot be read, or what is gathered goes into a folder that
                is read: going on would then find other files.
        """
        for each in self._inputs:
            if each.would_read(gathering.work):
                raise HornbookError(
                    "--out is inside this folder, which is read",
                    where=each.path,
                    hint="Choose a folder beside it",
                )
        config = self._config
        read = 0

        def on_bytes(count: int) -> None:
            nonlocal read
            read += count

        reading = Reading(
            text_column=config.text_column,
            encoding=config.encoding,
            refuse_undecodable=config.undecodable == "refuse",
            main_text=config.html == "main",
            warn=gathering.note,
            count=gathering.count,
            on_bytes=on_bytes,
        )
        for document, after in read_with_cursor(config.inputs, reading, cursor):
            yield Gathered(document, after, read)
            read = 0
