"""What a checkpoint is on disk: one folder, whole or absent, without any pickle.

In: tensors by name and JSON values. Out: a folder `step-00000500/`, and back:

    model/*.safetensors       weights and persistent buffers (float32 stays float32, bit for bit)
    optimizer/*.safetensors   optimizer state, `<parameter name>/<state name>`
    model.json                the architecture (`ModelConfig`)
    state.json                step, cursors and whatever else the trainer counts
    tokenizer.json ...        attachments
    manifest.json             size and sha256 of every file above; written last

Each of several processes writes the parts of tensors that it holds into files of its own, which say
where the parts belong. `torch.distributed.checkpoint` and its Hugging Face storage put them
together for any number of processes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint import state_dict_loader
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from hornbook.errors import HornbookError
from hornbook.files import TEMPORARY, read_json, sha256_of, sync_folder, write_json
from hornbook.model.config import ModelConfig
from hornbook.progress import warn
from hornbook.train.tensor_files import Entry, Part, write_file

MODEL, OPTIMIZER = "model", "optimizer"
MANIFEST, MODEL_CONFIG, STATE = "manifest.json", "model.json", "state.json"

FILE_BYTES = 2**30
"""Tensors are gathered into files of about this size."""

_NAME = re.compile(r"step-(\d{8,})")


@dataclass(frozen=True)
class Checkpoint:
    """A finished checkpoint folder (`step` counts finished optimizer steps)."""

    path: Path
    step: int

    def problem(self, *, optimizer: bool = True) -> str | None:
        """What is wrong with the files, by size and sha256; None when all is as it was written.

        With `optimizer=False` the optimizer's files, two thirds of the bytes, are not hashed.
        """
        try:
            entries = read_json(self.path / MANIFEST)["files"].items()
            files = [(name, entry["bytes"], entry["sha256"]) for name, entry in entries]
        except (HornbookError, AttributeError, KeyError, TypeError):
            return f"{MANIFEST} is missing or damaged"
        for name, size, sha256 in files:
            path = self.path / name
            if not path.is_file():
                return f"{name} is missing"
            if path.stat().st_size != size:
                return f"{name} has {path.stat().st_size} bytes instead of {size}"
            hashed = optimizer or not name.startswith(OPTIMIZER + "/")
            if hashed and sha256_of(path) != sha256:
                return f"{name} is not what was written (its sha256 differs)"
        return None

    def config(self) -> ModelConfig:
        """The architecture. Raises `HornbookError` when another version wrote other fields."""
        values = read_json(self.path / MODEL_CONFIG)
        try:
            return ModelConfig(**values)
        except TypeError as error:
            raise HornbookError(
                f"describes a model that this version does not know ({error})",
                where=self.path / MODEL_CONFIG,
                hint="Use the version of hornbook that wrote it",
            ) from error

    def state(self) -> dict[str, Any]:
        """The trainer's scalars and cursors."""
        state: dict[str, Any] = read_json(self.path / STATE)
        return state


def checkpoint_name(step: int) -> str:
    """The folder's name, which sorts by step."""
    return f"step-{step:08d}"


def checkpoint_step(name: str) -> int | None:
    """The step in a finished checkpoint's name; None for any other name."""
    match = _NAME.fullmatch(name)
    return int(match[1]) if match else None


def list_checkpoints(folder: Path) -> list[Checkpoint]:
    """The finished checkpoints of a folder by step, unverified; half-written ones are left out."""
    if not folder.is_dir():
        return []
    steps = ((checkpoint_step(path.name), path) for path in folder.iterdir() if path.is_dir())
    found = [Checkpoint(path, step) for step, path in steps if step is not None]
    return sorted(found, key=lambda checkpoint: checkpoint.step)


def newest_good(folder: Path, *, optimizer: bool = True) -> Checkpoint | None:
    """The newest checkpoint whose files are as they were written; None when there are none at all.

    A damaged one is named in a warning and the one before is tried. Raises `HornbookError` when
    there are checkpoints and every one is damaged, since to begin anew silently would be wrong.
    """
    checkpoints = list_checkpoints(folder)
    for checkpoint in reversed(checkpoints):
        problem = checkpoint.problem(optimizer=optimizer)
        if problem is None:
            return checkpoint
        warn(f"{checkpoint.path} is damaged: {problem}. Trying the checkpoint before it")
    if checkpoints:
        raise HornbookError(
            "every checkpoint here is damaged",
            where=folder,
            hint="Remove the folder to start anew",
        )
    return None


def surplus(steps: list[int], newest: int, keep: int) -> list[int]:
    """The steps to remove once `newest` is durable.

    All but the last `keep` up to `newest`; and any later one, which is left from before training
    fell back to an earlier checkpoint and would otherwise be taken up again.
    """
    up_to = sorted(step for step in steps if step <= newest)
    return up_to[:-keep] + [step for step in steps if step > newest]


# ---------------------------------------------------------------------------- writing and reading


def write_tensors(
    tensors: Mapping[str, Tensor | Part], folder: Path, rank: int = 0
) -> dict[str, Entry]:
    """Write CPU tensors as safetensors files of about `FILE_BYTES` each, flushed to the disk.

    Args:
        tensors: whole ones, or this process's parts of them.
        folder: where the files go; other processes may write theirs there at the same time.
        rank: number of this process, which is in the files' names.

    Returns:
        Size and hash of each file, by its path below the parent of `folder`.
    """
    groups: list[dict[str, Part]] = []
    filled = 0
    for name, tensor in tensors.items():
        part = tensor if isinstance(tensor, Part) else Part(tensor.detach(), (0,) * tensor.dim())
        if not groups or filled + part.tensor.nbytes > FILE_BYTES:
            groups.append({})
            filled = 0
        groups[-1][name] = part
        filled += part.tensor.nbytes
    folder.mkdir(parents=True, exist_ok=True)
    written = {}
    for number, group in enumerate(groups, 1):
        path = folder / f"part-{rank:05d}-{number:05d}.safetensors"
        written[f"{folder.name}/{path.name}"] = write_file(path, group)
    return written


def read_tensors(folder: Path, targets: Mapping[str, Tensor]) -> None:
    """Copy the tensors named in `targets` into them, whatever their device."""
    if not targets:
        return
    reader = HuggingFaceStorageReader(str(folder))
    detached = {name: tensor.detach() for name, tensor in targets.items()}
    with _one_process():
        state_dict_loader.load(detached, storage_reader=reader, no_dist=True)


def stored_tensors(folder: Path) -> dict[str, tuple[torch.Size, torch.dtype]]:
    """Shape and dtype of every tensor under `folder`, read from the files' headers."""
    metadata = HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
    return {
        name: (entry.size, entry.properties.dtype)
        for name, entry in metadata.items()
        if isinstance(entry, TensorStorageMetadata)
    }


@contextlib.contextmanager
def _one_process() -> Iterator[None]:
    """torch.distributed.checkpoint without a process group: no warning, and plain exceptions."""
    # A standing filter instead of `catch_warnings`, which is not safe in a background thread.
    warnings.filterwarnings("ignore", message="torch.distributed is disabled", category=UserWarning)
    try:
        yield
    except CheckpointException as failure:  # a BaseException around the real one
        cause, _ = next(iter(failure.failures.values()))
        raise cause from None


def write_state(folder: Path, config: ModelConfig, state: dict[str, Any]) -> None:
    """Write the architecture and the trainer's scalars."""
    write_json(folder / MODEL_CONFIG, dataclasses.asdict(config))
    write_json(folder / STATE, state)


def seal(folder: Path, step: int, written: Mapping[str, Entry]) -> None:
    """Flush every file and folder to the disk, and write the manifest over them.

    `written` has the hashes that are known already, by path below `folder`.
    """
    files: dict[str, dict[str, Any]] = {}
    for path in flush(folder):
        name = path.relative_to(folder).as_posix()
        entry = written.get(name) or Entry(path.stat().st_size, sha256_of(path))
        files[name] = dataclasses.asdict(entry)
    write_json(folder / MANIFEST, {"format": 1, "step": step, "files": files})


def flush(folder: Path) -> list[Path]:
    """Make everything in a folder durable; returns its files."""
    paths = sorted(folder.rglob("*"))
    found = [path for path in paths if path.is_file()]
    for path in found:
        with open(path, "rb") as handle:
            os.fsync(handle.fileno())
    for inner in [folder, *(path for path in paths if path.is_dir())]:
        sync_folder(inner)
    return found


def temporary_folder(folder: Path, step: int) -> Path:
    """Where the checkpoint of `step` is written, or taken to pieces."""
    return folder / (checkpoint_name(step) + TEMPORARY)


def publish(temporary: Path) -> Path:
    """Give a sealed folder its final name, durably."""
    final = temporary.with_name(temporary.name.removesuffix(TEMPORARY))
    temporary.rename(final)
    sync_folder(final.parent)
    return final
