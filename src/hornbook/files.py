"""Files that are whole or absent: atomic writes, hashes, JSON.

Everything goes to a temporary name in the same folder, is flushed to the disk, and is renamed, so
a process killed at any instruction leaves either the old file or the new one.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from hornbook.errors import HornbookError

TEMPORARY = ".tmp"
"""Suffix of files that were being written; anything that still has it is rubbish."""


@contextlib.contextmanager
def disk_errors(
    path: Path, instead: str = "another run directory with --run DIR"
) -> Iterator[None]:
    """Turn what a disk or its owner refuses while `path` is written into a `HornbookError`.

    Args:
        path: what is written.
        instead: what to choose where it cannot be, and by which option.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise disk_full(path) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise HornbookError(
                "cannot write here (read-only, or not yours)",
                where=path,
                hint=f"Choose {instead}, or change its permissions",
            ) from error
        if error.errno == errno.EFBIG:
            raise HornbookError(
                "is larger than the file system, or `ulimit -f`, allows",
                where=path,
                hint=f"Raise the limit, or choose {instead}",
            ) from error
        if error.errno in (errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENAMETOOLONG):
            raise HornbookError(
                f"cannot be written ({error.strerror})",
                where=path,
                hint="Choose another name: is there a file where a folder is needed, or a folder "
                "where a file is?",
            ) from error
        raise


def make_folder(folder: Path, instead: str = "another run directory with --run DIR") -> None:
    """Make a folder and those that it is in; `instead` as in `disk_errors`."""
    with disk_errors(folder, instead):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:  # /proc has no room for folders, another file system for the name
            if error.errno not in (errno.ENOENT, errno.EINVAL):
                raise
            raise HornbookError(
                f"cannot be made ({error.strerror})", where=folder, hint=f"Choose {instead}"
            ) from error


def disk_full(path: Path) -> HornbookError:
    """The error for a disk that filled up while `path` was written."""
    return HornbookError(
        "the disk is full; nothing half-written was kept",
        where=path,
        hint="Free some space and run the same command again: it goes on from here",
    )


@contextlib.contextmanager
def lock_folder(folder: Path, kind: str = "folder", option: str = "--out") -> Iterator[None]:
    """Keep other processes out of a folder, which is made, while a command writes to it."""
    import filelock

    instead = f"another {kind} with {option} DIR"
    make_folder(folder, instead)
    with disk_errors(folder, instead):
        lock = filelock.FileLock(folder / ".lock")
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            raise HornbookError(
                f"another hornbook process is working in this {kind}",
                where=folder,
                hint=f"Wait for it, or choose another one with {option} DIR",
            ) from None
    try:
        yield
    finally:
        lock.release()


def sync_folder(folder: Path) -> None:
    """Make renames in `folder` durable (a no-op where folders cannot be opened, as on Windows)."""
    with contextlib.suppress(PermissionError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to; on success it is fsynced and renamed to `path`.

    On any error the temporary file is removed and `path` is left as it was.
    """
    temporary = path.with_name(path.name + TEMPORARY)
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            with open(temporary, "rb") as handle:
                os.fsync(handle.fileno())
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                temporary.unlink()
            raise
        sync_folder(path.parent)


@contextlib.contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder to fill; on success it becomes `folder`, which must not be there.

    On an error it is removed. What a killed process left of it is removed by the next one.
    """
    temporary = folder.with_name(folder.name + TEMPORARY)
    with disk_errors(folder):
        if folder.is_dir() and any(folder.iterdir()):
            raise HornbookError(
                "this folder has files in it", where=folder, hint="Name another one with --out"
            )
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        try:
            yield temporary
            if folder.is_dir():
                folder.rmdir()
            os.replace(temporary, folder)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        sync_folder(folder.parent)


def write_text(path: Path, text: str) -> None:
    """Write `text` (UTF-8) to `path` atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write `value` to `path` as indented JSON, atomically."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Read JSON; a missing or damaged file is named in the error."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise HornbookError("no such file", where=path) from None
    except (ValueError, UnicodeDecodeError) as error:
        raise HornbookError(f"is not readable as JSON ({error})", where=path) from error


def json_objects(lines: Iterable[bytes]) -> Iterator[dict[str, Any] | None]:
    """The object of each line of a .jsonl file; None for one that cannot be read, unless it is the
    last and without its end: another process may be writing it at this moment."""
    for line in lines:
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):  # the latter: a hundred thousand brackets
            value = None
        if isinstance(value, dict):
            yield value
        elif line.strip() and line.endswith(b"\n"):
            yield None


def read_list(path: Path) -> list[str]:
    """The lines of a list that a person wrote; blank lines and those with `#` before them do not
    count."""
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise HornbookError(f"cannot be read ({error})", where=path) from error
    return [line for line in lines if line and not line.startswith("#")]


def sha256_of(path: Path) -> str:
    """The hex sha256 of a file's bytes."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
