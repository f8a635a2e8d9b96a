"""The arithmetic of a training step: fp32, bf16, or fp16 with a scaled loss.

In: a name. Out: the autocast context and the loss scale that the step uses. Matrix products run in
the narrow type; weights, gradients and optimizer state are float32, or bfloat16 where
`pretrain.weights` says so.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from hornbook.errors import HornbookError

PrecisionName = Literal["fp32", "bf16", "fp16"]

FIRST_SCALE = 2.0**16
"""fp16: factor of the loss at the start..."""

GROWTH_STEPS = 2000
"""...doubled after so many steps without an overflow, halved at each (arXiv:1710.03740, section
3.2, with the numbers of PyTorch's GradScaler)..."""

SMALLEST_SCALE = 1.0
"""...and below this an overflow is not the scale's fault."""


class Precision:
    """How one step computes.

    The loss scale is kept here and not in torch's GradScaler, because it follows the step's own
    decision, on the device: GradScaler waits for some optimizers, and each of several processes
    would decide by its own shard.

    Attributes:
        scale: factor of the loss, float32 on the device, so that small fp16 gradients survive;
            None in fp32 and bf16.
    """

    def __init__(self, name: PrecisionName, device: torch.device):
        self.name, self.device = name, device
        self.scale: Tensor | None = None
        if name == "fp16":
            self.scale = torch.tensor(FIRST_SCALE, device=device)
            self._good_steps = torch.tensor(0.0, device=device)

    def autocast(self) -> torch.autocast:
        """The context in which forward passes run."""
        dtype = torch.float16 if self.name == "fp16" else torch.bfloat16
        return torch.autocast(self.device.type, dtype, enabled=self.name != "fp32")

    def scaled(self, loss: Tensor) -> Tensor:
        """The loss to differentiate."""
        return loss if self.scale is None else loss * self.scale

    def unscale(self, gradients: list[Tensor]) -> None:
        """Divide the gradients, in place, by the scale."""
        if self.scale is not None:
            torch._foreach_mul_(gradients, self.scale.reciprocal())

    def update_scale(self, overflowed: Tensor) -> None:
        """After a step: halve or double the scale, without waiting for the device.

        Args:
            overflowed: float32 0-d, 1 where a gradient was not finite, else 0.
        """
        if self.scale is None:
            return
        good = (self._good_steps + 1) * (1 - overflowed)
        grows = good >= GROWTH_STEPS
        self.scale = self.scale * (1 - overflowed / 2) * (1 + grows.float())
        self._good_steps = good * ~grows

    def state(self) -> dict[str, Any]:
        """What a resumed run needs, as JSON: empty in fp32 and bf16."""
        if self.scale is None:
            return {}
        return {"scale": float(self.scale), "_growth_tracker": int(self._good_steps)}

    def load_state(self, state: dict[str, Any]) -> None:
        """Put back what `state` gave; nothing where the run has become another precision."""
        if self.scale is not None and state:
            self.scale = torch.tensor(state["scale"], device=self.device)
            self._good_steps = torch.tensor(float(state["_growth_tracker"]), device=self.device)


def check_scale(step: int, scale: float) -> None:
    """After an overflow in `step`: `HornbookError` when lowering the scale does not help."""
    if scale < SMALLEST_SCALE:
        raise HornbookError(
            "fp16 gradients overflow however small the loss is scaled",
            where=f"step {step}",
            hint="Lower optimizer.learning_rate, or set pretrain.precision to fp32",
        )
