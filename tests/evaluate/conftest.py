"""Two small trained runs with the same documents and different tokenizers."""

from __future__ import annotations

import argparse
import mailbox
from pathlib import Path

import pytest

from hornbook.cli import main

SMALL = [
    "--tokenize.encoder", "tokenizers", "--tokenize.workers", "1", "--model.preset", "llama-1m",
    "--model.layers", "1", "--model.width", "32", "--model.heads", "2", "--model.kv_heads", "2",
    "--model.context", "64", "--model.mlp_width", "64", "--pretrain.minutes", "0",
    "--pretrain.global_batch_tokens", "256", "--pretrain.precision", "fp32", "--pretrain.steps",
    "5", "--pretrain.threads", "1", "--pretrain.evaluate_tokens", "1024", "--pretrain.device",
    "cpu", "--pretrain.sample_tokens", "4", "--pretrain.tensorboard", "false",
    "--evaluate.max_tokens", "500", "--evaluate.device", "cpu",
]  # fmt: skip


@pytest.fixture(scope="session")
def small_runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Finished, 5 steps each; 512 and 300 tokens."""
    folder = tmp_path_factory.mktemp("forecast")
    text = folder / "text"
    text.mkdir()
    for module in (argparse, mailbox):
        assert module.__file__
        source = Path(module.__file__).read_text(encoding="utf-8")
        (text / f"{module.__name__}.txt").write_text(source, encoding="utf-8")
    for name, vocabulary in (("one", "512"), ("two", "300")):
        words = ["run", "quickstart", "--run", str(folder / name), "--prepare.inputs", str(text)]
        assert main([*words, *SMALL, "--tokenize.vocabulary", vocabulary]) == 0
    return folder / "one", folder / "two"
