"""What is minimised: an objective turns a batch into a loss sum.

In: a model and a batch. Out: the SUM of the losses over the batch's targets, and further named
sums. The trainer divides by the weight of the whole step, which is known before the first forward
pass, so that padding, unequal micro-batches and several processes all give the same gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

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

    def __call__(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss summed over the units (a float32 scalar), and named sums for the log."""
        ...


class NextToken:
    """Cross-entropy of each next token, in nats."""

    unit = "tokens"

    def weight(self, batch: Batch) -> float:
        """The number of targets that are not `IGNORE`."""
        return float((batch.targets != IGNORE).sum())

    def __call__(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The cross-entropy summed over the targets; 0 for a batch without any."""
        logits = model(batch.inputs, batch.positions, batch.documents)
        loss = functional.cross_entropy(
            logits.flatten(0, 1).float(),
            batch.targets.flatten(),
            ignore_index=IGNORE,
            reduction="sum",
        )
        return loss, {}


def bind(objective: Objective, model: nn.Module, *, compiled: bool) -> Forward:
    """The objective of this model; with `compiled`, model and loss become one compiled graph.

    Compiling them together lets the compiler fuse the loss with the output head's last steps. The
    model itself stays as it was, so evaluation and sampling at other shapes compile nothing.
    """

    def forward(batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        return objective(model, batch)

    if not compiled:
        return forward
    return torch.compile(forward)
