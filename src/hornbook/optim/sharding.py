"""Parameters whose rows are spread over processes (FSDP2's DTensors), as the optimizer sees them.

In: a parameter. Out: the plain tensor that this process holds, where it lies in the whole, and
whole matrices for those who need them. Nothing here is loaded for parameters that are not sharded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hornbook.errors import HornbookError


@dataclass(frozen=True)
class Shards:
    """Rows of a parameter, spread over the processes of a group in order.

    Attributes:
        group: the process group.
        rank: of this process in the group.
        rows: rows that each process of the group holds.
    """

    group: Any
    rank: int
    rows: tuple[int, ...]

    @property
    def first_row(self) -> int:
        """The first row that this process holds."""
        return sum(self.rows[: self.rank])


def is_sharded(tensor: Tensor) -> bool:
    """Whether a tensor is a DTensor."""
    return hasattr(tensor, "placements")


def local(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor: itself, unless it is a DTensor."""
    if not is_sharded(tensor):
        return tensor
    held: Tensor = tensor.to_local()  # type: ignore[attr-defined]
    return held


def shards_of(parameter: Any) -> Shards | None:
    """How a parameter's rows are spread; None when every process has all of them.

    Raises:
        HornbookError: it is spread over more than one dimension of the mesh, or by columns.
    """
    if not is_sharded(parameter):
        return None
    spread = [i for i, placed in enumerate(parameter.placements) if not placed.is_replicate()]
    if not spread:
        return None
    if len(spread) > 1 or not parameter.placements[spread[0]].is_shard(0):
        raise HornbookError(
            f"optimizers need whole rows, but parameters are placed as {parameter.placements}",
            where="pretrain.sharding",
            hint="Use fsdp or hsdp",
        )
    mesh, dimension = parameter.device_mesh, spread[0]
    size, rows = mesh.size(dimension), parameter.shape[0]
    share = -(-rows // size)  # torch.chunk: equal shares, the last ones smaller or empty
    counts = tuple(max(0, min(share, rows - share * rank)) for rank in range(size))
    return Shards(mesh.get_group(dimension), mesh.get_local_rank(dimension), counts)


def copy_rows(parameter: Tensor, whole: Tensor) -> None:
    """Copy to a parameter, of a whole tensor of its shape, the rows that this process holds."""
    shards, held = shards_of(parameter), local(parameter)
    first = 0 if shards is None else shards.first_row
    held.copy_(whole[first : first + len(held)])


def zeros(parameter: Any, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """A new tensor with the parameter's rows, on its device, sharded as it is."""
    if not is_sharded(parameter):
        return torch.zeros(tuple(shape), dtype=dtype, device=parameter.device)
    from torch.distributed import tensor as distributed

    made: Tensor = distributed.zeros(
        *shape, dtype=dtype, device_mesh=parameter.device_mesh, placements=parameter.placements
    )
    return made


class Exchange:
    """Turns rows of many matrices into whole matrices, a share of them on each process, and back.

    Process r gets the matrices r, r + processes, ... of those that take part, so that the work on
    whole matrices is shared out; each way is one all-to-all of the rows. Without shards nothing
    happens.

    Args:
        shards: of every matrix that takes part (all have one shape); None: not sharded.
        count: how many take part.
    """

    def __init__(self, shards: Shards | None, count: int):
        self._shards, self._count = shards, count

    def gather(self, pieces: Tensor) -> Tensor:
        """[matrices, rows here, columns] -> whole ones, [matrices owned here, rows, columns]."""
        if self._shards is None:
            return pieces
        rows, columns = self._shards.rows, pieces.shape[2]
        shares = [pieces[rank :: len(rows)] for rank in range(len(rows))]
        mine = len(shares[self._shards.rank])
        received = self._all_to_all(
            torch.cat(shares).view(-1),
            [share.numel() for share in shares],
            [mine * count * columns for count in rows],
        )
        parts = torch.split(received, [mine * count * columns for count in rows])
        shaped = [part.view(mine, count, columns) for part, count in zip(parts, rows, strict=True)]
        return torch.cat(shaped, dim=1)

    def scatter(self, whole: Tensor) -> Tensor:
        """The way back: [matrices owned here, rows, columns] -> [matrices, rows here, columns]."""
        if self._shards is None:
            return whole
        rows, columns = self._shards.rows, whole.shape[2]
        pieces = whole.new_empty(self._count, rows[self._shards.rank], columns)
        shares = [pieces[rank :: len(rows)] for rank in range(len(rows))]
        received = self._all_to_all(
            torch.cat([part.reshape(-1) for part in torch.split(whole, list(rows), dim=1)]),
            [whole.shape[0] * count * columns for count in rows],
            [share.numel() for share in shares],
        )
        parts = torch.split(received, [share.numel() for share in shares])
        for share, part in zip(shares, parts, strict=True):
            share.copy_(part.view(share.shape))
        return pieces

    def _all_to_all(self, sent: Tensor, give: list[int], take: list[int]) -> Tensor:
        assert self._shards is not None
        received = sent.new_empty(sum(take))
        torch.distributed.all_to_all_single(received, sent, take, give, group=self._shards.group)
        return received
