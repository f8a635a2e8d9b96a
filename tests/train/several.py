"""What each of several processes does in `test_parallel.py`; torchrun runs this.

several.py '[{"folder": ..., "steps": ..., "pretrain": {...}, "optimizer": {...}}, ...]'
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import tiny_run
import torch
from torch import Tensor

from hornbook.tokens.batch import IGNORE, Batch
from hornbook.train.config import PretrainConfig
from hornbook.train.parallel import ALONE, World, joined
from hornbook.train.trainer import Outcome

STILL = {"embedding_dropout": 0.0, "attention_dropout": 0.0, "residual_dropout": 0.0}
WIDE = {"width": 128, "head_dim": 64, "mlp_width": 256}
"""Wide enough for 8-bit optimizer state to be in 8 bits."""


class Recorded:
    """An objective that writes down every row that it learns from."""

    unit = "tokens"

    def __init__(self, passes: int = 0) -> None:
        """`passes`: after so many memory runs out; 0: never."""
        self.inner = tiny_run.NextToken()
        self.seen: list[list[int]] = []
        self.left = passes

    def weight(self, batch: Batch) -> float:
        return self.inner.weight(batch)

    def __call__(self, model, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:  # type: ignore[no-untyped-def]
        self.left -= 1
        if self.left == 0:
            raise torch.OutOfMemoryError("out of memory")
        for inputs, targets in zip(batch.inputs.tolist(), batch.targets.tolist(), strict=True):
            if any(target != IGNORE for target in targets):
                self.seen.append([*inputs, targets[-1]])
        return self.inner(model, batch)


def train(run: dict, world: World = ALONE) -> tuple[Outcome, Recorded]:
    """Train, or train on, in a folder."""
    objective = Recorded(run.get("passes", 0) if world.rank == world.size - 1 else 0)
    outcome = tiny_run.fit(
        Path(run["folder"]),
        {"steps": run["steps"], "checkpoint_every": 0, "evaluate_every": 0, **run["pretrain"]},
        model=STILL | WIDE,
        optimizer={"schedule": "constant", **run["optimizer"]},
        objective=objective,
        world=world,
    )
    return outcome, objective


if __name__ == "__main__":
    with joined(PretrainConfig(device="cpu").device) as world:
        for run in json.loads(sys.argv[1]):
            _, objective = train(run, world)
            Path(run["folder"], f"seen-{world.rank}.json").write_text(json.dumps(objective.seen))
