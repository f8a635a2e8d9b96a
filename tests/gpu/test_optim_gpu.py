"""Optimizers on a GPU: Triton kernels, never waiting for the device, offload, Muon in bfloat16."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hornbook.model.config import ModelConfig
from hornbook.model.decoder import Decoder
from hornbook.optim import offload
from hornbook.optim.config import OptimizerConfig
from hornbook.optim.groups import build_optimizer
from hornbook.optim.launch import Runner
from hornbook.optim.optimizer import Optimizer

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

KINDS: dict[str, dict[str, Any]] = {
    "adamw": {},
    "cautious": {"cautious": True},
    "adamw8bit": {"kind": "adamw8bit"},
    "muon": {"kind": "muon", "learning_rate": 1e-3},
    "normuon": {"kind": "muon", "learning_rate": 1e-3, "normalize": True, "cautious": True},
}
every_kind = pytest.mark.parametrize("kind", KINDS)
both_dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])


@pytest.fixture(autouse=True)
def exact_products() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision(before)


def decoder(dtype: torch.dtype) -> Decoder:
    config = ModelConfig(
        family="qwen3", vocabulary=1000, vocabulary_rows=1024, context=64, layers=3, heads=4,
        kv_heads=2, head_dim=54, width=216, mlp_width=640, tied=False,
    )  # fmt: skip
    return Decoder(config, torch.Generator().manual_seed(0)).to("cuda", dtype)


def give_gradients(model: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator).to(parameter)


def train(kind: str, dtype: torch.dtype, triton: bool, steps: int = 3) -> tuple[Decoder, Optimizer]:
    model = decoder(dtype)
    optimizer = build_optimizer(model, OptimizerConfig(**KINDS[kind]), torch.device("cuda"))
    assert optimizer._runner.triton
    optimizer._runner = Runner(triton)
    optimizer.found_inf = torch.zeros((), device="cuda")
    for step in range(steps):
        give_gradients(model, step)
        optimizer.step()
    assert optimizer._runner.triton == triton
    return model, optimizer


def weights(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().float().reshape(-1) for p in model.parameters()])


@every_kind
@both_dtypes
def test_kernels_are_the_plain_functions_and_the_same_each_time(
    kind: str, dtype: torch.dtype
) -> None:
    start = weights(decoder(dtype))
    kernels, again, plain = (weights(train(kind, dtype, t)[0]) for t in (True, True, False))
    assert torch.equal(kernels, again)
    # A last bit turns a rounding the other way; Muon's iterations amplify one in their input.
    tolerance = 0.05 if "muon" in kind else 0.01
    assert (kernels - plain).norm() < tolerance * (plain - start).norm()


@every_kind
@both_dtypes
def test_steps_do_not_wait_for_the_device_and_skipped_ones_change_nothing(
    kind: str, dtype: torch.dtype
) -> None:
    model, optimizer = train(kind, dtype, triton=True)
    states = [t for p in model.parameters() for t in optimizer.state[p].values()]
    before = [t.detach().clone() for t in (*model.parameters(), *states)]
    give_gradients(model, 9)
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, float("nan"))
    optimizer.found_inf = torch.ones((), device="cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        optimizer.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for now, then in zip((*model.parameters(), *states), before, strict=True):
        assert torch.equal(now, then)


def test_muon_is_torch_muon_in_bfloat16() -> None:
    model = nn.ModuleDict({"blocks": nn.ModuleList(decoder(torch.float32).blocks)})
    whole = decoder(torch.float32)
    optimizer = build_optimizer(
        whole, OptimizerConfig(kind="muon", weight_decay=0.1), torch.device("cuda")
    )
    matrices = {n: p for n, p in whole.named_parameters() if n.endswith("mlp.down.weight")}
    theirs = {n: nn.Parameter(dict(model.named_parameters())[n].detach().clone()) for n in matrices}
    reference = torch.optim.Muon(list(theirs.values()), lr=0.02, weight_decay=0.1)
    start = {n: p.detach().clone() for n, p in theirs.items()}
    for step in range(3):
        give_gradients(whole, step)
        for name, parameter in matrices.items():
            assert parameter.grad is not None
            theirs[name].grad = parameter.grad.clone()
        optimizer.step()
        reference.step()
    for name, parameter in matrices.items():
        moved = (theirs[name] - start[name]).norm()
        assert (parameter - theirs[name]).norm() < 0.04 * moved  # 0.02: bfloat16's own error


@both_dtypes
def test_offloaded_adamw_is_adamw_over_float32_masters(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(offload, "PIECE_ELEMENTS", 2**14)  # many pieces through each buffer
    model, masters = decoder(dtype), decoder(dtype).float()
    optimizer = build_optimizer(model, OptimizerConfig(offload=True), torch.device("cuda"))
    reference = build_optimizer(masters, OptimizerConfig(), torch.device("cuda"))
    for step in range(4):
        give_gradients(model, step)
        for parameter, master in zip(model.parameters(), masters.parameters(), strict=True):
            assert parameter.grad is not None
            master.grad = parameter.grad.float()
        optimizer.step()
        reference.step()
    for parameter, master in zip(model.parameters(), masters.parameters(), strict=True):
        stored = optimizer.state[parameter]
        assert all(t.device.type == "cpu" for t in stored.values())
        torch.testing.assert_close(stored["master"], master.detach().cpu(), rtol=1e-5, atol=1e-7)
        assert torch.equal(parameter.detach().cpu(), stored["master"].to(dtype))
