"""Forward and backward passes that leave no trace, to find out what works here and how fast.

In: a model, an objective, rows to try them on. Out: seconds, or why it does not work. Weights and
optimizer are as before afterwards.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace

import torch

from hornbook.errors import HornbookError
from hornbook.model.decoder import Decoder
from hornbook.tokens.batch import Batch
from hornbook.train.objective import Forward, Objective, bind
from hornbook.train.parallel import ALONE, World
from hornbook.train.precision import Precision
from hornbook.train.sharding import break_off
from hornbook.train.step import accumulate, free_memory, is_out_of_memory

FINE, MEMORY, FAILURE = range(3)
"""How a pass went in a process; the worst counts for all."""


@dataclass
class Trial:
    """What is tried.

    Attributes:
        model: on `device`, in training mode.
        objective: the loss.
        batch: all rows of one step, on `device`.
        device: where to train.
        world: the processes that try the same at the same time, and agree on what they find.
    """

    model: Decoder
    objective: Objective
    batch: Batch
    device: torch.device
    world: World = ALONE

    def seconds(self, precision: Precision, rows: int, forward: Forward | None = None) -> float:
        """Time of a forward and backward pass over `rows` rows, whose gradients are thrown away:
        that of the slowest process.

        Args:
            precision: to compute in.
            rows: of the batch.
            forward: model and objective; None: as the model's engine is set now.

        Raises:
            FloatingPointError: the loss is not finite.
            torch.OutOfMemoryError: memory ran out in another process.
            RuntimeError: it does not work in another process, for another reason.
        """
        try:
            seconds = self._seconds(precision, rows, forward)
        except Exception as error:
            self._agree(0.0, MEMORY if is_out_of_memory(error) else FAILURE, first_line(error))
            raise
        return self._agree(seconds, FINE, "")

    def _agree(self, seconds: float, outcome: int, problem: str) -> float:
        """Seconds of the slowest process; where it went worse in another one, what is raised there.

        All must go on alike, or they would wait for each other in different places.
        """
        slowest, worst = self.world.largest(seconds, outcome)
        if worst == FAILURE:
            (first,) = self.world.smallest(math.inf if outcome < worst else self.world.rank)
            problem = self.world.share(problem, int(first))
            if outcome < worst:
                raise RuntimeError(f"{problem} (in process {first:.0f} of {self.world.size})")
        elif outcome < worst:
            raise torch.OutOfMemoryError("another process is out of memory")
        return slowest

    def _seconds(self, precision: Precision, rows: int, forward: Forward | None) -> float:
        forward = forward or bind(self.objective, self.model)
        batch = self.batch[:rows]
        weight = max(1.0, self.objective.weight(batch))
        self._wait()
        start = time.perf_counter()
        try:
            sums = accumulate(forward, batch, rows, weight, precision)
            loss = float(torch.stack(sums.losses).sum())
            self._wait()
        finally:
            self.model.zero_grad(set_to_none=True)
        if not math.isfinite(loss):
            raise FloatingPointError(f"the loss is {loss}")
        return time.perf_counter() - start

    def apart(self) -> Trial:
        """The same with a model that is whole in each process: itself, or where the processes share
        its weights one of a single layer.

        With shared weights a process in which something fails would leave the others waiting, in
        the middle of the pass, for its rows. All layers run the same code.
        """
        if not hasattr(self.model, "unshard"):
            return self
        config = replace(self.model.config, layers=1, value_embeddings=0)
        with self.device:
            model = Decoder(config).to(self.model.embedding.weight.dtype).train()
        model.engine = self.model.engine
        return replace(self, model=model)

    def problem(self, precision: Precision) -> str | None:
        """Why a pass over one row does not work, in a line; None when it does.

        Raises `HornbookError` when one row does not fit in memory.
        """
        try:
            self.apart().seconds(precision, 1)
        except HornbookError as error:
            return error.what
        except (RuntimeError, FloatingPointError) as error:
            if is_out_of_memory(error):
                raise self.no_row_fits() from error
            return first_line(error)
        return None

    def fits(
        self,
        precision: Precision,
        rows: int,
        forward: Forward | None = None,
        *,
        limit: float = math.inf,
    ) -> bool:
        """Whether a pass over `rows` rows finds the memory it needs.

        Args:
            precision, rows, forward: as in `seconds`.
            limit: bytes that PyTorch may hold then, on CUDA.
        """
        free_memory(self.device)
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        fitted = True
        try:
            self.seconds(precision, rows, forward)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            fitted = False
        if not fitted:  # only here, after the error and its stack frames are gone, is memory free
            break_off(self.model)
            return False
        if self.device.type != "cuda":
            return True
        return self.world.largest(torch.cuda.max_memory_reserved() - limit)[0] <= 0

    def no_row_fits(self) -> HornbookError:
        """The error that a single row is too much."""
        return HornbookError(
            f"one row of {self.batch.inputs.shape[1]:,} tokens does not fit in memory",
            hint="Take a smaller model (model.preset) or a shorter model.context",
        )

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        elif self.device.type == "mps":
            torch.mps.synchronize()


def first_line(error: BaseException) -> str:
    """What an error says, in a line: of a chain of them what the innermost says."""
    while (inner := getattr(error, "inner_exception", None) or error.__cause__) is not None:
        error = inner
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
