"""When the loss says something: the target is reached, or it jumped.

In: the loss of each step, and validation losses. Out: whether to stop, and what to warn of. The
state is the initial loss and the last 50 losses, and goes into the checkpoint.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from hornbook.errors import HornbookError

WINDOW = 50
"""Steps whose mean is compared with a target, and with which a jump is compared."""

FEWEST = 10
"""Losses needed to say what is usual."""

FAR_OFF = 1.0
"""Nats by which a fresh model's first loss may differ from that of guessing."""


@dataclass
class LossWatch:
    """The recent past of the training loss.

    Attributes:
        initial: the training loss before the first update.
        initial_validation: the validation loss before the first update; None: not measured.
        recent: losses of the last `WINDOW` steps, oldest first.
        quiet_until: step until which no further jump is reported.
    """

    initial: float | None = None
    initial_validation: float | None = None
    recent: list[float] = field(default_factory=list)
    quiet_until: int = 0

    def add(self, step: int, loss: float, spike_factor: float) -> str | None:
        """Take in the loss of a step; says in words if it is a spike.

        A spike is a loss above `spike_factor` times the mean of the last `WINDOW` steps. After one
        the next `WINDOW` steps are not reported: they would be the same event.
        """
        message = None
        usual = self.mean()
        if len(self.recent) >= FEWEST and step > self.quiet_until and loss > spike_factor * usual:
            self.quiet_until = step + WINDOW
            message = f"loss {loss:.3f}; the mean of {len(self.recent)} steps before: {usual:.3f}"
        if self.initial is None:
            self.initial = loss
        self.recent = [*self.recent[1 - WINDOW :], loss]
        return message

    def mean(self) -> float:
        """Mean loss of the last steps (`WINDOW` of them, once there are so many); NaN of none."""
        return math.fsum(self.recent) / len(self.recent) if self.recent else math.nan

    def reached(self, target: str, validation_loss: float | None) -> str | None:
        """In words, that the target is reached; None when it is not.

        A relative target is relative to what is compared: the training loss to the first training
        loss, the validation loss to that of the model before its first update.

        Args:
            target: `pretrain.stop_at_loss`.
            validation_loss: the newest, if any.
        """
        wanted = target_loss(target, self.initial)
        if wanted is not None and len(self.recent) >= WINDOW and self.mean() <= wanted:
            return f"the mean training loss of {WINDOW} steps is {self.mean():.4f} <= {wanted:.4f}"
        wanted = target_loss(target, self.initial_validation)
        if wanted is not None and validation_loss is not None and validation_loss <= wanted:
            return f"the validation loss is {validation_loss:.4f} <= {wanted:.4f}"
        return None


def is_relative(target: str) -> bool:
    """Whether a target is relative to the loss before the first update."""
    return target.replace(" ", "").startswith("initial-")


def target_loss(target: str, initial: float | None) -> float | None:
    """The loss to stop at; None for no target, or one relative to a loss not yet known.

    Args:
        target: "" (none), a number, or `initial-1` (any number after the minus).
        initial: the loss before the first update; None: not known.

    Raises `HornbookError` for anything else.
    """
    text = target.replace(" ", "")
    if not text:
        return None
    relative = is_relative(text)
    try:
        number = float(text.removeprefix("initial-"))
        if not math.isfinite(number) or (relative and number <= 0):
            raise ValueError
    except ValueError:
        raise HornbookError(
            f"{target!r} is neither a number nor like 'initial-1'", where="pretrain.stop_at_loss"
        ) from None
    if not relative:
        return number
    return None if initial is None else initial - number


def unlike_guessing(loss: float, vocabulary: int) -> str | None:
    """A warning when a fresh model's first loss is far from ln(vocabulary), that of guessing."""
    guessing = math.log(vocabulary)
    if abs(loss - guessing) <= FAR_OFF:
        return None
    return (
        f"the first loss is {loss:.2f}, but a model that knows nothing has about "
        f"ln({vocabulary}) = {guessing:.2f}: check initial weights, vocabulary and targets "
        "(`hornbook inspect`)"
    )
