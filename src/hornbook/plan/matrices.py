"""The matrices of a model, by shape, and the optimizer's state of each.

In: a `ModelConfig`. Out: shapes and bytes, without PyTorch and without building anything; tests
hold them to the real model and the real optimizer's state.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from hornbook.model.config import ModelConfig
from hornbook.model.count import parameters
from hornbook.model.families import FAMILIES
from hornbook.optim.config import OptimizerConfig

LARGEST_BLOCK, SMALLEST_BLOCK = 256, 64
"""Columns that share a scale in 8-bit AdamW (optim/adamw8bit.py)."""


@dataclass(frozen=True)
class Matrix:
    """A projection [outputs, inputs], of which a model has `number`."""

    inputs: int
    outputs: int
    number: int
    in_block: bool


def products(config: ModelConfig) -> Iterator[Matrix]:
    """The projections that a token passes: those of the blocks, and the head."""
    inner, key = config.heads * config.head_dim, config.kv_heads * config.head_dim
    wide = config.mlp_width * (2 if FAMILIES[config.family].architecture.mlp == "swiglu" else 1)
    yield Matrix(config.width, inner + 2 * key, config.layers, True)
    yield Matrix(inner, config.width, config.layers, True)
    yield Matrix(config.width, wide, config.layers, True)
    yield Matrix(config.mlp_width, config.width, config.layers, True)
    yield Matrix(config.width, config.vocabulary_rows, 1, False)


def state_bytes(config: ModelConfig, optimizer: OptimizerConfig) -> float:
    """Bytes of the optimizer's state on one GPU; none of them where it is offloaded."""
    if optimizer.offload:
        return 0.0
    total = 8.0 * parameters(config).total
    if optimizer.kind == "adamw":
        return total
    for matrix in _stored(config):
        size = matrix.inputs * matrix.outputs * matrix.number
        if optimizer.kind == "adamw8bit":
            total -= (8.0 - _coded(matrix.inputs)) * size
        elif matrix.in_block:
            row_squares = 4.0 * matrix.outputs * matrix.number if optimizer.normalize else 0.0
            total -= 4.0 * size - row_squares
    return total


def _stored(config: ModelConfig) -> Iterator[Matrix]:
    """All matrices that are parameters: a tied head is the embedding, learned positions are one."""
    yield from products(config)
    if not config.tied:
        yield Matrix(config.width, config.vocabulary_rows, 1, False)
    if FAMILIES[config.family].architecture.positions == "learned":
        yield Matrix(config.width, config.context, 1, False)


def _coded(columns: int) -> float:
    """Bytes a weight of 8-bit AdamW: two codes, and two float32 scales for each block."""
    sizes = range(LARGEST_BLOCK, SMALLEST_BLOCK - 1, -1)
    block = next((size for size in sizes if columns % size == 0), 0)
    return 2.0 + 8.0 / block if block else 8.0
