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
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hornbook.errors import HornbookError
from hornbook.files import TEMPORARY, disk_errors, read_json, sync_folder, write_json
from hornbook.model.config import ModelConfig
from hornbook.model.decoder import Decoder
from hornbook.optim.optimizer import Optimizer
from hornbook.progress import warn
from hornbook.train import checkpoint_files as files
from hornbook.train.checkpoint_files import Checkpoint
from hornbook.train.mirror import Mirror
from hornbook.train.parallel import ALONE, World
from hornbook.train.tensor_files import Entry, Part

NOT_ARCHITECTURE = frozenset(
    {
        "embedding_dropout",
        "attention_dropout",
        "residual_dropout",
        "initializer_range",
        "initialise",
        "embedding_std",
        "exported_rows",
    }
)
"""Fields of `ModelConfig` that neither name nor shape any weight, nor change what it computes."""

POLL_SECONDS = 0.05
"""Between looks at whether the other processes have written their parts."""

WAIT_WORTH_SAYING = 5.0
"""Seconds that training may wait for the previous checkpoint before it is said aloud."""


@dataclass
class _Snapshot:
    """Everything of one step, on the CPU and no longer shared with training."""

    step: int
    config: ModelConfig
    model: dict[str, Part]
    optimizer: dict[str, Part]
    state: dict[str, Any]


class CheckpointStore:
    """The checkpoints of one run.

    Of several processes each writes what it holds of the tensors, process 0 the rest: all of them
    `save` and `load` at the same steps, in a folder that they share.

    Args:
        folder: where they lie, for example `runs/NAME/pretrain/checkpoints`.
        keep: how many of the newest stay.
        mirror: fsspec URL to which each finished checkpoint is copied too.
        attachments: more files for each checkpoint, by name: their bytes, or a path to copy.
        world: this process among those that train the model.
        told: called with the oldest checkpoint there is whenever one has become whole, in the
            thread that writes them.
    """

    def __init__(
        self,
        folder: Path,
        keep: int = 2,
        mirror: str | None = None,
        attachments: Mapping[str, bytes | Path] | None = None,
        world: World = ALONE,
        told: Callable[[Checkpoint], None] | None = None,
    ):
        if keep < 1:
            raise HornbookError("at least one checkpoint must be kept", where="keep")
        self.folder, self._keep, self._world = folder, keep, world
        self._told = told
        self._mirror = Mirror(mirror) if mirror else None
        self._attachments = dict(attachments or {})
        self._pinned: dict[str, Tensor] = {}
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None
        self._pending_step = 0

    def save(
        self,
        step: int,
        model: Decoder,
        optimizer: Optimizer,
        state: dict[str, Any],
        *,
        wait: bool = False,
    ) -> None:
        """Save in the background; returns when everything is copied to CPU memory.

        Args:
            step: finished optimizer steps.
            model: neither compiled nor wrapped in DDP; sharded by FSDP it may be.
            optimizer: its state is stored by parameter name, so the groups may change.
            state: JSON values that come back from `Checkpoint.state` as they were.
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
        if self._world.size > 1:
            self._clear_the_way(step)
        snapshot = self._snapshot(step, model, optimizer, state)
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
        found = None
        if self._world.is_main:
            found = files.newest_good(self.folder)
            if found is None and self._mirror is not None:
                with disk_errors(self.folder):
                    self.folder.mkdir(parents=True, exist_ok=True)
                    found = self._mirror.fetch(self.folder)
        step = self._world.share(found.step if found else None)
        if step is None:
            return None
        return Checkpoint(self.folder / files.checkpoint_name(step), step)

    def oldest(self) -> Checkpoint | None:
        """The oldest checkpoint that is kept; None when there is none."""
        found = files.list_checkpoints(self.folder)
        return found[0] if found else None

    def load(
        self, checkpoint: Checkpoint, model: Decoder, optimizer: Optimizer | None = None
    ) -> None:
        """Put a checkpoint into `model` and `optimizer`.

        Raises `HornbookError` naming the differing fields if it is of another architecture.
        """
        check_same_config(model.config, checkpoint.config(), where=checkpoint.path)
        load_weights(checkpoint, model)
        if optimizer is not None:
            _load_optimizer(checkpoint, model, optimizer)

    # ------------------------------------------------------------------ the phases of one save

    def _snapshot(
        self, step: int, model: Decoder, optimizer: Optimizer, state: dict[str, Any]
    ) -> _Snapshot:
        snapshot = _Snapshot(
            step=step,
            config=model.config,
            model=self._parts("model", named_tensors(model)),
            optimizer=self._parts("optimizer", _optimizer_state(model, optimizer)),
            state=json.loads(json.dumps({**state, "step": step, "optimizer": optimizer.kind})),
        )
        if self._pinned:
            torch.cuda.synchronize()
        return snapshot

    def _parts(self, kind: str, tensors: Mapping[str, Tensor]) -> dict[str, Part]:
        """Copies of what this process is to write."""
        parts = {}
        for name, tensor in tensors.items():
            held = held_here(tensor, self._world)
            if held is not None:
                parts[name] = Part(self._copy(f"{kind}/{name}", held.tensor), held.offsets)
        return parts

    def _copy(self, name: str, tensor: Tensor) -> Tensor:
        """A CPU copy; from CUDA into pinned memory that is kept for the next save."""
        if not tensor.is_cuda:
            return torch.empty(tensor.shape, dtype=tensor.dtype).copy_(tensor.detach())
        if name not in self._pinned:
            self._pinned[name] = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        return self._pinned[name].copy_(tensor.detach(), non_blocking=True)

    def _clear_the_way(self, step: int) -> None:
        """Process 0 removes what is in the way; the others wait, and write nothing before that."""
        if self._world.is_main:
            with disk_errors(self.folder):
                self._remove_rubbish()
                final = self.folder / files.checkpoint_name(step)
                if final.exists():
                    self._discard(final)
        self._world.share(None)

    def _write(self, snapshot: _Snapshot) -> None:
        with disk_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            if not self._world.is_main:
                self._write_beside(snapshot)
                return
            if self._world.size == 1:
                self._remove_rubbish()
            checkpoint = self._write_local(snapshot)
            self._prune(checkpoint.step)
            if self._told is not None:
                self._told(self.oldest() or checkpoint)
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
            written = self._write_tensors(snapshot, temporary)
            files.write_state(temporary, snapshot.config, snapshot.state)
            for name, content in self._attachments.items():
                data = content.read_bytes() if isinstance(content, Path) else content
                (temporary / name).write_bytes(data)
            for rank in range(1, self._world.size):
                written |= self._of_process(rank, temporary)
            files.seal(temporary, snapshot.step, written)
            files.publish(temporary)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        return final

    def _write_tensors(self, snapshot: _Snapshot, temporary: Path) -> dict[str, Entry]:
        rank = self._world.rank
        written = files.write_tensors(snapshot.model, temporary / files.MODEL, rank)
        return written | files.write_tensors(snapshot.optimizer, temporary / files.OPTIMIZER, rank)

    def _write_beside(self, snapshot: _Snapshot) -> None:
        """What a process other than 0 writes: its parts, then their hashes."""
        temporary = files.temporary_folder(self.folder, snapshot.step)
        written = self._write_tensors(snapshot, temporary)
        entries = {name: asdict(entry) for name, entry in written.items()}
        write_json(_hashes_of(self._world.rank, temporary), entries)

    def _of_process(self, rank: int, temporary: Path) -> dict[str, Entry]:
        """The hashes that another process leaves when its parts are durable.

        One that fails ends the run, and with it this waiting.
        """
        path = _hashes_of(rank, temporary)
        while not path.exists():
            time.sleep(POLL_SECONDS)
        entries = {name: Entry(**entry) for name, entry in read_json(path).items()}
        path.unlink()
        return entries

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


def _hashes_of(rank: int, temporary: Path) -> Path:
    return temporary / f"part-{rank:05d}.json"


def held_here(tensor: Tensor, world: World) -> Part | None:
    """What this process is to write of a tensor; None: other processes write all of it.

    Of a sharded tensor (`DTensor`) that is its shard, and of shards that several processes hold
    (HSDP) the first one's. What all processes hold, process 0 writes.
    """
    if not hasattr(tensor, "__create_chunk_list__"):
        return Part(tensor, (0,) * tensor.dim()) if world.is_main else None
    sharded: Any = tensor
    coordinates = sharded.device_mesh.get_coordinate()
    copies = zip(coordinates, sharded.placements, strict=True)
    (chunk,) = sharded.__create_chunk_list__()
    if chunk.sizes.numel() == 0 or any(at and copy.is_replicate() for at, copy in copies):
        return None
    return Part(sharded.to_local(), tuple(chunk.offsets))


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and persistent buffers by name; tied weights once, under their first name."""
    first: dict[int, str] = {}
    tensors = model.state_dict(keep_vars=True)
    for name, tensor in tensors.items():
        first.setdefault(id(tensor), name)
    return {name: tensors[name] for name in first.values()}


def _optimizer_state(model: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    """The optimizer's state as tensors `<parameter>/<key>`."""
    names: dict[Tensor, str] = {p: name for name, p in model.named_parameters()}
    return {
        f"{names[parameter]}/{key}": value
        for parameter, entries in optimizer.state.items()
        for key, value in entries.items()
    }


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
    trained = {p for group in optimizer.param_groups for p in group["params"]}
    targets: dict[str, Tensor] = {}
    state: dict[Tensor, dict[str, Any]] = {}
    folder = checkpoint.path / files.OPTIMIZER
    stored = files.stored_tensors(folder)
    for name in {full_name.rpartition("/")[0] for full_name in stored}:
        parameter = parameters.get(name)
        if parameter is None or parameter not in trained:
            raise HornbookError(
                f"has optimizer state for {name}, which is not trained here",
                where=checkpoint.path,
                hint="Use the recipe it was trained with, or start from it with --init",
            )
        state[parameter] = optimizer.new_state(parameter)
        targets |= {f"{name}/{key}": value for key, value in state[parameter].items()}
    wanted = {name: (tensor.shape, tensor.dtype) for name, tensor in targets.items()}
    kind = checkpoint.state().get("optimizer", "adamw")
    if stored and (kind != optimizer.kind or stored != wanted):
        raise HornbookError(
            f"was trained with optimizer.kind {kind}, whose state {optimizer.kind} cannot use",
            where=checkpoint.path,
            hint="Use that kind, or start from these weights in another run directory with --init",
        )
    files.read_tensors(folder, targets)
    optimizer.state.clear()
    optimizer.state.update(state)
