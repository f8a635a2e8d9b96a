"""Our safetensors files are the stock format: stock readers find the same tensors in them."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from hornbook.train import tensor_files
from hornbook.train.checkpoint_files import read_tensors, stored_tensors, write_tensors
from hornbook.train.tensor_files import DTYPES, Part, write_file

shapes = st.lists(st.integers(0, 7), max_size=3)


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    shape = draw(shapes)
    dtype = draw(st.sampled_from(list(DTYPES)))
    codes = torch.randint(0, 100, (math.prod(shape),), generator=torch.Generator().manual_seed(1))
    return codes.to(dtype).reshape(shape)


@given(tensors=st.dictionaries(st.text(min_size=1, max_size=9), tensors(), min_size=1, max_size=6))
def test_stock_readers_read_what_was_written(
    tmp_path_factory: pytest.TempPathFactory, tensors: dict[str, Tensor]
) -> None:
    tensors.pop("__metadata__", None)
    path = tmp_path_factory.mktemp("stock") / "a.safetensors"
    entry = write_file(path, {name: Part(t, (0,) * t.dim()) for name, t in tensors.items()})
    assert entry.bytes == path.stat().st_size
    assert entry.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    for found in (safetensors.torch.load_file(path), safetensors.torch.load(path.read_bytes())):
        assert found.keys() == tensors.keys()
        for name, tensor in tensors.items():
            assert found[name].dtype == tensor.dtype
            assert torch.equal(found[name], tensor)


def test_long_files_are_written_in_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensor_files, "CHUNK", 7)
    tensor = torch.arange(1000, dtype=torch.int64)
    entry = write_file(tmp_path / "a.safetensors", {"t": Part(tensor, (0,))})
    assert torch.equal(safetensors.torch.load_file(tmp_path / "a.safetensors")["t"], tensor)
    assert entry.sha256 == hashlib.sha256((tmp_path / "a.safetensors").read_bytes()).hexdigest()


@given(rows=st.integers(1, 9), first=st.integers(1, 9))
def test_parts_of_several_processes_are_put_together(
    tmp_path_factory: pytest.TempPathFactory, rows: int, first: int
) -> None:
    folder = tmp_path_factory.mktemp("parts") / "model"
    whole = torch.randn(rows, 3)
    cut = min(first, rows)
    write_tensors({"w": Part(whole[:cut], (0, 0)), "n": torch.tensor(4.0)}, folder, 0)
    if cut < rows:
        write_tensors({"w": Part(whole[cut:].contiguous(), (cut, 0))}, folder, 1)
    shape, dtype = stored_tensors(folder)["w"]
    assert (tuple(shape), dtype) == ((rows, 3), torch.float32)
    targets = {"w": torch.zeros(rows, 3), "n": torch.zeros(())}
    read_tensors(folder, targets)
    assert torch.equal(targets["w"], whole) and targets["n"] == 4
