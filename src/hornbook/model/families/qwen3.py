"""Qwen3 (arXiv:2505.09388): Llama with a norm over each head of queries and keys."""

from __future__ import annotations

from dataclasses import replace

from hornbook.errors import HornbookError
from hornbook.model.config import ModelConfig
from hornbook.model.families import llama
from hornbook.model.families.family import Family, StockConfig, Weight, refuse_unless


def to_stock(config: ModelConfig) -> StockConfig:
    """The keys of `Qwen3Config`."""
    stock = llama.to_stock(config)
    del stock["mlp_bias"]
    return {
        **stock,
        "use_sliding_window": False,
        "sliding_window": None,
        "max_window_layers": config.layers,
    }


def from_stock(stock: StockConfig) -> ModelConfig:
    """The architecture of a `Qwen3Config`; refuses sliding windows."""
    refuse_unless(stock, "use_sliding_window", False, False)
    if any(kind != "full_attention" for kind in stock.get("layer_types") or []):
        raise HornbookError(
            "layer_types has layers other than 'full_attention', which is not supported",
            where="config.json",
        )
    # Unlike Llama's, Qwen3's stock head width does not follow from width and heads.
    return llama.rotary_config(stock, "qwen3", head_dim=stock.get("head_dim") or 128)


def demands(config: ModelConfig) -> dict[str, bool]:
    """Any shape will do."""
    return {}


def weights(config: ModelConfig) -> list[Weight]:
    """Llama's, and the two norms of each attention."""
    return llama.rotary_weights(config, query_key_norm=True)


FAMILY = Family(
    name="qwen3",
    stock_class="Qwen3ForCausalLM",
    base_prefix="model.",
    architecture=replace(llama.FAMILY.architecture, query_key_norm=True),
    to_stock=to_stock,
    from_stock=from_stock,
    shape="any shape",
    demands=demands,
    weights=weights,
)
