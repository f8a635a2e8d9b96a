"""Runs elementwise updates: on CUDA all parameters in one Triton launch, elsewhere one by one.

In: a PyTorch function that updates one parameter, and the tensors of many. Out: all of them
updated. `kernels.py` has a Triton kernel for each such function, under its name.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hornbook.optim.rule import Item
from hornbook.progress import warn

ELEMENTS = 2048
"""Elements of one Triton program. Reckoned for 16-byte loads, not tuned on a device yet."""

WARPS = 8

ALIGNMENT = 16
"""Bytes that one load instruction takes at most, and the elements that Triton counts in."""


@dataclass(frozen=True)
class _Table:
    """What a launch reads.

    Attributes:
        rows: of each parameter: addresses of its tensors and of its step number, units, first
            program, number, offset.
        on_device: `rows`, int64.
        owners: int32 [programs], the row that each program works on.
    """

    rows: list[tuple[int, ...]]
    on_device: Tensor
    owners: Tensor


class Runner:
    """Runs a function of one parameter over many.

    Args:
        triton: by the Triton kernel of its name. When Triton or its C compiler is missing or
            fails, the plain function gives the same numbers more slowly, and that is said.
    """

    def __init__(self, triton: bool):
        self.triton = triton
        self._tables: dict[Any, _Table] = {}
        self._worked = False

    def __call__(
        self,
        function: Callable[..., None],
        items: list[Item],
        tensors: Sequence[tuple[Tensor, ...]],
        found_inf: Tensor | None,
        *numbers: float,
        unit: int = 1,
        **constants: Any,
    ) -> None:
        """`function(*tensors[i], items[i], found_inf, *numbers, **constants)` for each i.

        Args:
            function: has a kernel.
            items: on one device.
            tensors: of each item what the function works on, contiguous; none of it is empty.
            found_inf: a number on the device; 1: change nothing.
            numbers: may be others in each step.
            unit: elements that belong together, for kernels that want to know.
            constants: a kernel is compiled for each value.
        """
        if not items or (
            self.triton and self._run(function, items, tensors, found_inf, numbers, unit, constants)
        ):
            return
        for item, own in zip(items, tensors, strict=True):
            function(*own, item, found_inf, *numbers, **constants)

    def _run(
        self,
        function: Callable[..., None],
        items: list[Item],
        tensors: Sequence[tuple[Tensor, ...]],
        found_inf: Tensor | None,
        numbers: tuple[float, ...],
        unit: int,
        constants: dict[str, Any],
    ) -> bool:
        """Whether the kernel took over."""
        device = items[0].weight.device
        alike: dict[Any, list[tuple[int, ...]]] = defaultdict(list)
        for item, own in zip(items, tensors, strict=True):
            addresses = [tensor.data_ptr() for tensor in own]
            count = own[0].numel()
            lowest = 0 if unit > 1 else count
            for address in addresses:
                lowest |= address
            key = tuple(tensor.dtype for tensor in own), lowest % ALIGNMENT == 0
            step = item.state["step"].data_ptr()
            alike[key].append((*addresses, step, count // unit, item.number, item.offset))
        for key, rows in alike.items():
            first = rows[0][-2]
            table = self._table((function, key, unit, first), rows, unit, device)
            try:
                with torch.cuda.device(device.index if device.type == "cuda" else -1):
                    _launch(function.__name__, table, key, found_inf, numbers, unit, constants)
            except (torch.OutOfMemoryError, torch.AcceleratorError):
                raise
            except Exception as error:  # a missing compiler or header comes as any of many types
                if self._worked:
                    raise
                reason = str(error).strip().partition("\n")[0]
                warn(f"the optimizer runs without Triton kernels, which is slower: {reason}")
                self.triton = False
                return False
            self._worked = True
        return True

    def _table(
        self, place: Any, rows: list[tuple[int, ...]], unit: int, device: torch.device
    ) -> _Table:
        """The table of these rows; that of the last step where nothing has moved."""
        last = self._tables.get(place)
        if last is not None and last.rows == rows:
            return last
        programs = [-(-row[-3] // _units(unit)) for row in rows]
        same = last is not None and [r[-3:] for r in last.rows] == [r[-3:] for r in rows]
        if last is not None and same:
            owners = last.owners
        else:
            numbers = torch.arange(len(rows), dtype=torch.int32)
            owners = numbers.repeat_interleave(torch.tensor(programs)).to(device)
        firsts = itertools.accumulate(programs, initial=0)
        whole = [(*row[:-2], first, *row[-2:]) for row, first in zip(rows, firsts, strict=False)]
        # Page-locked, so that the copy does not wait for the device.
        there = torch.tensor(whole, dtype=torch.int64, pin_memory=device.type == "cuda")
        self._tables[place] = _Table(rows, there.to(device, non_blocking=True), owners)
        return self._tables[place]


def _units(unit: int) -> int:
    """Units that one program works on."""
    return ELEMENTS if unit == 1 else max(1, ELEMENTS // _padded(unit))


def _padded(unit: int) -> int:
    """The next power of two."""
    return 1 << (unit - 1).bit_length()


def _launch(
    name: str,
    table: _Table,
    key: tuple[tuple[torch.dtype, ...], bool],
    found_inf: Tensor | None,
    numbers: tuple[float, ...],
    unit: int,
    constants: dict[str, Any],
) -> None:
    from hornbook.optim import kernels

    dtypes, aligned = key
    if unit == 1:
        sizes = {"block": ELEMENTS}
    else:
        sizes = {"columns": unit, "padded": _padded(unit), "blocks": _units(unit)}
    getattr(kernels, name)[(len(table.owners),)](
        table.on_device,
        table.owners,
        found_inf,
        *numbers,
        **constants,
        **sizes,
        dtypes=tuple(kernels.DTYPES[dtype] for dtype in dtypes),
        fields=table.on_device.shape[1],
        aligned=aligned,
        num_warps=WARPS,
    )
