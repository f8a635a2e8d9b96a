"""The optimizer: AdamW, with matrices decayed and vectors not.

In: a model and the recipe's `optimizer` section. Out: a `torch.optim.AdamW` with two parameter
groups, whose learning rate the trainer sets at every step.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from hornbook.errors import check_limits
from hornbook.optim.config import OptimizerConfig


def check_optimizer(config: OptimizerConfig) -> None:
    """Refuse settings that have no meaning, naming the field."""
    limits = [
        ("learning_rate", 0 <= config.learning_rate < math.inf, "0 or more"),
        ("warmup_steps", config.warmup_steps >= 0, "0 (none) or more"),
        ("final_share", 0 <= config.final_share <= 1, "between 0 and 1"),
        ("decay_share", 0 <= config.decay_share <= 1, "between 0 and 1"),
        ("weight_decay", 0 <= config.weight_decay < math.inf, "0 (none) or more"),
        ("beta1", 0 <= config.beta1 < 1, "at least 0 and below 1"),
        ("beta2", 0 <= config.beta2 < 1, "at least 0 and below 1"),
        ("epsilon", 0 < config.epsilon < math.inf, "above 0"),
        ("gradient_clip", config.gradient_clip >= 0, "0 (off) or more"),
    ]
    check_limits(config, "optimizer", limits)


def build_optimizer(
    model: nn.Module, config: OptimizerConfig, device: torch.device
) -> torch.optim.AdamW:
    """AdamW (arXiv:1711.05101) over the trainable parameters of `model`.

    Parameters with two or more dimensions (projections, embeddings) are decayed; gains, biases and
    other vectors are not, as GPT-3 and nanoGPT have it. A tied matrix counts once.

    Args:
        model: its parameters are on `device` already.
        config: learning rate, betas, decay.
        device: says whether PyTorch has a fused kernel (one pass over all parameters; on CPU it
            takes a third of the time of the plain one).
    """
    trainable = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.dim() >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in trainable if p.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        eps=config.epsilon,
        fused=device.type in ("cpu", "cuda", "mps"),
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Use `rate` in all parameter groups from the next step on."""
    for group in optimizer.param_groups:
        group["lr"] = rate
