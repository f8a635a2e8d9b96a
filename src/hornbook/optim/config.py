"""Settings of the optimizer and its schedule."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass
class OptimizerConfig:
    """The optimizer, its decay groups, warm-up and schedule."""

    kind: Literal["adamw", "adamw8bit", "muon"] = "adamw"
    """`adamw`; `adamw8bit` keeps its moments in 8 bits; `muon` for matrices, AdamW for the rest."""

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

    matrix_learning_rate: float = 0.02
    """`muon`: peak learning rate of the matrices; the schedule is the same."""

    momentum: float = 0.95
    """`muon`: decay of the momentum."""

    normalize: bool = False
    """`muon`: scale each row of the update by its own second moment (NorMuon)."""

    cautious: bool = False
    """Decay a weight only where decay and update agree in sign (cautious weight decay)."""

    offload: bool = False
    """Keep optimizer state and its update on the CPU: slow, for models that fit no other way."""

    gradient_clip: float = 1.0
    """Largest global gradient norm; 0 turns clipping off."""
