"""Settings of the evaluate stage, and of the forecast."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass
class EvaluateConfig:
    """Held-out loss, perplexity and bits per byte."""

    text: str | None = None
    """Evaluate on this file or folder instead of the run's own validation documents."""

    max_tokens: int = 0
    """Evaluate at most this many tokens; 0: all."""

    stride: int = 0
    """Tokens by which the window moves; 0: half the context, so every token but the first ones is
    predicted from at least half a context."""

    batch_tokens: int = 4096
    """Tokens in one forward pass (at least one window)."""

    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to evaluate; `auto` takes the fastest that works."""


@dataclass
class ForecastConfig:
    """How much longer a run has to train for a loss."""

    target_loss: float | None = None
    """Loss to reach, in nats a token of this run's tokenizer."""

    reference: str | None = None
    """A finished model whose loss on this run's validation documents is the target: a Hugging Face
    directory, a run, or a well-known name (phi-2, gpt2 ...)."""

    gpu: str = "this"
    """Device that the time is said for, besides the one of the run: a name that `plan` knows."""

    price: float | None = None
    """US dollars an hour for each GPU; default: a list price."""

    column: Literal["loss", "validation"] = "loss"
    """Which losses are fitted: those of the training steps, or the validation losses."""

    bootstrap: int = 400
    """Refits on resampled residuals, from which the interval comes."""

    seed: int = 1337
    """Seed of the resampling."""
