"""Files of a server, downloaded a few ahead of whoever reads them, in order.

In: addresses. Out: local files, one after the other; each is whole, and of the size and hash that
are known. A download that was killed goes on where it was.
"""

from __future__ import annotations

import itertools
import re
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from hornbook.documents import Document
from hornbook.gather.client import FetchError, PoliteClient
from hornbook.gather.download import PARTIAL, DownloadError, download
from hornbook.gather.readers import Reading, read_with_cursor
from hornbook.gather.source import Gathering, StopGathering

TOLD_SECONDS = 10.0
"""How often someone who waits for a download is told how far it is."""

Refused = DownloadError | StopGathering
"""Why a file could not be had; the second: its server works for no file now."""

_NO_LIMIT = 2**50


@dataclass(frozen=True)
class RemoteFile:
    """A file of a server.

    Args:
        url: where it is.
        path: its name, or its path in a repository.
        bytes: its size, where that is known.
        sha256: its hash, where that is known.
    """

    url: str
    path: str
    bytes: int | None = None
    sha256: str | None = None


def fetch_files(
    files: Sequence[RemoteFile],
    numbers: Iterable[int],
    client: PoliteClient,
    folder: Path,
    *,
    ahead: int = 2,
    headers: Mapping[str, str] | None = None,
    note: Callable[[str], None],
) -> Generator[tuple[int, Path | Refused], None, None]:
    """Yield the files of these numbers, in order: the number, and where the file is or why it could
    not be had. `ahead` of them are downloaded at a time.

    Files go to FOLDER/NUMBER/NAME. Removing them is up to the caller. Closing this ends the
    downloads and closes the client; what came of a file stays for the next run.
    """

    def fetch(number: int) -> Path | Refused:
        file, path = files[number], _path(folder, number, files[number])
        try:
            if not path.exists():
                download(
                    client,
                    file.url,
                    path,
                    label=None,  # several at a time: `note` tells how far they are
                    largest=_NO_LIMIT if file.bytes is None else file.bytes,
                    sha256=file.sha256,
                    headers=headers,
                )
            if file.bytes not in (None, path.stat().st_size):
                path.unlink()
                raise DownloadError(f"has not the {file.bytes:,} bytes that were announced")
        except (DownloadError, StopGathering) as error:
            return error
        return path

    pool = ThreadPoolExecutor(ahead, "download")
    upcoming = iter(numbers)
    waiting: deque[tuple[int, Future[Path | Refused]]] = deque()
    try:
        while True:
            for number in itertools.islice(upcoming, ahead + 1 - len(waiting)):
                waiting.append((number, pool.submit(fetch, number)))
            if not waiting:
                return
            number, future = waiting.popleft()
            while not wait([future], TOLD_SECONDS).done:
                note(_progress(files[number], _path(folder, number, files[number])))
            yield number, future.result()
    finally:
        client.close()
        pool.shutdown(wait=True, cancel_futures=True)


def _path(folder: Path, number: int, file: RemoteFile) -> Path:
    """Where a file goes: under a name made of the one that the server chose; its ending stays.

    60 characters have at most 240 bytes, and names may have 255.
    """
    name = re.sub(r"[^\w.-]", "_", PurePosixPath(file.path).name)[-60:].lstrip(".")
    return folder / f"{number:05d}" / (name or "file")


def _progress(file: RemoteFile, path: Path) -> str:
    part = path.with_name(path.name + PARTIAL)
    came = part.stat().st_size if part.exists() else 0
    of = f" of {file.bytes / 1e6:,.0f}" if file.bytes else ""
    return f"downloading {file.path}: {came / 1e6:,.0f}{of} MB"


def read_file(
    path: Path, text_column: str | None, done: int, gathering: Gathering
) -> Iterator[tuple[Document, int, int]]:
    """The documents of a downloaded file behind the first `done`, each with its number in the file
    and the bytes that were read for it."""
    read = 0

    def on_bytes(count: int) -> None:
        nonlocal read
        read += count

    reading = Reading(text_column, warn=gathering.note, count=gathering.count, on_bytes=on_bytes)
    for document, place in read_with_cursor([path], reading, {"file": 0, "documents": done}):
        yield document, place["documents"], read
        read = 0


def is_worth_another_run(error: Refused) -> bool:
    """Whether the same download may work later."""
    return error.retryable if isinstance(error, FetchError) else True
