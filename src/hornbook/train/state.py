"""What a run knows of itself: the scalars in a checkpoint, and how it ended."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

from hornbook.train.stop import LossWatch

Reason = Literal["finished", "target", "interrupted"]


@dataclass
class Outcome:
    """How a run ended.

    Attributes:
        reason: `finished` (the horizon), `target` (stop_at_loss), or `interrupted` (by a signal).
        step, total_steps: finished steps, and the horizon in steps.
        tokens: trained on, counted with repetitions.
        seconds: of all starts of the run together.
        loss: mean training loss of the last 50 steps, nats a token; None of no steps.
        validation: the newest numbers of `evaluate`; empty without one.
        checkpoint: name of the checkpoint of `step`.
    """

    reason: Reason
    step: int
    total_steps: int
    tokens: int
    seconds: float
    loss: float | None
    validation: dict[str, float]
    checkpoint: str

    @property
    def interrupted(self) -> bool:
        """Whether the run was asked to stop and can go on."""
        return self.reason == "interrupted"


@dataclass
class RunState:
    """What a checkpoint holds besides tensors.

    Attributes:
        step: finished steps.
        seconds: wall-clock time of all starts up to here.
        watch: initial and recent losses.
        evaluated, sampled: the step of the last evaluation and of the last samples.
        validation: the numbers of the last evaluation.
        scaler: state of the fp16 gradient scaler.
    """

    step: int = 0
    seconds: float = 0.0
    watch: LossWatch = field(default_factory=LossWatch)
    evaluated: int = 0
    sampled: int = 0
    validation: dict[str, float] = field(default_factory=dict)
    scaler: dict[str, Any] = field(default_factory=dict)

    @staticmethod
    def from_json(values: dict[str, Any]) -> RunState:
        """The state as a checkpoint holds it, which has more fields for people to read."""
        names = {f.name for f in dataclasses.fields(RunState)}
        known = {name: value for name, value in values.items() if name in names}
        return RunState(**{**known, "watch": LossWatch(**values["watch"])})
