"""Which files an input names: the file itself, or those in a folder and its sub-folders. The log of
a feed counts as one file.

In: paths as a person gave them. Out: files in sorted order, each with the name of its input.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hornbook.errors import HornbookError
from hornbook.files import TEMPORARY
from hornbook.gather.feed_log import SEGMENTS, is_feed, read_identity


@dataclass(frozen=True)
class InputFile:
    """A file to read.

    Args:
        path: where it is.
        inside: its path inside the input that was named; the file's name when it was named itself.
        bytes: its size.
        feed: folder of the feed whose log this stands for; `path` is then its newest segment.
    """

    path: Path
    inside: str
    bytes: int
    feed: Path | None = None

    @property
    def log(self) -> str:
        """The id of that log; "" of a file: another log in its place is another input."""
        return "" if self.feed is None else read_identity(self.feed)

    @property
    def state(self) -> str:
        """Size, time and log: changes whenever the file was written, and is cheap."""
        log = f", log {self.log}" if self.feed else ""
        return f"{self.bytes} bytes, {self.path.stat().st_mtime_ns}{log}"


@dataclass(frozen=True)
class Input:
    """A file or folder as it was named, and its files."""

    path: Path
    is_folder: bool
    files: tuple[InputFile, ...]

    @property
    def name(self) -> str:
        """The name that documents have as their source: the last part, never a whole path."""
        return self.path.resolve().name

    def would_read(self, folder: Path) -> bool:
        """Whether files that are put into `folder` are among those of this input."""
        top, folder = self.path.resolve(), folder.resolve()
        below = (each for each in (folder, *folder.parents) if top in each.parents)
        return folder.is_relative_to(top) and not any(map(_is_passed_over, below))


JOURNAL = "journal.sqlite"
"""Name of the journal of a gathering; in a folder that has one, only the shards are documents."""


def find_inputs(inputs: Sequence[str | Path], *, option: str = "--prepare.") -> list[Input]:
    """List the files of each input; `option` begins the name of the setting in errors.

    Inside a folder, hidden files (`.git`, `.DS_Store` ...) and run directories are passed over: a
    run must not read what an earlier one wrote.

    Raises:
        HornbookError: nothing was named, or a path is missing or unreadable.
    """
    if not inputs:
        hint = "Give files or folders"
        if option == "--prepare.":
            hint += (
                " (`hornbook recipes NAME` says which a recipe is for); `shakespeare`, all his "
                "plays, is built in"
            )
        raise HornbookError("nothing was named to read", where=f"{option}inputs", hint=hint)
    return [_find(Path(name).expanduser()) for name in inputs]


def _find(path: Path) -> Input:
    if path.is_dir():
        return Input(path, True, tuple(_files_below(path)))
    if not path.is_file():
        what = "is neither a file nor a folder" if path.exists() else "no such file or folder"
        raise HornbookError(what, where=path, hint="Look for a typing mistake in the path")
    return Input(path, False, (InputFile(path, path.name, path.stat().st_size),))


def _files_below(folder: Path) -> list[InputFile]:
    found = []
    for parent, folders, names in os.walk(folder, onerror=_unreadable):
        folders[:] = [name for name in folders if not _is_passed_over(Path(parent, name))]
        if is_feed(Path(parent)):
            found += _log_of(Path(parent), folder)
            folders.clear()
            continue
        if JOURNAL in names:  # a folder that was gathered: its shards, not what was put aside
            names = [name for name in names if name.startswith("documents-")]
        for name in names:
            path = Path(parent, name)
            if path.is_file() and not _is_hidden(name):
                inside = path.relative_to(folder).as_posix()
                found.append(InputFile(path, inside, path.stat().st_size))
    return sorted(found, key=lambda file: file.inside)


def _log_of(feed: Path, folder: Path) -> list[InputFile]:
    """The log of a feed, all its segments as one."""
    segments = sorted((feed / SEGMENTS).glob("segment-*.log"))
    if not segments:
        return []
    inside = feed.relative_to(folder).as_posix()
    return [InputFile(segments[-1], inside, sum(path.stat().st_size for path in segments), feed)]


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name.endswith(TEMPORARY)


def _is_passed_over(folder: Path) -> bool:
    is_run = (folder / "recipe.yaml").exists() and (folder / ".lock").exists()
    return is_run or _is_hidden(folder.name)


def _unreadable(error: OSError) -> None:
    raise HornbookError(
        f"cannot be read ({error.strerror})",
        where=error.filename,
        hint="Change its permissions, or name the folders beside it one by one",
    ) from error
