"""What is inside zip and tar archives, one bounded stream after the other.

In: the archive. Out: its files, with names that are only ever shown: nothing is written under
them, so no `../`, absolute path or link of an archive can reach anything.
"""

from __future__ import annotations

import io
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO, Self

from hornbook.errors import HornbookError
from hornbook.files import disk_errors
from hornbook.gather.encodings import BLOCK
from hornbook.gather.streams import DAMAGE, Expansion, bounded

LARGEST_SPOOLED = 2**30
"""Zip and Parquet are read from their end, so inside another archive they are copied to a
temporary file first: at most 1 GB."""


_LONGEST_NAME = 2**20
_NAMES = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)
"""Kinds of tar headers whose content is a name, or a list of attributes."""


@dataclass(frozen=True)
class Member:
    """A file in an archive.

    Args:
        name: its path, without a root and `..`.
        stream: its content; ends when the next member is asked for.
    """

    name: str
    stream: io.BufferedReader[Any]


def open_zip(file: IO[bytes], where: str) -> zipfile.ZipFile:
    """Open a zip archive for reading. Raises `HornbookError` when it is none, or cut off."""
    try:
        return zipfile.ZipFile(file)
    except (*DAMAGE, ValueError, NotImplementedError, RecursionError) as error:
        raise _unreadable("zip", error, where) from error


def content(archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    """What is in a zip archive by name; hidden files, links and folders are passed over."""
    return sorted(filter(_is_content, archive.infolist()), key=lambda each: each.filename)


def zip_members(archive: zipfile.ZipFile, where: str, expansion: Expansion) -> Iterator[Member]:
    """The `content` of a zip archive, opened one after the other."""
    members = content(archive)
    expansion.announce(sum(member.file_size for member in members))
    for member in members:
        name = _shown(member.filename)
        with open_member(archive, member, f"{where} > {name}", expansion) as stream:
            yield Member(name, stream)


def open_member(
    archive: zipfile.ZipFile, member: zipfile.ZipInfo | str, where: str, expansion: Expansion
) -> io.BufferedReader[Any]:
    """The content of one file of a zip archive."""
    try:
        opened = archive.open(member)
    except (RuntimeError, NotImplementedError, ValueError, KeyError, *DAMAGE) as error:
        raise HornbookError(
            f"cannot be unpacked ({error})",
            where=where,
            hint="Unpack the archive with the program that made it, and name the folder",
        ) from error
    return bounded(opened, expansion, where)


def tar_members(
    stream: BinaryIO | io.BufferedReader[Any],
    where: str,
    expansion: Expansion,
    warn: Callable[[str], None],
) -> Iterator[Member]:
    """The plain files of a tar archive in its own order; links and devices are passed over."""
    try:
        with tarfile.open(fileobj=stream, mode="r|", tarinfo=_StrictHeader) as archive:
            while (header := archive.next()) is not None:
                archive.members = []  # type: ignore[attr-defined]  # or all stay in memory
                if not header.isreg() or header.issparse() or _is_hidden(header.name):
                    continue
                content = archive.extractfile(header)
                assert content is not None
                name = _shown(header.name)
                with bounded(content, expansion, f"{where} > {name}") as inner:
                    yield Member(name, inner)
            if archive.offset == archive.fileobj.pos:  # type: ignore[attr-defined]
                warn(f"{where}: ends without the end mark of a tar archive; is it cut off?")
    except (tarfile.TarError, *DAMAGE, ValueError, OverflowError) as error:
        raise _unreadable("tar", error, where) from error


class _StrictHeader(tarfile.TarInfo):
    """Rubbish between two files is an error; `tarfile` takes it for the archive's end. So is a
    name of more than 1 MB, which it would read into memory whatever its size."""

    def _proc_member(self, tar: tarfile.TarFile) -> Any:
        if self.type in _NAMES and self.size > _LONGEST_NAME:
            raise tarfile.ReadError(f"a name of {self.size:,} bytes")
        return super()._proc_member(tar)  # type: ignore[misc]

    @classmethod
    def fromtarfile(cls, tar: tarfile.TarFile) -> Self:
        try:
            return super().fromtarfile(tar)
        except tarfile.HeaderError as error:
            if isinstance(error, (tarfile.EOFHeaderError, tarfile.EmptyHeaderError)):  # type: ignore[attr-defined]
                raise
            raise tarfile.ReadError(str(error)) from error


def spooled(stream: io.BufferedReader[Any], where: str) -> IO[bytes]:
    """Copy a stream to a temporary file without a name, for readers that need to seek."""
    with disk_errors(Path(tempfile.gettempdir())):
        file = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it
        size = 0
        while block := stream.read(BLOCK):
            size += len(block)
            if size > LARGEST_SPOOLED:
                file.close()
                raise HornbookError(
                    "is a zip, EPUB or Parquet file of more than 1 GB inside an archive",
                    where=where,
                    hint="Unpack the archive and name the folder: it is read in a stream then",
                )
            file.write(block)
        file.seek(0)
    return file


def _unreadable(kind: str, error: Exception, where: str) -> HornbookError:
    return HornbookError(
        f"is not a readable {kind} archive ({error})",
        where=where,
        hint="Download it or make it again",
    )


def _shown(name: str) -> str:
    name = name.encode("utf-8", "replace").decode()
    parts = name.replace("\\", "/").split("/")
    return "/".join(part for part in parts if part not in ("", ".", ".."))


def _is_content(member: zipfile.ZipInfo) -> bool:
    """False for folders, links, hidden files and what macOS adds."""
    is_link = (member.external_attr >> 28) == 0o12
    if not member.filename:  # damaged
        return False
    return not (member.is_dir() or is_link or _is_hidden(member.filename))


def _is_hidden(name: str) -> bool:
    parts = _shown(name).split("/")
    return "__MACOSX" in parts or any(part.startswith(".") for part in parts)
