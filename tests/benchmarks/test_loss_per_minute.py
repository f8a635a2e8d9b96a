"""Loss against time: the same measure for peers and for us, and a clock of training alone."""

from __future__ import annotations

import argparse
import importlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from hornbook.documents import Document, write_documents
from hornbook.model.config import ModelSettings
from hornbook.model.decoder import Decoder
from hornbook.model.presets import resolve
from hornbook.tokenizer.config import TokenizeConfig
from hornbook.tokens.tokenize import tokenize
from hornbook.train.validation import ValidationLoss

BENCHMARKS = Path(__file__).parent.parent.parent / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Imports a benchmark as the scripts import each other."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))

    def load(name: str) -> ModuleType:
        return importlib.import_module(name)

    return load


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    for split, count in (("train", 2000), ("validation", 300)):
        text = " ".join(f"{number} of {number * 7 % 13}" for number in range(count))
        write_documents([Document(text=text)], tmp_path / "prepare" / split)
    tokenize(TokenizeConfig(kind="characters"), tmp_path / "prepare", tmp_path / "tokens")
    return tmp_path / "tokens"


class OfOurs:
    """A model of ours, asked as a peer is."""

    def __init__(self, vocabulary: int):
        settings = ModelSettings(preset="qwen3-1m", layers=1, width=32, context=1024)
        self.model = Decoder(resolve(settings, vocabulary), torch.Generator().manual_seed(1)).eval()

    def logits(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.model(inputs)


def test_peers_are_measured_as_we_are(benchmark: Any, tokens: Path) -> None:
    data = benchmark("loss_per_minute").Data(tokens, "cpu", 1)
    vocabulary = json.loads((tokens / "manifest.json").read_text())["vocabulary"]
    peer = OfOurs(vocabulary)
    ours = ValidationLoss(tokens, 1024, 0, verify=True)(peer.model)["validation_loss"]
    assert data.loss(peer) == pytest.approx(ours, rel=1e-6)


def test_all_peers_see_the_same_rows(benchmark: Any, tokens: Path) -> None:
    data = benchmark("loss_per_minute").Data(tokens, "cpu", 2)
    first, second = data.batches(5), data.batches(5)
    for _ in range(3):
        (inputs, targets), (same, _) = next(first), next(second)
        assert inputs.shape == (2, 1024)
        assert torch.equal(inputs, same)
        assert torch.equal(inputs[:, 1:], targets[:, :-1])


def test_the_clock_counts_steps_alone(benchmark: Any, tmp_path: Path) -> None:
    """100 tokens a step at 50 a second are 2 s each; compiling (step 1) and evaluating are not."""
    lines: list[dict[str, Any]] = []
    for step in range(1, 101):
        speed = 0.1 if step == 1 else 50.0
        lines.append({"step": step, "tokens": 100 * step, "seconds": 1e4 + step, "loss": step,
                      "tokens_per_second": speed})  # fmt: skip
        if step == 60:
            lines.append({"step": 60, "tokens": 6000, "seconds": 3e4, "validation_loss": 1.5})
            lines.append({"step": 60, "event": "machine", "message": "something"})
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    points = benchmark("recipe_run").curve(path)
    assert points == [
        {"step": 50, "tokens": 5000, "seconds": 100.0, "training_loss": 25.5},
        {"step": 60, "tokens": 6000, "seconds": 120.0, "loss": 1.5},
        {"step": 100, "tokens": 10000, "seconds": 200.0, "training_loss": 75.5},
    ]


def test_articles_are_split_as_documented(benchmark: Any, tmp_path: Path) -> None:
    article = '<doc id="{0}" url="http://x/{0}" title="T &amp; {0}">\nT {0}\n\nbody\n</doc>\n'
    (tmp_path / "AA").mkdir()
    for part in range(4):
        numbers = range(part * 100, part * 100 + 100)
        text = "".join(article.format(number) for number in numbers)
        (tmp_path / "AA" / f"wiki_{part:02}").write_text(text)
    wikipedia = benchmark("wikipedia")
    found = list(wikipedia.articles(tmp_path))
    assert [document.url for document in found] == [f"http://x/{n}" for n in range(400)]
    assert (found[7].title, found[7].text) == ("T & 7", "T 7\n\nbody")
    splits = wikipedia.split(found)
    assert [d.url for d in splits["validation"]] == ["http://x/198", "http://x/398"]
    assert len(splits["train"]) == 198


@pytest.mark.parametrize(
    ("length", "tokens"), [("", None), (":3000", 3000), (":10s", int(10 * 0.985 * 500))]
)
def test_lengths_of_our_runs(
    benchmark: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, length: str, tokens: int | None
) -> None:
    """Seconds become tokens by the speed of a short run."""
    runs: list[dict[str, Any]] = []

    def train(recipe: str, tokens: Path, out: Path, settings: Any) -> list[dict[str, float]]:
        runs.append({**settings["pretrain"], **settings["data"]})
        return [{"step": 50, "tokens": 100, "seconds": 0.25}, {"tokens": 1000, "seconds": 2.0}]

    monkeypatch.setattr(benchmark("recipe_run"), "train", train)
    arguments = argparse.Namespace(tokens=tmp_path, tiny=False)
    benchmark("loss_per_minute").our_curve(f"hornbook:speedrun:3{length}", arguments)
    assert (runs[-1].get("tokens"), runs[-1]["seed"]) == (tokens, 3)
    assert len(runs) == (2 if length.endswith("s") else 1)
