"""AdamW: PyTorch's fused kernel for float32 weights, one pass of our own for the other cases.

In: the items of a step. Out: updated weights and moments. Our own pass rounds bfloat16 weights
stochastically and knows cautious weight decay; the moments are float32 whatever the weights are.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from hornbook.optim.rounding import new_weight
from hornbook.optim.rule import (
    Group,
    Item,
    Runner,
    State,
    count_step,
    rates,
    write,
)
from hornbook.optim.sharding import zeros

FUSED_DEVICES = ("cpu", "cuda", "mps")
"""Where PyTorch has a fused kernel: one pass over all parameters; on CPU it takes a third of the
time of the plain one."""


class AdamW:
    """AdamW (arXiv:1711.05101) with float32 moments."""

    def new_state(self, parameter: Tensor, group: Group) -> State:
        """`step`, and `exp_avg` and `exp_avg_sq` of the parameter's shape."""
        return {
            "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
            "exp_avg": zeros(parameter, parameter.shape, torch.float32),
            "exp_avg_sq": zeros(parameter, parameter.shape, torch.float32),
        }

    def update(
        self, items: list[Item], group: Group, found_inf: Tensor | None, runner: Runner
    ) -> None:
        """One step of AdamW."""
        fused: list[Item] = []
        own: list[Item] = []
        for item in items:
            plain = item.weight.dtype is torch.float32 and not group["cautious"]
            (fused if plain else own).append(item)
        if fused:
            fused_adamw(fused, group, found_inf)
        count_step(own, found_inf)
        own = [item for item in own if not item.empty]
        tensors = [
            (item.weight, item.gradient, item.state["exp_avg"], item.state["exp_avg_sq"])
            for item in own
        ]
        cautious = group["cautious"]
        runner(adamw_kernel, own, tensors, found_inf, *adam_numbers(group), cautious=cautious)


def adam_numbers(group: Group) -> tuple[float, float, float, float, float]:
    """Rate, share that decays, beta1, beta2, epsilon."""
    return (*rates(group), *group["betas"], group["eps"])


def fused_adamw(items: list[Item], group: Group, found_inf: Tensor | None) -> None:
    """PyTorch's own AdamW over float32 tensors."""
    adamw(
        [item.weight for item in items],
        [item.gradient for item in items],
        [item.state["exp_avg"] for item in items],
        [item.state["exp_avg_sq"] for item in items],
        [],
        [item.state["step"] for item in items],
        fused=items[0].weight.device.type in FUSED_DEVICES,
        found_inf=found_inf,
        amsgrad=False,
        beta1=group["betas"][0],
        beta2=group["betas"][1],
        lr=group["lr"],
        weight_decay=group["weight_decay"],
        eps=group["eps"],
        maximize=False,
    )


def adamw_kernel(
    weight: Tensor,
    gradient: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    item: Item,
    found_inf: Tensor | None,
    rate: float,
    decay: float,
    beta1: float,
    beta2: float,
    epsilon: float,
    *,
    cautious: bool,
) -> None:
    """AdamW on one parameter, elementwise and in place."""
    step = item.state["step"]
    gradient = gradient.float()
    first = exp_avg.lerp(gradient, 1 - beta1)
    second = exp_avg_sq.lerp(gradient.square(), 1 - beta2)
    direction = adam_direction(first, second, step, beta1, beta2, epsilon)
    value = decayed(weight.float(), direction, decay, cautious) - rate * direction
    write(weight, new_weight(weight, value, step, item.number, item.offset), found_inf)
    write(exp_avg, first, found_inf)
    write(exp_avg_sq, second, found_inf)


def adam_direction(
    first: Tensor, second: Tensor, step: Tensor, beta1: float, beta2: float, epsilon: float
) -> Tensor:
    """m / (sqrt(v) + epsilon) with both moments corrected for their start at 0."""
    correction1 = 1 - torch.exp2(step * math.log2(beta1)) if beta1 else 1.0
    correction2 = 1 - torch.exp2(step * math.log2(beta2)) if beta2 else torch.ones_like(step)
    return (first / correction1) / (second.sqrt() / correction2.sqrt() + epsilon)


def decayed(weight: Tensor, direction: Tensor, decay: float, cautious: bool) -> Tensor:
    """The weight, float32, less the share `decay` of it.

    cautious: only where the update pulls towards 0 as well (arXiv:2510.12402).
    """
    if cautious:
        return torch.where(direction * weight >= 0, weight - decay * weight, weight)
    return weight - decay * weight
