"""A decoder of some thousand parameters, and gradients for it."""

from __future__ import annotations

import torch
from torch import nn

from hornbook.model.config import ModelConfig
from hornbook.model.decoder import Decoder


def tiny_config(family: str = "qwen3", **changes: object) -> ModelConfig:
    shape: dict[str, object] = {
        "family": family,
        "vocabulary": 61,
        "vocabulary_rows": 64,
        "context": 16,
        "layers": 2,
        "heads": 4,
        "kv_heads": 4 if family == "gpt2" else 2,
        "head_dim": 8,
        "width": 32,
        "mlp_width": 48,
        "tied": False,
    }
    return ModelConfig(**{**shape, **changes})


def tiny_decoder(family: str = "qwen3", **changes: object) -> Decoder:
    return Decoder(tiny_config(family, **changes), torch.Generator().manual_seed(1))


def give_gradients(model: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        drawn = torch.randn(parameter.shape, generator=generator)
        parameter.grad = drawn.to(parameter)
