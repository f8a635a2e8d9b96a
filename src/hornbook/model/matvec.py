"""A decode step for few rows in few launches: Triton products that take their neighbours along.

In: ids of one token a row, and the cache. Out: logits. With few rows a step is bound by the
number of its launches and by reading the weights: cuBLAS, the norms, activations and additions of a
124M model took 0.62 ms a step on an H200, of which reading the weights at 4.3 TB/s is 0.06. Here a
layer is five launches: norm and queries, keys, values; attention; output and addition; norm, up
and activation; down and addition. Imported only where Triton runs.

The plain form is `Decoder.hidden` with `decode.logits`, and each number is rounded where it is
rounded there; only the order of sums differs.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor, nn

from hornbook.model.cache import KeyValueCache
from hornbook.model.decoder import Block, Decoder
from hornbook.model.layers import GeluMLP, RMSNorm, SwigluMLP

MOST_ROWS = 4
"""Each row reads the weights by itself (from the processor's cache, after the first), and uses no
tensor cores: with more rows cuBLAS is to be faster. Reckoned, not measured yet."""

INPUTS_AT_ONCE, WARPS = 1024, 4
"""Columns of the weight that a program reads in one go, and its warps. Likewise."""

BYTES_A_PROGRAM = 32 * 1024
"""Weights on their way to one program at most: 64 registers a thread. Four times that (8 outputs of
8,192 inputs) spilled registers when compiled for compute capability 9.0."""

LEAST_PROGRAMS = 132
"""Outputs are shared out so that there are this many programs at least: an H200's processors."""


@triton.jit  # type: ignore[untyped-decorator]
def _tile(weight, n, k, outputs, width: tl.constexpr):  # type: ignore[no-untyped-def]
    """Rows n and columns k of the weight."""
    inside = (n < outputs)[:, None] & (k < width)[None, :]
    return tl.load(weight + n.to(tl.int64)[:, None] * width + k[None, :], mask=inside, other=0.0)


@triton.jit  # type: ignore[untyped-decorator]
def _matvec(  # type: ignore[no-untyped-def]
    x, weight, bias, gain, shift, residual, out, outputs, epsilon,
    width: tl.constexpr, padded: tl.constexpr, norm: tl.constexpr, activation: tl.constexpr,
    biased: tl.constexpr, added: tl.constexpr, block_n: tl.constexpr, block_k: tl.constexpr,
):  # fmt: skip
    """One program for `block_n` outputs of a row."""
    row = tl.program_id(1).to(tl.int64)
    n = tl.program_id(0) * block_n + tl.arange(0, block_n)
    gated: tl.constexpr = activation == "swiglu"
    narrow = x.dtype.element_ty
    x += row * width

    # On their way before the norm, for whose sums the threads wait for each other.
    tile = _tile(weight, n, tl.arange(0, block_k), outputs, width)
    mean = 0.0
    scale = 1.0
    if norm != "none":
        whole = tl.arange(0, padded)
        values = tl.load(x + whole, mask=whole < width, other=0.0).to(tl.float32)
        if norm == "layer":
            mean = tl.sum(values, 0) / width
            values = tl.where(whole < width, values - mean, 0.0)
        scale = 1.0 / tl.sqrt(tl.sum(values * values, 0) / width + epsilon)

    products = tl.zeros((block_n, block_k), tl.float32)
    up_products = tl.zeros((block_n, block_k), tl.float32)
    for first in tl.static_range(0, width, block_k):
        k = first + tl.arange(0, block_k)
        values = tl.load(x + k, mask=k < width, other=0.0).to(tl.float32)
        if norm != "none":
            values = (values - mean) * scale * tl.load(gain + k, mask=k < width, other=0.0)
            if norm == "layer":
                values += tl.load(shift + k, mask=k < width, other=0.0)
            values = values.to(narrow).to(tl.float32)
        if first > 0:
            tile = _tile(weight, n, k, outputs, width)
        products += tile.to(tl.float32) * values[None, :]
        if gated:
            up_tile = _tile(weight + outputs.to(tl.int64) * width, n, k, outputs, width)
            up_products += up_tile.to(tl.float32) * values[None, :]

    y = tl.sum(products, 1)
    if biased:
        y += tl.load(bias + n, mask=n < outputs, other=0.0)
    if activation == "gelu":  # with the tanh approximation
        y = y.to(narrow).to(tl.float32)
        y = y / (1.0 + tl.exp(-1.5957691216057308 * (y + 0.044715 * y * y * y)))
    if gated:
        up = tl.sum(up_products, 1)
        if biased:
            up += tl.load(bias + outputs + n, mask=n < outputs, other=0.0)
        y = y.to(narrow).to(tl.float32)
        y = (y / (1.0 + tl.exp(-y))).to(narrow).to(tl.float32) * up.to(narrow).to(tl.float32)
    if added:
        there = residual + row * outputs + n
        y = y.to(narrow).to(tl.float32) + tl.load(there, mask=n < outputs, other=0.0)
    tl.store(out + row * outputs + n, y.to(out.dtype.element_ty), mask=n < outputs)


def linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    norm: nn.Module | None = None,
    activation: str = "none",
    residual: Tensor | None = None,
    outputs: int | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """residual + activation(norm(x) weight^T + bias) in one launch.

    Args:
        x: [rows, width], contiguous.
        weight: [outputs, width], contiguous, of the dtype of x; [2 outputs, width] with "swiglu",
            the gate first.
        bias: [rows of weight].
        norm: an `nn.LayerNorm` or `RMSNorm` over the width.
        activation: "none", "gelu" or "swiglu".
        residual: [rows, outputs], contiguous.
        outputs: use only the first so many rows of `weight`.
        dtype: of the result; None: that of x.

    Returns:
        [rows, outputs].
    """
    rows, width = x.shape
    if outputs is None:
        outputs = weight.shape[0] // (2 if activation == "swiglu" else 1)
    assert x.is_contiguous() and weight.is_contiguous() and weight.shape[1] == width
    assert residual is None or residual.is_contiguous()
    kind, epsilon, gain, shift = "none", 0.0, x, x
    if isinstance(norm, nn.LayerNorm):
        kind, epsilon, gain, shift = "layer", norm.eps, norm.weight, norm.bias
    elif isinstance(norm, RMSNorm):
        assert norm.eps is not None
        kind, epsilon, gain = "rms", norm.eps, norm.weight
    out = torch.empty(rows, outputs, dtype=dtype or x.dtype, device=x.device)
    padded = triton.next_power_of_2(width)
    bytes_an_output = width * weight.element_size() * (2 if activation == "swiglu" else 1)
    block_n = 16
    while block_n > 1 and (
        block_n * bytes_an_output > BYTES_A_PROGRAM
        or triton.cdiv(outputs, block_n) < LEAST_PROGRAMS
    ):
        block_n //= 2
    _matvec[(triton.cdiv(outputs, block_n), rows)](
        x, weight, x if bias is None else bias, gain, shift, x if residual is None else residual,
        out, outputs, epsilon, width=width, padded=padded, norm=kind, activation=activation,
        biased=bias is not None, added=residual is not None, block_n=block_n,
        block_k=min(padded, INPUTS_AT_ONCE), num_warps=WARPS,
    )  # fmt: skip
    return out


def fits(model: Decoder, rows: int) -> bool:
    """Whether `step_logits` is right for this model, and the faster way for so many rows."""
    config = model.config
    tricks = config.smear or config.key_shift or config.value_embeddings
    return rows <= MOST_ROWS and not tricks


def step_logits(model: Decoder, ids: Tensor, cache: KeyValueCache, vocabulary: int) -> Tensor:
    """One token of each row through the model, which the cache then holds.

    Args:
        model: one that `fits`.
        ids: int64 [rows].
        vocabulary: how many logits are wanted.

    Returns:
        float32 [rows, vocabulary].
    """
    positions = cache.positions(1)
    x = model.embedding(ids)
    if model.positions is not None:
        x = x + model.positions.weight[positions[:, 0]]
    rotation = None if model.rotary is None else model.rotary(positions, 1)
    for index, block in enumerate(model.blocks):
        assert isinstance(block, Block)
        attention, mlp = block.attention, block.mlp
        fused = linear(x, attention.qkv.weight, attention.qkv.bias, norm=block.attention_norm)
        heads = fused.view(len(x), 1, -1, attention.head_dim)
        query, key, value = torch.split_with_sizes(heads, attention.head_counts, dim=2)
        query, key = attention.query_norm(query), attention.key_norm(key)
        mixed = cache.layer(index, positions).attend(query, key, value, rotation).view(len(x), -1)
        attended = linear(mixed, attention.output.weight, attention.output.bias, residual=x)
        # In a parallel block attention and MLP read the same.
        source, norm = attended, block.mlp_norm
        if norm is None:
            source, norm = x, block.attention_norm
        if isinstance(mlp, SwigluMLP):
            up, activation = mlp.gate_up, "swiglu"
        else:
            assert isinstance(mlp, GeluMLP)
            up, activation = mlp.up, "gelu"
        inner = linear(source, up.weight, up.bias, norm=norm, activation=activation)
        x = linear(inner, mlp.down.weight, mlp.down.bias, residual=attended)
    cache.advance(1)
    head = model.lm_head
    return linear(
        x, model.embedding.weight if head.weight is None else head.weight, head.bias,
        norm=model.final_norm, outputs=vocabulary, dtype=torch.float32,
    )  # fmt: skip
