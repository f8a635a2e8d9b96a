"""The unit of training data: some rows of tokens, and what is to be predicted in each.

In: what the row tables read. Out: `Batch`, which the trainer slices into micro-batches and moves
to the device, and `BatchSource`, all that the trainer knows of where batches come from.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

IGNORE = -100
"""A target that carries no loss (PyTorch's `cross_entropy` leaves it out by default)."""


@dataclass
class Batch:
    """Rows of T tokens each.

    Attributes:
        inputs: int64 [rows, T].
        targets: int64 [rows, T]; the token that follows, `IGNORE` where there is none to predict.
        positions: int64 [rows, T], or None: 0..T-1 in every row.
        documents: int32 [rows, T], the number of the document within its row and -1 for padding;
            None: attention does not look at documents. Attention stays among equal numbers.
    """

    inputs: Tensor
    targets: Tensor
    positions: Tensor | None = None
    documents: Tensor | None = None

    def __len__(self) -> int:
        return self.inputs.shape[0]

    def __getitem__(self, rows: slice) -> Batch:
        """The rows of a slice, as views: `batch[8:16]` is a micro-batch."""
        return self._map(lambda tensor: tensor[rows])

    def to(self, device: torch.device | str) -> Batch:
        """On `device`; to CUDA, from pinned memory, the copy runs beside what the CPU does next."""
        beside = torch.device(device).type == "cuda"
        return self._map(lambda tensor: tensor.to(device, non_blocking=beside))

    def pin_memory(self) -> Batch:
        """In page-locked memory, from which CUDA copies without waiting."""
        return self._map(lambda tensor: tensor.pin_memory())

    def used_by(self, stream: torch.cuda.Stream) -> None:
        """Keep the memory, which another stream allocated, until `stream` is done with it."""
        for tensor in (self.inputs, self.targets, self.positions, self.documents):
            if tensor is not None:
                tensor.record_stream(stream)

    def _map(self, change: Callable[[Tensor], Tensor]) -> Batch:
        return Batch(
            change(self.inputs),
            change(self.targets),
            None if self.positions is None else change(self.positions),
            None if self.documents is None else change(self.documents),
        )


class BatchSource(Protocol):
    """Where the trainer gets its rows from."""

    sequence_length: int
    rows_per_epoch: int

    def rows(self, start: int, count: int) -> Batch:
        """Rows [start, start + count) of the run: a pure function of the two numbers."""
        ...

    def describe(self) -> dict[str, Any]:
        """What is read and how, as JSON, for `inspect`."""
        ...


@runtime_checkable
class Resumable(Protocol):
    """A source with a state of its own: its rows depend on what was read before them, and are asked
    for in order. In one of several processes it gives that one's part of any rows."""

    def take_up(self, state: dict[str, Any]) -> None:
        """Begin at a state that `state_at` gave, before any rows are asked for."""
        ...

    def state_at(self, row: int) -> dict[str, Any]:
        """The state, as JSON, from which the rows from `row` on can be read again."""
        ...

    def gaps(self) -> list[tuple[int, int]]:
        """The texts [first, next) that were lost and left out, since this was last asked."""
        ...

    def durable(self, state: dict[str, Any]) -> None:
        """The oldest checkpoint that is kept has this state: nothing older is needed any more."""
        ...

    def release(self) -> None:
        """The run is done: nothing is needed any more."""
        ...

    def stop(self) -> None:
        """End a `rows` that another thread waits in."""
        ...
