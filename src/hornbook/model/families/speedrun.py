"""Qwen3 with tricks that no stock architecture has, for the most learned in a minute.

The tricks are in `lookback`: keys of the token before, smeared embeddings, value embeddings. What
each gains is in docs/performance.md. The price: no stock class can hold such a model, so it cannot
be exported; and it cannot keep packed documents apart, since a look at the token before does not
stop at a document's beginning.
"""

from __future__ import annotations

from dataclasses import replace

from hornbook.errors import HornbookError
from hornbook.model.config import ModelConfig
from hornbook.model.families import qwen3
from hornbook.model.families.family import StockConfig, Weight, linear, same, vocabulary_rows


def to_stock(config: ModelConfig) -> StockConfig:
    """Refuses: there is no such stock configuration."""
    raise HornbookError(
        "a model of the speedrun family has parts that no stock architecture has, and cannot be "
        "exported",
        where="model.preset",
        hint="For a model to export train one of the qwen3 presets, the nearest stock family",
    )


def from_stock(stock: StockConfig) -> ModelConfig:
    """Refuses: nobody writes such a config.json."""
    raise HornbookError("the model family 'speedrun' is not stock", where="config.json")


def weights(config: ModelConfig) -> list[Weight]:
    """Qwen3's, and those of the tricks under their own names."""
    found = qwen3.weights(config)
    if config.smear:
        found += linear("smear.gate", [("smear.gate", 1)], bias=False)
        found.append(same("smear.strength", "smear.strength", 1))
    for table in range(config.value_embeddings):
        name = f"value_embeddings.tables.{table}.weight"
        found.append(vocabulary_rows(name, name, config))
    if config.value_embeddings:
        name = "value_embeddings.gates"
        found.append(same(name, name, 2 * config.value_embeddings))
    return found


FAMILY = replace(
    qwen3.FAMILY,
    name="speedrun",
    stock_class=None,
    to_stock=to_stock,
    from_stock=from_stock,
    weights=weights,
)
