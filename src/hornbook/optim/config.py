"""Settings of the optimizer and its schedule."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass
class OptimizerConfig:
    """The optimizer, its decay groups, warm-up and schedule."""

    kind: Literal["adamw", "adamw8bit", "muon"] = "adamw"
    """`adamw`; `adamw8bit` keeps its moments in 8 bits, a quarter of the memory; `muon` for the
    matrices inside the blocks, AdamW for embeddings, head and vectors."""

    learning_rate: float = 6e-4
    """Peak learning rate."""

    embedding_learning_rate: float | None = None
    """That of the token embeddings (a tied head is one with them) and of value embeddings; none:
    `learning_rate`."""

    head_learning_rate: float | None = None
    """That of an untied head; none: `learning_rate`."""

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
    """Decoupled weight decay of matrices (two and more dimensions), times the learning rate of
    each; gains, biases and other vectors are not decayed."""

    beta1: float = 0.9
    """AdamW's first moment decay."""

    beta2: float = 0.95
    """AdamW's second moment decay; with `normalize`, also that of the rows."""

    epsilon: float = 1e-8
    """AdamW's denominator floor."""

    matrix_learning_rate: float = 0.02
    """`muon`: peak learning rate of the matrices, times sqrt(rows / columns) for tall ones; the
    schedule is the same."""

    momentum: float = 0.95
    """`muon`: decay of the momentum."""

    normalize: bool = False
    """`muon`: scale each row of the update by its own second moment (NorMuon)."""

    cautious: bool = False
    """Decay a weight only where decay and update agree in sign (cautious weight decay)."""

    offload: bool = False
    """`adamw`: keep its state, and with bf16 weights float32 masters, in CPU memory (12 bytes a
    weight) and update there: slow, for models that fit no other way. One GPU."""

    gradient_clip: float = 1.0
    """Largest global gradient norm; 0 turns clipping off."""
