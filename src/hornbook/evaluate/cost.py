"""What more tokens cost: hours and dollars on the GPU of a run, and on others.

In: a run's measured speed, its model and settings. Out: a `Cost` for each device. Other GPUs by
`plan`, scaled by how the run's own GPU did against its plan.
"""

from __future__ import annotations

from dataclasses import dataclass

from hornbook.model.config import ModelConfig
from hornbook.plan.device import find_device
from hornbook.plan.fit import choose
from hornbook.plan.gpus import known_device
from hornbook.plan.setup import Wishes

OTHERS = ("rtx4090", "a100-80gb", "h100", "h200", "b200")
"""GPUs that the time is always said for, where the model fits."""


@dataclass(frozen=True)
class Cost:
    """A device's speed and price."""

    device: str
    measured: bool
    """Whether the speed is this run's own."""
    tokens_per_second: float
    price: float
    """US dollars an hour, of all GPUs together; 0: not known."""


def costs(
    speed: float,
    device_name: str,
    config: ModelConfig,
    wishes: Wishes,
    gpu: str,
    price: float | None,
) -> list[Cost]:
    """The run's own device first.

    Args:
        speed: tokens a second of the run; NaN: not known.
        device_name: as the run's device calls itself.
        config: its model.
        wishes: how its step is computed.
        gpu: another device to name, as `plan` knows it; `this`: none.
        price: of a GPU, instead of the list's.
    """
    own = known_device(device_name)
    own_price = (price if price is not None else own.price if own else 0.0) * wishes.gpus
    # NaN where no speed was logged: then the plan's alone is said.
    found = [Cost(device_name or "this device", True, speed, own_price)] if speed > 0 else []
    planned = _planned(own.name, config, wishes) if own else None
    ratio = speed / planned if planned and speed > 0 else 1.0
    for name in dict.fromkeys((*(() if gpu == "this" else (gpu,)), *OTHERS)):
        if own is not None and find_device(name).name == own.name:
            continue
        tokens_per_second = _planned(name, config, wishes)
        if tokens_per_second is not None:
            each = price if price is not None and name == gpu else find_device(name).price
            found.append(Cost(name, False, ratio * tokens_per_second, each * wishes.gpus))
    return found


def _planned(name: str, config: ModelConfig, wishes: Wishes) -> float | None:
    """Tokens a second by the plan; None where the model does not fit."""
    choice = choose(config, wishes, find_device(name))
    return choice.step.tokens_per_second if choice else None
