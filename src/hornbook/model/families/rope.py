"""Rotary settings of a stock config.json, in the old and the new spelling of `transformers`.

In: a stock config with `rope_parameters` (transformers 5) or `rope_theta` and `rope_scaling`
(transformers 4). Out: the rotary fields of `ModelConfig`, and back, written in both spellings.
"""

from __future__ import annotations

from typing import Any

from hornbook.errors import HornbookError
from hornbook.model.config import ModelConfig
from hornbook.model.families.family import StockConfig, require

LLAMA3_KEYS = {
    "rope_factor": "factor",
    "rope_low_frequency_factor": "low_freq_factor",
    "rope_high_frequency_factor": "high_freq_factor",
    "rope_original_context": "original_max_position_embeddings",
}
"""`ModelConfig` field -> key of stock `llama3` scaling."""


def rope_fields(stock: StockConfig, default_fraction: float) -> dict[str, Any]:
    """The rotary fields of `ModelConfig`. Refuses scaling other than `llama3`."""
    given: StockConfig = stock.get("rope_scaling") or stock.get("rope_parameters") or {}
    theta: float = given.get("rope_theta") or stock.get("rope_theta") or 10000.0
    kind = given.get("rope_type", given.get("type", "default"))
    fraction: float = stock.get("partial_rotary_factor", default_fraction)
    fraction = given.get("partial_rotary_factor", fraction)
    fields: dict[str, Any] = {"rope_theta": float(theta), "rotary_fraction": float(fraction)}
    if kind == "llama3":
        scaling = {ours: require(given, key) for ours, key in LLAMA3_KEYS.items()}
        return {**fields, "rope_scaling": "llama3", **scaling}
    if kind != "default":
        raise HornbookError(
            f"rotary scaling of type {kind!r} is not supported",
            where="config.json",
            hint="Supported: 'default' and 'llama3'",
        )
    return fields


def stock_rope(config: ModelConfig) -> StockConfig:
    """The rotary keys of config.json, in both spellings so that every release reads them."""
    scaling: StockConfig | None = None
    if config.rope_scaling == "llama3":
        scaling = {key: getattr(config, ours) for ours, key in LLAMA3_KEYS.items()}
        scaling["rope_type"] = "llama3"
    parameters = {"rope_type": "default", **(scaling or {}), "rope_theta": config.rope_theta}
    stock = {
        "rope_theta": config.rope_theta,
        "rope_scaling": scaling,
        "rope_parameters": parameters,
    }
    if config.rotary_fraction != 1.0:
        stock["partial_rotary_factor"] = config.rotary_fraction
        parameters["partial_rotary_factor"] = config.rotary_fraction
    return stock
