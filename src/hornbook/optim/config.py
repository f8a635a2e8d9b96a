"""Settings of the optimizer and its schedule."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass
class OptimizerConfig:
    """AdamW with decay groups, warm-up and a schedule."""

    learning_rate: float = 6e-4
    """Peak learning rate."""

    schedule: Literal["cosine", "constant", "wsd"] = "cosine"
    """After warm-up: `cosine` down to the final rate; `constant`; `wsd`: stable, then linear decay
    over the last `decay_share` of the run."""

    warmup_steps: int = 100
    """Steps of linear warm-up; at most a tenth of the run is used."""

    final_share: float = 0.1
    """Final learning rate as a share of the peak."""

    decay_share: float = 0.2
    """`wsd`: share of the run spent decaying."""

    weight_decay: float = 0.1
    """Decoupled weight decay of matrices (two and more dimensions); gains, biases and other
    vectors are not decayed."""

    beta1: float = 0.9
    """AdamW's first moment decay."""

    beta2: float = 0.95
    """AdamW's second moment decay."""

    epsilon: float = 1e-8
    """AdamW's denominator floor."""

    gradient_clip: float = 1.0
    """Largest global gradient norm; 0 turns clipping off."""
