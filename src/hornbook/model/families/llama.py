"""Llama (arXiv:2302.13971, 2407.21783): RMSNorm, rotary, SwiGLU, grouped-query attention."""

from __future__ import annotations

from hornbook.errors import HornbookError
from hornbook.model.config import Family as FamilyName
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
    """The keys of `LlamaConfig`, which `Qwen3Config` shares."""
    return {
        "hidden_size": config.width,
        "intermediate_size": config.mlp_width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": config.context,
        "attention_bias": False,
        "attention_dropout": config.attention_dropout,
        "rms_norm_eps": config.norm_epsilon,
        "initializer_range": config.initializer_range,
        "tie_word_embeddings": config.tied,
        "mlp_bias": False,
        **stock_rope(config),
    }


def from_stock(stock: StockConfig) -> ModelConfig:
    """The architecture of a `LlamaConfig`; refuses what we do not compute."""
    refuse_unless(stock, "mlp_bias", False, False)
    head_dim = stock.get("head_dim") or integer_ratio(
        require(stock, "hidden_size"), require(stock, "num_attention_heads")
    )
    return rotary_config(stock, "llama", head_dim)


def rotary_config(stock: StockConfig, family: FamilyName, head_dim: int) -> ModelConfig:
    """The fields that Llama and Qwen3 share."""
    refuse_unless(stock, "hidden_act", "silu", "silu")
    refuse_unless(stock, "attention_bias", False, False)
    rope = rope_fields(stock, default_fraction=1.0)
    if rope["rotary_fraction"] != 1.0:
        raise HornbookError(
            f"partial_rotary_factor is {rope['rotary_fraction']}, which is not supported",
            where="config.json",
            hint="Stock transformers ignores it for this family; remove it if that is meant",
        )
    rows, heads = require(stock, "vocab_size"), require(stock, "num_attention_heads")
    return ModelConfig(
        family=family,
        vocabulary=rows,
        vocabulary_rows=rows,
        exported_rows=rows,
        context=require(stock, "max_position_embeddings"),
        layers=require(stock, "num_hidden_layers"),
        heads=heads,
        kv_heads=stock.get("num_key_value_heads") or heads,
        head_dim=head_dim,
        width=require(stock, "hidden_size"),
        mlp_width=require(stock, "intermediate_size"),
        tied=stock.get("tie_word_embeddings", False),
        attention_dropout=stock.get("attention_dropout") or 0.0,
        norm_epsilon=stock.get("rms_norm_eps", 1e-6),
        initializer_range=stock.get("initializer_range", 0.02),
        **rope,
    )


def demands(config: ModelConfig) -> dict[str, bool]:
    """`LlamaConfig` refuses other widths, even where head_dim is given."""
    return {"width": config.width % config.heads == 0}


def weights(config: ModelConfig) -> list[Weight]:
    """Query, key and value are fused into one projection, and so are gate and up."""
    return rotary_weights(config, query_key_norm=False)


def rotary_weights(config: ModelConfig, *, query_key_norm: bool) -> list[Weight]:
    """The weights of Llama, and of Qwen3 with its two norms more."""
    width, mlp_width = config.width, config.mlp_width
    query, key = config.heads * config.head_dim, config.kv_heads * config.head_dim
    found = [vocabulary_rows("embedding.weight", "model.embed_tokens.weight", config)]
    for layer in range(config.layers):
        ours, stock = f"blocks.{layer}", f"model.layers.{layer}"
        attention = f"{stock}.self_attn"
        norm = f"{stock}.input_layernorm.weight"
        found.append(same(f"{ours}.attention_norm.weight", norm, width))
        qkv = [("q_proj", query), ("k_proj", key), ("v_proj", key)]
        parts = [(f"{attention}.{name}", rows) for name, rows in qkv]
        found += linear(f"{ours}.attention.qkv", parts, bias=False)
        if query_key_norm:
            for name, short in (("query_norm", "q_norm"), ("key_norm", "k_norm")):
                stock_name = f"{attention}.{short}.weight"
                found.append(same(f"{ours}.attention.{name}.weight", stock_name, config.head_dim))
        found += linear(f"{ours}.attention.output", [(f"{attention}.o_proj", width)], bias=False)
        norm = f"{stock}.post_attention_layernorm.weight"
        found.append(same(f"{ours}.mlp_norm.weight", norm, width))
        parts = [(f"{stock}.mlp.{name}", mlp_width) for name in ("gate_proj", "up_proj")]
        found += linear(f"{ours}.mlp.gate_up", parts, bias=False)
        found += linear(f"{ours}.mlp.down", [(f"{stock}.mlp.down_proj", width)], bias=False)
    found.append(same("final_norm.weight", "model.norm.weight", width))
    if not config.tied:
        found.append(vocabulary_rows("lm_head.weight", "lm_head.weight", config))
    return found


FAMILY = Family(
    name="llama",
    stock_class="LlamaForCausalLM",
    base_prefix="model.",
    architecture=Architecture(
        norm="rms",
        mlp="swiglu",
        positions="rotary",
        parallel=False,
        bias=False,
        head_bias=False,
        query_key_norm=False,
    ),
    to_stock=to_stock,
    from_stock=from_stock,
    shape="a width that is a multiple of heads",
    demands=demands,
    weights=weights,
)
