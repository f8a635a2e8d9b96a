"""Checkpoints come back bit for bit, only whole ones are used, and failures are clear."""

from __future__ import annotations

import dataclasses
import errno
import os
import pickle
from pathlib import Path
from typing import Any, Literal

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from hornbook.errors import HornbookError
from hornbook.model.config import ModelConfig
from hornbook.optim.config import OptimizerConfig
from hornbook.optim.groups import build_optimizer
from hornbook.optim.optimizer import Optimizer
from hornbook.train import checkpoint_files
from hornbook.train.checkpoint import CheckpointStore
from hornbook.train.checkpoint_files import Checkpoint, list_checkpoints, surplus

Kind = Literal["adamw", "adamw8bit"]

CONFIG = ModelConfig(
    family="gpt2", vocabulary=30, vocabulary_rows=32, context=8, layers=1, heads=2, kv_heads=2,
    head_dim=4, width=8, mlp_width=16, tied=True,
)  # fmt: skip


class TiedModel(nn.Module):
    """An embedding tied to the head, a matrix, vectors and a buffer: what a decoder has."""

    def __init__(self, config: ModelConfig = CONFIG):
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocabulary_rows, config.width)
        self.mlp = nn.Linear(config.width, config.width)
        self.norm = nn.LayerNorm(config.width)
        self.head = nn.Linear(config.width, config.vocabulary_rows, bias=False)
        self.head.weight = self.embedding.weight
        self.register_buffer("seen", torch.zeros(3))

    def forward(self, ids: Tensor) -> Tensor:
        self.seen += 1
        return self.head(self.norm(self.mlp(self.embedding(ids))))


def optimizer_of(model: nn.Module, groups: int = 2, kind: Kind = "adamw") -> Optimizer:
    config = OptimizerConfig(kind=kind, learning_rate=0.01, weight_decay=0.0)
    optimizer = build_optimizer(model, config, torch.device("cpu"))
    if groups == 1:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        optimizer.param_groups[:] = [{**optimizer.param_groups[0], "params": parameters[::-1]}]
    return optimizer


def train(model: nn.Module, optimizer: Optimizer, steps: int) -> None:
    for _ in range(steps):
        ids = torch.randint(0, 30, (4, 8))
        loss = nn.functional.cross_entropy(model(ids).flatten(0, 1), ids.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def trained(steps: int = 3, seed: int = 0) -> tuple[TiedModel, Optimizer]:
    torch.manual_seed(seed)
    model = TiedModel()
    optimizer = optimizer_of(model)
    train(model, optimizer, steps)
    return model, optimizer


def assert_same(model: nn.Module, other: nn.Module) -> None:
    for (name, a), b in zip(model.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def save_steps(store: CheckpointStore, *steps: int) -> TiedModel:
    model, optimizer = trained(0)
    for step in steps:
        train(model, optimizer, 1)
        store.save(step, model, optimizer, {"rows": step * 4}, wait=True)
    return model


@pytest.mark.parametrize("groups", [1, 2])
def test_training_goes_on_bit_for_bit_after_loading(tmp_path: Path, groups: int) -> None:
    model, optimizer = trained()
    store = CheckpointStore(tmp_path)
    state = {"rows": 12, "scaler": {"scale": 65536.0}, "share": 0.1, "events": ["a", None]}
    store.save(3, model, optimizer, state)
    drawn = torch.get_rng_state()
    train(model, optimizer, 3)  # while the checkpoint is being written

    torch.manual_seed(99)
    resumed = TiedModel()
    resumed_optimizer = optimizer_of(resumed, groups)  # other groups: state is kept by name
    fresh = CheckpointStore(tmp_path)
    store.wait()
    checkpoint = fresh.latest()
    assert checkpoint is not None and checkpoint.step == 3
    fresh.load(checkpoint, resumed, resumed_optimizer)
    torch.set_rng_state(drawn)
    assert checkpoint.state() == {**state, "step": 3, "optimizer": "adamw"}
    assert resumed.head.weight is resumed.embedding.weight
    train(resumed, resumed_optimizer, 3)

    assert_same(model, resumed)
    for (name, a), b in zip(model.named_parameters(), resumed.parameters(), strict=True):
        for key, value in optimizer.state[a].items():
            assert torch.equal(value, resumed_optimizer.state[b][key]), (name, key)


def test_optimizer_that_never_stepped_stays_so(tmp_path: Path) -> None:
    model, optimizer = trained(0)
    store = CheckpointStore(tmp_path)
    store.save(0, model, optimizer, {}, wait=True)
    assert not optimizer.state
    checkpoint = store.latest()
    assert checkpoint is not None
    other, other_optimizer = trained(2, seed=1)
    store.load(checkpoint, other, other_optimizer)
    assert_same(model, other)
    assert not other_optimizer.state


def test_a_checkpoint_of_an_older_version_loads(tmp_path: Path) -> None:
    """Those had a file of random states besides, which training never used."""
    store = CheckpointStore(tmp_path)
    model = save_steps(store, 1)
    old = tmp_path / "step-00000001"
    safetensors.torch.save_file({}, old / "rng.safetensors")
    (old / "manifest.json").unlink()
    checkpoint_files.seal(old, 1, {})
    checkpoint = store.latest()
    assert checkpoint is not None and "rng.safetensors" in (old / "manifest.json").read_text()
    other = TiedModel()
    store.load(checkpoint, other, optimizer_of(other))
    assert_same(model, other)


def test_tensors_are_split_into_files_and_found_again(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(checkpoint_files, "FILE_BYTES", 300)
    model, optimizer = trained()
    store = CheckpointStore(tmp_path)
    store.save(3, model, optimizer, {}, wait=True)
    checkpoint = store.latest()
    assert checkpoint is not None
    assert len(list((checkpoint.path / "model").glob("*.safetensors"))) > 2
    other, other_optimizer = trained(0, seed=1)
    store.load(checkpoint, other, other_optimizer)
    assert_same(model, other)


def test_state_of_narrow_and_whole_numbers(tmp_path: Path) -> None:
    torch.manual_seed(0)
    wide = dataclasses.replace(CONFIG, width=256)
    model = TiedModel(wide).bfloat16()
    optimizer = optimizer_of(model, kind="adamw8bit")
    train(model, optimizer, 2)
    store = CheckpointStore(tmp_path)
    store.save(2, model, optimizer, {}, wait=True)
    checkpoint = store.latest()
    assert checkpoint is not None
    other = TiedModel(wide).bfloat16()
    other_optimizer = optimizer_of(other, kind="adamw8bit")
    store.load(checkpoint, other, other_optimizer)
    assert_same(model, other)
    dtypes = set()
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        for key, value in optimizer.state[a].items():
            assert torch.equal(value, other_optimizer.state[b][key])
            dtypes.add(value.dtype)
    assert torch.uint8 in dtypes and torch.float32 in dtypes


def test_another_kind_of_optimizer_is_refused_by_name(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    save_steps(store, 1)
    checkpoint = store.latest()
    assert checkpoint is not None
    model = TiedModel()
    with pytest.raises(HornbookError, match=r"optimizer\.kind adamw, .* adamw8bit cannot"):
        store.load(checkpoint, model, optimizer_of(model, kind="adamw8bit"))


def test_no_pickle_is_read_or_written(tmp_path: Path, monkeypatch) -> None:
    def forbidden(*arguments: Any, **options: Any) -> None:
        raise AssertionError("pickle was used")

    model, optimizer = trained()
    for module, names in [(pickle, "dump dumps load loads"), (torch, "save load")]:
        for name in names.split():
            monkeypatch.setattr(module, name, forbidden)
    store = CheckpointStore(tmp_path)
    store.save(3, model, optimizer, {"rows": 1}, wait=True)
    checkpoint = store.latest()
    assert checkpoint is not None
    store.load(checkpoint, model, optimizer)
    suffixes = {path.suffix for path in tmp_path.rglob("*") if path.is_file()}
    assert suffixes == {".safetensors", ".json"}


def test_attachments_lie_in_every_checkpoint(tmp_path: Path) -> None:
    source = tmp_path / "elsewhere.json"
    source.write_text("{}")
    store = CheckpointStore(
        tmp_path / "c", attachments={"tokenizer.json": source, "note.txt": b"hello"}
    )
    save_steps(store, 1, 2)
    for checkpoint in list_checkpoints(tmp_path / "c"):
        assert (checkpoint.path / "tokenizer.json").read_text() == "{}"
        assert (checkpoint.path / "note.txt").read_bytes() == b"hello"
        assert checkpoint.problem() is None


def test_the_last_ones_are_kept(tmp_path: Path) -> None:
    save_steps(CheckpointStore(tmp_path, keep=2), 5, 10, 15, 100_000_000)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000015", "step-100000000"]


@given(st.sets(st.integers(0, 50), min_size=1), st.integers(1, 5), st.data())
def test_surplus_never_touches_the_newest(steps: set[int], keep: int, data: st.DataObject) -> None:
    newest = data.draw(st.sampled_from(sorted(steps)))
    left = steps - set(surplus(list(steps), newest, keep))
    assert max(left) == newest
    assert len(left) == min(keep, sum(step <= newest for step in steps))


def flip_a_byte(checkpoint: Path) -> None:
    path = next((checkpoint / "optimizer").glob("*.safetensors"))
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def truncate(checkpoint: Path) -> None:
    path = next((checkpoint / "model").glob("*.safetensors"))
    os.truncate(path, path.stat().st_size - 1)


def remove_a_file(checkpoint: Path) -> None:
    (checkpoint / "state.json").unlink()


def empty_the_manifest(checkpoint: Path) -> None:
    (checkpoint / "manifest.json").write_bytes(b"")


def other_manifest(checkpoint: Path) -> None:
    (checkpoint / "manifest.json").write_text('{"files": {"state.json": 3}}')


DAMAGES = [flip_a_byte, truncate, remove_a_file, empty_the_manifest, other_manifest]


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_newest_falls_back_and_says_so(tmp_path: Path, damage, capsys) -> None:
    store = CheckpointStore(tmp_path)
    save_steps(store, 1, 2)
    damage(tmp_path / "step-00000002")
    found = store.latest()
    assert found is not None and found.step == 1
    message = capsys.readouterr().err
    assert "step-00000002" in message and "damaged" in message

    # Training repeats step 2, and the damaged folder gives way to a whole one.
    model, optimizer = trained(0)
    store.load(found, model, optimizer)
    train(model, optimizer, 1)
    store.save(2, model, optimizer, {}, wait=True)
    assert Checkpoint(tmp_path / "step-00000002", 2).problem() is None


def test_later_checkpoints_of_an_abandoned_future_are_removed(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    save_steps(store, 10, 20)
    flip_a_byte(tmp_path / "step-00000020")
    save_steps(store, 15)
    assert [checkpoint.step for checkpoint in list_checkpoints(tmp_path)] == [10, 15]


def test_all_damaged_is_an_error_and_never_a_new_start(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    save_steps(store, 1)
    truncate(tmp_path / "step-00000001")
    with pytest.raises(HornbookError, match="every checkpoint here is damaged"):
        store.latest()


def test_rubbish_is_ignored_then_removed(tmp_path: Path) -> None:
    (tmp_path / "step-00000007.tmp" / "model").mkdir(parents=True)
    (tmp_path / "notes").mkdir()
    store = CheckpointStore(tmp_path)
    assert store.latest() is None
    save_steps(store, 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes", "step-00000001"]


def test_another_architecture_is_named_by_field(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    save_steps(store, 1)
    checkpoint = store.latest()
    assert checkpoint is not None
    other = TiedModel(dataclasses.replace(CONFIG, width=16, heads=4, residual_dropout=0.1))
    with pytest.raises(HornbookError) as caught:
        store.load(checkpoint, other, optimizer_of(other))
    message = str(caught.value)
    assert "heads is 2 here, 4 wanted; width is 8 here, 16 wanted" in message
    assert "dropout" not in message
    store.load(checkpoint, TiedModel(dataclasses.replace(CONFIG, residual_dropout=0.1)))


def test_weights_of_another_version_are_named(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    save_steps(store, 1)
    checkpoint = store.latest()
    assert checkpoint is not None
    changed = TiedModel()
    changed.extra = nn.Linear(2, 2)
    with pytest.raises(HornbookError, match=r"other weights.*extra\.bias"):
        store.load(checkpoint, changed)


def test_optimizer_state_of_an_untrained_parameter_is_refused(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    save_steps(store, 1)
    checkpoint = store.latest()
    assert checkpoint is not None
    model = TiedModel()
    with pytest.raises(HornbookError, match="which is not trained here"):
        store.load(checkpoint, model, optimizer_of(model.norm, groups=1))


def full_disk(*arguments: Any, **options: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    "failing", ["os.fsync", "hornbook.train.checkpoint_files.write_file", "pathlib.Path.rename"]
)
def test_full_disk_is_said_and_the_checkpoint_before_stays(
    tmp_path: Path, failing: str, monkeypatch
) -> None:
    store = CheckpointStore(tmp_path)
    model = save_steps(store, 1)
    optimizer = optimizer_of(model)
    with monkeypatch.context() as patch:
        patch.setattr(failing, full_disk)
        store.save(2, model, optimizer, {})  # fails in the background
        with pytest.raises(HornbookError, match="the disk is full"):
            store.save(3, model, optimizer, {})
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]
    found = store.latest()
    assert found is not None and found.step == 1
    store.save(3, model, optimizer, {}, wait=True)  # after making room
    found = store.latest()
    assert found is not None and found.step == 3


def test_failure_is_seen_without_waiting(tmp_path: Path, monkeypatch) -> None:
    model, optimizer = trained()
    store = CheckpointStore(tmp_path)
    monkeypatch.setattr(os, "fsync", full_disk)
    store.save(3, model, optimizer, {})
    with pytest.raises(HornbookError, match="the disk is full"):
        while True:
            store.check()
    store.check()  # said once


def test_read_only_folder_is_a_clear_error(tmp_path: Path, monkeypatch) -> None:
    def read_only(*arguments: Any, **options: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    model, optimizer = trained()
    store = CheckpointStore(tmp_path / "checkpoints")
    monkeypatch.setattr(os, "mkdir", read_only)
    with pytest.raises(HornbookError, match="cannot write here"):
        store.save(3, model, optimizer, {}, wait=True)


def test_saving_the_same_step_again_keeps_the_whole_one(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    save_steps(store, 1)
    before = (tmp_path / "step-00000001" / "manifest.json").stat().st_mtime_ns
    save_steps(store, 1)
    assert (tmp_path / "step-00000001" / "manifest.json").stat().st_mtime_ns == before
