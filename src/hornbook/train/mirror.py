"""A second home for checkpoints: any fsspec URL (s3://, gs://, file://, memory:// ...).

In: a finished local checkpoint. Out: the same files under the URL, the manifest last, so that a
remote folder with a manifest is whole; and back into an empty local folder.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from hornbook.errors import HornbookError
from hornbook.files import disk_errors
from hornbook.progress import say, warn
from hornbook.train.checkpoint_files import (
    MANIFEST,
    Checkpoint,
    checkpoint_name,
    checkpoint_step,
    flush,
    publish,
    surplus,
    temporary_folder,
)


class Mirror:
    """Copies of checkpoints at `url`.

    Raises `HornbookError` at once when fsspec, or its back end for this URL, is missing.
    """

    def __init__(self, url: str):
        self.url = url
        try:
            import fsspec
        except ImportError as error:
            raise HornbookError(
                "a checkpoint mirror needs fsspec",
                where=url,
                hint='Install it with: pip install "hornbook[mirror]"',
            ) from error
        try:
            self._files, root = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise HornbookError(
                f"cannot be used as a checkpoint mirror ({error})", where=url
            ) from error
        self._root = root.rstrip("/")

    def upload(self, checkpoint: Checkpoint, keep: int) -> None:
        """Copy a finished checkpoint, then remove what is older than the last `keep`."""
        target = self._at(checkpoint.step)
        manifest = checkpoint.path / MANIFEST
        if not self._has(f"{target}/{MANIFEST}", manifest.read_bytes()):
            self._remove(checkpoint.step)
            self._copy(checkpoint.path, target)
            self._files.put_file(str(manifest), f"{target}/{MANIFEST}")
        for step in surplus(self._steps(), checkpoint.step, keep):
            self._remove(step)

    def _has(self, remote: str, content: bytes) -> bool:
        return bool(self._files.exists(remote) and self._files.cat_file(remote) == content)

    def _copy(self, folder: Path, target: str) -> None:
        """Copy every file but the manifest."""
        for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.name != MANIFEST):
            remote = f"{target}/{path.relative_to(folder).as_posix()}"
            self._files.makedirs(remote.rpartition("/")[0], exist_ok=True)
            self._files.put_file(str(path), remote)

    def fetch(self, folder: Path) -> Checkpoint | None:
        """Bring the newest whole checkpoint into `folder`; None when there is none.

        Raises `HornbookError` when the mirror cannot be read, when all that it has is damaged,
        or when the disk here is full.
        """
        try:
            with disk_errors(folder):
                return self._fetch(folder)
        except HornbookError:
            raise
        except Exception as error:  # each back end has errors of its own
            raise HornbookError(
                f"the checkpoint mirror cannot be read ({error})",
                where=self.url,
                hint="Check the address and your access, or start anew without the mirror",
            ) from error

    def _fetch(self, folder: Path) -> Checkpoint | None:
        damaged = 0
        for step in sorted(self._steps(), reverse=True):
            source = self._at(step)
            if not self._files.exists(f"{source}/{MANIFEST}"):
                continue  # its upload was cut short
            say(f"fetching the checkpoint of step {step} from {self.url}")
            temporary = temporary_folder(folder, step)
            shutil.rmtree(temporary, ignore_errors=True)
            for remote in self._files.find(source):
                local = temporary / remote.removeprefix(source).lstrip("/")
                local.parent.mkdir(parents=True, exist_ok=True)
                self._files.get_file(remote, str(local))
            problem = Checkpoint(temporary, step).problem()
            if problem is None:
                flush(temporary)
                return Checkpoint(publish(temporary), step)
            shutil.rmtree(temporary)
            warn(f"{self.url}/{checkpoint_name(step)} is damaged: {problem}")
            damaged += 1
        if damaged:
            raise HornbookError(
                "every checkpoint in the mirror is damaged",
                where=self.url,
                hint="Remove them to start anew",
            )
        return None

    def _at(self, step: int) -> str:
        return f"{self._root}/{checkpoint_name(step)}"

    def _steps(self) -> list[int]:
        if not self._files.exists(self._root):
            return []
        self._files.invalidate_cache()
        entries: list[dict[str, Any]] = self._files.ls(self._root, detail=True)
        names = [entry["name"].rstrip("/").rpartition("/")[2] for entry in entries]
        return [step for name in names if (step := checkpoint_step(name)) is not None]

    def _remove(self, step: int) -> None:
        """Remove a remote checkpoint, its manifest first: what remains is not taken for whole."""
        folder = self._at(step)
        if self._files.exists(f"{folder}/{MANIFEST}"):
            self._files.rm_file(f"{folder}/{MANIFEST}")
        if self._files.exists(folder):
            self._files.rm(folder, recursive=True)
