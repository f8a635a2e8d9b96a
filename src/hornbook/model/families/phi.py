"""Phi-1, Phi-1.5 and Phi-2 (arXiv:2309.05463): parallel blocks, partly rotated heads, biases."""

from __future__ import annotations

from hornbook.model.config import ModelConfig
from hornbook.model.families.family import (
    Architecture,
    Family,
    StockConfig,
    Weight,
    integer_ratio,
    linear,
    refuse_unless,
    require,
    same,
    vocabulary_rows,
)
from hornbook.model.families.rope import rope_fields, stock_rope


def to_stock(config: ModelConfig) -> StockConfig:
    """The keys of `PhiConfig`."""
    return {
        "hidden_size": config.width,
        "intermediate_size": config.mlp_width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "hidden_act": "gelu_new",
        "max_position_embeddings": config.context,
        "embd_pdrop": config.embedding_dropout,
        "attention_dropout": config.attention_dropout,
        "resid_pdrop": config.residual_dropout,
        "layer_norm_eps": config.norm_epsilon,
        "initializer_range": config.initializer_range,
        "qk_layernorm": False,
        "tie_word_embeddings": config.tied,
        **stock_rope(config),
    }


def from_stock(stock: StockConfig) -> ModelConfig:
    """The architecture of a `PhiConfig`; refuses what changes the arithmetic."""
    refuse_unless(stock, "hidden_act", "gelu_new", "gelu_new", "gelu_pytorch_tanh")
    refuse_unless(stock, "qk_layernorm", False, False)
    width, heads = require(stock, "hidden_size"), require(stock, "num_attention_heads")
    head_dim = integer_ratio(width, heads)
    refuse_unless(stock, "head_dim", None, None, head_dim)
    rows = require(stock, "vocab_size")
    return ModelConfig(
        family="phi",
        vocabulary=rows,
        vocabulary_rows=rows,
        exported_rows=rows,
        context=require(stock, "max_position_embeddings"),
        layers=require(stock, "num_hidden_layers"),
        heads=heads,
        kv_heads=stock.get("num_key_value_heads") or heads,
        head_dim=head_dim,
        width=width,
        mlp_width=require(stock, "intermediate_size"),
        tied=stock.get("tie_word_embeddings", False),
        embedding_dropout=stock.get("embd_pdrop", 0.0),
        attention_dropout=stock.get("attention_dropout") or 0.0,
        residual_dropout=stock.get("resid_pdrop", 0.0),
        norm_epsilon=stock.get("layer_norm_eps", 1e-5),
        initializer_range=stock.get("initializer_range", 0.02),
        **rope_fields(stock, default_fraction=0.5),
    )


def demands(config: ModelConfig) -> dict[str, bool]:
    """Stock Phi has no head width of its own."""
    return {"head_dim": config.heads * config.head_dim == config.width}


def weights(config: ModelConfig) -> list[Weight]:
    """Query, key and value are fused into one projection; one norm serves attention and MLP."""
    query, key = config.heads * config.head_dim, config.kv_heads * config.head_dim
    found = [vocabulary_rows("embedding.weight", "model.embed_tokens.weight", config)]
    for layer in range(config.layers):
        ours, stock = f"blocks.{layer}", f"model.layers.{layer}"
        found += _norm(f"{ours}.attention_norm", f"{stock}.input_layernorm", config)
        qkv = [("q_proj", query), ("k_proj", key), ("v_proj", key)]
        parts = [(f"{stock}.self_attn.{name}", rows) for name, rows in qkv]
        found += linear(f"{ours}.attention.qkv", parts, bias=True)
        for name, stock_name, rows in (
            ("attention.output", "self_attn.dense", config.width),
            ("mlp.up", "mlp.fc1", config.mlp_width),
            ("mlp.down", "mlp.fc2", config.width),
        ):
            found += linear(f"{ours}.{name}", [(f"{stock}.{stock_name}", rows)], bias=True)
    found += _norm("final_norm", "model.final_layernorm", config)
    if not config.tied:
        found.append(vocabulary_rows("lm_head.weight", "lm_head.weight", config))
    found.append(vocabulary_rows("lm_head.bias", "lm_head.bias", config))
    return found


def _norm(ours: str, stock: str, config: ModelConfig) -> list[Weight]:
    return [same(f"{ours}.{kind}", f"{stock}.{kind}", config.width) for kind in ("weight", "bias")]


FAMILY = Family(
    name="phi",
    stock_class="PhiForCausalLM",
    base_prefix="model.",
    architecture=Architecture(
        norm="layer",
        mlp="gelu",
        positions="rotary",
        parallel=True,
        bias=True,
        head_bias=True,
        query_key_norm=False,
    ),
    to_stock=to_stock,
    from_stock=from_stock,
    shape="width = heads * head_dim",
    demands=demands,
    weights=weights,
)
