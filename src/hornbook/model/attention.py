"""Causal self-attention: the projections, and the attention itself, fast and plain.

In: hidden states [rows, T, width]. Out: the same shape. `attention` is the fast path
(`scaled_dot_product_attention`, or `flex_attention` where documents are kept apart on CUDA);
`attention_reference` says the same in plain steps, for tests and readers.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from hornbook.model.cache import LayerCache
from hornbook.model.config import ModelConfig
from hornbook.model.engine import AttentionKernel, Engine
from hornbook.model.families import Architecture
from hornbook.model.layers import Linear, RMSNorm
from hornbook.model.lookback import shift_keys
from hornbook.model.rotary import Rotation, rotate

HEAD_DIM_MULTIPLE = 8
"""cuDNN and flash take heads of such sizes only. Flash pads others itself, by copying queries, keys
and values: 85 TFLOP/s at 54, where cuDNN at 56 lets a 712M model do 12 % more tokens a second."""

SMALLEST_FLEXIBLE_HEAD = 16
"""The smallest head that flex_attention takes."""

FLASH_CAPABILITY = (8, 0)
"""GPUs from here on have flash and cuDNN attention."""

KERNELS = {
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}
"""In the order in which they are tried after the one that was asked for."""

Mask = Tensor | BlockMask | None
"""Who sees whom: bool [rows, 1, T, S], True where a query may look; flex_attention's description of
the same; None: causal (S = T)."""


class Attention(nn.Module):
    """Multi-head attention, query, key and value in one product; grouped if kv_heads < heads."""

    def __init__(self, config: ModelConfig, architecture: Architecture):
        super().__init__()
        self.head_counts = (config.heads, config.kv_heads, config.kv_heads)
        self.head_dim = config.head_dim
        self.dropout = config.attention_dropout
        self.key_shift = config.key_shift
        inner = config.heads * config.head_dim
        fused = sum(self.head_counts) * config.head_dim
        self.qkv = Linear(config.width, fused, bias=architecture.bias)
        self.output = Linear(inner, config.width, bias=architecture.bias)
        self.query_norm: nn.Module = nn.Identity()
        self.key_norm: nn.Module = nn.Identity()
        if architecture.query_key_norm:
            self.query_norm = RMSNorm(config.head_dim, eps=config.norm_epsilon)
            self.key_norm = RMSNorm(config.head_dim, eps=config.norm_epsilon)

    def forward(
        self,
        x: Tensor,
        rotation: Rotation | None,
        mask: Mask,
        cache: LayerCache | None,
        engine: Engine,
        extra_value: Tensor | None = None,
    ) -> Tensor:
        """x [rows, T, width]; mask as in `attention`; cache: attend to what it holds, and add;
        extra_value [rows, T, kv_heads, head_dim]: added to the values."""
        # With a cache shapes change all the time, for each of which cuDNN would make a plan first.
        kernel = engine.attention if cache is None else "auto"
        size = padded_head_dim(self.head_dim, kernel)
        fused = self._queries_keys_values(x, size).view(*x.shape[:2], -1, size)
        query, key, value = torch.split_with_sizes(fused, self.head_counts, dim=2)
        query, key = self._normed(self.query_norm, query), self._normed(self.key_norm, key)
        if self.key_shift:
            memory = (None, None) if cache is None else (cache.plain_keys, cache.positions)
            key = shift_keys(key, *memory)
        if extra_value is not None:
            padded = functional.pad(extra_value, (0, size - self.head_dim))
            value = value + padded.to(value.dtype)
        if cache is not None and cache.attends(query.shape[1]):
            return self._output(cache.attend(query, key, value, rotation).flatten(2), size)
        if rotation is not None:
            query, key = rotate(query, rotation), rotate(key, rotation)
        if cache is not None:
            key, value = cache.update(key, value)
        dropout = self.dropout if self.training else 0.0
        query, key, value = (part.transpose(1, 2) for part in (query, key, value))
        scale = None if size == self.head_dim else self.head_dim**-0.5
        with kernel_choice(kernel):
            mixed = attention(query, key, value, mask, dropout, scale=scale)
        return self._output(mixed.transpose(1, 2).flatten(2), size)

    def _queries_keys_values(self, x: Tensor, size: int) -> Tensor:
        """x [rows, T, width] -> [rows, T, heads + 2 kv_heads, `size`], flat in the last two.

        Padding heads by zero rows of the (small) weights costs no pass over the activations.
        """
        extra = size - self.head_dim
        if not extra:
            projected: Tensor = self.qkv(x)
            return projected
        heads = self.qkv.weight.view(-1, self.head_dim, x.shape[-1])
        weight = functional.pad(heads, (0, 0, 0, extra)).flatten(0, 1)
        bias: Tensor | None = self.qkv.bias
        if bias is not None:
            bias = functional.pad(bias.view(-1, self.head_dim), (0, extra)).flatten()
        return functional.linear(x, weight, bias)

    def _output(self, mixed: Tensor, size: int) -> Tensor:
        """mixed [rows, T, heads * `size`] -> [rows, T, width]; what pads a head meets zeros."""
        extra = size - self.head_dim
        if not extra:
            out: Tensor = self.output(mixed)
            return out
        heads = self.output.weight.view(self.output.out_features, -1, self.head_dim)
        weight = functional.pad(heads, (0, extra)).flatten(1)
        return functional.linear(mixed, weight, self.output.bias)

    def _normed(self, norm: nn.Module, x: Tensor) -> Tensor:
        """The norm over each head of x [rows, T, heads, size], without what pads it."""
        extra = x.shape[-1] - self.head_dim
        if not extra or isinstance(norm, nn.Identity):
            normed: Tensor = norm(x)
            return normed
        return functional.pad(norm(x[..., : self.head_dim]), (0, extra))


def padded_head_dim(head_dim: int, kernel: AttentionKernel) -> int:
    """The size of a head that a kernel is given: padded at its end, which is never rotated."""
    if kernel in ("cudnn", "flash"):
        return -(-head_dim // HEAD_DIM_MULTIPLE) * HEAD_DIM_MULTIPLE
    return head_dim


def kernel_choice(kernel: AttentionKernel) -> contextlib.AbstractContextManager[Any]:
    """The context in which `attention` tries this kernel first; a call that it refuses takes the
    next of `KERNELS`. `math` is that alone. Compiled graphs stay whole."""
    if kernel == "auto":
        return contextlib.nullcontext()
    if kernel == "math":
        return sdpa_kernel([SDPBackend.MATH])
    others = [backend for name, backend in KERNELS.items() if name != kernel]
    return sdpa_kernel([KERNELS[kernel], *others], set_priority=True)


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Mask = None,
    dropout: float = 0.0,
    *,
    scale: float | None = None,
) -> Tensor:
    """softmax(scale query key^T) value, through the fastest kernel torch has.

    Args:
        query: [rows, heads, T, head_dim].
        key: [rows, kv_heads, S, head_dim], heads a multiple of kv_heads.
        value: like key.
        mask: who sees whom; None: causal (S = T).
        dropout: probability of dropping an attention weight; 0 with a `BlockMask`.
        scale: None: 1 / sqrt(head_dim).

    Returns:
        [rows, heads, T, head_dim].
    """
    groups = query.shape[1] // key.shape[1]
    if isinstance(mask, BlockMask):
        assert dropout == 0.0, "flex_attention has no dropout"
        mixed: Tensor = _fast(flex_attention)(
            query, key, value, block_mask=mask, scale=scale, enable_gqa=groups > 1
        )
        return mixed
    if mask is None:
        if not _takes_groups(query):
            key, value = (_repeat_heads(x, groups) for x in (key, value))
            groups = 1
        return functional.scaled_dot_product_attention(
            query,
            key,
            value,
            dropout_p=dropout,
            is_causal=True,
            scale=scale,
            enable_gqa=groups > 1,
        )
    if query.shape[2] == 1:
        # Decoding: heads that share keys are as many queries of one head. Repeating the keys
        # took 1,745 us a layer, this 315 us (16 rows, 8 heads over 4, 108 slots, 1 CPU thread).
        query = query.view(query.shape[0], key.shape[1], groups, query.shape[3])
        mixed = functional.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, dropout_p=dropout, scale=scale
        )
        return mixed.flatten(1, 2).unsqueeze(2)
    # With a mask, CUDA has no fused kernel for grouped heads and would form all scores in memory.
    key, value = (_repeat_heads(x, groups) for x in (key, value))
    return functional.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, dropout_p=dropout, scale=scale
    )


def attention_reference(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
    dropout: float = 0.0,
    *,
    scale: float | None = None,
) -> Tensor:
    """What `attention` computes, step by step; the softmax in float32."""
    groups, tokens = query.shape[1] // key.shape[1], query.shape[2]
    key, value = (_repeat_heads(x, groups) for x in (key, value))
    if mask is None:
        mask = torch.ones(tokens, tokens, dtype=torch.bool, device=query.device).tril()
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    scores = (query @ key.transpose(-2, -1)).float() * scale
    weights = scores.masked_fill(~mask, -math.inf).softmax(dim=-1)
    return functional.dropout(weights, dropout).to(value.dtype) @ value


def document_mask(documents: Tensor) -> Tensor:
    """Causal attention inside documents: bool [rows, 1, T, T] from int [rows, T].

    Padding (-1) sees the padding before it and itself, so that no softmax is over nothing.
    """
    tokens = documents.shape[1]
    causal = torch.ones(tokens, tokens, dtype=torch.bool, device=documents.device).tril()
    return ((documents[:, :, None] == documents[:, None, :]) & causal).unsqueeze(1)


def document_blocks(documents: Tensor) -> BlockMask:
    """`document_mask` as flex_attention takes it: which blocks of 128 x 128 have anything to see.

    The mask itself, a byte for every pair of tokens, is never in memory.
    """

    def same_document(row: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (documents[row, query] == documents[row, key]) & (key <= query)

    rows, tokens = documents.shape
    blocks: BlockMask = _fast(create_block_mask)(
        same_document, rows, None, tokens, tokens, device=documents.device
    )
    return blocks


def _fast(function: Callable[..., Any]) -> Callable[..., Any]:
    """One of flex_attention's functions, compiled: as it is, it forms all pairs in memory."""
    if torch.compiler.is_compiling():
        return function
    return _compiled(function)


@functools.cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    return torch.compile(function, dynamic=False)


def _takes_groups(query: Tensor) -> bool:
    """Whether a fast kernel takes heads that share keys. On CUDA, flash and cuDNN do, which have 16
    bits and newer GPUs than a T4 alone; without them all scores would be formed in memory."""
    if not query.is_cuda:
        return True
    return query.dtype != torch.float32 and _is_newer_than_t4(query.device)


# A constant to the compiler; not the capability itself, since torch 2.11 cannot trace comparing it.
@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _is_newer_than_t4(device: torch.device) -> bool:
    return torch.cuda.get_device_capability(device) >= FLASH_CAPABILITY


def _repeat_heads(x: Tensor, groups: int) -> Tensor:
    """[rows, kv_heads, S, head_dim] -> [rows, kv_heads * groups, S, head_dim], each repeated."""
    return x if groups == 1 else x.repeat_interleave(groups, dim=1)
