"""Rotary position embeddings (RoPE, arXiv:2104.09864), whole or partial heads.

In: queries or keys [rows, T, heads, head_dim] and the positions of their tokens. Out: the same,
with the first `rotary_fraction` of each head rotated, in stock `transformers`' order of dimensions
(dimension i is paired with i + half, not with i + 1).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from hornbook.model.config import ModelConfig

Rotation = tuple[Tensor, Tensor]
"""Cosines and sines, float [rows or 1, T, 1, rotated dimensions / 2]."""


class Rotary(nn.Module):
    """Tables of cosines and sines, one row a position.

    The tables are computed in float32. A model cast to bfloat16 has them rounded like its weights,
    as stock models have; under autocast they stay float32.
    """

    cosines: Tensor
    sines: Tensor

    def __init__(self, config: ModelConfig):
        super().__init__()
        positions = torch.arange(config.context, dtype=torch.float32, device=table_device())
        angles = torch.outer(positions, frequencies(config))
        self.register_buffer("cosines", angles.cos(), persistent=False)
        self.register_buffer("sines", angles.sin(), persistent=False)

    def forward(self, positions: Tensor | None, tokens: int) -> Rotation:
        """The rotation of `positions` (int64 [rows, T]), or of 0..tokens-1 where that is None."""
        if positions is None:
            cosines, sines = self.cosines[None, :tokens], self.sines[None, :tokens]
        else:
            cosines, sines = self.cosines[positions], self.sines[positions]
        return cosines.unsqueeze(2), sines.unsqueeze(2)


def table_device() -> torch.device:
    """Where a new model's tables go: the default device, or the CPU where that is `meta`, since
    nobody fills tables later as weights are filled."""
    device = torch.get_default_device()
    return torch.device("cpu") if device.type == "meta" else device


def frequencies(config: ModelConfig) -> Tensor:
    """Radians a position by which each pair of dimensions turns, float32 [rotated / 2]."""
    size = config.rotated_dimensions
    pairs = torch.arange(0, size, 2, dtype=torch.float32, device=table_device())
    steps = 1.0 / config.rope_theta ** (pairs / size)
    return _llama3_scaled(steps, config) if config.rope_scaling == "llama3" else steps


def _llama3_scaled(steps: Tensor, config: ModelConfig) -> Tensor:
    """Llama 3.1's scaling: slow turns `rope_factor` times slower, fast ones kept, a ramp between.

    "Slow" and "fast" count the turns made within the context length of pretraining.
    """
    turns = config.rope_original_context * steps / (2 * math.pi)
    low, high = config.rope_low_frequency_factor, config.rope_high_frequency_factor
    kept = ((turns - low) / (high - low)).clamp(0.0, 1.0)
    return steps * (kept + (1.0 - kept) / config.rope_factor)


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """Rotate the leading dimensions of each head of x [rows, T, heads, head_dim]; dtype is kept."""
    cosines, sines = rotation
    half = cosines.shape[-1]
    sizes = [half, half, x.shape[-1] - 2 * half]
    first, second, rest = torch.split_with_sizes(x, sizes, dim=-1)
    turned = (first * cosines - second * sines, second * cosines + first * sines)
    return torch.cat((*(part.to(x.dtype) for part in turned), rest), dim=-1)
