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
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hornbook.errors import HornbookError

TEMPORARY = ".tmp"
"""Suffix of files that were being written; anything that still has it is rubbish."""


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn what a disk or its owner refuses while `path` is written into a `HornbookError`."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise HornbookError(
                "the disk is full; nothing half-written was kept",
                where=path,
                hint="Free some space and run the same command again: it goes on from here",
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise HornbookError(
                "cannot write here (read-only, or not yours)",
                where=path,
                hint="Choose another run directory with --run DIR, or change its permissions",
            ) from error
        if error.errno in (errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENAMETOOLONG):
            raise HornbookError(
                f"cannot be written ({error.strerror})",
                where=path,
                hint="Choose another name: is there a file where a folder is needed, or a folder "
                "where a file is?",
            ) from error
        raise


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


def sha256_of(path: Path) -> str:
    """The hex sha256 of a file's bytes."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
