"""Loss curves whose law is known, and metrics files of them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

STEP_TOKENS = 8192
Column = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Known:
    """L(x) = floor + scale * (x / unit)^-exponent, with noise correlated from step to step."""

    floor: float
    scale: float
    exponent: float
    unit: float
    noise: float = 0.05
    correlation: float = 0.5

    def loss(self, x: Column | float) -> Column:
        return self.floor + self.scale * (np.asarray(x) / self.unit) ** -self.exponent

    def measured(self, x: Column, seed: int) -> Column:
        """Losses of all steps, each after x tokens."""
        random = np.random.default_rng(seed)
        fresh = random.normal(0, self.noise * np.sqrt(1 - self.correlation**2), len(x))
        noise = np.empty(len(x))
        last = 0.0
        for place, value in enumerate(fresh):
            last = noise[place] = self.correlation * last + value
        return self.loss(x) + noise


def drawn(seed: int, steps: int) -> Known:
    """A law drawn at random, its exponent as the fit expects it."""
    random = np.random.default_rng(10_000 + seed)
    return Known(
        floor=random.uniform(1, 3), scale=random.uniform(0.5, 2),
        exponent=max(0.1, random.normal(0.3, 0.1)), unit=steps * STEP_TOKENS,
    )  # fmt: skip


def tokens(steps: int) -> Column:
    return np.arange(1, steps + 1, dtype=np.float64) * STEP_TOKENS


def rates(steps: int, schedule: str, total: int | None = None, warmup: int = 20) -> Column:
    """Learning rates of the first steps of a run of `total`."""
    total = total or steps
    step = np.arange(steps)
    warm = np.minimum(1.0, (step + 1) / (warmup + 1))
    if schedule == "wsd":
        return 1e-3 * warm * np.clip((total - step) / (0.2 * total), 0, 1)
    if schedule == "cosine":
        return 1e-3 * warm * 0.5 * (1 + np.cos(np.pi * step / total))
    return 1e-3 * warm


def write_metrics(path: Path, losses: Column, learning_rates: Column) -> Path:
    """metrics.jsonl, with a validation line every tenth step."""
    lines = []
    for step, (loss, rate) in enumerate(zip(losses, learning_rates, strict=True), start=1):
        line = {"step": step, "tokens": step * STEP_TOKENS, "seconds": 0.1 * step}
        lines.append({**line, "loss": float(loss), "learning_rate": float(rate),
                      "tokens_per_second": 80_000.0})  # fmt: skip
        if step % 10 == 0:
            lines.append({**line, "validation_loss": float(loss) + 0.1})
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path
