"""The Triton kernels give what the plain functions give, shown without a GPU by Triton's
interpreter; a machine without Triton is told and served."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from tests.optim.tiny_decoder import give_gradients, tiny_decoder
from torch import Tensor, nn

from hornbook.optim import launch
from hornbook.optim.config import OptimizerConfig
from hornbook.optim.groups import build_optimizer
from hornbook.optim.launch import Runner

KINDS: dict[str, dict[str, Any]] = {
    "adamw": {},
    "cautious": {"cautious": True},
    "adamw8bit": {"kind": "adamw8bit"},
    "muon": {"kind": "muon", "learning_rate": 1e-3},
}
# Widths of blocks that are and are not powers of two; vectors whose length is odd.
SHAPE: dict[str, Any] = {
    "width": 72,
    "heads": 4,
    "head_dim": 18,
    "kv_heads": 4,
    "layers": 1,
    "mlp_width": 128,
}


def train(settings: dict[str, Any], dtype: torch.dtype, runner: Runner) -> list[Tensor]:
    """Weights and states after steps, the second one skipped."""
    model = tiny_decoder("gpt2", **SHAPE).to(dtype)
    model.odd = nn.Parameter(torch.ones(77, dtype=dtype))
    optimizer = build_optimizer(model, OptimizerConfig(**settings), torch.device("cpu"))
    optimizer._runner = runner
    for step in range(3):
        optimizer.found_inf = torch.tensor(float(step == 1))
        give_gradients(model, step)
        for group in optimizer.param_groups:
            group["lr"] /= 2
        optimizer.step()
    states = [t for p in model.parameters() for t in optimizer.state[p].values()]
    return [t.detach() for t in (*model.parameters(), *states)]


def compare() -> None:
    for name, settings in KINDS.items():
        for dtype in (torch.float32, torch.bfloat16):
            runner = Runner(triton=True)
            kernels, plain = (train(settings, dtype, r) for r in (runner, Runner(triton=False)))
            assert runner.triton
            for ours, theirs in zip(kernels, plain, strict=True):
                where = f"{name} {dtype} {tuple(ours.shape)} {ours.dtype}"
                if ours.dtype is torch.float32:
                    # A code that fell the other way is 6 % of a moment's share in an update.
                    loose = 1e-4 if name == "adamw8bit" else 1e-6
                    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=loose, msg=where)
                else:
                    # The last bit of a float32 may turn a rounding the other way, for few; a root
                    # one code higher has a ratio up to 8 codes lower.
                    assert (ours != theirs).float().mean() < 0.01, where
                    step = 2**-6 * theirs.float().abs() + 1e-4 if dtype is ours.dtype else 9.0
                    assert ((ours.float() - theirs.float()).abs() <= step).all(), where


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs Triton")
def test_kernels_are_the_plain_functions() -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    code = "from tests.optim import test_kernels; test_kernels.compare()"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_without_triton_it_is_said_once_and_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(*args: Any) -> None:
        raise RuntimeError("Failed to find C compiler.\nmore")

    monkeypatch.setattr(launch, "_launch", fails)
    for settings in KINDS.values():
        runner = Runner(triton=True)
        found = train(settings, torch.bfloat16, runner)
        message = capsys.readouterr()
        assert (message.out + message.err).count("Failed to find C compiler") == 1
        assert not runner.triton
        wanted = train(settings, torch.bfloat16, Runner(triton=False))
        assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


def test_tables_follow_what_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    """A table is kept while all addresses are the same, and made anew when one is another."""
    tables: list[Any] = []
    monkeypatch.setattr(launch, "_launch", lambda name, table, *rest: tables.append(table))
    parameter = nn.Parameter(torch.zeros(5008, dtype=torch.bfloat16))
    model = nn.ParameterList([parameter, nn.Parameter(torch.zeros(7, dtype=torch.bfloat16))])
    optimizer = build_optimizer(model, OptimizerConfig(), torch.device("cpu"))
    optimizer._runner = Runner(triton=True)
    for moves in (False, False, True):
        for p in model:
            if p.grad is None or moves:
                p.grad = p.grad.clone() if p.grad is not None else torch.ones_like(p)
        optimizer.step()
    aligned, odd, aligned2, odd2, aligned3, odd3 = tables
    assert aligned2 is aligned and odd2 is odd and aligned3 is not aligned and odd3 is not odd
    for table, p in ((aligned3, parameter), (odd3, model[1])):
        (row,) = table.on_device.tolist()
        assert row[:2] == [p.data_ptr(), p.grad.data_ptr()]
        assert row[-4:-2] == [p.numel(), 0]
    assert aligned.owners.tolist() == [0] * 3
