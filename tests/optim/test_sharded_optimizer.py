"""Sharded parameters (DTensor, as FSDP2 makes them) are updated as whole ones; real processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from tests.optim.tiny_decoder import give_gradients, tiny_decoder
from torch import Tensor, nn

from hornbook.optim.config import OptimizerConfig
from hornbook.optim.groups import build_optimizer
from hornbook.optim.optimizer import Optimizer

SETTINGS = {
    "adamw": {},
    "cautious": {"cautious": True},
    "adamw8bit": {"kind": "adamw8bit"},
    "muon": {"kind": "muon", "learning_rate": 1e-3},
    "normuon": {"kind": "muon", "learning_rate": 1e-3, "normalize": True},
}
# 3 heads, so that rows share out unevenly over 2 processes: inside a fused projection and beyond.
SHAPE: dict[str, Any] = {
    "width": 96, "heads": 3, "kv_heads": 3, "head_dim": 32, "mlp_width": 129, "layers": 3,
}  # fmt: skip


def train(model: nn.Module, optimizer: Optimizer) -> None:
    for step in range(3):
        give_gradients(model, step)
        optimizer.step()


def everything(model: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        tensors = {"weight": parameter, **optimizer.state[parameter]}
        for key, tensor in tensors.items():
            whole = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
            found[f"{name}/{key}"] = whole.detach().clone()
    return found


def give_sharded_gradients(model: nn.Module, seed: int) -> None:
    """The gradients of `give_gradients`, each process keeping its rows."""
    from torch.distributed.tensor import distribute_tensor

    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        drawn = torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
        parameter.grad = distribute_tensor(drawn, parameter.device_mesh, parameter.placements)


def one_process(rank: int, size: int, folder: str, dtype: torch.dtype) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/store", size)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=size)
    mesh = init_device_mesh("cpu", (1, size))
    for name, settings in SETTINGS.items():
        model = tiny_decoder(**SHAPE).to(dtype)
        for module in model.modules():
            for key, parameter in list(module.named_parameters(recurse=False)):
                placed = distribute_tensor(parameter.detach(), mesh, [Replicate(), Shard(0)])
                setattr(module, key, nn.Parameter(placed))
        optimizer = build_optimizer(model, OptimizerConfig(**settings), torch.device("cpu"))
        for step in range(3):
            give_sharded_gradients(model, step)
            optimizer.step()
        found = everything(model, optimizer)
        if rank == 0:
            save_file(found, f"{folder}/{name}.safetensors")
    dist.destroy_process_group()


@pytest.mark.parametrize(
    ("size", "dtype"),
    [(2, torch.float32), pytest.param(3, torch.bfloat16, marks=pytest.mark.long)],
    ids=["two", "three"],
)
def test_sharded_equals_whole(size: int, dtype: torch.dtype, tmp_path: Path) -> None:
    torch.multiprocessing.spawn(one_process, (size, str(tmp_path), dtype), nprocs=size)
    for name, settings in SETTINGS.items():
        model = tiny_decoder(**SHAPE).to(dtype)
        optimizer = build_optimizer(model, OptimizerConfig(**settings), torch.device("cpu"))
        train(model, optimizer)
        sharded = load_file(tmp_path / f"{name}.safetensors")
        whole = everything(model, optimizer)
        assert sharded.keys() == whole.keys()
        for key, wanted in whole.items():
            if "muon" in name or (wanted.dtype is torch.float32 and dtype is torch.float32):
                torch.testing.assert_close(sharded[key], wanted, rtol=1e-5, atol=1e-6, msg=key)
            else:
                assert torch.equal(sharded[key], wanted), f"{name}: {key}"
