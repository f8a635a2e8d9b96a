"""A tiny run on made-up tokens, for the tests of the loop; also a script that a test can kill.

python tiny_run.py FOLDER '{"steps": 40}'
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from hornbook.model.config import ModelConfig
from hornbook.model.decoder import Decoder
from hornbook.optim.config import OptimizerConfig
from hornbook.tokens.batch import IGNORE, Batch
from hornbook.train.config import PretrainConfig
from hornbook.train.objective import NextToken
from hornbook.train.trainer import Outcome, Trainer

VOCABULARY = 61
LENGTH = 16
ROWS = 8

MODEL = ModelConfig(
    family="gpt2",
    vocabulary=VOCABULARY,
    vocabulary_rows=64,
    context=LENGTH,
    layers=2,
    heads=2,
    kv_heads=2,
    head_dim=16,
    width=32,
    mlp_width=64,
    tied=True,
    embedding_dropout=0.1,
    attention_dropout=0.1,
    residual_dropout=0.1,
)

PRETRAIN = PretrainConfig(
    steps=40,
    global_batch_tokens=ROWS * LENGTH,
    micro_batch=4,
    device="cpu",
    precision="fp32",
    threads=1,
    tensorboard=False,
    checkpoint_every=10,
    evaluate_every=20,
    sample_every=20,
)


class CountingRows:
    """Rows that count up from a random token; every third is half masked."""

    sequence_length = LENGTH
    rows_per_epoch = 1_000_000

    def __init__(self, seed: int = 0):
        self.seed = seed

    def rows(self, start: int, count: int) -> Batch:
        tokens = torch.stack([self._row(number) for number in range(start, start + count)])
        inputs, targets = tokens[:, :-1].contiguous(), tokens[:, 1:].clone()
        for row in range(count):
            if (start + row) % 3 == 0:
                targets[row, : LENGTH // 2] = IGNORE
        return Batch(inputs, targets)

    def describe(self) -> dict[str, Any]:
        return {"mode": "counting", "seed": self.seed}

    def _row(self, number: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + number)
        first = torch.randint(0, VOCABULARY, (1,), generator=generator)
        return (first + torch.arange(LENGTH + 1)) % VOCABULARY


@torch.no_grad()
def evaluate(model: Decoder) -> dict[str, float]:
    """Mean loss over some rows that are never trained on."""
    objective = NextToken()
    batch = CountingRows(seed=99).rows(0, 16)
    loss, _ = objective(model, batch.to(model.embedding.weight.device))
    return {"validation_loss": float(loss) / objective.weight(batch)}


def sample(model: Decoder, step: int) -> list[dict[str, Any]]:
    """Uses random numbers, as sampling does."""
    return [{"prompt": "1 2", "text": str(int(torch.randint(0, 100, (1,))))}]


def build(
    folder: Path,
    pretrain: dict[str, Any] | None = None,
    model: dict[str, Any] | None = None,
    optimizer: dict[str, Any] | None = None,
    **handed: Any,
) -> Trainer:
    """A trainer on `folder`, with some settings other than the usual ones."""
    decoder = Decoder(replace(MODEL, **(model or {})), torch.Generator().manual_seed(1))
    return Trainer(
        decoder,
        handed.pop("source", None) or CountingRows(),
        handed.pop("objective", None) or NextToken(),
        replace(PRETRAIN, **(pretrain or {})),
        OptimizerConfig(**{"learning_rate": 1e-2, "warmup_steps": 5, **(optimizer or {})}),
        folder,
        **{"evaluate": evaluate, "sample": sample, **handed},
    )


def fit(folder: Path, pretrain: dict[str, Any] | None = None, **settings: Any) -> Outcome:
    """Build a trainer and let it train."""
    return build(folder, pretrain, **settings).fit()


def records(folder: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def losses(folder: Path) -> list[tuple[int, float]]:
    """The loss column, exactly."""
    return [(r["step"], r["loss"]) for r in records(folder) if "loss" in r]


def events(folder: Path, kind: str) -> list[dict[str, Any]]:
    """The events of one kind."""
    return [r for r in records(folder) if r.get("event") == kind]


if __name__ == "__main__":
    outcome = fit(Path(sys.argv[1]), *(json.loads(argument) for argument in sys.argv[2:3]))
    sys.exit(130 if outcome.interrupted else 0)
