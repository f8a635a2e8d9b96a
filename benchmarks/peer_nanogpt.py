"""nanoGPT's `model.py` as a contestant of `loss_per_minute.py`, trained as its train.py does.

In: a checkout of github.com/karpathy/nanoGPT. Out: a `Peer`. GPT-2 124M without biases and dropout
(train.py's defaults), bf16 autocast, TF32, fused AdamW (0.9, 0.95) with weight decay 0.1, gradient
norm clipped at 1, 100 steps of warm-up, cosine to a tenth of the peak.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

WARMUP_STEPS = 100  # its 2,000 are for 600,000 steps; here a run has some 1,200


class NanoGPT:
    """A model and its optimizer; `reset` takes both back to the start."""

    def __init__(self, checkout: Path, device: str, *, tiny: bool):
        sys.path.insert(0, str(checkout))
        from model import GPT, GPTConfig  # type: ignore[import-not-found]

        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.allow_tf32 = True
        torch.backends.cuda.enable_flash_sdp(True)  # torch's own choice, whoever trained before
        torch.manual_seed(1337)
        sizes: dict[str, Any] = {"n_layer": 2, "n_head": 2, "n_embd": 64} if tiny else {}
        self.model = GPT(GPTConfig(bias=False, **sizes)).to(device)
        self.device = device
        self._initial = [p.detach().clone() for p in self.model.parameters()]
        self._compiled = torch.compile(self.model) if device == "cuda" else self.model
        self.reset(1e-3)

    def reset(self, learning_rate: float, batch_tokens: int = 0) -> None:
        """The first weights again, and a new optimizer; `batch_tokens` changes nothing here."""
        with torch.no_grad():
            for parameter, value in zip(self.model.parameters(), self._initial, strict=True):
                parameter.copy_(value)
        self._peak = learning_rate
        self._optimizer = self.model.configure_optimizers(
            0.1, learning_rate, (0.9, 0.95), self.device
        )

    def step(self, batches: Iterator[tuple[Tensor, Tensor]], count: int, *, step: int,
             progress: float) -> None:  # fmt: skip
        """One update from `count` micro-batches; `progress` is the share of the run done."""
        warm = min(1.0, (step + 1) / WARMUP_STEPS)
        rate = self._peak * (0.1 + 0.45 * (1 + math.cos(math.pi * min(1.0, progress))))
        for group in self._optimizer.param_groups:
            group["lr"] = min(rate, self._peak * warm)
        for _ in range(count):
            inputs, targets = next(batches)
            with torch.autocast(self.device, torch.bfloat16):
                _, loss = self._compiled(inputs, targets)
            (loss / count).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)

    def logits(self, inputs: Tensor) -> Tensor:
        """float [rows, T, vocabulary], not compiled."""
        with torch.autocast(self.device, torch.bfloat16):
            logits, _ = self.model(inputs, inputs)  # only with targets are all positions computed
        return logits
