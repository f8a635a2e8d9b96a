"""Causal self-attention: the projections, and the attention itself, fast and plain.

In: hidden states [rows, T, width]. Out: the same shape. `attention` is the fast path
(`scaled_dot_product_attention`); `attention_reference` says the same in plain steps, for tests and
readers.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from hornbook.model.cache import LayerCache
from hornbook.model.config import ModelConfig
from hornbook.model.families import Architecture
from hornbook.model.layers import Linear, RMSNorm
from hornbook.model.rotary import Rotation, rotate


class Attention(nn.Module):
    """Multi-head attention, query, key and value in one product; grouped if kv_heads < heads."""

    def __init__(self, config: ModelConfig, architecture: Architecture):
        super().__init__()
        self.head_counts = (config.heads, config.kv_heads, config.kv_heads)
        self.head_dim = config.head_dim
        self.dropout = config.attention_dropout
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
        mask: Tensor | None,
        cache: LayerCache | None,
    ) -> Tensor:
        """x [rows, T, width]; mask as in `attention`; cache: attend to what it holds, and add."""
        fused = self.qkv(x).unflatten(-1, (-1, self.head_dim))
        query, key, value = fused.split(self.head_counts, dim=2)
        query, key = self.query_norm(query), self.key_norm(key)
        if rotation is not None:
            query, key = rotate(query, rotation), rotate(key, rotation)
        if cache is not None:
            key, value = cache.update(key, value)
        dropout = self.dropout if self.training else 0.0
        mixed = attention(
            query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2), mask, dropout
        )
        out: Tensor = self.output(mixed.transpose(1, 2).flatten(2))
        return out


def attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, dropout: float = 0.0
) -> Tensor:
    """softmax(query key^T / sqrt(head_dim)) value, through the fastest kernel torch has.

    Args:
        query: [rows, heads, T, head_dim].
        key: [rows, kv_heads, S, head_dim], heads a multiple of kv_heads.
        value: like key.
        mask: bool [rows, 1, T, S], True where a query may look; None: causal (S = T).
        dropout: probability of dropping an attention weight.

    Returns:
        [rows, heads, T, head_dim].
    """
    groups = query.shape[1] // key.shape[1]
    if mask is None:
        if query.is_cuda and query.dtype == torch.float32:
            # Repeated on the belief, not measured yet, that CUDA has no fused float32 kernel for
            # grouped heads and would form all scores in memory.
            key, value = (_repeat_heads(x, groups) for x in (key, value))
            groups = 1
        return functional.scaled_dot_product_attention(
            query, key, value, dropout_p=dropout, is_causal=True, enable_gqa=groups > 1
        )
    if query.shape[2] == 1:
        # Decoding: heads that share keys are as many queries of one head. Repeating the keys
        # took 1,745 us a layer, this 315 us (16 rows, 8 heads over 4, 108 slots, 1 CPU thread).
        query = query.view(query.shape[0], key.shape[1], groups, query.shape[3])
        mixed = functional.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, dropout_p=dropout
        )
        return mixed.flatten(1, 2).unsqueeze(2)
    # With a mask, CUDA has no fused kernel for grouped heads and would form all scores in memory.
    key, value = (_repeat_heads(x, groups) for x in (key, value))
    return functional.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, dropout_p=dropout
    )


def attention_reference(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, dropout: float = 0.0
) -> Tensor:
    """What `attention` computes, step by step; the softmax in float32."""
    groups, tokens = query.shape[1] // key.shape[1], query.shape[2]
    key, value = (_repeat_heads(x, groups) for x in (key, value))
    if mask is None:
        mask = torch.ones(tokens, tokens, dtype=torch.bool, device=query.device).tril()
    scores = (query @ key.transpose(-2, -1)).float() / math.sqrt(query.shape[-1])
    weights = scores.masked_fill(~mask, -math.inf).softmax(dim=-1)
    return functional.dropout(weights, dropout).to(value.dtype) @ value


def document_mask(documents: Tensor) -> Tensor:
    """Causal attention inside documents: bool [rows, 1, T, T] from int [rows, T].

    Padding (-1) sees the padding before it and itself, so that no softmax is over nothing.
    """
    tokens = documents.shape[1]
    causal = torch.ones(tokens, tokens, dtype=torch.bool, device=documents.device).tril()
    return ((documents[:, :, None] == documents[:, None, :]) & causal).unsqueeze(1)


def _repeat_heads(x: Tensor, groups: int) -> Tensor:
    """[rows, kv_heads, S, head_dim] -> [rows, kv_heads * groups, S, head_dim], each repeated."""
    return x if groups == 1 else x.repeat_interleave(groups, dim=1)
