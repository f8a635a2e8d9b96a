"""On a GPU: passes replayed as a CUDA graph do what launched ones do."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1] / "train"))
from tiny_run import LENGTH, MODEL, CountingRows, events, fit, losses

from hornbook.errors import HornbookError
from hornbook.model.decoder import Decoder
from hornbook.tokens.batch import Batch
from hornbook.train.machine import Machine
from hornbook.train.objective import NextToken, bind
from hornbook.train.precision import Precision
from hornbook.train.replay import Replay, free_workspaces
from hornbook.train.step import forward_backward

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

SMALL = {"context": 64, "width": 64, "head_dim": 32, "mlp_width": 128}
NO_DROPOUT = {"embedding_dropout": 0.0, "attention_dropout": 0.0, "residual_dropout": 0.0}


USUAL = {"device": "cuda", "precision": "bf16", "compile": "off", "attention": "efficient"}
"""Not the fastest attention, which differs from run to run."""


def run(
    folder: Path,
    model: dict[str, Any] | None = None,
    optimizer: dict[str, Any] | None = None,
    **settings: Any,
) -> Machine:
    given = {**USUAL, "steps": 30, **settings}
    fit(folder, given, model={**SMALL, **(model or {})}, optimizer=optimizer)
    machine = Machine.read(folder)
    assert machine is not None
    return machine


@pytest.mark.parametrize("compile", ["off", "on", "regional"])
@pytest.mark.parametrize("micro_batch", [7, 4])
def test_the_losses_are_the_same(compile: str, micro_batch: int, tmp_path: Path) -> None:
    """The same bits, but for what compiled code adds up in whatever order it comes (gradients of
    embeddings). With 4 rows of 7 the last micro-batch has another shape, and is launched."""
    settings = {"compile": compile, "micro_batch": micro_batch, "global_batch_tokens": 7 * LENGTH}
    launched = run(tmp_path / "off", NO_DROPOUT, cuda_graph="off", **settings)
    replayed = run(tmp_path / "on", NO_DROPOUT, cuda_graph="on", **settings)
    assert (launched.cuda_graph, replayed.cuda_graph) == (False, True)
    if compile == "off":
        assert losses(tmp_path / "off") == losses(tmp_path / "on")
    else:
        # Steps so large make of a last bit 3e-3 in thirty.
        off, on = (torch.tensor(losses(tmp_path / name))[:, 1] for name in ("off", "on"))
        assert torch.allclose(on[:3], off[:3], rtol=1e-6) and (on - off).abs().max() < 0.01


def test_dropout_is_drawn_anew_each_time(tmp_path: Path) -> None:
    frozen = {"cuda_graph": "on", "steps": 20}
    fit(tmp_path, {"device": "cuda", "precision": "bf16", "compile": "off", **frozen},
        model=SMALL, source=Same(), optimizer={"learning_rate": 1e-30})  # fmt: skip
    assert len({loss for _, loss in losses(tmp_path)}) > 10


class Same(CountingRows):
    """The same rows in each step."""

    def rows(self, start: int, count: int) -> Batch:
        return super().rows(0, count)


def test_a_run_goes_on_from_a_checkpoint(tmp_path: Path) -> None:
    # Other schedules, and warming up, depend on the number of steps.
    constant = {"schedule": "constant", "warmup_steps": 0}
    run(tmp_path / "whole", optimizer=constant, cuda_graph="on")
    run(tmp_path / "parts", optimizer=constant, cuda_graph="on", steps=20)
    run(tmp_path / "parts", optimizer=constant, cuda_graph="on", steps=30)
    assert losses(tmp_path / "whole")[:20] == losses(tmp_path / "parts")[:20]
    assert losses(tmp_path / "parts")[-1][0] == 30


class Waiting(NextToken):
    """An objective that waits for the device, which no graph can hold."""

    def __call__(self, model: Any, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        loss, metrics = super().__call__(model, batch)
        return loss if float(loss) > 0 else loss * 2, metrics


class WaitingUnnoticed(NextToken):
    """One that PyTorch does not notice before CUDA breaks the capture off."""

    def __call__(self, model: Any, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        torch.cuda.synchronize()
        return super().__call__(model, batch)


@pytest.mark.parametrize("objective", [Waiting, WaitingUnnoticed])
def test_what_cannot_be_captured_is_launched(objective: type[NextToken], tmp_path: Path) -> None:
    """With dropout, as a capture that broke off may leave a generator that draws no more."""
    dropout = {**SMALL, "residual_dropout": 0.1}
    settings = {**USUAL, "steps": 10}
    auto = {**settings, "cuda_graph": "auto"}
    fit(tmp_path / "auto", auto, model=dropout, objective=objective())
    machine = Machine.read(tmp_path / "auto")
    assert machine is not None and not machine.cuda_graph
    assert "capturing failed" in machine.reasons["cuda_graph"]
    assert len(losses(tmp_path / "auto")) == 10
    assert torch.cuda.current_stream() == torch.cuda.default_stream()
    with pytest.raises(HornbookError, match="no CUDA graph can be used here: capturing failed"):
        fit(tmp_path / "on", {**settings, "cuda_graph": "on"}, model=dropout, objective=objective())
    fit(tmp_path / "next", {**settings, "cuda_graph": "on"}, model=dropout)
    launched = {**settings, "cuda_graph": "off"}
    fit(tmp_path / "launched", launched, model=dropout)
    assert losses(tmp_path / "next") == losses(tmp_path / "launched"), "the same dropout, too"


def test_memory_running_out_ends_replaying(tmp_path: Path) -> None:
    """Made to run out in the middle: the step is done again in halves, launched."""
    rows = {"micro_batch": 4, "global_batch_tokens": 7 * LENGTH}
    run(tmp_path / "off", NO_DROPOUT, cuda_graph="off", **rows)
    settings = {**USUAL, **rows, "steps": 30, "cuda_graph": "on"}
    fit(tmp_path / "on", settings, model={**SMALL, **NO_DROPOUT}, objective=Full())
    assert events(tmp_path / "on", "micro_batch")
    apart = [
        abs(a - b)
        for (_, a), (_, b) in zip(losses(tmp_path / "off"), losses(tmp_path / "on"), strict=True)
    ]
    assert max(apart) < 0.01, "sums of bf16 gradients in another order"


def test_a_graph_works_in_memory_of_its_own() -> None:
    """Also in workspaces of its own, where cuBLAS's were given back after it was captured."""
    cuda, wide = torch.device("cuda"), {"width": 256, "head_dim": 128, "mlp_width": 1024}
    model = Decoder(replace(MODEL, **{**SMALL, **NO_DROPOUT, **wide})).to(cuda).train()
    batch, precision = CountingRows().rows(0, 64).to(cuda), Precision("bf16", cuda)
    replay = Replay(model, bind(NextToken(), model), batch, precision)
    free_workspaces(cuda)
    others = [torch.full((size,), 7, dtype=torch.uint8, device=cuda)
              for size in (2**31, *[2**25] * 20, *[2**22] * 50, *[2**19] * 100)]  # fmt: skip
    replay.clear()
    loss, _ = replay(batch, 8.0)
    replayed = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    assert all(bool((other == 7).all()) for other in others), "written by the graph"
    model.zero_grad(set_to_none=True)
    forward = bind(NextToken(), model)
    launched, _ = forward_backward(forward, batch, precision, lambda loss: loss / 8.0)
    assert torch.equal(loss, launched)
    again = [p.grad for p in model.parameters() if p.grad is not None]
    assert all(torch.equal(a, b) for a, b in zip(replayed, again, strict=True))


class Full(NextToken):
    """Out of memory the fifth time that three rows, the rest of a step, are launched."""

    def __init__(self) -> None:
        self.passes = 0

    def __call__(self, model: Any, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        if model.training and len(batch) == 3:
            self.passes += 1
            if self.passes == 5:
                raise torch.OutOfMemoryError("out of memory, as made for a test")
        return super().__call__(model, batch)
