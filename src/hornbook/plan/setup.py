"""How a step is to be computed: what decides its memory and speed, besides the model itself.

In: settings of a recipe, each `auto` left to `fit`. Out: a `Setup`. Nothing here imports torch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from hornbook.model.engine import Engine
from hornbook.optim.config import OptimizerConfig

Precision = Literal["fp32", "bf16", "fp16"]
Sharding = Literal["none", "ddp", "fsdp"]

WEIGHT_BYTES = {"fp32": 4, "bf16": 2}
"""Of a weight as it is stored, and of its gradient."""


@dataclass(frozen=True)
class Setup:
    """One way to compute a training step."""

    sequence_length: int
    """Tokens of a row."""
    rows: int
    """Rows of an optimizer step over all GPUs."""
    micro_batch: int
    """Rows of one forward pass on one GPU."""
    precision: Precision = "bf16"
    weights: Literal["fp32", "bf16"] = "fp32"
    engine: Engine = field(default_factory=Engine)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    gpus: int = 1
    sharding: Sharding = "none"
    device: Literal["cuda", "cpu"] = "cuda"
    cuda_graph: bool = False
    """A micro-batch is a recorded pass that is replayed (train/replay.py)."""
    gathered: bool = False
    """FSDP keeps all gathered weights through a step (`rules.keeps_gathered`)."""

    @property
    def narrow_bytes(self) -> int:
        """Bytes of an activation in the type of the matrix products."""
        return 4 if self.precision == "fp32" else 2

    @property
    def weight_bytes(self) -> int:
        """Bytes of a weight, and of its gradient."""
        return WEIGHT_BYTES[self.weights]

    @property
    def residual_bytes(self) -> int:
        """Bytes of an activation in the residual stream."""
        return self.narrow_bytes if self.engine.residual == "bf16" else 4

    @property
    def micro_tokens(self) -> int:
        """Tokens of one forward pass on one GPU."""
        return self.micro_batch * self.sequence_length

    @property
    def micro_batches(self) -> int:
        """Forward passes of one step on each GPU."""
        return math.ceil(self.rows / (self.gpus * self.micro_batch))

    @property
    def step_tokens(self) -> int:
        """Tokens of one optimizer step over all GPUs."""
        return self.rows * self.sequence_length


@dataclass(frozen=True)
class Wishes:
    """What a recipe asks for; `auto` and 0 are left to the plan.

    The fields are those of the recipe's `pretrain` section.
    """

    sequence_length: int
    global_batch_tokens: int
    micro_batch: int = 0
    precision: str = "auto"
    weights: Literal["fp32", "bf16"] = "fp32"
    compile: str = "auto"
    activation_checkpointing: str = "auto"
    activation_budget: float = 0.5
    cross_entropy: str = "auto"
    residual: str = "auto"
    mlp: str = "auto"
    float8: bool = False
    cuda_graph: str = "auto"
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    gpus: int = 1
    sharding: str = "auto"

    @property
    def rows(self) -> int:
        """Rows of an optimizer step."""
        return math.ceil(self.global_batch_tokens / self.sequence_length)
