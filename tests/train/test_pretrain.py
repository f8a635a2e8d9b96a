"""Pretraining put together: settings refused before the first step, and where weights come from."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from hornbook.corpus.config import PrepareConfig
from hornbook.corpus.prepare import prepare
from hornbook.errors import HornbookError
from hornbook.model.config import DROPOUTS, GenerateConfig, ModelSettings
from hornbook.model.decoder import Decoder
from hornbook.model.huggingface import export_weights, stock_config
from hornbook.model.presets import resolve
from hornbook.optim.config import OptimizerConfig
from hornbook.tokenizer.config import TokenizeConfig
from hornbook.tokenizer.tokenizer import Tokenizer
from hornbook.tokens.config import DataConfig
from hornbook.tokens.manifest import Manifest
from hornbook.tokens.tokenize import tokenize
from hornbook.train import horizon, validation
from hornbook.train.config import PretrainConfig
from hornbook.train.parallel import World
from hornbook.train.pretrain import pretrain, starting_model
from hornbook.train.state import Outcome
from hornbook.train.validation import ValidationLoss

MODEL = ModelSettings(preset="gpt2-124m", layers=1, heads=2, width=32, context=32)
PRETRAIN = PretrainConfig(
    steps=2,
    global_batch_tokens=128,
    device="cpu",
    precision="fp32",
    threads=1,
    tensorboard=False,
    evaluate_tokens=512,
    sample_tokens=5,
)


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokens")
    text = "\n\n".join(f"Line {n} is about {n * n % 97}." for n in range(2000))
    (folder / "a.txt").write_text(text)
    prepare(PrepareConfig(inputs=[str(folder / "a.txt")]), folder / "prepare")
    tokenize(TokenizeConfig(kind="characters"), folder / "prepare", folder / "tokens")
    return folder / "tokens"


@pytest.fixture
def stock(tmp_path: Path, tokens: Path) -> Path:
    """A stock GPT-2 directory, whose config.json says dropout 0.1, as GPT-2's own does."""
    size = Tokenizer.load(tokens / "tokenizer").size
    config = resolve(dataclasses.replace(MODEL, dropout=0.1), size)
    decoder = Decoder(config, torch.Generator().manual_seed(3))
    folder = tmp_path / "stock"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(stock_config(config)))
    weights = {name: tensor.contiguous() for name, tensor in export_weights(decoder).items()}
    safetensors.torch.save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


def train(tokens: Path, out: Path, **sections: dict[str, Any]) -> Outcome:
    return pretrain(
        dataclasses.replace(MODEL, **sections.get("model", {})),
        DataConfig(**sections.get("data", {})),
        OptimizerConfig(**sections.get("optimizer", {})),
        dataclasses.replace(PRETRAIN, **sections.get("pretrain", {})),
        GenerateConfig(**sections.get("generate", {})),
        tokens,
        out,
    )


@pytest.mark.parametrize(
    ("where", "value"),
    [
        ("data.sequence_length", -5),
        ("data.sequence_length", 33),
        ("optimizer.learning_rate", -1.0),
        ("optimizer.beta1", 1.5),
        ("optimizer.gradient_clip", -1.0),
        ("optimizer.decay_share", 2.0),
        ("pretrain.evaluate_tokens", -1),
        ("pretrain.checkpoint_every", -1),
        ("pretrain.log_every", 0),
        ("pretrain.keep", 0),
        ("pretrain.sample_tokens", -1),
        ("pretrain.sample_prompts", ["x" * 40]),
        ("generate.temperature", -1.0),
    ],
)
def test_what_cannot_work_is_refused_before_the_first_step(
    tmp_path: Path, tokens: Path, where: str, value: object
) -> None:
    section, name = where.split(".")
    with pytest.raises(HornbookError) as refused:
        train(tokens, tmp_path, **{section: {name: value}})
    assert str(refused.value.where).startswith(where)
    assert not (tmp_path / "metrics.jsonl").exists()


def test_dropout_is_the_recipes_where_it_says_so_else_that_of_the_initial_weights(
    stock: Path, tokens: Path
) -> None:
    tokenizer = Tokenizer.load(tokens / "tokenizer")
    config = dataclasses.replace(PRETRAIN, init=str(stock))
    kept = starting_model(ModelSettings(), config, tokenizer)
    assert [getattr(kept.config, name) for name in DROPOUTS] == [0.1, 0.1, 0.1]
    for settings in (ModelSettings(dropout=0.0), dataclasses.replace(MODEL, dropout=0.0)):
        still = starting_model(settings, config, tokenizer).train()
        assert [getattr(still.config, name) for name in DROPOUTS] == [0.0, 0.0, 0.0]
        ids = torch.arange(8).reshape(1, 8)
        torch.testing.assert_close(still(ids), kept.eval()(ids), rtol=0, atol=0)
    with pytest.raises(HornbookError, match="layers is 1 here, 2 wanted"):
        starting_model(dataclasses.replace(MODEL, layers=2), config, tokenizer)


def test_a_budget_pays_for_no_more_validation_than_there_is(
    tmp_path: Path, tokens: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked_and_there: list[int] = []

    def calibrated(config: PretrainConfig, *others: float) -> int:
        asked_and_there.append(config.evaluate_tokens)
        return 1

    monkeypatch.setattr(horizon, "seconds_of_step", lambda rehearse, budget: 0.01)
    monkeypatch.setattr(horizon, "calibrated_steps", calibrated)
    there = Manifest.read(tokens).totals("validation").tokens
    for asked in (0, 10**9, 64):
        budget = {"steps": 0, "minutes": 0.01, "evaluate_tokens": asked}
        train(tokens, tmp_path / str(asked), pretrain=budget)
    assert asked_and_there == [there, there, 64]


# -------------------------------------------------------------------- loss on the validation set


def test_validation_halves_its_rows_when_memory_runs_out(
    tokens: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    size = Tokenizer.load(tokens / "tokenizer").size
    model = Decoder(resolve(MODEL, size), torch.Generator().manual_seed(3)).train()
    whole = ValidationLoss(tokens, 32, 1024, verify=True)(model)
    assert whole["validation_loss"] == pytest.approx(math.log(size), abs=0.1)
    logits = {"cpu": 40 * model.config.vocabulary_rows}
    monkeypatch.setattr(validation, "LOGITS_AT_ONCE", logits)
    in_parts = ValidationLoss(tokens, 32, 1024, verify=True)(model)
    assert in_parts == pytest.approx(whole, rel=1e-6)
    hidden, most = model.hidden, 5

    def limited(ids: torch.Tensor, *others: Any) -> torch.Tensor:
        if len(ids) > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return hidden(ids, *others)

    monkeypatch.setattr(model, "hidden", limited)
    halved = ValidationLoss(tokens, 32, 1024, verify=True)(model)
    assert halved == pytest.approx(whole, rel=1e-6)
    assert "out of memory while evaluating: going on with 4 rows" in capsys.readouterr().err
    assert model.training
    most = 0
    with pytest.raises(HornbookError, match="evaluating one row does not fit in memory"):
        ValidationLoss(tokens, 32, 1024, verify=True)(model)


def test_validation_halves_its_rows_when_another_process_has_to(
    tokens: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    others = iter([True])

    class Beside(World):
        def any(self, *wishes: bool) -> list[bool]:
            return [wish or next(others, False) for wish in wishes]

    size = Tokenizer.load(tokens / "tokenizer").size
    model = Decoder(resolve(MODEL, size), torch.Generator().manual_seed(3))
    alone = ValidationLoss(tokens, 32, 1024, verify=True)(model)
    assert ValidationLoss(tokens, 32, 1024, verify=True, world=Beside())(model) == pytest.approx(
        alone
    )
    assert "out of memory while evaluating: going on with 128 rows" in capsys.readouterr().err
