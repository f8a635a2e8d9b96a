"""A micro-batch's forward and backward pass as one CUDA graph, replayed instead of launched.

In: the forward function of a run and the rows of a step. Out: a `Replay`, which adds up the same
gradients (`tests/gpu` asks for the same bits), or None where that gains nothing or cannot be done.

A pass is hundreds of kernels, and handing one over takes the host some 10 us: with small models or
micro-batches longer than the device needs for it. On an H200, GPT-2 124M with 8 rows of 1,024 took
20 to 27 ms launched, 16 replayed, in an experiment; with 64 rows the two are the same.

A graph always reads and writes the same memory. So inputs are copied to where it reads them, and
gradients stay where they are from step to step. Its activations keep their memory, too.
"""

from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from hornbook.errors import HornbookError
from hornbook.tokens.batch import Batch
from hornbook.train.config import PretrainConfig
from hornbook.train.machine import Machine
from hornbook.train.objective import Forward
from hornbook.train.precision import Precision
from hornbook.train.probe_memory import memory_limit, state_allocated
from hornbook.train.step import forward_backward, free_memory, pieces
from hornbook.train.trial import Trial, first_line

GAIN = 1.03
"""Below this a graph is not worth the memory that it keeps to itself."""

MEMORY_SHARE = 0.85
"""What PyTorch may hold with a graph and the optimizer's state, of what it may take: evaluating and
the optimizer's step need memory besides."""

HOST_SHARE = 0.7
"""Of a pass's time: a host that has launched it sooner does not hold the device up, and capturing,
a second or so, is not tried."""

ROUNDS = 3
"""Passes in a row that are timed."""


class Replay:
    """A captured pass.

    Args:
        model: whose gradients are added up.
        forward: the objective bound to it.
        example: a micro-batch; all others have its shape.
        precision: bf16 or fp32. (The loss scale of fp16 is another tensor after each step.)

    Attributes:
        bytes: of memory that the graph keeps to itself; allocated while it is captured only.
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
            with _waiting_refused():  # a capture would break off there
                once()
        torch.cuda.current_stream().wait_stream(beside)
        free_workspaces(example.inputs.device)
        self._gradients = [(p, p.grad) for p in model.parameters() if p.grad is not None]
        self._graph = torch.cuda.CUDAGraph()
        before = torch.cuda.memory_reserved()
        with _capturing(self._graph):
            self._loss, self._metrics = once()
        self.bytes = torch.cuda.memory_reserved() - before

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
    config: PretrainConfig,
    machine: Machine,
    trial: Trial,
    optimizer: torch.optim.Optimizer,
    forward: Forward,
) -> Replay | None:
    """A graph of the run's micro-batch, where it is asked for, or is faster.

    Args:
        config: `pretrain.cuda_graph`.
        machine: its choices made, the micro-batch too; `cuda_graph` and the reason are set here.
        trial: model and rows.
        optimizer: of the model, fresh; afterwards too.
        forward: as it is used in training.

    Raises:
        HornbookError: a graph was asked for, and cannot be.
    """
    auto, decided = config.cuda_graph == "auto", "cuda_graph" in machine.reasons
    reason = _unsuitable(machine, trial)
    if config.cuda_graph == "off" or (auto and (reason or (decided and not machine.cuda_graph))):
        return None
    replay = None
    if reason is None:
        judge = auto and not decided  # by an earlier start
        with state_allocated(trial, optimizer) if judge else contextlib.nullcontext():
            replay, reason = _captured(machine, trial, forward, judge=judge)
        trial.model.zero_grad(set_to_none=True)
        free_workspaces(trial.device)
    if replay is None and not auto:
        raise HornbookError(
            f"no CUDA graph can be used here: {reason}",
            where="pretrain.cuda_graph",
            hint="Set it to auto",
        )
    machine.cuda_graph = replay is not None
    if auto and reason:
        machine.reasons["cuda_graph"] = reason
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
    """A graph, or None where it cannot be captured or (`judge`) gains too little; and why."""
    precision = Precision(machine.precision, trial.device)
    parts = pieces(trial.batch, machine.micro_batches[-1][1])
    weight = max(1.0, trial.objective.weight(parts[0]))

    def launch(part: Batch) -> None:
        forward_backward(forward, part, precision, lambda loss: loss / weight)

    try:
        # Timed before there is a graph: with its memory gone, another pass may not fit.
        launched = _seconds(lambda: launch(parts[0])) if judge else 0.0
        if judge and _host_share(lambda: launch(parts[0])) < HOST_SHARE:
            return None, "launching is not what takes the time"
        trial.model.zero_grad(set_to_none=True)
        free_workspaces(trial.device)
        replay = Replay(trial.model, forward, parts[0], precision)
        if not judge:
            return replay, None
        gain = launched / _seconds(lambda: replay(parts[0], weight))
        if not replay.takes(parts[-1]):
            launch(parts[-1])  # in memory besides the graph's
    except RuntimeError as error:
        return None, f"capturing failed: {first_line(error)}"
    if torch.cuda.memory_reserved(trial.device) > memory_limit(trial.device, MEMORY_SHARE):
        return None, "takes too much memory"
    return (replay if gain >= GAIN else None), f"{gain:.2f}x as fast as launching"


def free_workspaces(device: torch.device) -> None:
    """As `free_memory`, and what cuBLAS keeps for each stream that it has seen.

    On an H200 these are two times 32 MiB a stream, cut out of whatever was cached. With gigabytes
    cached those were lost to all other streams, so that half the rows fitted. A graph must keep its
    own: it does, in its memory, where this was called before capturing.
    """
    if device.type == "cuda":  # a build of PyTorch for CPUs has no such function
        torch._C._cuda_clearCublasWorkspaces()
    free_memory(device)


@contextlib.contextmanager
def _waiting_refused() -> Iterator[None]:
    """An operation that waits for the device is an error in here, before it does anything."""
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that not every one is noticed
        torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode(before)


@contextlib.contextmanager
def _capturing(graph: torch.cuda.CUDAGraph) -> Iterator[None]:
    """As `torch.cuda.graph`, but where CUDA refuses what was captured, PyTorch can go on.

    `CUDAGraph.capture_end` stops half-way then: the stream stays the graph's, the allocator keeps
    back all memory that streams share, and in 2.11 the generator refuses to draw.
    """
    stream, device = torch.cuda.current_stream(), torch.cuda.current_device()
    pool = torch.cuda.graph_pool_handle()
    try:
        with torch.cuda.graph(graph, pool):
            yield
    except torch.AcceleratorError:
        torch.cuda.set_stream(stream)
        fresh = torch.Generator(torch.device("cuda", device))
        torch.cuda.default_generators[device].graphsafe_set_state(fresh)
        with contextlib.suppress(RuntimeError):  # where it got so far
            torch._C._cuda_endAllocateToPool(device, pool)
            torch._C._cuda_releasePool(device, pool)
        raise


def _host_share(run: Callable[[], object]) -> float:
    """Time until a pass is launched, over that until it is done."""
    torch.cuda.synchronize()
    began = time.perf_counter()
    run()
    launched = time.perf_counter() - began
    torch.cuda.synchronize()
    return launched / (time.perf_counter() - began)


def _seconds(run: Callable[[], object]) -> float:
    """Of one of several passes in a row."""
    run()
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(ROUNDS):
        run()
    torch.cuda.synchronize()
    return (time.perf_counter() - began) / ROUNDS
