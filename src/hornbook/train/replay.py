"""A micro-batch's forward and backward pass as one CUDA graph, replayed instead of launched.

In: the forward function of a run and the rows of a step. Out: a `Replay`, which adds up the same
gradients, bit for bit, or None where that gains nothing or cannot be done.

A pass is hundreds of kernels, and handing one over takes the host some 10 us: with small models or
micro-batches longer than the device needs for it. On an H200, GPT-2 124M with 8 rows of 1,024 took
20 to 27 ms launched, 16 replayed; with 64 rows the two are the same.

A graph always reads and writes the same memory. So inputs are copied to where it reads them, and
gradients stay where they are from step to step. Its activations keep their memory, too.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from hornbook.errors import HornbookError
from hornbook.tokens.batch import Batch
from hornbook.train.config import PretrainConfig
from hornbook.train.machine import Machine
from hornbook.train.objective import Forward
from hornbook.train.precision import Precision
from hornbook.train.step import forward_backward, free_memory, pieces
from hornbook.train.trial import Trial, first_line

GAIN = 1.03
"""Below this a graph is not worth the memory that it keeps to itself."""

MEMORY_SHARE = 0.85
"""What PyTorch may hold with a graph, of what it may take: evaluating and the optimizer's step need
memory besides."""

ROUNDS = 3
"""Passes in a row that are timed."""


class Replay:
    """A captured pass.

    Args:
        model: whose gradients are added up.
        forward: the objective bound to it.
        example: a micro-batch; all others have its shape.
        precision: bf16 or fp32. (The loss scale of fp16 is another tensor after each step.)
    """

    def __init__(self, model: nn.Module, forward: Forward, example: Batch, precision: Precision):
        self._inputs, self._targets = example.inputs.clone(), example.targets.clone()
        self._share = torch.ones((), device=example.inputs.device)
        static = Batch(self._inputs, self._targets)

        def once() -> tuple[Tensor, dict[str, Tensor]]:
            return forward_backward(forward, static, precision, lambda loss: loss * self._share)

        # Once beside the stream that everything else is on, as PyTorch asks for: what is made in a
        # first pass, gradients among it, must not be made while the graph is captured.
        beside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):
            once()
        torch.cuda.current_stream().wait_stream(beside)
        self._gradients = [(p, p.grad) for p in model.parameters() if p.grad is not None]
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._loss, self._metrics = once()

    def takes(self, part: Batch) -> bool:
        """Whether this micro-batch has the shape that was captured."""
        plain = part.positions is None and part.documents is None
        return plain and part.inputs.shape == self._inputs.shape

    def clear(self) -> None:
        """Set the gradients, where the graph adds to them, to zero."""
        for parameter, gradient in self._gradients:
            parameter.grad = gradient
        torch._foreach_zero_([gradient for _, gradient in self._gradients])

    def __call__(self, part: Batch, weight: float) -> tuple[Tensor, dict[str, Tensor]]:
        """As `step.forward_backward`, for (loss sum / weight)."""
        self._inputs.copy_(part.inputs)
        self._targets.copy_(part.targets)
        # As PyTorch divides a CUDA tensor by a number: by multiplying with its reciprocal.
        self._share.fill_(1.0 / weight)
        self._graph.replay()
        return self._loss.clone(), {name: value.clone() for name, value in self._metrics.items()}


def choose_replay(
    config: PretrainConfig, machine: Machine, trial: Trial, forward: Forward
) -> Replay | None:
    """A graph of the run's micro-batch, where it is asked for, or is faster.

    Args:
        config: `pretrain.cuda_graph`.
        machine: its choices made, the micro-batch too; `cuda_graph` and the reason are set here.
        trial: model and rows.
        forward: as it is used in training.

    Raises:
        HornbookError: a graph was asked for, and cannot be.
    """
    problem = _unsuitable(machine, trial)
    decided = "cuda_graph" in machine.reasons  # by an earlier start
    if config.cuda_graph == "off" or (problem and config.cuda_graph == "auto"):
        return None
    if decided and config.cuda_graph == "auto" and not machine.cuda_graph:
        return None
    replay = None
    if problem is None:
        replay, problem = _captured(machine, trial, forward, judge=not decided)
    trial.model.zero_grad(set_to_none=True)
    if replay is None and config.cuda_graph == "on":
        raise HornbookError(
            f"no CUDA graph can be used here: {problem}",
            where="pretrain.cuda_graph",
            hint="Set it to auto",
        )
    machine.cuda_graph = replay is not None
    machine.reasons.setdefault("cuda_graph", problem or "faster")
    return replay


def _unsuitable(machine: Machine, trial: Trial) -> str | None:
    """Why a graph cannot be tried; None where it can."""
    batch = trial.batch
    if machine.device != "cuda":
        return "it needs an NVIDIA GPU"
    if trial.world.size > 1:
        return "several processes exchange gradients in between"
    if machine.precision == "fp16":
        return "the loss scale of fp16 changes"
    if batch.positions is not None or batch.documents is not None:
        return "rows have documents of their own"
    return None


def _captured(
    machine: Machine, trial: Trial, forward: Forward, *, judge: bool
) -> tuple[Replay | None, str | None]:
    """A graph, or why there is none: it cannot be captured, or (`judge`) gains too little."""
    precision = Precision(machine.precision, trial.device)
    part = pieces(trial.batch, machine.micro_batches[-1][1])[0]
    free_memory(trial.device)
    try:
        replay = Replay(trial.model, forward, part, precision)
    except RuntimeError as error:
        problem: str | None = f"capturing failed: {first_line(error)}"
    else:
        problem = _too_much_memory(trial.device)
        if problem is None and judge:
            weight = max(1.0, trial.objective.weight(part))
            launched = _seconds(
                lambda: forward_backward(forward, part, precision, lambda loss: loss / weight)
            )
            gain = launched / _seconds(lambda: replay(part, weight))
            reason = f"{gain:.2f}x as fast as launching"
            machine.reasons["cuda_graph"] = reason
            problem = None if gain >= GAIN else reason
        if problem is None:
            return replay, None
        del replay
    trial.model.zero_grad(set_to_none=True)
    free_memory(trial.device)
    return None, problem


def _too_much_memory(device: torch.device) -> str | None:
    free_memory(device)
    held = torch.cuda.memory_reserved(device)
    limit = torch.cuda.get_per_process_memory_fraction() * torch.cuda.mem_get_info(device)[1]
    return "takes too much memory" if held > MEMORY_SHARE * limit else None


def _seconds(run: Callable[[], object]) -> float:
    """Of one of several passes in a row."""
    run()
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(ROUNDS):
        run()
    torch.cuda.synchronize()
    return (time.perf_counter() - began) / ROUNDS
