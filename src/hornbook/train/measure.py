"""What is measured while a model trains, and how it is put into words and records.

In: a model, the numbers of a step. Out: the model in evaluation mode for a while; the line of
metrics.jsonl for a step.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from hornbook.model.decoder import Decoder
from hornbook.train.config import PretrainConfig
from hornbook.train.machine import Machine, memory_gigabytes
from hornbook.train.precision import Precision
from hornbook.train.step import Pending, StepReport, step_seed

Evaluate = Callable[[Decoder], dict[str, float]]
"""Validation numbers of a model, `validation_loss` among them."""
Sample = Callable[[Decoder, int], list[dict[str, Any]]]
"""Texts from a model after a number of steps, each with `prompt` and `text`."""

SHOWN_CHARACTERS = 160
"""Characters of a sample that are shown while training."""


@dataclass
class Submitted:
    """A step that was handed to the device, and what its line in metrics.jsonl says besides."""

    step: int
    pending: Pending
    learning_rate: float
    waited: float

    def record(
        self, report: StepReport, speed: float, mfu_per_speed: float | None, machine: Machine
    ) -> dict[str, Any]:
        """The line of metrics.jsonl, less where in the run it is.

        Args:
            report: the step's numbers.
            speed: tokens a second.
            mfu_per_speed: share of the peak for each token a second; None: not known.
            machine: what the step ran with.
        """
        return {
            "loss": report.loss,
            "learning_rate": self.learning_rate,
            "gradient_norm": report.gradient_norm,
            "tokens_per_second": round(speed, 1),
            "mfu": round(speed * mfu_per_speed, 4) if mfu_per_speed else None,
            "memory_gb": memory_gigabytes(torch.device(machine.device)),
            "loader_wait": round(self.waited, 6),
            "micro_batch": machine.micro_batch(self.step),
            **report.metrics,
        }


@contextlib.contextmanager
def evaluating(
    model: Decoder,
    config: PretrainConfig,
    precision: Precision,
    step: int,
    settle: Callable[[], None],
) -> Iterator[None]:
    """Evaluation mode, and the random numbers of this step, whatever was drawn before.

    In the precision of training on a GPU, and where weights are narrow; else in float32. At the end
    `settle` is called, and the model trains again.
    """
    model.eval()
    torch.manual_seed(step_seed(config.seed, step))
    narrow = precision.device.type == "cuda" or config.weights == "bf16"
    try:
        with torch.no_grad(), precision.autocast() if narrow else contextlib.nullcontext():
            yield
    finally:
        settle()
        model.train()


def first_sample(samples: list[dict[str, Any]]) -> str:
    """The beginning of the first sample, in a line."""
    return " ".join(f"{samples[0]['prompt']}{samples[0]['text']}".split())[:SHOWN_CHARACTERS]
