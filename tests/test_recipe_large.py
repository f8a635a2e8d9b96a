"""The recipes of large models: their architectures are the ones named, and every setting in them
works, shown by the same recipe with a small model on a CPU."""

from __future__ import annotations

import argparse
import inspect
import json
import tarfile
from pathlib import Path

import pytest

from hornbook.cli import main
from hornbook.files import read_json
from hornbook.model.count import parameters
from hornbook.model.presets import resolve
from hornbook.plan.matrices import state_bytes
from hornbook.recipe import load_recipe

SMALL = [
    "--tokenize.kind", "bpe", "--tokenize.vocabulary", "512", "--tokenize.encoder", "tokenizers",
    "--tokenize.workers", "1", "--prepare.validation_share", "0.2", "--model.layers", "2",
    "--model.heads", "2", "--model.context", "64", "--data.sequence_length", "32",
    "--optimizer.learning_rate", "3e-3", "--pretrain.steps", "30", "--pretrain.tokens", "0",
    "--pretrain.global_batch_tokens", "256", "--pretrain.precision", "bf16",
    "--pretrain.threads", "1", "--pretrain.sample_tokens", "4",
    "--pretrain.evaluate_tokens", "512", "--pretrain.tensorboard", "false",
    "--evaluate.max_tokens", "500",
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "ids", "shape", "total"),
    [
        # layers, heads, width, head_dim, rows in memory
        ("gpt2-712m-fineweb-edu", 50257 + 16, (32, 24, 1296, 54, 50304), 712_035_360),
        ("phi2-40gb", 50295 + 16, (32, 32, 2560, 80, 51200), 2_779_683_840),
    ],
)
def test_the_architecture_is_the_one_named(
    name: str, ids: int, shape: tuple[int, ...], total: int
) -> None:
    config = resolve(load_recipe(name).model, ids)
    sizes = (config.layers, config.heads, config.width, config.head_dim, config.vocabulary_rows)
    assert sizes == shape
    assert parameters(config).total == total


def test_phi2_fits_40_gb_on_paper() -> None:
    recipe = load_recipe("phi2-40gb")
    config = resolve(recipe.model, 50295 + 16)
    fixed = 2 * 2 * parameters(config).total + state_bytes(config, recipe.optimizer)
    assert recipe.pretrain.weights == "bf16"
    assert fixed / 1e9 == pytest.approx(16.8, abs=0.1)  # as the recipe's comment says


@pytest.mark.parametrize(
    ("name", "width"), [("gpt2-712m-fineweb-edu", "108"), ("phi2-40gb", "160")]
)
def test_the_recipe_trains(tmp_path: Path, name: str, width: str) -> None:
    source = "".join(inspect.getsource(module) for module in (argparse, tarfile)).splitlines()
    pages = ["\n".join(source[n : n + 40]) for n in range(0, len(source), 40)]
    lines = [json.dumps({"text": page, "url": f"page {n}"}) for n, page in enumerate(pages)]
    (tmp_path / "pages.jsonl").write_text("\n".join(lines))
    run = tmp_path / "run"
    inputs = ["--prepare.inputs", str(tmp_path / "pages.jsonl")]
    command = ["run", name, "--run", str(run), *inputs, *SMALL, "--model.width", width]
    assert main(command) == 0
    for stage in ("prepare", "tokenize", "pretrain", "evaluate", "export"):
        assert read_json(run / stage / "stage.json")["outcome"] == "done"
    records = [json.loads(r) for r in (run / "pretrain" / "metrics.jsonl").read_text().splitlines()]
    losses = [record["loss"] for record in records if "loss" in record]
    assert losses[-1] < losses[0] - 0.5
