"""A recipe trained on a folder of token shards, and its curve over training time.

In: a built-in recipe and a token folder. Out: the points of the curve. Imported by
`loss_per_minute.py` and `shakespeare_memorising.py`.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hornbook.recipe import load_recipe
from hornbook.train.pretrain import pretrain

COLD_STEPS = 5
"""First steps, in which kernels may still be compiled: they count as long as the median step."""

WINDOW = 50
"""Steps over which the training loss is averaged."""

QUIET = {"checkpoint_every": 0, "checkpoint_minutes": 0.0, "sample_every": 0, "tensorboard": False}


def train(name: str, tokens: Path, out: Path, overrides: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Train the recipe `name`, some settings changed, and return its curve (see `curve`)."""
    settings = {section: dict(values) for section, values in overrides.items()}
    settings["pretrain"] = {**QUIET, **settings.get("pretrain", {})}
    recipe = load_recipe(name, settings)
    pretrain(
        recipe.model, recipe.data, recipe.optimizer, recipe.pretrain, recipe.generate, tokens, out
    )
    return curve(out / "metrics.jsonl")


def curve(metrics: Path) -> list[dict[str, Any]]:
    """A point for each evaluation and each 50th step: step, tokens, seconds of training, and
    `loss` (validation) or `training_loss` (mean of 50 steps).

    The seconds are those of the steps alone, without compiling, evaluating, sampling, saving.
    """
    records = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    steps = [record for record in records if "tokens_per_second" in record]
    tokens_per_step = steps[0]["tokens"] // steps[0]["step"]
    lengths = [tokens_per_step / record["tokens_per_second"] for record in steps]
    lengths[:COLD_STEPS] = [statistics.median(lengths)] * len(lengths[:COLD_STEPS])
    clock = [0.0]
    for length in lengths:
        clock.append(clock[-1] + length)
    points = []
    for record in records:
        point = {key: record[key] for key in ("step", "tokens") if key in record}
        point["seconds"] = round(clock[record["step"]], 3)
        if "validation_loss" in record:
            points.append({**point, "loss": round(record["validation_loss"], 5)})
        elif "loss" in record and record["step"] % WINDOW == 0:
            window = steps[record["step"] - WINDOW : record["step"]]
            mean = statistics.fmean(step["loss"] for step in window)
            points.append({**point, "training_loss": round(mean, 5)})
    return points
