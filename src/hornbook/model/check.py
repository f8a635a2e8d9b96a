"""Whether a `ModelConfig` can be built at all, and in its stock family.

In: a config. Out: nothing, or a `HornbookError` that names the setting.
"""

from __future__ import annotations

from hornbook.errors import HornbookError, nearest
from hornbook.model.config import DROPOUTS, GATE_WIDTH, ModelConfig
from hornbook.model.families import FAMILIES

COUNTS = (
    "vocabulary",
    "context",
    "layers",
    "heads",
    "kv_heads",
    "head_dim",
    "width",
    "mlp_width",
)

TRICKS = ("key_shift", "smear", "value_embeddings")


def check(config: ModelConfig) -> None:
    """Raise `HornbookError` where a size is impossible or the stock family cannot have it."""
    if config.family not in FAMILIES:
        raise HornbookError(
            f"there is no model family {config.family!r}",
            where="model.family",
            hint=nearest(config.family, FAMILIES),
        )
    for name in COUNTS:
        _demand(getattr(config, name) >= 1, name, "must be at least 1")
    for name in DROPOUTS:
        _demand(0.0 <= getattr(config, name) < 1.0, name, "must be at least 0 and below 1")
    _demand(
        config.heads % config.kv_heads == 0,
        "kv_heads",
        f"must divide the {config.heads} heads, and {config.kv_heads} does not",
    )
    rows = config.vocabulary_rows
    smallest = max(config.vocabulary, config.exported_rows or 0)
    _demand(rows >= smallest, "vocabulary_rows", f"is {rows}, but there are {smallest} ids")
    exported = config.exported_rows
    _demand(
        exported is None or exported >= config.vocabulary,
        "exported_rows",
        f"is {exported}, but there are {config.vocabulary} ids",
    )
    _demand(
        config.embedding_std is None or config.embedding_std > 0, "embedding_std", "must be > 0"
    )
    _demand(
        not config.smear or config.width >= GATE_WIDTH,
        "width",
        f"must be at least {GATE_WIDTH} with smear",
    )
    most = config.layers // 2
    _demand(
        0 <= config.value_embeddings <= most,
        "value_embeddings",
        f"must be 0 to {most}, as each serves one of the first and one of the last layers",
    )
    family = FAMILIES[config.family]
    for name in TRICKS:
        allowed = config.family == "speedrun" or not getattr(config, name)
        _demand(allowed, name, f"is of the family speedrun alone, and this is {config.family}")
    for name, holds in family.demands(config).items():
        _demand(holds, name, f"does not fit: stock {family.name} has {family.shape}")
    if family.architecture.positions == "rotary":
        rotated = config.rotated_dimensions
        _demand(
            rotated >= 2 and rotated % 2 == 0,
            "head_dim",
            f"of {config.head_dim} leaves {rotated} dimensions to rotate, which must be even",
        )


def _demand(holds: bool, name: str, complaint: str) -> None:
    if not holds:
        raise HornbookError(f"{name} {complaint}", where="model", hint="Change it, or leave it out")
