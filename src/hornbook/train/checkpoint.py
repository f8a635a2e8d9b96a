"""Checkpoints of a run: saved in the background, whole at any instant, found again after a crash.

In: a model, its optimizer and the trainer's counters. Out: `checkpoints/step-00000500/` (layout in
`checkpoint_files.py`), the last few of them, and all of it back, bit for bit.

The order that makes it safe to be killed anywhere: copy to CPU memory; write everything into
`step-00000500.tmp`; flush; manifest; rename; only then remove older ones, each by a rename to
`.tmp` first. So a folder with its final name is always whole, and one is always there.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from hornbook.errors import HornbookError
from hornbook.files import TEMPORARY, disk_errors, read_json, sync_folder, write_json
from hornbook.model.config import ModelConfig
from hornbook.progress import warn
from hornbook.train import checkpoint_files as files
from hornbook.train.checkpoint_files import Checkpoint
from hornbook.train.mirror import Mirror

NOT_ARCHITECTURE = frozenset(
    {
        "embedding_dropout",
        "attention_dropout",
        "residual_dropout",
        "initializer_range",
        "exported_rows",
    }
)
"""Fields of `ModelConfig` that neither name nor shape any weight, nor change what it computes."""

WAIT_WORTH_SAYING = 5.0
"""Seconds that training may wait for the previous checkpoint before it is said aloud."""


@dataclass
class _Snapshot:
    """Everything of one step, on the CPU and no longer shared with training."""

    step: int
    config: ModelConfig
    model: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    optimizer_scalars: dict[str, Any]
    state: dict[str, Any]
    random_state: dict[str, Tensor]


class CheckpointStore:
    """The checkpoints of one run.

    Args:
        folder: where they lie, for example `runs/NAME/pretrain/checkpoints`.
        keep: how many of the newest stay.
        mirror: fsspec URL to which each finished checkpoint is copied too.
        attachments: more files for each checkpoint, by name: their bytes, or a path to copy.
    """

    def __init__(
        self,
        folder: Path,
        keep: int = 2,
        mirror: str | None = None,
        attachments: Mapping[str, bytes | Path] | None = None,
    ):
        if keep < 1:
            raise HornbookError("at least one checkpoint must be kept", where="keep")
        self.folder, self._keep = folder, keep
        self._mirror = Mirror(mirror) if mirror else None
        self._attachments = dict(attachments or {})
        self._pinned: dict[str, Tensor] = {}
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None
        self._pending_step = 0

    def save(
        self,
        step: int,
        model: nn.Module,
        optimizer: Optimizer,
        state: dict[str, Any],
        random_state: Mapping[str, Tensor],
        *,
        wait: bool = False,
    ) -> None:
        """Save in the background; returns when everything is copied to CPU memory.

        Args:
            step: finished optimizer steps.
            model: a module whose `config` is its `ModelConfig`; may be compiled or wrapped in DDP.
            optimizer: its state is stored by parameter name, so the groups may change.
            state: JSON values that come back from `load` as they were.
            random_state: generator states that come back from `load` as they were.
            wait: return only when the checkpoint is durable.

        A whole checkpoint of this very step is kept as it is: training repeats itself exactly, so
        it holds the same numbers.

        Raises `HornbookError` (disk full, read-only) of this save or of the one before; the
        checkpoints that were there before are untouched then.
        """
        started = time.monotonic()
        self.wait()
        waited = time.monotonic() - started
        if waited > WAIT_WORTH_SAYING:
            warn(
                f"training waited {waited:.0f} s for the checkpoint of step {self._pending_step}: "
                "the disk (or the mirror) is slower than checkpoints are made"
            )
        snapshot = self._snapshot(step, model, optimizer, state, random_state)
        self._pending_step = step
        self._pending = self._worker.submit(self._write, snapshot)
        if wait:
            self.wait()

    def wait(self) -> None:
        """Wait until nothing is being written any more. Raises what went wrong meanwhile."""
        if self._pending is not None:
            pending, self._pending = self._pending, None
            pending.result()

    def check(self) -> None:
        """Raise at once if a save has failed meanwhile; never waits."""
        if self._pending is not None and self._pending.done():
            self.wait()

    def latest(self) -> Checkpoint | None:
        """The newest checkpoint that is whole, verified by hash; None when none was ever finished.

        With an empty folder the mirror is asked, and its newest one is brought here.
        """
        self.wait()
        found = files.newest_good(self.folder)
        if found is None and self._mirror is not None:
            with disk_errors(self.folder):
                self.folder.mkdir(parents=True, exist_ok=True)
                found = self._mirror.fetch(self.folder)
        return found

    def load(
        self, checkpoint: Checkpoint, model: nn.Module, optimizer: Optimizer | None = None
    ) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Put a checkpoint into `model` and `optimizer`; returns its `state` and `random_state`.

        Raises `HornbookError` naming the differing fields if it is of another architecture.
        """
        plain = _unwrapped(model)
        check_same_config(plain.config, checkpoint.config(), where=checkpoint.path)
        load_weights(checkpoint, plain)
        if optimizer is not None:
            _load_optimizer(checkpoint, plain, optimizer)
        return checkpoint.state(), checkpoint.random_state()

    # ------------------------------------------------------------------ the phases of one save

    def _snapshot(
        self,
        step: int,
        model: nn.Module,
        optimizer: Optimizer,
        state: dict[str, Any],
        random_state: Mapping[str, Tensor],
    ) -> _Snapshot:
        plain = _unwrapped(model)
        tensors, scalars = _optimizer_state(plain, optimizer)
        snapshot = _Snapshot(
            step=step,
            config=plain.config,
            model={n: self._copy(f"model/{n}", t) for n, t in named_tensors(plain).items()},
            optimizer={n: self._copy(f"optimizer/{n}", t) for n, t in tensors.items()},
            optimizer_scalars=scalars,
            state=json.loads(json.dumps({**state, "step": step})),
            random_state={n: t.detach().cpu().clone() for n, t in random_state.items()},
        )
        if self._pinned:
            torch.cuda.synchronize()
        return snapshot

    def _copy(self, name: str, tensor: Tensor) -> Tensor:
        """A CPU copy; from CUDA into pinned memory that is kept for the next save."""
        if not tensor.is_cuda:
            return torch.empty(tensor.shape, dtype=tensor.dtype).copy_(tensor.detach())
        if name not in self._pinned:
            self._pinned[name] = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        return self._pinned[name].copy_(tensor.detach(), non_blocking=True)

    def _write(self, snapshot: _Snapshot) -> None:
        with disk_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            self._remove_rubbish()
            checkpoint = self._write_local(snapshot)
            self._prune(checkpoint.step)
        if self._mirror is not None:
            try:
                self._mirror.upload(checkpoint, self._keep)
            except Exception as error:  # each back end has errors of its own
                warn(
                    f"{self._mirror.url}: the checkpoint of step {checkpoint.step} could not be "
                    f"copied here ({error}); it is safe in {checkpoint.path}"
                )

    def _write_local(self, snapshot: _Snapshot) -> Checkpoint:
        final = Checkpoint(self.folder / files.checkpoint_name(snapshot.step), snapshot.step)
        if final.path.exists():
            if final.problem() is None:
                return final  # this step again, after a resume: the same numbers
            self._discard(final.path)
        temporary = files.temporary_folder(self.folder, snapshot.step)
        try:
            files.write_tensors(snapshot.model, temporary / files.MODEL)
            files.write_tensors(snapshot.optimizer, temporary / files.OPTIMIZER)
            write_json(temporary / files.OPTIMIZER_SCALARS, snapshot.optimizer_scalars)
            files.write_random_state(snapshot.random_state, temporary / files.RANDOM_STATE)
            files.write_state(temporary, snapshot.config, snapshot.state)
            for name, content in self._attachments.items():
                data = content.read_bytes() if isinstance(content, Path) else content
                (temporary / name).write_bytes(data)
            files.seal(temporary, snapshot.step)
            files.publish(temporary)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        return final

    def _prune(self, newest: int) -> None:
        steps = [checkpoint.step for checkpoint in files.list_checkpoints(self.folder)]
        for step in files.surplus(steps, newest, self._keep):
            self._discard(self.folder / files.checkpoint_name(step))

    def _discard(self, path: Path) -> None:
        """Remove a checkpoint so that it is never half there under its own name."""
        rubbish = path.with_name(path.name + TEMPORARY)
        path.rename(rubbish)
        sync_folder(self.folder)
        shutil.rmtree(rubbish)

    def _remove_rubbish(self) -> None:
        """Remove what an earlier process was writing or removing when it was killed."""
        for path in self.folder.glob(f"step-*{TEMPORARY}"):
            shutil.rmtree(path)


# -------------------------------------------------------------------- model and optimizer by name


def check_same_config(
    wanted: ModelConfig,
    found: ModelConfig,
    where: str | Path,
    ignore: frozenset[str] = NOT_ARCHITECTURE,
) -> None:
    """Raise `HornbookError` that names the fields in which two architectures differ."""
    differing = [
        f"{field.name} is {getattr(found, field.name)} here, {getattr(wanted, field.name)} wanted"
        for field in fields(ModelConfig)
        if field.name not in ignore and getattr(found, field.name) != getattr(wanted, field.name)
    ]
    if differing:
        raise HornbookError(
            f"holds another architecture: {'; '.join(differing)}",
            where=where,
            hint="Change the recipe's model section to this one, or use another run directory",
        )


def _unwrapped(model: nn.Module) -> Any:
    """The module inside `torch.compile` and DistributedDataParallel."""
    for wrapper in ("_orig_mod", "module"):
        model = getattr(model, wrapper, model)
    return model


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and persistent buffers by name; tied weights once, under their first name."""
    first: dict[int, str] = {}
    tensors = model.state_dict(keep_vars=True)
    for name, tensor in tensors.items():
        first.setdefault(id(tensor), name)
    return {name: tensors[name] for name in first.values()}


def _optimizer_state(
    model: nn.Module, optimizer: Optimizer
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The optimizer's state as tensors `<parameter>/<key>`, and plain numbers in the same form."""
    names: dict[Tensor, str] = {p: name for name, p in model.named_parameters()}
    tensors: dict[str, Tensor] = {}
    scalars: dict[str, Any] = {}
    for parameter, entries in optimizer.state.items():
        for key, value in entries.items():
            where = tensors if isinstance(value, Tensor) else scalars
            where[f"{names[parameter]}/{key}"] = value
    return tensors, scalars


def load_weights(checkpoint: Checkpoint, model: nn.Module) -> None:
    """Copy a checkpoint's weights into a model of the same architecture."""
    targets = named_tensors(model)
    stored = files.stored_tensors(checkpoint.path / files.MODEL)
    wanted = {name: (tensor.shape, tensor.dtype) for name, tensor in targets.items()}
    if stored != wanted:
        differing = sorted(n for n in stored | wanted if stored.get(n) != wanted.get(n))
        raise HornbookError(
            f"has other weights than this version's model: {', '.join(differing[:3])}",
            where=checkpoint.path,
            hint="Use the version of hornbook that wrote it",
        )
    files.read_tensors(checkpoint.path / files.MODEL, targets)


def _load_optimizer(checkpoint: Checkpoint, model: nn.Module, optimizer: Optimizer) -> None:
    """Put the stored state into the optimizer, whatever its parameter groups."""
    parameters: dict[str, Tensor] = dict(model.named_parameters())
    settings: dict[Tensor, dict[str, Any]] = {
        p: group for group in optimizer.param_groups for p in group["params"]
    }
    targets: dict[str, Tensor] = {}
    state: dict[Tensor, dict[str, Any]] = {}
    folder = checkpoint.path / files.OPTIMIZER
    for full_name, (shape, dtype) in files.stored_tensors(folder).items():
        name, _, key = full_name.rpartition("/")
        parameter = parameters.get(name)
        if parameter is None or parameter not in settings:
            raise HornbookError(
                f"has optimizer state for {name}, which is not trained here",
                where=checkpoint.path,
                hint="Use the recipe it was trained with, or start from it with --init",
            )
        # PyTorch keeps `step` (no dimensions) on the CPU unless the kernel reads it on the device.
        group = settings[parameter]
        on_device = len(shape) > 0 or group.get("fused") or group.get("capturable")
        device = parameter.device if on_device else torch.device("cpu")
        targets[full_name] = torch.empty(shape, dtype=dtype, device=device)
        state.setdefault(parameter, {})[key] = targets[full_name]
    files.read_tensors(folder, targets)
    for full_name, value in read_json(checkpoint.path / files.OPTIMIZER_SCALARS).items():
        name, _, key = full_name.rpartition("/")
        state.setdefault(parameters[name], {})[key] = value
    optimizer.state.clear()
    optimizer.state.update(state)
