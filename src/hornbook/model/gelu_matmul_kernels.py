"""The two products of a GELU network that GELU can ride on, as Triton kernels.

In: bfloat16 or float16 matrices on a CUDA device, all contiguous. Out: what the steps in
`gelu_matmul` say. Each program computes tiles of the product, its operands streamed in by the
tensor memory accelerator (capability 9.0 and newer); before a tile leaves the multiprocessor,
GELU or its derivative is worked out on it, which saves a pass over the widest activations.

This module needs Triton; import it only where `gelu_matmul.has_kernel` holds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from hornbook.model.kernels import multiprocessors


@dataclass(frozen=True)
class Tiling:
    """How a product is cut up."""

    rows: int
    """Of a tile of the result."""
    columns: int
    depth: int
    """Of the inner dimension, done in one go."""
    warps: int
    stages: int
    """Steps of `depth` that are under way at once."""
    programs: int
    """On each multiprocessor, each of which does many tiles; 0: a program for each tile."""
    flatten: bool = False
    """Begin to load the next tile before this one is done."""


UP = Tiling(128, 128, 64, warps=4, stages=3, programs=2)
DOWN = Tiling(128, 128, 64, warps=4, stages=3, programs=2)
"""Two programs of 128 x 128 fill registers and shared memory, and while one does its GELU, the
other multiplies. Not tuned yet: on an H200, at 124M and 64 rows of 1,024, the forward kernels take
8.3 ms a step, as cuBLAS and GELU apart do, and the backward ones 11.4, where those take 10.5."""

PIECES = tl.constexpr(4)
"""In which a tile is finished and written. As a whole, the backward one needs 1.6 kB of memory for
each thread besides its 255 registers, and as halves, two programs do not fit a multiprocessor."""

GROUP = tl.constexpr(8)
"""Rows of tiles done together, so that the operands they share stay in the cache."""


def up(x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """As `gelu_matmul.up`."""
    rows, depth = x.shape
    columns = weight.shape[0]
    inner = x.new_empty(rows, columns)
    activated = torch.empty_like(inner)
    tile = UP
    programs = _programs(tile, rows, columns, x.device)
    _up_kernel[(programs,)](
        _described(x, tile.rows, tile.depth),
        _described(weight, tile.columns, tile.depth),
        x if bias is None else bias,
        _described(inner, tile.rows, tile.columns // PIECES.value),
        _described(activated, tile.rows, tile.columns // PIECES.value),
        rows,
        columns,
        depth,
        bias is not None,
        programs,
        **_options(tile),
    )
    return inner, activated


def down_backward(upstream: Tensor, weight: Tensor, inner: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """As `gelu_matmul.down_backward`."""
    rows, depth = upstream.shape
    columns = weight.shape[1]
    gradient, activated = torch.empty_like(inner), torch.empty_like(inner)
    tile = DOWN
    programs = _programs(tile, rows, columns, inner.device)
    # Summed by tile in the kernel and by torch after it, so always in the same order.
    sums = inner.new_empty(triton.cdiv(rows, tile.rows), columns, dtype=torch.float32)
    _down_backward_kernel[(programs,)](
        _described(upstream, tile.rows, tile.depth),
        _described(weight, tile.depth, tile.columns),
        _described(inner, tile.rows, tile.columns // PIECES.value),
        _described(gradient, tile.rows, tile.columns // PIECES.value),
        _described(activated, tile.rows, tile.columns // PIECES.value),
        sums,
        rows,
        columns,
        depth,
        programs,
        **_options(tile),
    )
    return gradient, activated, sums.sum(0)


def _described(matrix: Tensor, rows: int, columns: int) -> TensorDescriptor:
    """A matrix for the tensor memory accelerator, in blocks [rows, columns]."""
    return TensorDescriptor.from_tensor(matrix, [rows, columns])


def _programs(tile: Tiling, rows: int, columns: int, device: torch.device) -> int:
    """How many programs are started."""
    tiles: int = triton.cdiv(rows, tile.rows) * triton.cdiv(columns, tile.columns)
    return min(tiles, tile.programs * multiprocessors(device)) if tile.programs else tiles


def _options(tile: Tiling) -> dict[str, Any]:
    """The last arguments of both kernels."""
    return {
        "tile_rows": tile.rows,
        "tile_columns": tile.columns,
        "tile_depth": tile.depth,
        "flatten": tile.flatten,
        "num_warps": tile.warps,
        "num_stages": tile.stages,
    }


@triton.constexpr_function
def _ceiling(number, divisor):  # type: ignore[no-untyped-def]
    """Of the quotient, before the kernel runs."""
    return -(-number // divisor)


@triton.jit  # type: ignore[untyped-decorator]
def _corner(  # type: ignore[no-untyped-def]
    tile,
    rows: tl.constexpr,
    columns: tl.constexpr,
    tile_rows: tl.constexpr,
    tile_columns: tl.constexpr,
):
    """First row and column of a tile: `GROUP` tiles downwards, then on to the right. Of a tile
    past the last one it is outside of the matrix, where nothing is read or written."""
    group_tiles: tl.constexpr = GROUP * _ceiling(columns, tile_columns)
    first = tile // group_tiles * GROUP
    height = tl.maximum(tl.minimum(_ceiling(rows, tile_rows) - first, GROUP), 1)
    within = tile % group_tiles
    return (first + within % height) * tile_rows, within // height * tile_columns


@triton.jit  # type: ignore[untyped-decorator]
def _halves(x, rows: tl.constexpr, columns: tl.constexpr):  # type: ignore[no-untyped-def]
    """The left and the right half of x [rows, 2 columns]."""
    return tl.split(tl.permute(tl.reshape(x, (rows, 2, columns)), (0, 2, 1)))


@triton.jit  # type: ignore[untyped-decorator]
def _quarters(x, rows: tl.constexpr, columns: tl.constexpr):  # type: ignore[no-untyped-def]
    """x [rows, columns] as its `PIECES`, from left to right."""
    left, right = _halves(x, rows, columns // 2)
    return _halves(left, rows, columns // 4) + _halves(right, rows, columns // 4)


@triton.jit
def _gate(x):  # type: ignore[no-untyped-def]
    """gelu(x) / x, which is (1 + tanh(u)) / 2 = sigmoid(2 u), u = sqrt(2 / pi) (x + 0.044715 x^3);
    by exp2, the one the hardware has: 2 sqrt(2 / pi) log2(e) = 2.302208198."""
    return 1.0 / (1.0 + tl.exp2(x * (-2.302208198 - 0.1029432397 * x * x)))


@triton.jit  # type: ignore[untyped-decorator]
def _up_kernel(  # type: ignore[no-untyped-def]
    x,
    weight,
    bias,
    inner,
    activated,
    rows: tl.constexpr,
    columns: tl.constexpr,
    depth: tl.constexpr,
    has_bias: tl.constexpr,
    programs: tl.constexpr,
    tile_rows: tl.constexpr,
    tile_columns: tl.constexpr,
    tile_depth: tl.constexpr,
    flatten: tl.constexpr,
):
    """inner = x weight^T + bias; activated = gelu(inner), of the rounded numbers, as plain does."""
    tiles: tl.constexpr = _ceiling(rows, tile_rows) * _ceiling(columns, tile_columns)
    for turn in tl.range(0, _ceiling(tiles, programs), flatten=flatten):
        tile = turn * programs + tl.program_id(0)
        row, column = _corner(tile, rows, columns, tile_rows, tile_columns)
        total = tl.zeros([tile_rows, tile_columns], tl.float32)
        for step in range(0, depth, tile_depth):
            left, right = x.load([row, step]), weight.load([column, step])
            total = tl.dot(left, right.T, total)
        parts = _quarters(total, tile_rows, tile_columns)
        for index in tl.static_range(PIECES):
            at = column + index * (tile_columns // PIECES)
            part = parts[index]
            if has_bias:
                places = at + tl.arange(0, tile_columns // PIECES)
                offset = tl.load(bias + places, mask=places < columns, other=0.0)
                part += offset.to(tl.float32)[None, :]
            rounded = part.to(inner.dtype)
            inner.store([row, at], rounded)
            exact = rounded.to(tl.float32)
            activated.store([row, at], (exact * _gate(exact)).to(activated.dtype))


@triton.jit  # type: ignore[untyped-decorator]
def _down_backward_kernel(  # type: ignore[no-untyped-def]
    upstream,
    weight,
    inner,
    gradient,
    activated,
    sums,
    rows: tl.constexpr,
    columns: tl.constexpr,
    depth: tl.constexpr,
    programs: tl.constexpr,
    tile_rows: tl.constexpr,
    tile_columns: tl.constexpr,
    tile_depth: tl.constexpr,
    flatten: tl.constexpr,
):
    """gradient = upstream weight * gelu'(inner); activated = gelu(inner); sums: of the gradient's
    columns, for each row of tiles."""
    tiles: tl.constexpr = _ceiling(rows, tile_rows) * _ceiling(columns, tile_columns)
    for turn in tl.range(0, _ceiling(tiles, programs), flatten=flatten):
        tile = turn * programs + tl.program_id(0)
        row, column = _corner(tile, rows, columns, tile_rows, tile_columns)
        total = tl.zeros([tile_rows, tile_columns], tl.float32)
        for step in range(0, depth, tile_depth):
            left, right = upstream.load([row, step]), weight.load([step, column])
            total = tl.dot(left, right, total)
        parts = _quarters(total, tile_rows, tile_columns)
        for index in tl.static_range(PIECES):
            at = column + index * (tile_columns // PIECES)
            exact = inner.load([row, at]).to(tl.float32)
            gate = _gate(exact)
            part = parts[index]
            # 0 part: else the compiler works GELU out twice, in the layouts of load and product.
            activated.store([row, at], (exact * gate + 0.0 * part).to(activated.dtype))
            # gelu'(x) = gate (1 + x (1 - gate) 2 du/dx), 2 du/dx = 2 sqrt(2 / pi) (1 + 0.134 x^2)
            slope = 1.595769122 + 0.2140644488 * exact * exact
            part *= gate * (1.0 + exact * (1.0 - gate) * slope)
            gradient.store([row, at], part.to(gradient.dtype))
            places = at + tl.arange(0, tile_columns // PIECES)
            inside = (places < columns) & (row < rows)
            tl.store(sums + row // tile_rows * columns + places, tl.sum(part, 0), mask=inside)
