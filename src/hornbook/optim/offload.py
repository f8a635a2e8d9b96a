"""AdamW on the CPU for weights on a GPU: the GPU holds weights and gradients, and nothing else.

In: the items of a step. Out: updated weights on the GPU; float32 master weights and moments in CPU
memory. Gradients come over and weights go back in pieces through page-locked buffers, while the
CPU updates the piece before with PyTorch's fused AdamW.

The CPU computes, so it waits for the gradients: this rule alone makes the host wait in a step.
Weights in bfloat16 are the master weights rounded to nearest: nothing is lost, so no randomness.
"""

from __future__ import annotations

import contextlib
import dataclasses
from typing import Any

import torch
from torch import Tensor

from hornbook.errors import HornbookError
from hornbook.optim.adamw import fused_adamw
from hornbook.optim.rule import Group, Item, Runner, State, count_step
from hornbook.optim.sharding import is_sharded

PIECE_ELEMENTS = 2**22
"""Elements that travel at once: 8 MB in bfloat16, 16 MB in float32, which a large CPU's cache
holds from one pass to the next."""

PIECES_IN_FLIGHT = 3
"""One arrives, one is updated, one goes back."""


class _Slot:
    """Room for one piece on its way, page-locked where it travels to a GPU, and its stream."""

    def __init__(self, stream: torch.cuda.Stream | None):
        self._stream = stream
        size = PIECE_ELEMENTS * torch.float32.itemsize
        pin = stream is not None
        self._gradient, self._weight = (
            torch.empty(size, dtype=torch.uint8, pin_memory=pin) for _ in range(2)
        )
        self._arrived = None if stream is None else torch.cuda.Event()  # type: ignore[no-untyped-call]

    def fetch(self, gradient: Tensor) -> None:
        """Begin to copy a flat gradient over, after what already travels through this slot."""
        with self._streaming():
            _part(self._gradient, gradient).copy_(gradient, non_blocking=True)
            if self._arrived is not None:
                self._arrived.record()

    def gradient(self, like: Tensor, exact: Tensor) -> Tensor:
        """What `fetch` brought, once it is there, in float32: copied to `exact` if need be."""
        if self._arrived is not None:
            self._arrived.synchronize()
        arrived = _part(self._gradient, like)
        if arrived.dtype is torch.float32:
            return arrived
        return exact[: arrived.numel()].copy_(arrived)

    def send(self, master: Tensor, weight: Tensor) -> None:
        """Begin to copy new values back into a flat weight, in its dtype."""
        room = _part(self._weight, weight)
        room.copy_(master)
        with self._streaming():
            weight.copy_(room, non_blocking=True)

    def _streaming(self) -> contextlib.AbstractContextManager[Any]:
        return contextlib.nullcontext() if self._stream is None else torch.cuda.stream(self._stream)


def _part(room: Tensor, like: Tensor) -> Tensor:
    """The beginning of a byte buffer as a tensor of the size and dtype of `like`."""
    return room[: like.nbytes].view(like.dtype)


class Offload:
    """AdamW (arXiv:1711.05101) with its state and arithmetic on the CPU."""

    def __init__(self) -> None:
        self._slots: list[_Slot] = []
        self._stream: torch.cuda.Stream | None = None
        # Kept: new memory for each piece would cost its page faults, longer than the update itself.
        self._exact = torch.empty(0)

    def new_state(self, parameter: Tensor, group: Group) -> State:
        """`step`, `exp_avg`, `exp_avg_sq` and the float32 weight `master`, on the CPU."""
        if is_sharded(parameter):
            raise HornbookError(
                "is for parameters that one GPU holds whole",
                where="optimizer.offload",
                hint="Turn it off: pretrain.sharding fsdp shares the optimizer's state out",
            )
        return {
            "step": torch.zeros((), dtype=torch.float32),
            "exp_avg": torch.zeros(parameter.shape, dtype=torch.float32),
            "exp_avg_sq": torch.zeros(parameter.shape, dtype=torch.float32),
            "master": parameter.detach().to("cpu", torch.float32, copy=True),
        }

    def update(
        self, items: list[Item], group: Group, found_inf: Tensor | None, runner: Runner
    ) -> None:
        """One step of AdamW; work that is queued on the GPU afterwards sees the new weights."""
        if found_inf is not None and bool(found_inf):
            return
        device = items[0].weight.device
        if not self._slots:
            self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
            self._slots = [_Slot(self._stream) for _ in range(PIECES_IN_FLIGHT)]
            self._exact = torch.empty(PIECE_ELEMENTS)
        if self._stream is not None:
            self._stream.wait_stream(torch.cuda.current_stream(device))
        pieces = [piece for item in items for piece in _pieces(item)]
        slots = [self._slots[i % PIECES_IN_FLIGHT] for i in range(len(pieces))]
        ahead = PIECES_IN_FLIGHT - 1
        for i in range(len(pieces) + ahead):
            if i < len(pieces):
                slots[i].fetch(pieces[i].gradient)
            if i >= ahead:
                slot, piece = slots[i - ahead], pieces[i - ahead]
                gradient = slot.gradient(piece.gradient, self._exact)
                master = dataclasses.replace(piece, weight=piece.state["master"], gradient=gradient)
                fused_adamw([master], group, None)
                slot.send(master.weight, piece.weight)
        count_step(items, None)
        if self._stream is not None:
            torch.cuda.current_stream(device).wait_stream(self._stream)


def _pieces(item: Item) -> list[Item]:
    """Flat parts of one parameter, its state likewise; each with a step number of its own."""
    step = item.state["step"]
    tensors = {name: tensor for name, tensor in item.state.items() if name != "step"}
    parts = {name: torch.split(tensor.view(-1), PIECE_ELEMENTS) for name, tensor in tensors.items()}
    weights = torch.split(item.weight.view(-1), PIECE_ELEMENTS)
    gradients = torch.split(item.gradient.view(-1), PIECE_ELEMENTS)
    return [
        dataclasses.replace(
            item,
            weight=weights[i],
            gradient=gradients[i],
            state={"step": step.clone(), **{name: part[i] for name, part in parts.items()}},
        )
        for i in range(len(weights))
    ]
