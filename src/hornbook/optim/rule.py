"""What an update rule is, and what it works on.

In: one step's parameters, gradients and state, as plain tensors (a shard of a sharded parameter is
one). Out: all of them updated in place. `adamw.py`, `adamw8bit.py`, `muon.py` and `offload.py` are
the rules; `optimizer.py` calls them.

A step that is skipped changes nothing and asks the device nothing: `found_inf` is a number on the
device, and every rule writes `where(skip, old, new)`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from hornbook.optim.sharding import Shards

State = dict[str, Tensor]
Group = dict[str, Any]
"""Settings of some parameters: an entry of `Optimizer.param_groups`."""


@dataclass(slots=True)  # not frozen: made for each parameter in each step, in a third of the time
class Item:
    """One parameter of a step: here whole, or the rows that this process holds.

    Attributes:
        weight: float32 or bfloat16, contiguous.
        gradient: of the weight's shape.
        state: what the rule keeps.
        number: the parameter's number in the optimizer.
        offset: elements of the whole parameter before `weight`, as an int32 wraps them.
        shards: how the rows are spread over processes; None: they are all here.
    """

    weight: Tensor
    gradient: Tensor
    state: State
    number: int
    offset: int
    shards: Shards | None

    @property
    def empty(self) -> bool:
        """Whether this process holds no row of the parameter."""
        return self.weight.numel() == 0


class Runner(Protocol):
    """`launch.Runner`."""

    def __call__(
        self,
        function: Callable[..., None],
        items: list[Item],
        tensors: Sequence[tuple[Tensor, ...]],
        found_inf: Tensor | None,
        *numbers: float,
        unit: int = 1,
        **constants: Any,
    ) -> None:
        """Runs an elementwise function of one parameter over many."""


class Rule(Protocol):
    """How some parameters are updated."""

    def new_state(self, parameter: Tensor, group: Group) -> State:
        """State before the first step; for a sharded parameter sharded likewise."""

    def update(
        self, items: list[Item], group: Group, found_inf: Tensor | None, runner: Runner
    ) -> None:
        """Do one step in place."""


def count_step(items: list[Item], found_inf: Tensor | None) -> None:
    """Add 1 to the step numbers, unless the step is skipped."""
    if not items:
        return
    steps = [item.state["step"] for item in items]
    if found_inf is None:
        torch._foreach_add_(steps, 1.0)
    else:
        # A list: one tensor for all is taken for a number, and PyTorch waits for the device to
        # read it.
        torch._foreach_add_(steps, [1.0 - found_inf] * len(steps))


def write(target: Tensor, value: Tensor, found_inf: Tensor | None) -> None:
    """`target.copy_(value)`, or nothing if the step is skipped."""
    target.copy_(value if found_inf is None else torch.where(found_inf != 0, target, value))


def rates(group: Group) -> tuple[float, float]:
    """Learning rate, and the share of a weight that decay takes away in this step."""
    return group["lr"], group["lr"] * group["weight_decay"]
