"""GPT-2 (Radford et al. 2019): LayerNorm, learned positions, GELU, biases, fused c_attn."""

from __future__ import annotations

from hornbook.model.config import ModelConfig
from hornbook.model.families.family import (
    Architecture,
    Family,
    Slice,
    StockConfig,
    Weight,
    integer_ratio,
    refuse_unless,
    require,
    same,
    vocabulary_rows,
)


def to_stock(config: ModelConfig) -> StockConfig:
    """The keys of `GPT2Config`."""
    return {
        "n_positions": config.context,
        "n_embd": config.width,
        "n_layer": config.layers,
        "n_head": config.heads,
        "n_inner": config.mlp_width,
        "activation_function": "gelu_new",
        "embd_pdrop": config.embedding_dropout,
        "attn_pdrop": config.attention_dropout,
        "resid_pdrop": config.residual_dropout,
        "layer_norm_epsilon": config.norm_epsilon,
        "initializer_range": config.initializer_range,
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "reorder_and_upcast_attn": False,
        "tie_word_embeddings": config.tied,
    }


def from_stock(stock: StockConfig) -> ModelConfig:
    """The architecture of a `GPT2Config`; refuses what changes the arithmetic."""
    refuse_unless(stock, "activation_function", "gelu_new", "gelu_new", "gelu_pytorch_tanh")
    refuse_unless(stock, "scale_attn_weights", True, True)
    refuse_unless(stock, "scale_attn_by_inverse_layer_idx", False, False)
    refuse_unless(stock, "add_cross_attention", False, False)
    width, heads = require(stock, "n_embd"), require(stock, "n_head")
    rows = require(stock, "vocab_size")
    return ModelConfig(
        family="gpt2",
        vocabulary=rows,
        vocabulary_rows=rows,
        exported_rows=rows,
        context=stock.get("n_positions", 1024),
        layers=require(stock, "n_layer"),
        heads=heads,
        kv_heads=heads,
        head_dim=integer_ratio(width, heads),
        width=width,
        mlp_width=stock.get("n_inner") or 4 * width,
        tied=stock.get("tie_word_embeddings", True),
        embedding_dropout=stock.get("embd_pdrop", 0.1),
        attention_dropout=stock.get("attn_pdrop", 0.1),
        residual_dropout=stock.get("resid_pdrop", 0.1),
        norm_epsilon=stock.get("layer_norm_epsilon", 1e-5),
        initializer_range=stock.get("initializer_range", 0.02),
    )


def demands(config: ModelConfig) -> dict[str, bool]:
    """Stock GPT-2 has neither grouped heads nor a head width of their own."""
    return {
        "head_dim": config.heads * config.head_dim == config.width,
        "kv_heads": config.kv_heads == config.heads,
    }


def weights(config: ModelConfig) -> list[Weight]:
    """Stock keeps query, key and value fused already, and its matrices as [in, out]."""
    width = config.width
    found = [
        vocabulary_rows("embedding.weight", "transformer.wte.weight", config),
        same("positions.weight", "transformer.wpe.weight", config.context),
    ]
    for layer in range(config.layers):
        ours, stock = f"blocks.{layer}", f"transformer.h.{layer}"
        found += _norm(f"{ours}.attention_norm", f"{stock}.ln_1", width)
        found += _conv1d(f"{ours}.attention.qkv", f"{stock}.attn.c_attn", (width, width, width))
        found += _conv1d(f"{ours}.attention.output", f"{stock}.attn.c_proj", (width,))
        found += _norm(f"{ours}.mlp_norm", f"{stock}.ln_2", width)
        found += _conv1d(f"{ours}.mlp.up", f"{stock}.mlp.c_fc", (config.mlp_width,))
        found += _conv1d(f"{ours}.mlp.down", f"{stock}.mlp.c_proj", (width,))
    found += _norm("final_norm", "transformer.ln_f", width)
    if not config.tied:
        found.append(vocabulary_rows("lm_head.weight", "lm_head.weight", config))
    return found


def _norm(ours: str, stock: str, width: int) -> list[Weight]:
    return [same(f"{ours}.{kind}", f"{stock}.{kind}", width) for kind in ("weight", "bias")]


def _conv1d(ours: str, stock: str, matrices: tuple[int, ...]) -> list[Weight]:
    rows = sum(matrices)
    return [
        Weight(
            f"{ours}.weight",
            (Slice(f"{stock}.weight", rows),),
            transposed=True,
            matrices=matrices,
        ),
        Weight(f"{ours}.bias", (Slice(f"{stock}.bias", rows),), matrices=matrices),
    ]


FAMILY = Family(
    name="gpt2",
    stock_class="GPT2LMHeadModel",
    base_prefix="transformer.",
    architecture=Architecture(
        norm="layer",
        mlp="gelu",
        positions="learned",
        parallel=False,
        bias=True,
        head_bias=False,
        query_key_norm=False,
    ),
    to_stock=to_stock,
    from_stock=from_stock,
    shape="width = heads * head_dim and kv_heads = heads",
    demands=demands,
    weights=weights,
)
