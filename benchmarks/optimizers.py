"""Optimizers side by side on one device: time of a step, bytes of state, loss curves.

    python benchmarks/optimizers.py
    python benchmarks/optimizers.py --only curves --text runs/quickstart/prepare

Peers are measured where they are installed: `pip install torchao bitsandbytes`.

- speed: one step over all parameters of GPT-2 124M, the 712M model and Phi-2 (2.78B) with random
  gradients. `ms` is the median until the device is done, `host ms` until step() returns, `first s`
  the first step, compilation included. State and temporaries are what PyTorch's allocator holds.
- curves: a model of 3.2M parameters on bytes of text (by default the source code and documents
  here), one seed, the same batches for all: mean loss of the last 100 steps.

Writes benchmarks/results/optimizers_PART.json.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from common import best_device, parser_for, start_afresh, synchronize, write_result
from torch import Tensor, nn

from hornbook.model.config import ModelConfig
from hornbook.model.decoder import Decoder
from hornbook.model.presets import PRESETS
from hornbook.optim.config import OptimizerConfig
from hornbook.optim.groups import build_optimizer

ROOT = Path(__file__).parent.parent
Make = Callable[[nn.Module], torch.optim.Optimizer]
RATE = 1e-3
TEXT = (".txt", ".md", ".py")


def ours(**settings: Any) -> Make:
    """Our optimizer with these settings."""
    config = OptimizerConfig(learning_rate=RATE, **settings)
    return lambda model: build_optimizer(model, config, next(model.parameters()).device)


def decay_groups(model: nn.Module) -> list[dict[str, Any]]:
    """The parameters of a peer's optimizer, decayed as ours are."""
    parameters = list(model.parameters())
    return [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": 0.1},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]


def torch_fused(model: nn.Module) -> torch.optim.Optimizer:
    """torch.optim.AdamW in the dtype of the weights, moments too."""
    return torch.optim.AdamW(decay_groups(model), lr=RATE, betas=(0.9, 0.95), fused=True)


def torchao_8bit(model: nn.Module) -> torch.optim.Optimizer:
    """torchao's AdamW8bit; weights in bfloat16 are rounded stochastically."""
    from torchao.optim import AdamW8bit

    return AdamW8bit(
        decay_groups(model), lr=RATE, betas=(0.9, 0.95), bf16_stochastic_round=True
    )  # fmt: skip


def bitsandbytes_8bit(model: nn.Module) -> torch.optim.Optimizer:
    """bitsandbytes' AdamW8bit; it rounds weights to nearest."""
    from bitsandbytes.optim import AdamW8bit

    made: torch.optim.Optimizer = AdamW8bit(decay_groups(model), lr=RATE, betas=(0.9, 0.95))
    return made


class TorchMuon:
    """torch.optim.Muon, which cannot know that projections are fused, and fused AdamW."""

    def __init__(self, model: nn.Module):
        matrices, rest = [], []
        for name, parameter in model.named_parameters():
            hidden = name.startswith("blocks.") and parameter.dim() == 2
            (matrices if hidden else rest).append(parameter)
        self.parts = [torch.optim.Muon(matrices), torch.optim.AdamW(rest, fused=True)]

    def step(self) -> None:
        for part in self.parts:
            part.step()


# ------------------------------------------------------------------------------------------ speed


def speed_variants(tiny: bool) -> list[tuple[str, str, torch.dtype, Any]]:
    """Model, name, dtype of the weights, and how the optimizer is made."""
    exact, narrow = torch.float32, torch.bfloat16
    small, medium, large = ("llama-1m",) * 3 if tiny else ("gpt2-124m", "gpt2-712m", "phi2")
    eight = ours(kind="adamw8bit")
    every = {"normalize": True, "cautious": True}
    return [
        (large, "torch AdamW fused, bf16 moments", narrow, torch_fused),
        (large, "ours adamw8bit", narrow, eight),
        (large, "ours adamw", narrow, ours()),
        (large, "ours muon", narrow, ours(kind="muon")),
        (large, "ours adamw offload", narrow, ours(offload=True)),
        (small, "torch AdamW fused", exact, torch_fused),
        (small, "ours adamw", exact, ours()),
        (small, "ours muon", exact, ours(kind="muon")),
        (small, "ours muon, normalize, cautious", exact, ours(kind="muon", **every)),
        (small, "torch Muon + AdamW fused", exact, TorchMuon),
        (small, "ours adamw8bit", exact, eight),
        (medium, "torch AdamW fused", exact, torch_fused),
        (medium, "ours muon", exact, ours(kind="muon")),
        (large, "bitsandbytes AdamW8bit, to nearest", narrow, bitsandbytes_8bit),
        (large, "torchao AdamW8bit", narrow, torchao_8bit),
    ]


def measure_speed(
    preset: str, name: str, dtype: torch.dtype, make: Any, device: torch.device
) -> dict[str, Any]:
    """One optimizer over one model's parameters."""
    with device:
        model = Decoder(PRESETS[preset], initialise=False).to(dtype)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.02)
        parameter.grad = torch.randn_like(parameter)
    optimizer = make(model)
    before = torch.cuda.memory_allocated()
    started = time.perf_counter()
    optimizer.step()
    synchronize()
    first = time.perf_counter() - started
    state = torch.cuda.memory_allocated() - before
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    times, host = [], []
    while len(times) < 20 and (len(times) < 3 or sum(times) < 1.0):
        started = time.perf_counter()
        optimizer.step()
        host.append(time.perf_counter() - started)
        synchronize()
        times.append(time.perf_counter() - started)
    return {
        "model": preset,
        "optimizer": name,
        "weights": str(dtype).removeprefix("torch."),
        "ms": round(1e3 * statistics.median(times[1:]), 3),
        "host_ms": round(1e3 * statistics.median(host[1:]), 3),
        "first_s": round(first, 2),
        "state_bytes": state,
        "temporary_bytes": torch.cuda.max_memory_allocated() - torch.cuda.memory_allocated(),
    }


# ----------------------------------------------------------------------------------------- curves


CURVES: dict[str, tuple[torch.dtype, Make]] = {
    "ours adamw": (torch.float32, ours()),
    "ours adamw, bf16 weights": (torch.bfloat16, ours()),
    "torch AdamW, bf16 weights and moments, to nearest": (torch.bfloat16, torch_fused),
    "ours adamw8bit": (torch.float32, ours(kind="adamw8bit")),
    "ours adamw8bit, bf16 weights": (torch.bfloat16, ours(kind="adamw8bit")),
    "ours muon": (torch.float32, ours(kind="muon")),
    "ours muon, bf16 weights": (torch.bfloat16, ours(kind="muon")),
    "ours muon, normalize, cautious": (
        torch.float32,
        ours(kind="muon", normalize=True, cautious=True),
    ),
    "bitsandbytes AdamW8bit": (torch.float32, bitsandbytes_8bit),
    "torchao AdamW8bit": (torch.float32, torchao_8bit),
    "torchao AdamW8bit, bf16 weights": (torch.bfloat16, torchao_8bit),
}


def measure_curve(
    name: str,
    text: Tensor,
    dtype: torch.dtype,
    make: Make,
    steps: int,
    device: torch.device,
    tiny: bool,
) -> dict[str, Any]:
    """Loss of each step. Cosine over the whole length, 5 % of warm-up."""
    width = 64 if tiny else 256
    config = ModelConfig(
        family="qwen3", vocabulary=256, vocabulary_rows=256, context=256, layers=4, heads=4,
        kv_heads=4, head_dim=width // 4, width=width, mlp_width=width * 5 // 2, tied=False,
    )  # fmt: skip
    model = Decoder(config, torch.Generator().manual_seed(0)).to(device, dtype)
    optimizer = make(model)
    peaks = [float(group["lr"]) for group in optimizer.param_groups]
    batches = torch.Generator().manual_seed(0)
    losses = []
    length = 64 if tiny else 256
    for step in range(steps):
        share = min(1.0, (step + 1) / (0.05 * steps))
        share *= 0.5 * (1 + float(torch.cos(torch.tensor(torch.pi * step / steps))))
        for group, rate in zip(optimizer.param_groups, peaks, strict=True):
            if isinstance(group["lr"], Tensor):  # torchao's
                group["lr"].fill_(rate * share)
            else:
                group["lr"] = rate * share
        starts = torch.randint(len(text) - length - 1, (32, 1), generator=batches)
        rows = text[starts + torch.arange(length + 1)].to(device, non_blocking=True).long()
        with torch.autocast(device.type, torch.bfloat16):
            logits = model(rows[:, :-1])
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.detach())
    values = [round(loss, 4) for loss in torch.stack(losses).tolist()]
    return {"optimizer": name, "loss": round(statistics.mean(values[-100:]), 4), "losses": values}


def read_text(folders: list[Path]) -> Tensor:
    """The bytes of all text files below the folders."""
    paths = sorted(p for folder in folders for p in folder.rglob("*") if p.suffix in TEXT)
    return torch.frombuffer(bytearray(b"\n".join(p.read_bytes() for p in paths)), dtype=torch.uint8)


# ------------------------------------------------------------------------------------------- main


def attempt(name: str, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """A variant's row, or its error: one missing peer does not end the comparison."""
    try:
        row = measure()
    except Exception as error:
        row = {"optimizer": name, "error": f"{type(error).__name__}: {error}"[:300]}
    start_afresh()
    shown = {key: value for key, value in row.items() if key != "losses"}
    print("  ".join(f"{key} {value}" for key, value in shown.items()), flush=True)
    return row


def main() -> None:
    parser = parser_for(__doc__)
    parser.add_argument("--only", choices=["speed", "curves"])
    parser.add_argument("--text", type=Path, nargs="+", default=[ROOT / "src", ROOT / "docs"])
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--match", default="", help="only variants whose name contains this")
    parser.add_argument("--seconds", type=float, default=60, help="of a part, for new variants")
    options = parser.parse_args()
    device = best_device()
    work: dict[str, list[tuple[str, Callable[[], dict[str, Any]]]]] = {"speed": [], "curves": []}
    for preset, name, dtype, make in speed_variants(options.tiny):
        work["speed"].append((name, partial(measure_speed, preset, name, dtype, make, device)))
    text, steps = read_text(options.text), 20 if options.tiny else options.steps
    for name, (dtype, make) in CURVES.items():
        run = partial(measure_curve, name, text, dtype, make, steps, device, options.tiny)
        work["curves"].append((name, run))
    for part, variants in work.items():
        if options.only not in (None, part):
            continue
        deadline = time.monotonic() + options.seconds
        rows = [
            attempt(name, measure)
            for name, measure in variants
            if options.match in name and time.monotonic() < deadline
        ]
        table = [{k: str(v) for k, v in row.items() if k != "losses"} for row in rows]
        write_result(options.out, f"optimizers_{part}", {"rows": rows, "table": table})


if __name__ == "__main__":
    main()
