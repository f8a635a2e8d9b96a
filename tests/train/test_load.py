"""`load_model` finds the model in a run, a checkpoint or a Hugging Face folder, or says why not."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch

from hornbook.errors import HornbookError
from hornbook.model.config import ModelConfig
from hornbook.model.decoder import Decoder
from hornbook.model.huggingface import export_weights, stock_config
from hornbook.optim.config import OptimizerConfig
from hornbook.optim.groups import build_optimizer
from hornbook.train.checkpoint import CheckpointStore
from hornbook.train.load import check_same_architecture, initial_weights, load_model

CONFIG = ModelConfig(
    family="qwen3", vocabulary=60, vocabulary_rows=64, context=16, layers=2, heads=4, kv_heads=2,
    head_dim=8, width=32, mlp_width=48, tied=True, residual_dropout=0.1,
)  # fmt: skip
IDS = torch.arange(24).reshape(2, 12)


@pytest.fixture(scope="module")
def decoder() -> Decoder:
    return Decoder(CONFIG, torch.Generator().manual_seed(5)).eval()


@pytest.fixture
def run(tmp_path: Path, decoder: Decoder) -> Path:
    """A run directory with checkpoints of steps 10 (halved weights) and 20."""
    folder = tmp_path / "my-run"
    folder.mkdir()
    (folder / "recipe.yaml").write_text("{}")
    store = CheckpointStore(
        folder / "pretrain" / "checkpoints", attachments={"tokenizer.json": b"{}"}
    )
    halved = Decoder(CONFIG)
    halved.load_state_dict({name: t / 2 for name, t in decoder.state_dict().items()})
    for step, model in [(10, halved), (20, decoder)]:
        optimizer = build_optimizer(model, OptimizerConfig(), torch.device("cpu"))
        store.save(step, model, optimizer, {}, wait=True)
    return folder


def write_huggingface(folder: Path, decoder: Decoder) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(stock_config(decoder.config)))
    weights = {name: tensor.contiguous() for name, tensor in export_weights(decoder).items()}
    safetensors.torch.save_file(weights, folder / "model.safetensors", {"format": "pt"})
    (folder / "tokenizer.json").write_text("{}")
    return folder


@torch.no_grad()
def assert_same_logits(decoder: Decoder, other: Decoder) -> None:
    assert torch.equal(decoder(IDS), other(IDS))


def test_run_gives_its_newest_checkpoint(run: Path, decoder: Decoder) -> None:
    loaded = load_model(run)
    assert (loaded.kind, loaded.step, loaded.name) == ("run", 20, "my-run")
    assert loaded.tokenizer_file.read_text() == "{}"
    assert not loaded.decoder.training
    assert all(parameter.dtype == torch.float32 for parameter in loaded.decoder.parameters())
    assert_same_logits(loaded.decoder, decoder)


def test_run_gives_the_checkpoint_of_a_step(run: Path, decoder: Decoder) -> None:
    loaded = load_model(run, step=10)
    assert loaded.step == 10
    assert torch.equal(loaded.decoder.embedding.weight, decoder.embedding.weight / 2)
    with pytest.raises(HornbookError, match=r"no checkpoint of step 15\. Kept: 10, 20"):
        load_model(run, step=15)


def test_checkpoint_folder_also_under_another_name(run: Path, tmp_path: Path, decoder) -> None:
    folder = run / "pretrain" / "checkpoints" / "step-00000020"
    loaded = load_model(folder)
    assert (loaded.kind, loaded.step, loaded.name) == ("checkpoint", 20, "my-run")
    copy = tmp_path / "favourite"
    shutil.copytree(folder, copy)
    loaded = load_model(copy, step=20)
    assert (loaded.step, loaded.name) == (20, "favourite")
    assert_same_logits(loaded.decoder, decoder)
    with pytest.raises(HornbookError, match="is of step 20, not 10"):
        load_model(copy, step=10)


def test_huggingface_directory(tmp_path: Path, decoder: Decoder) -> None:
    loaded = load_model(write_huggingface(tmp_path / "stock", decoder))
    assert (loaded.kind, loaded.step, loaded.name) == ("huggingface", None, "stock")
    with torch.no_grad():
        ours, theirs = decoder(IDS)[..., :60], loaded.decoder(IDS)[..., :60]
    torch.testing.assert_close(ours, theirs)
    with pytest.raises(HornbookError, match="has no steps"):
        load_model(tmp_path / "stock", step=3)


def test_damaged_newest_falls_back_and_damaged_optimizer_does_not_matter(run: Path, capsys) -> None:
    newest = run / "pretrain" / "checkpoints" / "step-00000020"
    optimizer = newest / "optimizer" / "scalars.json"
    optimizer.write_text("{]\n")  # as long as it was
    assert load_model(run).step == 20
    (newest / "model.json").unlink()
    assert load_model(run).step == 10
    assert "step-00000020 is damaged: model.json is missing" in capsys.readouterr().err


def test_damaged_checkpoint_asked_for_by_name_is_an_error(run: Path) -> None:
    newest = run / "pretrain" / "checkpoints" / "step-00000020"
    (newest / "state.json").write_text("{}")
    with pytest.raises(HornbookError, match=r"this checkpoint is damaged: state\.json has 2 bytes"):
        load_model(newest)
    with pytest.raises(HornbookError, match="this checkpoint is damaged"):
        load_model(run, step=20)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(HornbookError, match="no such folder"):
        load_model(tmp_path / "absent")
    with pytest.raises(HornbookError, match="is no run directory"):
        load_model(tmp_path)
    (tmp_path / "recipe.yaml").write_text("{}")
    with pytest.raises(HornbookError, match="nothing is trained here yet"):
        load_model(tmp_path)


def test_missing_tokenizer(run: Path, tmp_path: Path, decoder: Decoder) -> None:
    stock = write_huggingface(tmp_path / "stock", decoder)
    (stock / "tokenizer.json").unlink()
    with pytest.raises(HornbookError, match=r"has no tokenizer\.json"):
        load_model(stock)
    assert initial_weights(stock).training  # weights to start from need none


def test_unknown_family(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "t5"}')
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(HornbookError, match="t5"):
        load_model(tmp_path)


def test_initial_weights_of_another_architecture(run: Path, decoder: Decoder) -> None:
    found = initial_weights(run)
    assert_same_logits(found.eval(), decoder)
    check_same_architecture(dataclasses.replace(CONFIG, vocabulary_rows=128), found, run)
    wanted = dataclasses.replace(CONFIG, layers=3, tied=False)
    with pytest.raises(HornbookError, match="layers is 2 here, 3 wanted; tied is True here, False"):
        check_same_architecture(wanted, found, run)


def test_model_of_a_newer_version(run: Path, tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "new", attachments={"tokenizer.json": b"{}"})
    model = Decoder(CONFIG)
    optimizer = build_optimizer(model, OptimizerConfig(), torch.device("cpu"))
    store.save(1, model, optimizer, {}, wait=True)
    folder = tmp_path / "new" / "step-00000001"
    values = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps({**values, "experts": 8}))
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["files"]["model.json"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(HornbookError, match=r"this version does not know.*experts"):
        load_model(folder)
