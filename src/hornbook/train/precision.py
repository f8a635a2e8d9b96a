"""The arithmetic of a training step: fp32, bf16, or fp16 with a scaled loss.

In: a name. Out: the autocast context and the gradient scaler that the step uses. Weights, gradients
and optimizer state are float32 always; only matrix products run in the narrow type.
"""

from __future__ import annotations

from typing import Any, Literal

import torch

from hornbook.errors import HornbookError

PrecisionName = Literal["fp32", "bf16", "fp16"]

SMALLEST_SCALE = 1.0
"""fp16: below this loss scale the overflow is not the scale's fault."""


class Precision:
    """How one step computes.

    Attributes:
        scaler: multiplies the fp16 loss so that small gradients survive, and skips the updates
            that overflowed (arXiv:1710.03740); passes everything through in fp32 and bf16.
    """

    def __init__(self, name: PrecisionName, device: torch.device):
        self.name, self.device = name, device
        self.scaler = torch.amp.GradScaler(device.type, enabled=name == "fp16")

    def autocast(self) -> torch.autocast:
        """The context in which forward passes run."""
        dtype = torch.float16 if self.name == "fp16" else torch.bfloat16
        return torch.autocast(self.device.type, dtype, enabled=self.name != "fp32")

    def check_scale(self, step: int) -> None:
        """After an overflow: raise `HornbookError` when lowering the scale does not help."""
        scale = self.scaler.get_scale()
        if scale < SMALLEST_SCALE:
            raise HornbookError(
                "fp16 gradients overflow however small the loss is scaled",
                where=f"step {step}",
                hint="Lower optimizer.learning_rate, or set pretrain.precision to fp32",
            )

    def state(self) -> dict[str, Any]:
        """What a resumed run needs, as JSON."""
        return self.scaler.state_dict()

    def load_state(self, state: dict[str, Any]) -> None:
        """Put back what `state` gave; nothing where the run has become another precision."""
        if self.scaler.is_enabled() and state:
            self.scaler.load_state_dict(state)
