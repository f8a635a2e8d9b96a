"""One optimizer step: forward and backward passes over micro-batches, clipping, the update.

In: the step's batch. Out: its loss, gradient norm and metrics, with the model updated. A step that
runs out of memory is done again from its start in smaller micro-batches; one whose loss or gradient
is not finite changes nothing and names the rows.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from hornbook.errors import HornbookError
from hornbook.tokens.batch import Batch
from hornbook.train.objective import Forward, Objective
from hornbook.train.precision import Precision


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


@dataclass
class _Sums:
    """Shares of the step's mean loss, one a micro-batch, and of its metrics; on the device."""

    losses: list[Tensor]
    metrics: dict[str, Tensor]


class NotFinite(HornbookError):
    """The loss or the gradient of a step is not a number, or infinite."""


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
        objective: says the weight of a batch.
        optimizer: with the learning rate of the step set.
        precision: fp32, bf16 or fp16.
        gradient_clip: largest global gradient norm; 0: not clipped.
        seed: of dropout.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        forward: Forward,
        objective: Objective,
        optimizer: torch.optim.Optimizer,
        precision: Precision,
        *,
        gradient_clip: float,
        seed: int,
    ):
        self.precision = precision
        self._model, self._forward, self._objective = model, forward, objective
        self._optimizer, self._clip, self._seed = optimizer, gradient_clip, seed
        self._parameters = [p for p in model.parameters() if p.requires_grad]

    def step(
        self,
        step: int,
        batch: Batch,
        micro_batch: int,
        *,
        rows: tuple[int, int] = (0, 0),
        smaller: Callable[[int, int], None] = lambda step, rows: None,
    ) -> StepReport:
        """Do step number `step` (counted from 1).

        Args:
            step: its number, for the seed of dropout and for messages.
            batch: all rows of the step, on the device.
            micro_batch: rows of one forward pass.
            rows: first row and end of the batch in the run, for messages.
            smaller: called with the step and the new micro-batch when memory ran out.

        Raises:
            NotFinite: loss or gradient is NaN or infinite; nothing was updated.
            HornbookError: no target in the batch; not even one row fits in memory.
        """
        weight = self._objective.weight(batch)
        if weight == 0:
            raise HornbookError(
                f"no {self._objective.unit} to learn from in rows {rows[0]}-{rows[1] - 1}",
                where=f"step {step}",
                hint="Every target is masked: look at these rows with `hornbook inspect`",
            )
        sums = self._gradients(step, batch, micro_batch, weight, smaller)
        self.precision.scaler.unscale_(self._optimizer)
        norm = torch.nn.utils.get_total_norm(
            [p.grad for p in self._parameters if p.grad is not None]
        )
        if self._clip:
            torch.nn.utils.clip_grads_with_norm_(self._parameters, self._clip, norm)
        # One wait for the device a step: to know the numbers before they change the weights.
        values = torch.stack([norm, *sums.losses, *sums.metrics.values()]).tolist()
        losses = values[1 : 1 + len(sums.losses)]
        self._check(step, values[0], losses, rows, len(batch))
        self._update()
        updated = math.isfinite(values[0])
        if not updated:
            self.precision.check_scale(step)
        return StepReport(
            loss=math.fsum(losses),
            gradient_norm=values[0] if updated else None,
            metrics=dict(zip(sums.metrics, values[1 + len(losses) :], strict=True)),
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
            try:
                return accumulate(self._forward, batch, micro_batch, weight, self.precision)
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
            self._optimizer.zero_grad(set_to_none=True)
            free_memory(self.precision.device)
            micro_batch = micro_batch // 2
            smaller(step, micro_batch)

    def _update(self) -> None:
        try:
            self.precision.scaler.step(self._optimizer)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            raise HornbookError(
                "the optimizer's state does not fit in memory",
                hint="Take a smaller model (model.preset), or set pretrain.micro_batch lower",
            ) from error
        self.precision.scaler.update()

    def _check(
        self, step: int, norm: float, losses: list[float], rows: tuple[int, int], count: int
    ) -> None:
        """Raise `NotFinite` with the likely cause, unless all is finite or fp16 just overflowed."""
        bad = next((i for i, loss in enumerate(losses) if not math.isfinite(loss)), None)
        if bad is None and (math.isfinite(norm) or self.precision.name == "fp16"):
            return
        first, end = rows
        if bad is not None:
            size = -(-count // len(losses))
            first, end = first + bad * size, min(end, first + (bad + 1) * size)
        what = "the gradient" if bad is None else "the loss"
        value = norm if bad is None else losses[bad]
        raise NotFinite(
            f"{what} is {value} in rows {first}-{max(first, end - 1)}; likely cause: "
            f"{self._cause(bad is None)}",
            where=f"step {step}",
            hint="Nothing was updated and the last checkpoint is kept. Go on from it over other "
            "rows with a new data.seed, or begin anew with a lower optimizer.learning_rate or with "
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
    forward: Forward, batch: Batch, micro_batch: int, weight: float, precision: Precision
) -> _Sums:
    """Add up the gradients of (loss sum / weight) over the micro-batches of a batch."""
    sums = _Sums([], {})
    for piece in pieces(batch, micro_batch):
        with precision.autocast():
            loss_sum, metric_sums = forward(piece)
        loss = loss_sum / weight
        precision.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        sums.losses.append(loss.detach().float())
        for name, value in metric_sums.items():
            share = value.detach().float() / weight
            sums.metrics[name] = sums.metrics[name] + share if name in sums.metrics else share
    return sums


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
    return "out of memory" in message or "can't allocate memory" in message


def free_memory(device: torch.device) -> None:
    """Give cached blocks back to the device, so that they can be cut anew."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()
