"""One optimizer step: forward and backward passes over micro-batches, clipping, the update.

In: the step's batch. Out: its loss, gradient norm and metrics, with the model updated. A step that
runs out of memory is done again from its start in smaller micro-batches; one whose loss or gradient
is not finite changes nothing and names the rows.

On CUDA nothing here waits for the device: whether a step may change the weights is decided there,
and its numbers are read later, while the device is busy with the next step. Elsewhere they are read
before the update.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from hornbook.errors import HornbookError
from hornbook.tokens.batch import Batch
from hornbook.train.objective import Forward
from hornbook.train.precision import Precision, check_scale


@dataclass
class StepReport:
    """What one step did.

    Attributes:
        loss: mean over the step's targets, before the update.
        gradient_norm: global 2-norm before clipping; None when fp16 overflowed.
        metrics: the objective's named sums, divided by the step's weight.
        updated: False when fp16 overflowed and the update was skipped.
    """

    loss: float
    gradient_norm: float | None
    metrics: dict[str, float]
    updated: bool


class Moment:
    """When a CUDA device is done with what it was handed up to here; elsewhere simply now."""

    def __init__(self, device: torch.device):
        self._now = time.perf_counter()
        self._event: torch.cuda.Event | None = None
        if device.type == "cuda":
            self._event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            self._event.record()

    def wait(self) -> None:
        """Return when the device is there."""
        if self._event is not None:
            self._event.synchronize()

    def since(self, earlier: Moment) -> float:
        """Seconds from an earlier moment to this one, which has been waited for."""
        if self._event is None or earlier._event is None:
            return self._now - earlier._now
        milliseconds: float = earlier._event.elapsed_time(self._event)
        return milliseconds / 1000


class Pending:
    """A step that was handed to the device; `result` waits for its numbers.

    Args:
        values: float32 [n], numbers that the device is about to know; their copy to the host is
            begun here.
        report: makes sense of them.

    Attributes:
        end: when the device is done with the step.
    """

    def __init__(self, values: Tensor, report: Callable[[list[float]], StepReport]):
        self._report, self._values = report, values
        if values.is_cuda:
            self._values = torch.empty_like(values, device="cpu", pin_memory=True)
            self._values.copy_(values, non_blocking=True)
        self.end = Moment(values.device)

    def result(self) -> StepReport:
        """What the step did. Raises `NotFinite` when its loss or gradient is NaN or infinite, and
        `HornbookError` when an operator ran out of memory after it was handed over."""
        try:
            self.end.wait()
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            raise HornbookError(
                "the device ran out of memory in the middle of a step",
                hint="Start again: it goes on from the last checkpoint. Set "
                "pretrain.micro_batch lower",
            ) from error
        return self._report(self._values.tolist())


@dataclass
class _Sums:
    """Shares of the step's mean loss, one a micro-batch, and of its metrics; on the device."""

    losses: list[Tensor] = field(default_factory=list)
    metrics: dict[str, Tensor] = field(default_factory=dict)


class Repeatable(Protocol):
    """A forward and backward pass that is recorded: `replay.Replay`."""

    def takes(self, part: Batch) -> bool: ...
    def clear(self) -> None: ...
    def __call__(self, part: Batch, weight: float) -> tuple[Tensor, dict[str, Tensor]]: ...


OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "status_alloc_failed")
"""Parts of messages about memory, the last one of cuBLAS and cuDNN."""


class NotFinite(HornbookError):
    """The loss or the gradient of step number `step` is not a number, or infinite."""

    def __init__(self, step: int, what: str, hint: str):
        super().__init__(what, where=f"step {step}", hint=hint)
        self.step = step


def step_seed(seed: int, step: int) -> int:
    """Seed of the random numbers (dropout) of a step: a pure function, so nothing is to be saved.

    A step done again, after a crash or in smaller micro-batches, starts from the same seed, and
    evaluating or sampling between two steps changes nothing.
    """
    digest = hashlib.blake2b(f"{seed} step {step}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


class Stepper:
    """Does training steps.

    Args:
        model: updated in place.
        forward: the objective bound to the model.
        optimizer: with the learning rate of the step set.
        precision: fp32, bf16 or fp16.
        gradient_clip: largest global gradient norm; 0: not clipped.
        seed: of dropout.
        total: of this process's shares of loss and metrics, those of all processes; does not wait
            for them.
        synchronise: told before each micro-batch whether it is the step's last, after which
            processes exchange their gradients.
        replay: does micro-batches of one shape faster.

    Attributes:
        pipelined: whether the device decides about the update and `Pending.result` waits. After a
            step that is not finite no later one changes anything either, so that the weights are
            still those before it when its numbers are read.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        forward: Forward,
        optimizer: torch.optim.Optimizer,
        precision: Precision,
        *,
        gradient_clip: float,
        seed: int,
        total: Callable[[Tensor], Tensor] = lambda tensor: tensor,
        synchronise: Callable[[bool], None] = lambda last: None,
        replay: Repeatable | None = None,
    ):
        self.precision = precision
        self.pipelined = precision.device.type == "cuda"
        self._model, self._forward, self._optimizer = model, forward, optimizer
        self._clip, self._seed = gradient_clip, seed
        self._total, self._synchronise, self._replay = total, synchronise, replay
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        self._halted = torch.zeros((), device=precision.device)

    def step(
        self,
        step: int,
        batch: Batch,
        micro_batch: int,
        weight: float,
        *,
        rows: tuple[int, int] = (0, 0),
        smaller: Callable[[int, int], None] = lambda step, rows: None,
    ) -> Pending:
        """Do step number `step` (counted from 1).

        Args:
            step: its number, for the seed of dropout and for messages.
            batch: all rows of the step, on the device.
            micro_batch: rows of one forward pass.
            weight: what loss sums are divided by: the units of loss in the step (how several
                processes share it, `sharding` says).
            rows: first row and end of the batch in the run, for messages.
            smaller: called with the step and the new micro-batch when memory ran out.

        Raises:
            NotFinite: as `Pending.result`, where the step is not pipelined; nothing was updated.
            HornbookError: no target in the batch; not even one row fits in memory.
        """
        if weight == 0:
            raise HornbookError(
                f"nothing to learn from in rows {rows[0]}-{rows[1] - 1}",
                where=f"step {step}",
                hint="Every target is masked: look at these rows with `hornbook inspect`",
            )
        sums = self._gradients(step, batch, micro_batch, weight, smaller)
        norm = self._clipped_norm()
        shares = self._total(torch.stack([*sums.losses, *sums.metrics.values()]))
        scale = norm.new_ones(()) if self.precision.scale is None else self.precision.scale
        values = torch.cat([torch.stack([norm, scale]), shares])
        report = partial(self._report, step, rows, len(batch), len(sums.losses), list(sums.metrics))
        overflowed = (~norm.isfinite()).float()
        if self.pipelined:
            fatal = (~shares[: len(sums.losses)].isfinite().all()).float()
            if self.precision.scale is None:
                fatal = torch.maximum(fatal, overflowed)
            self._halted = torch.maximum(self._halted, fatal)
            self._optimizer.found_inf = torch.maximum(self._halted, overflowed)  # type: ignore[attr-defined]
            self._update()
        elif report(values.tolist()).updated:
            self._update()
        self.precision.update_scale(overflowed)
        return Pending(values, report)

    def _clipped_norm(self) -> Tensor:
        """Unscale and clip the gradients; their global 2-norm before clipping, float32 0-d."""
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        self.precision.unscale(gradients)
        norm = torch.nn.utils.get_total_norm(gradients)
        if hasattr(norm, "full_tensor"):  # of sharded gradients; importing DTensor takes 0.8 s
            norm = norm.full_tensor()
        if self._clip:
            torch.nn.utils.clip_grads_with_norm_(self._parameters, self._clip, norm)
        return norm.float()

    def _report(
        self,
        step: int,
        rows: tuple[int, int],
        count: int,
        micro_batches: int,
        metrics: list[str],
        values: list[float],
    ) -> StepReport:
        """Numbers from the device (norm, loss scale, losses, metrics) as a report."""
        norm, scale, losses = values[0], values[1], values[2 : 2 + micro_batches]
        self._check(step, norm, losses, rows, count)
        updated = math.isfinite(norm)
        if not updated:
            check_scale(step, scale / 2)
        return StepReport(
            loss=math.fsum(losses),
            gradient_norm=norm if updated else None,
            metrics=dict(zip(metrics, values[2 + micro_batches :], strict=True)),
            updated=updated,
        )

    def _gradients(
        self,
        step: int,
        batch: Batch,
        micro_batch: int,
        weight: float,
        smaller: Callable[[int, int], None],
    ) -> _Sums:
        """Gradients of the step's mean loss, in micro-batches as small as memory asks for."""
        while True:
            torch.manual_seed(step_seed(self._seed, step))
            self._optimizer.zero_grad(set_to_none=True)
            if self._replay is not None:
                self._replay.clear()
            try:
                return accumulate(
                    self._forward, batch, micro_batch, weight, self.precision,
                    self._synchronise, self._replay,
                )  # fmt: skip
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if micro_batch == 1:
                    raise HornbookError(
                        f"one row of {batch.inputs.shape[1]:,} tokens does not fit in memory",
                        where=f"step {step}",
                        hint="Take a smaller model (model.preset) or a shorter model.context",
                    ) from error
            # Only here, after the error and its stack frames are gone, is the memory free.
            self._replay = None
            self._optimizer.zero_grad(set_to_none=True)
            micro_batch = micro_batch // 2
            smaller(step, micro_batch)  # lets go of the graph, too
            free_memory(self.precision.device)

    def _update(self) -> None:
        try:
            self._optimizer.step()
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            raise HornbookError(
                "the optimizer's state does not fit in memory",
                hint="Take a smaller model (model.preset), or set pretrain.micro_batch lower",
            ) from error

    def _check(
        self, step: int, norm: float, losses: list[float], rows: tuple[int, int], count: int
    ) -> None:
        """Raise `NotFinite` with the likely cause, unless all is finite or fp16 just overflowed."""
        bad = next((i for i, loss in enumerate(losses) if not math.isfinite(loss)), None)
        if bad is None and (math.isfinite(norm) or self.precision.name == "fp16"):
            return
        first, end = rows
        if bad is not None and count == end - first:  # else another process's rows may be the ones
            size = -(-count // len(losses))
            first, end = first + bad * size, min(end, first + (bad + 1) * size)
        what = "the gradient" if bad is None else "the loss"
        value = norm if bad is None else losses[bad]
        raise NotFinite(
            step,
            f"{what} is {value} in rows {first}-{max(first, end - 1)}; likely cause: "
            f"{self._cause(bad is None)}",
            "Nothing was updated and the last checkpoint is kept. Go on from it over other rows "
            "with a new data.seed, or begin anew with a lower optimizer.learning_rate or with "
            "pretrain.precision fp32",
        )

    def _cause(self, loss_is_finite: bool) -> str:
        for name, parameter in self._model.named_parameters():
            if not bool(torch.isfinite(parameter).all()):
                return f"the weights {name} are not finite, an earlier update was too large"
        if self.precision.name == "fp16":
            return "fp16 overflowed in the forward pass (its largest number is 65,504)"
        if loss_is_finite:
            return "the backward pass overflowed: the learning rate is too high, or these rows odd"
        return "activations overflowed: the learning rate is too high, or these rows are odd"


def accumulate(
    forward: Forward,
    batch: Batch,
    micro_batch: int,
    weight: float,
    precision: Precision,
    synchronise: Callable[[bool], None] = lambda last: None,
    replay: Repeatable | None = None,
) -> _Sums:
    """Add up the gradients of (loss sum / weight) over the micro-batches of a batch."""
    sums = _Sums()
    parts = pieces(batch, micro_batch)
    for number, part in enumerate(parts, 1):
        synchronise(number == len(parts))
        if replay is not None and replay.takes(part):
            loss, metrics = replay(part, weight)
        else:
            loss, metrics = forward_backward(forward, part, precision, lambda sum: sum / weight)
        sums.losses.append(loss)
        for name, share in metrics.items():
            sums.metrics[name] = sums.metrics[name] + share if name in sums.metrics else share
    return sums


def forward_backward(
    forward: Forward, part: Batch, precision: Precision, share: Callable[[Tensor], Tensor]
) -> tuple[Tensor, dict[str, Tensor]]:
    """Add the gradients of a micro-batch to the parameters'.

    Args:
        forward: the objective bound to the model.
        part: the micro-batch.
        precision: to compute in.
        share: from a sum over the micro-batch to its share of the step's mean.

    Returns:
        Its shares of the loss and of the metrics, float32 scalars.
    """
    with precision.autocast():
        loss_sum, metric_sums = forward(part)
    loss = share(loss_sum)
    precision.scaled(loss).backward()  # type: ignore[no-untyped-call]
    return loss.detach().float(), {n: share(v.detach().float()) for n, v in metric_sums.items()}


def pieces(batch: Batch, micro_batch: int) -> list[Batch]:
    """The batch in as few pieces of at most `micro_batch` rows as it takes, nearly equal ones."""
    size = even_size(len(batch), micro_batch)
    return [batch[start : start + size] for start in range(0, len(batch), size)]


def even_size(rows: int, most: int) -> int:
    """Rows of a piece when `rows` are cut into as few pieces of at most `most` as it takes."""
    return math.ceil(rows / math.ceil(rows / most))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error is the device's or the machine's memory running out."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    message = str(error).lower()
    return any(words in message for words in OUT_OF_MEMORY)


def free_memory(device: torch.device) -> None:
    """Give cached blocks back to the device, so that they can be cut anew."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()
