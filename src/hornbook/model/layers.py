"""The small layers of a block: norms, feed-forward networks, the output head.

In and out: hidden states [rows, T, width]; the head gives float32 logits. Weights are left empty
here (`Decoder.initialise` fills them), since torch's own initialisation of billions of numbers that
are then overwritten takes minutes.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from hornbook.model.config import ModelConfig
from hornbook.model.families import Architecture
from hornbook.model.gelu_matmul import gelu_network
from hornbook.model.rotary import table_device


class Linear(nn.Linear):
    """torch's linear layer, its numbers not yet set."""

    def reset_parameters(self) -> None:
        """Nothing: `Decoder.initialise` does it."""


class Embedding(nn.Embedding):
    """torch's embedding, its numbers not yet set."""

    def reset_parameters(self) -> None:
        """Nothing: `Decoder.initialise` does it."""


class RMSNorm(nn.RMSNorm):
    """torch's RMSNorm, its gain rounded to the input's dtype.

    Under autocast queries and keys are bfloat16 and the gain is float32, for which torch has no
    fused kernel. The kernel computes in float32 in any case.
    """

    def forward(self, x: Tensor) -> Tensor:
        """[..., size] -> the same shape and dtype."""
        assert self.weight is not None
        return functional.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)


def build_norm(config: ModelConfig, architecture: Architecture) -> nn.Module:
    """The family's norm over the width."""
    kind = nn.LayerNorm if architecture.norm == "layer" else RMSNorm
    return kind(config.width, eps=config.norm_epsilon)


def build_mlp(config: ModelConfig, architecture: Architecture) -> nn.Module:
    """The family's feed-forward network."""
    kind = GeluMLP if architecture.mlp == "gelu" else SwigluMLP
    return kind(config.width, config.mlp_width, bias=architecture.bias)


class GeluMLP(nn.Module):
    """down(gelu(up(x))), with the tanh approximation that GPT-2 and Phi were trained with."""

    def __init__(self, width: int, mlp_width: int, *, bias: bool):
        super().__init__()
        self.up = Linear(width, mlp_width, bias=bias)
        self.down = Linear(mlp_width, width, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """[rows, T, width] -> [rows, T, width]."""
        out: Tensor = self.down(functional.gelu(self.up(x), approximate="tanh"))
        return out

    def fused(self, x: Tensor) -> Tensor:
        """`forward`, GELU worked out inside the products."""
        up, down = self.up, self.down
        tensors: list[Any] = [x, up.weight, up.bias, down.weight, down.bias]
        if torch.is_autocast_enabled(x.device.type):
            dtype = torch.get_autocast_dtype(x.device.type)
            tensors = [None if part is None else part.to(dtype) for part in tensors]
        return gelu_network(*tensors)


class SwigluMLP(nn.Module):
    """down(silu(gate(x)) * up(x)) (arXiv:2002.05202), gate and up in one product."""

    def __init__(self, width: int, mlp_width: int, *, bias: bool):
        super().__init__()
        self.gate_up = Linear(width, 2 * mlp_width, bias=bias)
        self.down = Linear(mlp_width, width, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """[rows, T, width] -> [rows, T, width]."""
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        out: Tensor = self.down(functional.silu(gate) * up)
        return out


class OutputHead(nn.Module):
    """Logits from hidden states; columns that only pad the vocabulary are -inf.

    `weight` is None where the head is tied to the embedding.
    """

    pad_mask: Tensor | None

    def __init__(self, config: ModelConfig, architecture: Architecture):
        super().__init__()
        rows = config.vocabulary_rows
        self.weight: nn.Parameter | None = None
        self.bias: nn.Parameter | None = None
        if not config.tied:
            self.weight = nn.Parameter(torch.empty(rows, config.width))
        if architecture.head_bias:
            self.bias = nn.Parameter(torch.empty(rows))
        pad_mask = None
        if rows > config.vocabulary:
            pad_mask = torch.zeros(rows, device=table_device())
            pad_mask[config.vocabulary :] = -math.inf
        self.register_buffer("pad_mask", pad_mask, persistent=False)

    def forward(self, hidden: Tensor, embedding: Tensor) -> Tensor:
        """[..., width] -> float32 [..., vocabulary_rows]; `embedding` [rows, width] if tied."""
        # The mask goes in as a bias: one product, no further pass over the (large) logits.
        bias: Tensor | None = self.bias
        if self.pad_mask is not None:
            bias = self.pad_mask if bias is None else bias + self.pad_mask
        weight = embedding if self.weight is None else self.weight
        return functional.linear(hidden, weight, bias).float()
