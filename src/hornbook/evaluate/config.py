"""Settings of the evaluate stage."""

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
