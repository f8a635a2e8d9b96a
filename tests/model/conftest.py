"""Small models of every family, with every number drawn at random."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from hornbook.model.config import ModelConfig
from hornbook.model.decoder import Decoder
from hornbook.model.families import STOCK

TINY = {
    "gpt2": ModelConfig("gpt2", 89, 96, 40, 3, 4, 4, 8, 32, 128, tied=True),
    "phi": ModelConfig("phi", 89, 96, 40, 3, 4, 4, 20, 80, 96, tied=False, rotary_fraction=0.4),
    "llama": ModelConfig("llama", 89, 96, 40, 3, 4, 2, 8, 32, 88, tied=True),
    "qwen3": ModelConfig("qwen3", 89, 96, 40, 3, 4, 2, 16, 32, 88, tied=True, norm_epsilon=1e-6),
    "speedrun": ModelConfig(
        "speedrun", 89, 96, 40, 5, 4, 2, 8, 32, 88, tied=False, norm_epsilon=1e-6,
        initialise="zero-outputs", key_shift=True, smear=True, value_embeddings=2,
    ),
}  # fmt: skip


@pytest.fixture(scope="session")
def tiny_config() -> Callable[..., ModelConfig]:
    """tiny_config("llama", tied=False): a three-layer architecture of the family."""
    return lambda family, **changes: replace(TINY[family], **changes)


@pytest.fixture(scope="session")
def tiny_decoder(tiny_config) -> Callable[..., Decoder]:
    """tiny_decoder("llama", tied=False): every parameter random, gains and biases too; eval."""

    def build(family: str, seed: int = 0, **changes) -> Decoder:
        decoder = Decoder(tiny_config(family, **changes), initialise=False)
        randomise(decoder, seed)
        return decoder.eval()

    return build


@pytest.fixture(params=STOCK)
def family(request: pytest.FixtureRequest) -> str:
    """The name of each stock family; `test_speedrun` is about the one that is not."""
    return request.param


@torch.no_grad()
def randomise(model: torch.nn.Module, seed: int) -> None:
    """Numbers of ordinary size everywhere, so that a lost bias or gain cannot hide."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        parameter.normal_(0.0, 0.3, generator=generator)
        if name.endswith("weight") and parameter.dim() == 1:
            parameter.add_(1.0)
