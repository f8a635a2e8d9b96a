"""Whether a pass is replayed: what is tried, in which order. On a GPU, `tests/gpu` does it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny_run import MODEL, PRETRAIN, CountingRows

from hornbook.errors import HornbookError
from hornbook.model.decoder import Decoder
from hornbook.optim.config import OptimizerConfig
from hornbook.optim.groups import build_optimizer
from hornbook.tokens.batch import Batch
from hornbook.train import replay as module
from hornbook.train.machine import Machine, asked
from hornbook.train.objective import NextToken, bind
from hornbook.train.replay import choose_replay
from hornbook.train.trial import Trial

CPU = torch.device("cpu")


class Gpu:
    """A processor that passes for a GPU.

    Attributes:
        seconds: of a launched pass, and of a replayed one.
        host_share: of a launched pass's time, until the host is done with it.
        fails: what capturing raises.
        held: share of the memory that is allocated with the graph.
        done: what was tried.
    """

    def __init__(self) -> None:
        self.seconds = {"launched": 2.0, "replayed": 1.0}
        self.host_share = 1.0
        self.fails: Exception | None = None
        self.held = 0.5
        self.done: list[str] = []
        self.trial = Trial(Decoder(MODEL).train(), NextToken(), CountingRows().rows(0, 8), CPU)
        self.optimizer = build_optimizer(self.trial.model, OptimizerConfig(), CPU)
        self.machine = Machine(
            "cuda", "", "bf16", 1, torch.__version__, asked(PRETRAIN), micro_batches=[[1, 8]]
        )

    def choose(self, wanted: str = "auto") -> Any:
        forward = bind(self.trial.objective, self.trial.model)
        config = replace(PRETRAIN, cuda_graph=wanted)
        chosen = choose_replay(config, self.machine, self.trial, self.optimizer, forward)
        assert not self.optimizer.state
        assert all(parameter.grad is None for parameter in self.trial.model.parameters())
        assert self.machine.cuda_graph == (chosen is not None)
        return chosen

    def capture(self, model: Any, forward: Any, example: Batch, precision: Any) -> Gpu:
        """As making a `Replay`."""
        assert all(parameter.grad is None for parameter in model.parameters())
        self.done.append("captured" + " beside the optimizer's state" * bool(self.optimizer.state))
        self._rows = len(example)
        if self.fails is not None:
            raise self.fails
        return self

    def takes(self, part: Batch) -> bool:
        return len(part) == self._rows

    def __call__(self, part: Batch, weight: float) -> None:
        self.done.append("replayed")

    def time(self, run: Callable[[], object]) -> float:
        before = len(self.done)
        run()
        kind = "replayed" if "replayed" in self.done[before:] else "launched"
        self.done[before:] = [kind]
        return self.seconds[kind]


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Gpu:
    gpu = Gpu()
    monkeypatch.setattr(module, "Replay", gpu.capture)
    monkeypatch.setattr(module, "_seconds", gpu.time)
    monkeypatch.setattr(module, "_host_share", lambda run: gpu.host_share)
    monkeypatch.setattr(module, "memory_limit", lambda device, share: share)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: gpu.held)
    launch = module.forward_backward

    def noted(*arguments: Any) -> Any:
        gpu.done.append("launched")
        return launch(*arguments)

    monkeypatch.setattr(module, "forward_backward", noted)
    return gpu


def test_launching_is_timed_while_the_memory_is_free(gpu: Gpu) -> None:
    assert gpu.choose() is gpu
    assert gpu.done == ["launched", "captured beside the optimizer's state", "replayed"]
    assert gpu.machine.reasons["cuda_graph"] == "2.00x as fast as launching"


def test_no_graph_where_the_host_is_not_the_slower_part(gpu: Gpu) -> None:
    gpu.host_share = 0.5
    assert gpu.choose() is None
    assert gpu.done == ["launched"]
    assert gpu.machine.reasons["cuda_graph"] == "launching is not what takes the time"


def test_the_rest_of_a_step_must_fit_beside_the_graph(gpu: Gpu) -> None:
    gpu.machine.micro_batches = [[1, 3]]  # 3, 3 and 2 rows
    assert gpu.choose() is gpu
    assert gpu.done[-2:] == ["replayed", "launched"]


def test_what_gains_nothing_or_does_not_fit_is_launched(gpu: Gpu) -> None:
    gpu.seconds["replayed"] = 1.99
    assert gpu.choose() is None
    assert gpu.machine.reasons["cuda_graph"] == "1.01x as fast as launching"
    tried = len(gpu.done)
    assert gpu.choose() is None and len(gpu.done) == tried  # decided already
    del gpu.machine.reasons["cuda_graph"]
    gpu.held, gpu.seconds["replayed"] = 0.9, 1.0
    assert gpu.choose() is None
    assert gpu.machine.reasons["cuda_graph"] == "takes too much memory"


def test_what_was_decided_is_not_timed_again(gpu: Gpu) -> None:
    gpu.choose()
    gpu.done.clear()
    assert gpu.choose() is gpu
    assert gpu.done == ["captured"]
    assert gpu.machine.reasons["cuda_graph"] == "2.00x as fast as launching"


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, torch.AcceleratorError])
def test_capturing_may_fail(error: type[Exception], gpu: Gpu) -> None:
    gpu.fails = error("in the middle")
    assert gpu.choose() is None
    assert gpu.machine.reasons["cuda_graph"] == "capturing failed: in the middle"
    with pytest.raises(HornbookError, match="no CUDA graph can be used here: capturing failed: in"):
        gpu.choose("on")


def test_what_is_asked_for_need_not_gain(gpu: Gpu) -> None:
    gpu.seconds["replayed"] = 5.0
    assert gpu.choose("on") is gpu
    assert gpu.done == ["captured"]
    assert "cuda_graph" not in gpu.machine.reasons
