"""Muon for hidden matrices: momentum, made orthogonal.

In: the items of a step, all of one shape. Out: updated weights and momentum. Each matrix is updated
by the nearest (semi-)orthogonal matrix to its Nesterov momentum (Jordan et al. 2024,
kellerjordan.github.io/posts/muon), found by five Newton-Schulz iterations on a stack of all
matrices of the shape. Projections that the decoder fuses (query, key, value; gate, up) are treated
one by one. Number for number it is `torch.optim.Muon` with `adjust_lr_fn="original"`.
"""

from __future__ import annotations

import math
from itertools import groupby

import torch
from torch import Tensor

from hornbook.optim.adamw import decayed
from hornbook.optim.rounding import new_weight
from hornbook.optim.rule import Group, Item, Runner, State, count_step, rates, write
from hornbook.optim.sharding import Exchange, zeros

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic a x + b x^3 + c x^5 that pushes singular values towards 1: Jordan's, as in
`torch.optim.Muon`. Polar Express (arXiv:2505.16932) has others for each iteration; nanochat's log
measured them as no better."""

ITERATIONS = 5

STACK_ELEMENTS = 2**26
"""Elements of the matrices orthogonalised together on one process: some 0.5 GB with temporaries in
bfloat16, and enough to fill a GPU."""


class Muon:
    """Muon, with NorMuon (group["normalize"]) and cautious weight decay (group["cautious"])."""

    def new_state(self, parameter: Tensor, group: Group) -> State:
        """`step`, `momentum_buffer` of the parameter's shape, and NorMuon's `row_square`."""
        state = {
            "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
            "momentum_buffer": zeros(parameter, parameter.shape, torch.float32),
        }
        if group["normalize"]:
            state["row_square"] = zeros(parameter, (parameter.shape[0], 1), torch.float32)
        return state

    def update(
        self, items: list[Item], group: Group, found_inf: Tensor | None, runner: Runner
    ) -> None:
        """One step of Muon."""
        count_step(items, found_inf)
        shards = items[0].shards
        rows = sum(group["matrix_rows"])
        together = max(1, STACK_ELEMENTS // (rows * items[0].weight.shape[1]))
        if shards is not None:
            together *= len(shards.rows)
        for start in range(0, len(items), together):
            self._update(items[start : start + together], group, found_inf, runner)

    def _update(
        self, items: list[Item], group: Group, found_inf: Tensor | None, runner: Runner
    ) -> None:
        exchange = Exchange(items[0].shards, len(items))
        weight = items[0].weight
        held = [] if items[0].empty else items
        pieces = weight.new_empty((len(items), *weight.shape), dtype=iteration_dtype(weight.device))
        moments = [
            (item.gradient, item.state["momentum_buffer"], piece)
            for item, piece in zip(held, pieces.unbind(), strict=False)
        ]
        runner(momentum_kernel, held, moments, found_inf, group["momentum"])
        whole = exchange.gather(pieces)
        squares = None
        if group["normalize"]:
            squares = exchange.gather(torch.stack([item.state["row_square"] for item in items]))
        whole, squares = orthogonal_updates(whole, group["matrix_rows"], squares, group["betas"][1])
        if squares is not None:
            for item, square in zip(items, exchange.scatter(squares), strict=True):
                write(item.state["row_square"], square, found_inf)
        directions = exchange.scatter(whole).unbind()
        updates = [(item.weight, part) for item, part in zip(held, directions, strict=False)]
        cautious = group["cautious"]
        runner(apply_kernel, held, updates, found_inf, *rates(group), cautious=cautious)


def momentum_kernel(
    gradient: Tensor,
    momentum_buffer: Tensor,
    update: Tensor,
    item: Item,
    found_inf: Tensor | None,
    momentum: float,
) -> None:
    """Nesterov momentum: the buffer in place, and into `update` what to orthogonalise."""
    gradient = gradient.float()
    buffer = momentum_buffer.lerp(gradient, 1 - momentum)
    update.copy_(gradient.lerp(buffer, momentum))
    write(momentum_buffer, buffer, found_inf)


def apply_kernel(
    weight: Tensor,
    direction: Tensor,
    item: Item,
    found_inf: Tensor | None,
    rate: float,
    decay: float,
    *,
    cautious: bool,
) -> None:
    """Weight decay and the update of one parameter, elementwise and in place."""
    direction = direction.float()
    value = decayed(weight.float(), direction, decay, cautious) - rate * direction
    value = new_weight(weight, value, item.state["step"], item.number, item.offset)
    write(weight, value, found_inf)


def iteration_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 on GPUs that have it; elsewhere it would be emulated, slower than float32."""
    fast = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if fast else torch.float32


def orthogonal_updates(
    whole: Tensor, matrix_rows: tuple[int, ...], squares: Tensor | None, beta2: float
) -> tuple[Tensor, Tensor | None]:
    """Direction of each matrix's update, scaled as its shape asks for.

    Args:
        whole: [parameters, rows, columns].
        matrix_rows: rows of the separate matrices in each parameter.
        squares: float32 [parameters, rows, 1], NorMuon's second moments of rows; None: without.
        beta2: their decay.

    Returns:
        The directions and the new `squares`.
    """
    count, columns = len(whole), whole.shape[2]
    found, new_squares = [], []
    start = 0
    for rows, alike in groupby(matrix_rows):
        shape = (count, len(list(alike)), rows)
        length = rows * shape[1]
        end = start + length
        scale = math.sqrt(max(1.0, rows / columns))
        matrices = orthogonalise(whole[:, start:end].view(*shape, columns), scale)
        if squares is not None:
            matrices, new = normalise_rows(matrices, squares[:, start:end].view(*shape, 1), beta2)
            new_squares.append(new.view(count, length, 1))
        found.append(matrices.view(count, length, columns))
        start = end
    return _joined(found), _joined(new_squares) if new_squares else None


def _joined(runs: list[Tensor]) -> Tensor:
    """Rows of all runs; a copy only where there are several."""
    return runs[0] if len(runs) == 1 else torch.cat(runs, dim=1)


def orthogonalise(matrices: Tensor, scale: float = 1.0) -> Tensor:
    """The nearest (semi-)orthogonal matrices, nearly: singular values become 0.7 to 1.2.

    Args:
        matrices: [..., rows, columns]; the arithmetic is in its dtype.
        scale: multiplies the result.
    """
    a, b, c = COEFFICIENTS
    norm = torch.linalg.matrix_norm(matrices, keepdim=True).clamp(min=1e-7)
    x: Tensor = (matrices / norm).flatten(0, -3)
    tall = x.shape[1] > x.shape[2]
    for iteration in range(ITERATIONS):
        gram = torch.bmm(x.mT, x) if tall else torch.bmm(x, x.mT)
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        left, right = (x, polynomial) if tall else (polynomial, x)
        last = scale if iteration == ITERATIONS - 1 else 1.0
        x = torch.baddbmm(x, left, right, beta=a * last, alpha=last)
    return x.view(matrices.shape)


def normalise_rows(matrices: Tensor, squares: Tensor, beta2: float) -> tuple[Tensor, Tensor]:
    """NorMuon (arXiv:2510.05491): rows divided by the root of their running mean square.

    The Frobenius norm stays what it was, so that the learning rate means the same.

    Args:
        matrices: [..., rows, columns].
        squares: float32 [..., rows, 1].
        beta2: decay of `squares`.

    Returns:
        The matrices and the new `squares`.
    """
    exact = matrices.float()
    squares = squares.lerp(exact.square().mean(dim=-1, keepdim=True), 1 - beta2)
    rows = exact * squares.clamp(min=1e-20).rsqrt()
    norm, new_norm = (torch.linalg.matrix_norm(x, keepdim=True) for x in (exact, rows))
    return (rows * (norm / new_norm.clamp(min=1e-20))).to(matrices.dtype), squares
