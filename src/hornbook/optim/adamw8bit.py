"""AdamW whose two moments take 8 bits each: a quarter of the optimizer's memory.

In: the items of a step. Out: updated weights and codes. State of a matrix: `root` (the square root
of the second moment) and `ratio` (first moment / root) as codes of the matrix's shape, and the
float32 scale of each block of columns. Vectors and small matrices keep float32 moments.

Blocks with a scale each are those of arXiv:2110.02861; the codes are not. There both moments are
coded as they are. Second moments in a block differ by many orders of magnitude, the small ones
become 0, and their updates first moment / 0. Coding the root halves the orders, coding the first
moment as its ratio to the root makes it a number of about 1 whatever the gradient's size, and
the smallest root is never 0. Error of a step's update against float32 moments, simulated with
gradients whose sizes within a block are log-normal (sigma 1 and, with bursts, 2): 5 and 6 % here,
22 % and unbounded with the codes of the paper. Rounding is stochastic, so that decaying moments do
not get stuck above what they decay to.
"""

from __future__ import annotations

from collections import defaultdict

import torch
from torch import Tensor

from hornbook.optim.adamw import AdamW, adam_direction, adam_numbers, decayed
from hornbook.optim.rounding import random_bits, round_stochastically
from hornbook.optim.rule import Group, Item, Runner, State, count_step, write
from hornbook.optim.sharding import zeros

LARGEST_BLOCK = 256
"""Columns of a block; the scales of both codes then take 8 / 256 bytes a weight."""

SMALLEST_BLOCK = 64
"""Matrices whose columns have no divisor from here to `LARGEST_BLOCK` keep float32 moments."""

SMALLEST_MATRIX = 4096
"""Elements below which float32 moments cost nothing (bitsandbytes has the same limit)."""

LARGEST_ROOT = 1.9375
"""What a block's largest root is scaled to: code 255, in binary 1.1111."""

RATIO_LEVELS = 127.0


def block_columns(shape: torch.Size) -> int:
    """Columns of a block for a parameter of this shape; 0: its moments stay float32.

    A block never crosses rows, so that parameters shared out by rows have the same blocks on any
    number of processes.
    """
    if len(shape) != 2 or shape.numel() < SMALLEST_MATRIX:
        return 0
    sizes = range(LARGEST_BLOCK, SMALLEST_BLOCK - 1, -1)
    return next((size for size in sizes if shape[1] % size == 0), 0)


class AdamW8bit:
    """AdamW (arXiv:1711.05101) with 8-bit moments."""

    def __init__(self) -> None:
        self._exact = AdamW()

    def new_state(self, parameter: Tensor, group: Group) -> State:
        """Codes of the parameter's shape and scales [rows, blocks], or AdamW's float32 state."""
        block = block_columns(parameter.shape)
        if not block:
            return self._exact.new_state(parameter, group)
        scales = (parameter.shape[0], parameter.shape[1] // block)
        return {
            "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
            "root_codes": zeros(parameter, parameter.shape, torch.uint8),
            "root_scales": zeros(parameter, scales, torch.float32),
            "ratio_codes": zeros(parameter, parameter.shape, torch.int8),
            "ratio_scales": zeros(parameter, scales, torch.float32),
        }

    def update(
        self, items: list[Item], group: Group, found_inf: Tensor | None, runner: Runner
    ) -> None:
        """One step of AdamW."""
        coded = [item for item in items if "root_codes" in item.state]
        exact = [item for item in items if "root_codes" not in item.state]
        if exact:
            self._exact.update(exact, group, found_inf, runner)
        count_step(coded, found_inf)
        by_block: dict[int, list[Item]] = defaultdict(list)
        for item in coded:
            if not item.empty:
                by_block[item.weight.numel() // item.state["root_scales"].numel()].append(item)
        names = ("root_codes", "root_scales", "ratio_codes", "ratio_scales")
        for block, alike in by_block.items():
            runner(
                adamw8bit_kernel,
                alike,
                [(i.weight, i.gradient, *(i.state[name] for name in names)) for i in alike],
                found_inf,
                *adam_numbers(group),
                unit=block,
                cautious=group["cautious"],
            )


def adamw8bit_kernel(
    weight: Tensor,
    gradient: Tensor,
    root_codes: Tensor,
    root_scales: Tensor,
    ratio_codes: Tensor,
    ratio_scales: Tensor,
    item: Item,
    found_inf: Tensor | None,
    rate: float,
    decay: float,
    beta1: float,
    beta2: float,
    epsilon: float,
    *,
    cautious: bool,
) -> None:
    """AdamW on one matrix, in place."""
    step = item.state["step"]
    scales_shape, shape = root_scales.shape, (root_scales.numel(), -1)  # blocks in rows
    old_root = decode_root(root_codes.view(shape), root_scales.view(shape))
    old_ratio = decode_ratio(ratio_codes.view(shape), ratio_scales.view(shape))
    gradient = gradient.float().view(shape)
    first = (old_ratio * old_root).lerp(gradient, 1 - beta1)
    second = old_root.square().lerp(gradient.square(), 1 - beta2)
    direction = adam_direction(first, second, step, beta1, beta2, epsilon)
    old_weight = weight.view(shape).float()
    value = decayed(old_weight, direction, decay, cautious) - rate * direction
    bits = random_bits(value, step, item.number, item.offset)
    if weight.dtype is torch.bfloat16:
        value = round_stochastically(value, bits)
    write(weight, value.view(weight.shape), found_inf)
    codes, scales = encode_root(second.sqrt(), bits)
    ratio = first / decode_root(codes, scales).clamp(min=torch.finfo(torch.float32).tiny)
    write(root_codes, codes.view(weight.shape), found_inf)
    write(root_scales, scales.view(scales_shape), found_inf)
    codes, scales = encode_ratio(ratio, bits)
    write(ratio_codes, codes.view(weight.shape), found_inf)
    write(ratio_scales, scales.view(scales_shape), found_inf)


def encode_root(root: Tensor, bits: Tensor) -> tuple[Tensor, Tensor]:
    """Numbers >= 0, [blocks, block] -> codes uint8, scales [blocks, 1]; uses `bits` 16 to 23.

    A code is a small float without sign: 4 bits of exponent, 4 of mantissa. It holds a block's
    largest number exactly, others down to 2^-16 of it within 6 % (exact in the mean); smaller
    ones become 2^-16, which makes their updates smaller, never larger.
    """
    scales = root.amax(dim=1, keepdim=True) / LARGEST_ROOT
    scaled_root = root / scales.clamp(min=torch.finfo(torch.float32).tiny)
    noise = (((bits >> 16) & 0xFF) << 11) + (1 << 10)
    noisy = scaled_root.view(torch.int32) + noise
    # float32 has 23 bits of mantissa: 19 go. 1792 = (127 - 15) << 4: exponents begin at -15.
    return ((noisy >> 19) - 1792).clamp(min=0).to(torch.uint8), scales


def decode_root(codes: Tensor, scales: Tensor) -> Tensor:
    """Codes and scales -> float32."""
    return ((codes.to(torch.int32) + 1792) << 19).view(torch.float32) * scales


def encode_ratio(ratio: Tensor, bits: Tensor) -> tuple[Tensor, Tensor]:
    """Numbers, [blocks, block] -> codes int8, scales [blocks, 1]; uses `bits` 24 to 31.

    Codes are evenly spaced, and exact in the mean, but for a 512th of the space between two.
    """
    scales = ratio.abs().amax(dim=1, keepdim=True) / RATIO_LEVELS
    scaled_ratio = ratio / scales.clamp(min=torch.finfo(torch.float32).tiny)
    noise = (((bits >> 24) & 0xFF).float() + 0.5) / 256 - 0.5
    return torch.round(scaled_ratio + noise).to(torch.int8), scales


def decode_ratio(codes: Tensor, scales: Tensor) -> Tensor:
    """Codes and scales -> float32."""
    return codes.float() * scales
