"""Which parameters are updated how: the optimizer of a model.

In: a model and the recipe's `optimizer` section. Out: one `Optimizer`, whose learning rate the
trainer sets at every step.
"""

from __future__ import annotations

import math
from collections import defaultdict

import torch
from torch import nn

from hornbook.errors import HornbookError, check_limits
from hornbook.model.decoder import Decoder
from hornbook.model.families import FAMILIES
from hornbook.optim.config import OptimizerConfig
from hornbook.optim.optimizer import Optimizer
from hornbook.optim.rule import Group

PARTS = {"embedding": "embedding.weight", "head": "lm_head.weight"}
"""Parameters that can have a learning rate of their own."""


def check_optimizer(config: OptimizerConfig) -> None:
    """Refuse settings that have no meaning, naming the field."""
    muon = config.kind == "muon"
    parts = _part_rates(config)
    follow = muon or bool(parts)
    limits = [
        ("learning_rate", 0 <= config.learning_rate < math.inf, "0 or more"),
        ("learning_rate", config.learning_rate > 0 or not follow, "above 0 where others follow it"),
        *((f"{part}_learning_rate", 0 <= parts[part] < math.inf, "0 or more") for part in parts),
        ("warmup_steps", config.warmup_steps >= 0, "0 (none) or more"),
        ("final_share", 0 <= config.final_share <= 1, "between 0 and 1"),
        ("decay_share", 0 <= config.decay_share <= 1, "between 0 and 1"),
        ("weight_decay", 0 <= config.weight_decay < math.inf, "0 (none) or more"),
        ("beta1", 0 <= config.beta1 < 1, "at least 0 and below 1"),
        ("beta2", 0 <= config.beta2 < 1, "at least 0 and below 1"),
        ("epsilon", 0 < config.epsilon < math.inf, "above 0"),
        ("matrix_learning_rate", 0 <= config.matrix_learning_rate < math.inf, "0 or more"),
        ("momentum", 0 <= config.momentum < 1, "at least 0 and below 1"),
        ("normalize", muon or not config.normalize, "off unless kind is muon"),
        ("gradient_clip", config.gradient_clip >= 0, "0 (off) or more"),
    ]
    check_limits(config, "optimizer", limits)
    if config.offload and (config.kind != "adamw" or config.cautious):
        raise HornbookError(
            "works with kind adamw without cautious alone",
            where="optimizer.offload",
            hint="kind adamw8bit without offload takes 2 bytes of GPU memory a weight",
        )


def build_optimizer(model: nn.Module, config: OptimizerConfig, device: torch.device) -> Optimizer:
    """The optimizer over the trainable parameters of `model`.

    Parameters with two or more dimensions (projections, embeddings) are decayed; gains, biases and
    other vectors are not, as GPT-3 and nanoGPT have it. A tied matrix counts once. With `muon` the
    projections inside the blocks are Muon's; embeddings, head and vectors are AdamW's.

    Weights in bfloat16 are rounded stochastically. `lr_scale` of a group times the learning rate
    of a step is the group's own.

    Args:
        model: its parameters are on `device` already, and sharded already if they are to be.
        config: learning rates, betas, decay.
        device: says whether updates run by Triton kernels.
    """
    matrix_rows = _matrix_rows(model) if config.kind == "muon" else {}
    own_rates = _own_rates(model, config)
    rule = "offload" if config.offload else "adamw8bit" if config.kind == "adamw8bit" else "adamw"
    decayed: dict[float, list[nn.Parameter]] = {config.learning_rate: []}
    vectors: list[nn.Parameter] = []
    alike: dict[tuple[torch.Size, tuple[int, ...]], list[nn.Parameter]] = defaultdict(list)
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if name in matrix_rows:
            alike[parameter.shape, matrix_rows[name]].append(parameter)
        elif parameter.dim() < 2:
            vectors.append(parameter)
        else:
            decayed.setdefault(own_rates.get(name, config.learning_rate), []).append(parameter)
    common: Group = {
        "lr": config.learning_rate,
        "lr_scale": 1.0,
        "betas": (config.beta1, config.beta2),
        "eps": config.epsilon,
        "weight_decay": config.weight_decay,
        "cautious": config.cautious,
    }
    groups: list[Group] = [
        {**common, **_rate(rate, config), "params": parameters, "rule": rule}
        for rate, parameters in decayed.items()
    ]
    groups.append({**common, "params": vectors, "rule": rule, "weight_decay": 0.0})
    for (_, rows), parameters in alike.items():
        muon = {
            "params": parameters,
            "rule": "muon",
            **_rate(config.matrix_learning_rate, config),
            "momentum": config.momentum,
            "normalize": config.normalize,
            "matrix_rows": rows,
        }
        groups.append({**common, **muon})
    variants = [name for name in ("normalize", "offload") if getattr(config, name)]
    return Optimizer(
        [group for group in groups if group["params"]],
        " with ".join([config.kind, *variants]),
        triton=device.type == "cuda",
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Use `rate` from the next step on, in each parameter group times its `lr_scale`."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("lr_scale", 1.0)


def _rate(rate: float, config: OptimizerConfig) -> Group:
    """A group's own learning rate, and what it is times that of the schedule."""
    scale = 1.0 if rate == config.learning_rate else rate / config.learning_rate
    return {"lr": rate, "lr_scale": scale}


def _part_rates(config: OptimizerConfig) -> dict[str, float]:
    """The learning rates that were given for parts of the model."""
    rates = {part: getattr(config, f"{part}_learning_rate") for part in PARTS}
    return {part: rate for part, rate in rates.items() if rate is not None}


def _own_rates(model: nn.Module, config: OptimizerConfig) -> dict[str, float]:
    """Learning rates of the parameters that do not have the common one."""
    names = {name for name, _ in model.named_parameters()}
    rates = _part_rates(config)
    for part in rates:
        if PARTS[part] not in names:
            raise HornbookError(
                f"this model has no {part} of its own",
                where=f"optimizer.{part}_learning_rate",
                hint="Leave it out, or set model.tied to false",
            )
    own = {PARTS[part]: rate for part, rate in rates.items()}
    tables = [name for name in names if name.startswith("value_embeddings.tables.")]
    return own | (dict.fromkeys(tables, rates["embedding"]) if "embedding" in rates else {})


def _matrix_rows(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """The projections inside the blocks by name, and the rows of the matrices fused in each."""
    assert isinstance(model, Decoder)
    parameters = dict(model.named_parameters())
    return {
        weight.name: weight.matrix_rows
        for weight in FAMILIES[model.config.family].weights(model.config)
        if weight.name.startswith("blocks.") and parameters[weight.name].dim() == 2
    }
