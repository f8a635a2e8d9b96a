"""A mirror holds whole checkpoints, gives them back to an empty folder, and never stops a run."""

from __future__ import annotations

import errno
import uuid
from pathlib import Path

import fsspec
import pytest
import torch
from torch import nn

from hornbook.errors import HornbookError
from hornbook.model.config import ModelConfig
from hornbook.optim.config import OptimizerConfig
from hornbook.optim.groups import build_optimizer
from hornbook.optim.optimizer import Optimizer
from hornbook.train.checkpoint import CheckpointStore
from hornbook.train.checkpoint_files import list_checkpoints
from hornbook.train.mirror import Mirror

CONFIG = ModelConfig(
    family="gpt2", vocabulary=30, vocabulary_rows=32, context=8, layers=1, heads=2, kv_heads=2,
    head_dim=4, width=8, mlp_width=16, tied=True,
)  # fmt: skip


@pytest.fixture(params=["file", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "file":
        return f"file://{tmp_path}/mirror/run"
    return f"memory://{uuid.uuid4().hex}/run"


def model_at(step: int) -> tuple[nn.Module, Optimizer]:
    torch.manual_seed(step)
    model = nn.Linear(4, 4)
    model.config = CONFIG
    optimizer = build_optimizer(model, OptimizerConfig(), torch.device("cpu"))
    model(torch.ones(4)).sum().backward()
    optimizer.step()
    return model, optimizer


def save(store: CheckpointStore, *steps: int) -> None:
    for step in steps:
        store.save(step, *model_at(step), {"rows": step}, wait=True)


def names(url: str) -> list[str]:
    files, root = fsspec.core.url_to_fs(url)
    return sorted(path.rpartition("/")[2] for path in files.ls(root, detail=False))


def test_empty_folder_resumes_from_the_mirror(tmp_path: Path, url: str) -> None:
    save(CheckpointStore(tmp_path / "a", mirror=url), 1, 2, 3)
    assert names(url) == ["step-00000002", "step-00000003"]

    store = CheckpointStore(tmp_path / "b", mirror=url)
    found = store.latest()
    assert found is not None and found.step == 3 and found.path.parent == tmp_path / "b"
    model, optimizer = model_at(0)
    store.load(found, model, optimizer)
    assert found.state()["rows"] == 3
    assert torch.equal(model.weight, model_at(3)[0].weight)
    save(store, 4)
    assert names(url) == ["step-00000003", "step-00000004"]
    assert [checkpoint.step for checkpoint in list_checkpoints(tmp_path / "b")] == [3, 4]


def test_local_checkpoints_come_first(tmp_path: Path, url: str) -> None:
    save(CheckpointStore(tmp_path / "a", mirror=url), 5)
    store = CheckpointStore(tmp_path / "b", mirror=None)
    save(store, 1)
    found = CheckpointStore(tmp_path / "b", mirror=url).latest()
    assert found is not None and found.step == 1


def test_cut_short_and_damaged_copies_are_passed_over(tmp_path: Path, url: str, capsys) -> None:
    save(CheckpointStore(tmp_path / "a", keep=3, mirror=url), 1, 2, 3)
    files, root = fsspec.core.url_to_fs(url)
    files.rm_file(f"{root}/step-00000003/manifest.json")
    files.pipe_file(f"{root}/step-00000002/state.json", b"{}")
    found = CheckpointStore(tmp_path / "b", mirror=url).latest()
    assert found is not None and found.step == 1
    assert "step-00000002 is damaged" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "b").iterdir()] == ["step-00000001"]


def test_mirror_with_nothing_whole_is_an_error(tmp_path: Path, url: str) -> None:
    save(CheckpointStore(tmp_path / "a", mirror=url), 1)
    files, root = fsspec.core.url_to_fs(url)
    files.pipe_file(f"{root}/step-00000001/state.json", b"{}")
    with pytest.raises(HornbookError, match="every checkpoint in the mirror is damaged"):
        CheckpointStore(tmp_path / "b", mirror=url).latest()


def test_full_disk_while_fetching_is_said(tmp_path: Path, url: str, monkeypatch) -> None:
    save(CheckpointStore(tmp_path / "a", mirror=url), 1)

    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(HornbookError, match="the disk is full"):
        CheckpointStore(tmp_path / "b", mirror=url).latest()


def test_empty_mirror_is_a_new_start(tmp_path: Path, url: str) -> None:
    assert CheckpointStore(tmp_path, mirror=url).latest() is None


def test_upload_is_not_repeated_and_the_manifest_comes_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"memory://{uuid.uuid4().hex}"
    files, _ = fsspec.core.url_to_fs(url)
    sent: list[str] = []
    real = type(files).put_file

    def put_file(self, local, remote, *arguments, **options):
        sent.append(remote)
        return real(self, local, remote, *arguments, **options)

    monkeypatch.setattr(type(files), "put_file", put_file)
    store = CheckpointStore(tmp_path, mirror=url)
    save(store, 1)
    assert len(sent) > 4 and sent[-1].endswith("/manifest.json")
    count = len(sent)
    save(store, 1)
    assert len(sent) == count


def test_failing_mirror_warns_and_training_goes_on(
    tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments, **options):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(Mirror, "_copy", broken)
    store = CheckpointStore(tmp_path, mirror=f"memory://{uuid.uuid4().hex}")
    save(store, 1, 2)
    message = capsys.readouterr().err
    assert "step 2 could not be copied here (no route to host)" in message
    found = store.latest()
    assert found is not None and found.step == 2


def test_unreadable_mirror_is_a_clear_error(tmp_path: Path, monkeypatch) -> None:
    def broken(*arguments, **options):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(Mirror, "_steps", broken)
    store = CheckpointStore(tmp_path, mirror=f"memory://{uuid.uuid4().hex}")
    with pytest.raises(HornbookError, match="the checkpoint mirror cannot be read"):
        store.latest()


def test_unknown_kind_of_mirror_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(HornbookError, match="cannot be used as a checkpoint mirror"):
        CheckpointStore(tmp_path, mirror="nonsense://bucket/run")
    assert not list(tmp_path.iterdir())
