"""What is minimised: an objective turns a batch into a loss sum.

In: a model and a batch. Out: the SUM of the losses over the batch's targets, and further named
sums. The trainer divides by the weight of the whole step, which is known before the first forward
pass, so that padding, unequal micro-batches and several processes all give the same gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
import torch._functorch.config as compiler_config
from torch import Tensor, nn

from hornbook.errors import HornbookError
from hornbook.model.checkpointing import without_notice
from hornbook.model.cross_entropy import has_kernel
from hornbook.model.decoder import Decoder
from hornbook.model.engine import COMPILER_OPTIONS
from hornbook.tokens.batch import IGNORE, Batch

Forward = Callable[[Batch], tuple[Tensor, dict[str, Tensor]]]
"""An objective bound to its model, perhaps compiled: batch -> (loss sum, metric sums)."""


class Objective(Protocol):
    """A training objective."""

    unit: str
    """What `weight` counts: tokens, pairs, images."""

    def weight(self, batch: Batch) -> float:
        """How many units of loss the batch holds; needs no forward pass."""
        ...

    def __call__(self, model: Decoder, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss summed over the units (a float32 scalar), and named sums for the log."""
        ...


class NextToken:
    """Cross-entropy of each next token, in nats."""

    unit = "tokens"

    def weight(self, batch: Batch) -> float:
        """The number of targets that are not `IGNORE`."""
        return float((batch.targets != IGNORE).sum())

    def __call__(self, model: Decoder, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The cross-entropy summed over the targets; 0 for a batch without any."""
        hidden = model.hidden(batch.inputs, batch.positions, batch.documents)
        return model.loss(hidden, batch.targets), {}


class Bound(nn.Module):
    """A model and its objective as one module: batch -> (loss sum, metric sums).

    This is what is wrapped for several processes (DDP, `fully_shard`): their hooks stay outside of
    what is compiled. With `compile` "on" model and loss are one graph, so that the compiler can
    fuse them; the model itself stays as it was, and evaluating and sampling compile nothing.
    """

    def __init__(self, objective: Objective, model: Decoder):
        super().__init__()
        self.model, self.objective = model, objective
        self._compute = self._loss
        if model.engine.compile == "on":
            # A break in the graph would be slow and silent, so it is an error; and each new shape
            # compiles anew, since a run has few, and a graph for any shape is slower.
            self._compute = torch.compile(
                self._loss, fullgraph=True, dynamic=False, options=COMPILER_OPTIONS
            )

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss summed over the batch's units (a float32 scalar), and named sums."""
        engine = self.model.engine
        if engine.checkpointing in ("selective", "full"):
            with without_notice():
                return self._compute(batch)
        if engine.checkpointing != "budget":
            return self._compute(batch)
        # The compiler reads the budget when it first meets a shape.
        with compiler_config.patch(activation_memory_budget=engine.budget):
            return self._compute(batch)

    def _loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        return self.objective(self.model, batch)


def bind(objective: Objective, model: Decoder) -> Bound:
    """The objective of this model, computed and compiled as `model.engine` says.

    Raises:
        HornbookError: the engine asks for what is not here.
    """
    engine = model.engine
    if engine.cross_entropy == "fused" and not has_kernel(model.embedding.weight.device):
        raise HornbookError(
            "fused cross-entropy needs a CUDA device and Triton",
            where="pretrain.cross_entropy",
            hint="Set it to auto, or to chunked, which computes the same without Triton",
        )
    if engine.compile != "off":
        # PyTorch compiles a function eight times at most, and each trial of a probe is one.
        torch.compiler.reset()
    return Bound(objective, model)
