"""The processes that train one model together: who is who, agreeing on numbers, sharing out rows.

In: the environment that torchrun or `launch.py` gives each process. Out: a `World`. A process alone
has a world of one, in which everything here does nothing; so the trainer is written once.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, distributed
from torch.distributed import PrefixStore, Store  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous

from hornbook.errors import HornbookError
from hornbook.tokens.batch import IGNORE, Batch, BatchSource, Resumable
from hornbook.train.machine import pick_device

STARTS = "TORCHELASTIC_RESTART_COUNT"
"""Where torchrun counts how often it had to start the processes again."""

TIMEOUT = timedelta(minutes=10)
"""A process waits this long for the others. What others may be doing alone is compiling, which
takes minutes; a checkpoint is written in the background."""


OUTSIDE_BYTES = 2**30
"""GPU memory left to NCCL's buffers, which PyTorch's allocator does not count. Not measured yet."""


def in_company() -> bool:
    """Whether this process is one of several that train together."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


@dataclass(frozen=True)
class World:
    """This process among those of its run.

    Attributes:
        rank: number of this process, from 0.
        size: number of processes.
        local_size: of them on this host.
        device: what this process computes on.
    """

    rank: int = 0
    size: int = 1
    local_size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def is_main(self) -> bool:
        """Whether this process writes the run's files and talks to the user."""
        return self.rank == 0

    # ------------------------------------------------------------------------- agreeing on numbers

    def sum(self, *values: float) -> list[float]:
        """Each value added up over all processes, exactly as float64; waits for all of them."""
        return self._reduce(values, "SUM")

    def smallest(self, *values: float) -> list[float]:
        """The smallest of each value over all processes; waits for all of them."""
        return self._reduce(values, "MIN")

    def any(self, *wishes: bool) -> list[bool]:
        """Which of the wishes at least one process has; waits for all of them."""
        return [count > 0 for count in self.sum(*map(float, wishes))]

    def share(self, value: Any, source: int = 0) -> Any:
        """What process `source` has, as JSON keeps it; other processes' values do not count."""
        if self.size == 1:
            return value
        text = bytearray(json.dumps(value).encode())
        length = torch.tensor([len(text)])
        distributed.broadcast(length, src=source)
        codes = torch.zeros(int(length), dtype=torch.uint8)
        if self.rank == source:
            codes.copy_(torch.frombuffer(text, dtype=torch.uint8))
        distributed.broadcast(codes, src=source)
        return json.loads(bytes(codes.tolist()))

    def largest(self, *values: float) -> list[float]:
        """The largest of each value over all processes; waits for all of them."""
        return self._reduce(values, "MAX")

    def mean(self, tensor: Tensor) -> Tensor:
        """The mean over all processes, on the device, without waiting for it on the host."""
        if self.size == 1:
            return tensor
        total = tensor.clone()
        distributed.all_reduce(total)
        return total / self.size

    def _reduce(self, values: tuple[float, ...], operation: str) -> list[float]:
        if self.size == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64)  # on the CPU: through gloo
        distributed.all_reduce(total, op=getattr(distributed.ReduceOp, operation))
        numbers: list[float] = total.tolist()
        return numbers

    # --------------------------------------------------------------------------- sharing out rows

    def rows(self, total: int) -> tuple[int, int]:
        """The first and the end of this process's rows of `total`; the last slices are the longer
        ones."""
        return self.rank * total // self.size, (self.rank + 1) * total // self.size

    def share_of(self, source: BatchSource) -> BatchSource:
        """A source that gives, of each range of rows, this process's slice; one with a state of its
        own does that itself."""
        if self.size == 1 or isinstance(source, Resumable):
            return source
        return _Slices(source, self)

    def check_rows(self, total: int) -> None:
        """Refuse steps of fewer rows than there are processes."""
        if total < self.size:
            raise HornbookError(
                f"a step of {total} rows cannot be shared out among {self.size} processes",
                where="pretrain.global_batch_tokens",
                hint=f"Raise it to {self.size} rows or more, or use fewer GPUs",
            )


ALONE = World()


class _Slices:
    """One process's slice of every range of rows; as many rows in each process.

    Where the rows do not divide evenly, the shorter slices go on by one row, whose targets are
    masked: it weighs nothing, and all processes do equal passes, as FSDP needs it.
    """

    def __init__(self, source: BatchSource, world: World):
        self._source, self._world = source, world
        self.sequence_length = source.sequence_length
        self.rows_per_epoch = source.rows_per_epoch

    def rows(self, start: int, count: int) -> Batch:
        """This process's slice of rows [start, start + count)."""
        first, end = self._world.rows(count)
        batch = self._source.rows(start + first, -(-count // self._world.size))
        if len(batch) > end - first:
            batch.targets = batch.targets.clone()
            batch.targets[end - first :] = IGNORE
        return batch

    def describe(self) -> dict[str, Any]:
        """As the whole source says."""
        return self._source.describe()


@contextlib.contextmanager
def joined(wanted: str) -> Iterator[World]:
    """This process's world, with the others of its run where there are any.

    Args:
        wanted: `pretrain.device`; of several GPUs each process of a host takes its own.

    Raises:
        HornbookError: there are fewer GPUs than processes, or the device does not work.
    """
    if not in_company():
        yield World(device=pick_device(wanted))
        return
    local_rank, local_size = (int(os.environ[f"LOCAL_{name}"]) for name in ("RANK", "WORLD_SIZE"))
    if wanted == "cuda" or (wanted == "auto" and torch.cuda.is_available()):
        check_gpus(local_size)
        torch.cuda.set_device(local_rank)
    device = pick_device(wanted)
    on_gpu = device.type == "cuda"
    # CPU tensors go through gloo, those on GPUs through NCCL.
    distributed.init_process_group(
        "cpu:gloo,cuda:nccl" if on_gpu else "gloo",
        timeout=TIMEOUT,
        store=PrefixStore("group", connect()),
        rank=int(os.environ["RANK"]),
        world_size=int(os.environ["WORLD_SIZE"]),
    )
    world = World(distributed.get_rank(), distributed.get_world_size(), local_size, device)
    try:
        if on_gpu:
            _limit_memory_equally(world)
        yield world
    finally:
        if on_gpu:
            torch.cuda.set_per_process_memory_fraction(1.0)
        distributed.destroy_process_group()


def connect() -> Store:
    """The key-value store of whoever started this process.

    torchrun keeps it when it starts all processes again; each start has keys of its own.
    """
    store, _, _ = next(rendezvous("env://"))
    return PrefixStore(f"start {os.environ.get(STARTS, '0')}", store)


def check_gpus(wanted: int) -> None:
    """Refuse more processes on a host than it has GPUs."""
    there = torch.cuda.device_count()
    if wanted > there:
        raise HornbookError(
            f"{wanted} GPUs asked, {there} there",
            where="pretrain.gpus",
            hint="Ask for fewer, or train with CPU processes: --pretrain.device cpu",
        )


def _limit_memory_equally(world: World) -> None:
    """Let each process have as much GPU memory as the poorest of them.

    All do the same passes, so memory then runs out in all of them at the same place or in none,
    whatever else is on one of the GPUs.
    """
    free, total = torch.cuda.mem_get_info()
    share = world.smallest((free - OUTSIDE_BYTES) / total)[0]
    torch.cuda.set_per_process_memory_fraction(max(0.0, share))
