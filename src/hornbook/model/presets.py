"""The built-in sizes, and how a recipe's `model` section becomes a complete architecture.

In: `ModelSettings` and the number of ids of the tokenizer. Out: a checked `ModelConfig`.

Names. `gpt2-*`, `phi2` and `qwen3-0.6b` are the sizes their makers published, under their makers'
numbers. All other numbers count the parameters of the blocks alone, without the embedding
(`count.parameters(config).blocks`): what the embedding adds depends on the tokenizer, and at 1M it
is larger than the model. `llama-1b` has the shape of Llama-3.2-1B.

Vocabulary. In memory the embedding has the tokenizer's size rounded up to a multiple of 64, which
is faster; export leaves those pad rows out, so that GPT-2 with GPT-2's tokenizer exports its stock
`vocab_size` of 50,257. Phi-2 is the exception: stock Phi-2 itself has 51,200 rows, which are kept
in memory and on export for tokenizers of 50,257 (GPT-2's, with which Phi-2's begins) to 51,200 ids.
A model imported with N rows keeps and exports N.

Dropout is 0 in all presets, as in pretraining today (stock GPT-2's configuration says 0.1).
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Literal

from hornbook.errors import HornbookError, nearest
from hornbook.model.check import check
from hornbook.model.config import DROPOUTS, ModelConfig, ModelSettings

ROW_MULTIPLE = 64
"""Matrix products are fastest where the vocabulary's rows are a multiple of this."""


def _gpt2(layers: int, heads: int, width: int) -> ModelConfig:
    return ModelConfig(
        family="gpt2",
        vocabulary=50257,
        vocabulary_rows=50304,
        context=1024,
        layers=layers,
        heads=heads,
        kv_heads=heads,
        head_dim=width // heads,
        width=width,
        mlp_width=4 * width,
        tied=True,
    )


def _rotary(
    family: Literal["llama", "qwen3"],
    *,
    layers: int,
    heads: int,
    kv_heads: int,
    width: int,
    mlp_width: int,
    context: int,
    head_dim: int | None = None,
    rope_theta: float = 10000.0,
) -> ModelConfig:
    return ModelConfig(
        family=family,
        vocabulary=32768,
        vocabulary_rows=32768,
        context=context,
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim or width // heads,
        width=width,
        mlp_width=mlp_width,
        tied=True,
        norm_epsilon=1e-5 if family == "llama" else 1e-6,
        rope_theta=rope_theta,
    )


def _small(family: Literal["llama", "qwen3"]) -> dict[str, ModelConfig]:
    """One ladder of shapes for both families: heads of 32 or 64, an MLP of 2.5 to 3 widths."""
    ladder = {
        # size: layers, heads, kv_heads, width, mlp_width, context
        "1m": (6, 4, 2, 128, 352, 512),
        "5m": (6, 4, 2, 256, 768, 512),
        "15m": (10, 6, 2, 384, 960, 1024),
        "60m": (13, 10, 5, 640, 1728, 1024),
        "125m": (20, 12, 4, 768, 2048, 2048),
        "350m": (32, 16, 4, 1024, 2688, 2048),
    }
    return {
        f"{family}-{size}": _rotary(
            family,
            layers=layers,
            heads=heads,
            kv_heads=kv_heads,
            width=width,
            mlp_width=mlp_width,
            context=context,
        )
        for size, (layers, heads, kv_heads, width, mlp_width, context) in ladder.items()
    }


PHI2 = ModelConfig(
    family="phi",
    vocabulary=50257,
    vocabulary_rows=51200,
    exported_rows=51200,
    context=2048,
    layers=32,
    heads=32,
    kv_heads=32,
    head_dim=80,
    width=2560,
    mlp_width=10240,
    tied=False,
    rotary_fraction=0.4,
)
"""Phi-2. Its tokenizer is GPT-2's, to which Phi-2's own added tokens may come."""

SPEEDRUN = replace(
    _rotary("qwen3", layers=12, heads=6, kv_heads=6, width=768, mlp_width=2048, context=1024),
    family="speedrun",
    tied=False,
    initialise="zero-outputs",
    key_shift=True,
    smear=True,
    value_embeddings=3,
)
"""GPT-2's size, in Qwen3's shape with six heads of 128, and every trick of the speedrun family."""

PRESETS: dict[str, ModelConfig] = {
    "gpt2-124m": _gpt2(layers=12, heads=12, width=768),
    "gpt2-355m": _gpt2(layers=24, heads=16, width=1024),
    "gpt2-712m": _gpt2(layers=32, heads=24, width=1296),
    "gpt2-774m": _gpt2(layers=36, heads=20, width=1280),
    "gpt2-1.5b": _gpt2(layers=48, heads=25, width=1600),
    "phi2": PHI2,
    **_small("llama"),
    "llama-1b": _rotary(
        "llama", layers=16, heads=32, kv_heads=8, width=2048, mlp_width=8192, context=2048
    ),
    "llama-1.5b": _rotary(
        "llama", layers=25, heads=32, kv_heads=8, width=2048, mlp_width=8192, context=2048
    ),
    **_small("qwen3"),
    "speedrun-85m": SPEEDRUN,
    "qwen3-0.6b": _rotary(
        "qwen3",
        layers=28,
        heads=16,
        kv_heads=8,
        width=1024,
        mlp_width=3072,
        context=2048,
        head_dim=128,
        rope_theta=1e6,
    ),
    "qwen3-1.5b": _rotary(
        "qwen3",
        layers=30,
        heads=16,
        kv_heads=8,
        width=2048,
        mlp_width=6144,
        context=2048,
        rope_theta=1e6,
    ),
}
"""Name -> complete architecture, with the vocabulary it is usually trained with."""


def resolve(settings: ModelSettings, vocabulary: int) -> ModelConfig:
    """The preset with every changed field, for a tokenizer of `vocabulary` ids.

    What is not given follows from what is: the MLP and the key/value heads keep their proportion
    to width and heads, and a head is width / heads wide.

    Raises:
        HornbookError: an unknown preset, or sizes that do not go together.
    """
    preset = PRESETS.get(settings.preset)
    if preset is None:
        raise HornbookError(
            f"there is no model preset {settings.preset!r}",
            where="model.preset",
            hint=nearest(settings.preset, PRESETS),
        )
    given = {field.name: getattr(settings, field.name) for field in fields(settings)}
    given = {name: value for name, value in given.items() if value is not None}
    del given["preset"]
    if "dropout" in given:
        given |= dict.fromkeys(DROPOUTS, given.pop("dropout"))
    for name in ("width", "heads"):
        if given.get(name, 1) < 1:
            raise HornbookError("must be at least 1", where=f"model.{name}")
    config = replace(preset, **{**_followers(preset, given), **_rows(preset, vocabulary), **given})
    check(config)
    return config


def _followers(preset: ModelConfig, given: dict[str, int]) -> dict[str, int]:
    """Sizes that follow from a given width or number of layers or heads."""
    width, heads = given.get("width", preset.width), given.get("heads", preset.heads)
    follow: dict[str, int] = {}
    if "layers" in given:  # one of the first and one of the last layers share a table
        follow["value_embeddings"] = min(preset.value_embeddings, max(0, given["layers"]) // 2)
    if "width" in given:
        follow["mlp_width"] = _scaled(preset.mlp_width, width, preset.width)
    if "heads" in given and "kv_heads" not in given:
        group = preset.heads // preset.kv_heads
        if heads % group:
            raise HornbookError(
                f"{heads} heads cannot share keys and values in groups of {group} as the preset's",
                where="model.heads",
                hint=f"Set model.kv_heads too (a divisor of {heads})",
            )
        follow["kv_heads"] = heads // group
    if ("width" in given or "heads" in given) and "head_dim" not in given:
        if width % heads:
            raise HornbookError(
                f"the width {width} is no multiple of the {heads} heads",
                where="model.width",
                hint=f"Nearest: {width // heads * heads or heads} or {_up(width, heads)}",
            )
        follow["head_dim"] = width // heads
    return follow


def _rows(preset: ModelConfig, vocabulary: int) -> dict[str, int | None]:
    """Vocabulary, rows in memory and rows on export; see this module's docstring."""
    stock = preset.exported_rows
    if stock is not None and preset.vocabulary <= vocabulary <= stock:
        return {"vocabulary": vocabulary, "vocabulary_rows": stock, "exported_rows": stock}
    rows = _up(vocabulary, ROW_MULTIPLE)
    return {"vocabulary": vocabulary, "vocabulary_rows": rows, "exported_rows": None}


def _scaled(value: int, numerator: int, denominator: int) -> int:
    """value * numerator / denominator; where that is not whole, up to a multiple of 8."""
    whole, rest = divmod(value * numerator, denominator)
    return _up(whole + 1, 8) if rest else whole


def _up(value: int, multiple: int) -> int:
    """`value` rounded up to a multiple."""
    return -(-value // multiple) * multiple
