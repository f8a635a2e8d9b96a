"""nanochat d12 as a contestant of `loss_per_minute.py`, trained as its base_train.py does.

In: a checkout of github.com/karpathy/nanochat. Out: a `Peer`. Its GPT (12 x 768, six heads of 128,
value embeddings, smear, back-out) and its MuonAdamW with its schedules: 40 steps of warm-up, linear
decay over the last 65 %, momentum 0.85 to 0.97 to 0.90, weight decay to zero on a cosine; rates
multiplied by the square root of batch / 524,288. Rows are 1,024 tokens, as for all contestants.

FlashAttention 3 is not there on the measured machine: full windows ("L", as it advises for that
case) through its own SDPA path, with cuDNN's kernel, the fastest there.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

REFERENCE_BATCH = 2**19
WARMUP_STEPS, WARMDOWN, FINAL = 40, 0.65, 0.05
RATES = {"unembedding_lr": 0.008, "embedding_lr": 0.3, "scalar_lr": 0.5, "matrix_lr": 0.02}
WEIGHT_DECAY = 0.28


def use_fastest_attention() -> None:
    """Make cuDNN's kernel the only one that SDPA may take; where it refuses, the flash one."""
    cuda = torch.backends.cuda
    heads = torch.randn(2, 1024, 6, 128, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    heads_first = heads.transpose(1, 2)
    cuda.enable_mem_efficient_sdp(False)
    cuda.enable_math_sdp(False)
    for kernel in ("cudnn", "flash"):
        cuda.enable_cudnn_sdp(kernel == "cudnn")
        cuda.enable_flash_sdp(kernel == "flash")
        try:
            torch.nn.functional.scaled_dot_product_attention(
                heads_first, heads_first, heads_first, is_causal=True
            ).sum().backward()
        except RuntimeError as error:
            print(f"attention {kernel}: {error}", file=sys.stderr)
        else:
            print(f"nanochat's attention: {kernel}", file=sys.stderr)
            return


class NanoChat:
    """A model and its optimizer; `reset` takes both back to the start."""

    def __init__(self, checkout: Path, device: str, *, tiny: bool):
        sys.path.insert(0, str(checkout))
        from nanochat.gpt import GPT, GPTConfig  # type: ignore[import-not-found]

        if device == "cuda":
            use_fastest_attention()
        torch.set_float32_matmul_precision("high")
        torch.manual_seed(42)
        sizes: dict[str, Any] = {"n_layer": 2, "n_head": 2, "n_kv_head": 2, "n_embd": 64}
        with torch.device("meta"):
            self.model = GPT(GPTConfig(
                sequence_len=1024, vocab_size=50257, window_pattern="L", **(sizes if tiny else {})
            ))  # fmt: skip
        self.model.to_empty(device=device)
        self.model.init_weights()
        self._initial = [p.detach().clone() for p in self.model.parameters()]
        compile_it = device == "cuda"
        self._compiled = torch.compile(self.model, dynamic=False) if compile_it else self.model
        self.reset(1.0, REFERENCE_BATCH)

    def reset(self, scale: float, batch_tokens: int) -> None:
        """The first weights again, and a new optimizer, all its rates multiplied by `scale`."""
        with torch.no_grad():
            for parameter, value in zip(self.model.parameters(), self._initial, strict=True):
                parameter.copy_(value)
        by_batch = (batch_tokens / REFERENCE_BATCH) ** 0.5
        self._decay = WEIGHT_DECAY * by_batch
        rates = {name: rate * by_batch * scale for name, rate in RATES.items()}
        self._optimizer = self.model.setup_optimizer(**rates, weight_decay=self._decay)

    def step(self, batches: Iterator[tuple[Tensor, Tensor]], count: int, *, step: int,
             progress: float) -> None:  # fmt: skip
        """One update from `count` micro-batches; `progress` is the share of the run done."""
        for _ in range(count):
            (self._compiled(*next(batches)) / count).backward()
        down = max(0.0, (progress - (1 - WARMDOWN)) / WARMDOWN)
        rate = min(1.0, (step + 1) / WARMUP_STEPS) if down == 0 else 1 - down * (1 - FINAL)
        momentum = 0.85 + 0.12 * step / 400 if step < 400 else 0.97 - 0.07 * down
        for group in self._optimizer.param_groups:
            group["lr"] = group["initial_lr"] * rate
            if group["kind"] == "muon":
                group["momentum"] = momentum
                group["weight_decay"] = self._decay * 0.5 * (1 + math.cos(math.pi * progress))
        self._optimizer.step()
        self.model.zero_grad(set_to_none=True)

    def logits(self, inputs: Tensor) -> Tensor:
        """float32 [rows, T, vocabulary], not compiled."""
        return self.model(inputs)
