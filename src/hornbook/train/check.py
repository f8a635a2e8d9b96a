"""Settings that have no meaning, refused before anything is done with them.

In: the `pretrain` and `optimizer` sections. Out: nothing, or an error that names the field.
"""

from __future__ import annotations

from hornbook.errors import HornbookError, check_limits
from hornbook.optim.config import OptimizerConfig
from hornbook.optim.groups import check_optimizer
from hornbook.train.config import PretrainConfig
from hornbook.train.horizon import check_horizon
from hornbook.train.stop import target_loss


def check_training(config: PretrainConfig, optimizer: OptimizerConfig) -> None:
    """Raise `HornbookError` for the first setting that cannot be meant."""
    check_horizon(config)
    target_loss(config.stop_at_loss, None)
    limits = [
        ("global_batch_tokens", config.global_batch_tokens >= 1, "at least 1"),
        ("micro_batch", config.micro_batch >= 0, "0 (found by trying) or more"),
        ("activation_budget", 0 <= config.activation_budget <= 1, "between 0 and 1"),
        ("threads", config.threads >= 0, "0 (all cores) or more"),
        ("evaluate_every", config.evaluate_every >= 0, "0 (at the end) or more"),
        ("evaluate_tokens", config.evaluate_tokens >= 0, "0 (the whole split) or more"),
        ("sample_every", config.sample_every >= 0, "0 (at the end) or more"),
        ("sample_tokens", config.sample_tokens >= 0, "0 or more"),
        ("log_every", config.log_every >= 1, "at least 1"),
        ("epoch_steps", config.epoch_steps >= 0, "0 (one time through the data) or more"),
        ("checkpoint_every", config.checkpoint_every >= 0, "0 (at the end) or more"),
        ("checkpoint_minutes", config.checkpoint_minutes >= 0, "0 (only by steps) or more"),
        ("keep", config.keep >= 1, "at least 1"),
        ("spike_factor", config.spike_factor >= 1, "at least 1"),
    ]
    check_limits(config, "pretrain", limits)
    if config.weights == "bf16" and config.precision not in ("auto", "bf16"):
        raise HornbookError(
            f"bf16 cannot be trained in {config.precision}",
            where="pretrain.weights",
            hint="Set pretrain.precision to auto, or weights to fp32",
        )
    if config.float8 and config.compile == "off":
        raise HornbookError(
            "8 bits without compiling take four times as long as 16",
            where="pretrain.float8",
            hint="Set pretrain.compile to auto, or float8 to false",
        )
    if config.float8 and config.mlp == "fused":
        raise HornbookError(
            "the fused products are not in 8 bits",
            where="pretrain.mlp",
            hint="Set it to auto, or float8 to false",
        )
    check_optimizer(optimizer)
