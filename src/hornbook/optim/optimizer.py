"""One optimizer object for all the ways we update weights.

In: parameter groups, each with its rule. Out: a `torch.optim.Optimizer` whose state is plain
tensors by name, which honours `found_inf` as PyTorch's fused AdamW does, and which takes
FSDP2's sharded parameters as well as plain ones.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hornbook.optim.adamw import AdamW
from hornbook.optim.adamw8bit import AdamW8bit
from hornbook.optim.launch import Runner
from hornbook.optim.muon import Muon
from hornbook.optim.offload import Offload
from hornbook.optim.rule import Group, Item, Rule, State
from hornbook.optim.sharding import Shards, is_sharded, local, shards_of

RULES: dict[str, Callable[[], Rule]] = {
    "adamw": AdamW,
    "adamw8bit": AdamW8bit,
    "muon": Muon,
    "offload": Offload,
}
"""What `rule` in a parameter group can be."""


class Optimizer(torch.optim.Optimizer):
    """Updates each parameter group by its own rule.

    Attributes:
        kind: what its state is that of, in the recipe's words (`adamw with offload`), for
            checkpoints to tell themselves apart.
        found_inf: when set, a float32 number without dimensions on the device; if it is 1, the
            step changes nothing, step numbers included, and the host does not wait to know.

    Args:
        groups: besides `params`, `rule` and `lr`: what the rule reads.
        kind: see above.
        triton: run elementwise updates by Triton kernels.
    """

    def __init__(self, groups: list[Group], kind: str, *, triton: bool):
        super().__init__(groups, {})
        self.kind = kind
        self._runner = Runner(triton)
        self._rules = {name: make() for name, make in RULES.items()}
        parameters = [p for group in self.param_groups for p in group["params"]]
        self._places = {p: _place(p, number) for number, p in enumerate(parameters)}

    def new_state(self, parameter: Tensor) -> State:
        """The state of a parameter before its first step, for a checkpoint to be read into.

        Tensors have the device and the sharding that `step` expects of them.
        """
        group = next(g for g in self.param_groups if any(p is parameter for p in g["params"]))
        return self._rules[group["rule"]].new_state(parameter, group)

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Put back what `state_dict` gave. PyTorch's own would cast codes and moments."""
        super().load_state_dict({**state_dict, "state": {}})
        parameters = list(self._places)
        for number, stored in state_dict["state"].items():
            made = self.new_state(parameters[number])
            for name, tensor in made.items():
                tensor.copy_(stored[name])
            self.state[parameters[number]] = made

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update all parameters that have a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        found_inf = getattr(self, "found_inf", None)
        for group in self.param_groups:
            rule = self._rules[group["rule"]]
            items = [self._item(p, group) for p in group["params"] if p.grad is not None]
            if items:
                rule.update(items, group, found_inf, self._runner)
        return loss

    def _item(self, parameter: Tensor, group: Group) -> Item:
        """The parameter as its rule sees it; its state is made here, before the first step."""
        state = self.state[parameter]
        if not state:
            state.update(self._rules[group["rule"]].new_state(parameter, group))
        assert parameter.grad is not None
        number, offset, shards, sharded = self._places[parameter]
        if not sharded:
            return Item(parameter, parameter.grad.contiguous(), state, number, offset, shards)
        held = {name: local(tensor) for name, tensor in state.items()}
        gradient = local(parameter.grad).contiguous()
        return Item(local(parameter), gradient, held, number, offset, shards)


def _place(parameter: Tensor, number: int) -> tuple[int, int, Shards | None, bool]:
    """The last fields of `Item`, which no step changes, and whether it is a DTensor."""
    shards = shards_of(parameter)
    first = 0 if shards is None else shards.first_row * parameter[0].numel()
    return number, (first + 2**31) % 2**32 - 2**31, shards, is_sharded(parameter)
