"""The one dial: from hours on a device to a recipe, with its depth, width, tokens, batch and rates.

In: hours, a `Device`, perhaps a text. Out: a `Design`: a recipe's values and its prediction.

Where the rules come from:
- **Tokens a parameter**: 20 (Hoffmann et al. 2022, arXiv:2203.15556, table 3), fewer in short runs,
  where our own comparisons found larger models better (docs/lab-notes.md, "What to train in three
  CPU minutes"; `tokens_per_parameter`).
- **Little text** is seen at most 4 times, up to which repeating is nearly as good as new text
  (Muennighoff et al. 2023, arXiv:2305.16264); the model is then no larger than that feeds.
- **Batch**: grows as tokens^0.383 (Bergsma et al. 2025, arXiv:2505.13738), from 2^19 tokens at 1.3
  billion, nanochat's tuned point; but at least 2,000 steps, as small batches win in short runs.
- **Learning rate**, AdamW: 1 / width (Yang et al. 2022, arXiv:2203.03466, table 8), through
  GPT-3's 6e-4 at width 768 (arXiv:2005.14165, table 2.1). Muon: the same for all widths, since its
  updates are of one size (arXiv:2310.17813). benchmarks/learning_rate_sweep.py checks both.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from hornbook.errors import HornbookError
from hornbook.model.config import ModelConfig, ModelSettings
from hornbook.model.count import parameters
from hornbook.model.presets import resolve
from hornbook.optim.config import OptimizerConfig
from hornbook.plan.device import Device
from hornbook.plan.loss import bytes_per_token
from hornbook.plan.predict import Horizon, Prediction, predict
from hornbook.plan.setup import Wishes

SHAPES = (
    (2, 64), (3, 96), (4, 128), (6, 192), (6, 256), (8, 384), (10, 512), (12, 640), (12, 768),
    (16, 1024), (20, 1280), (24, 1536), (28, 1792), (32, 2048), (36, 2304), (40, 2560),
)  # fmt: skip
"""Layers and width, small to large: about a layer for each 64 of width, as nanochat has it."""

EPOCHS = 4
"""Times that a text is seen at most."""

LEAST_STEPS = 2000
"""Steps of a run: with fewer, larger batches lost (docs/lab-notes.md)."""

GPU_STEP_TOKENS = 16384
"""Tokens of a step on a GPU, at least: below, the update and the launches take over."""

REFERENCE_BATCH, REFERENCE_TOKENS, BATCH_EXPONENT = 2**19, 1.3e9, 0.383
"""nanochat's tuned batch, the tokens of that run (scripts/base_train.py: 12 for each of the 110
million parameters of its d12, head included), and how the batch grows with tokens."""

ADAMW_RATE_TIMES_WIDTH = 6e-4 * 768
"""Learning rate of AdamW times width."""

MUON_RATE, MUON_REST_RATE = 0.02, 3e-3
"""Muon's learning rate of matrices, and AdamW's of the rest beside it."""

VOCABULARY = 32768
"""Tokens of the vocabulary where there is no text to tell (`fitting_vocabulary` is for text)."""


@dataclass(frozen=True)
class Design:
    """A recipe and what it will come to."""

    values: dict[str, Any]
    """Sections of a recipe, as YAML has them."""
    prediction: Prediction
    note: str
    """Why it is not larger, in a sentence."""


def design(
    hours: float,
    device: Device,
    *,
    gpus: int = 1,
    price: float | None = None,
    text: str | None = None,
    text_bytes: float = 0.0,
    name: str = "my-model",
) -> Design:
    """The largest model that sees enough tokens in that time.

    Args:
        hours: of training.
        device: to train on.
        gpus: so many of them.
        price: US dollars a GPU and hour; None: the table's.
        text: file or folder that the recipe is to read; None: to be named later.
        text_bytes: its size; 0: not known, taken to be enough.
        name: of the recipe.

    Raises:
        HornbookError: there is time or text for less than a step.
    """
    vocabulary = _vocabulary(text_bytes)
    unique = text_bytes / bytes_per_token(vocabulary) if text_bytes else 0.0
    most = EPOCHS * unique if unique else math.inf
    chosen: Prediction | None = None
    for layers, width in SHAPES:
        config = shape(layers, width, vocabulary)
        found = _within(name, hours, config, device, gpus, price, most, unique)
        enough = tokens_per_parameter(found.tokens) * parameters(config).blocks
        if not found.fits or (chosen is not None and found.tokens < enough):
            limit = "memory" if not found.fits else "text" if found.tokens >= most else "time"
            break
        chosen = found
    else:
        limit = "shapes"
    if chosen is None:
        raise HornbookError(f"not even {SHAPES[0][0]} layers fit into the memory of {device.name}")
    if chosen.tokens < chosen.choice.setup.step_tokens:
        raise HornbookError(
            f"{hours:g} hours are less than one step of the smallest model here",
            where="--hours",
            hint="Give more time, or another --gpu",
        )
    notes = {
        "time": "a larger model would see too few tokens in this time",
        "shapes": "it is the largest that is designed here",
        "memory": "a larger model does not fit into this memory",
        "text": f"{EPOCHS} times this text do not feed a larger model: more text would help",
    }
    return Design(_recipe(chosen, hours, text, name), chosen, notes[limit])


def shape(layers: int, width: int, vocabulary: int) -> ModelConfig:
    """The Qwen3 architecture (a stock family whose queries and keys are normalised, which bears
    high learning rates) of that depth and width."""
    return resolve(_settings(layers, width), vocabulary)


def tokens_per_parameter(tokens: float) -> float:
    """Tokens for each parameter of the blocks: 4 in runs of 3 million tokens, 20 from 2 billion."""
    return float(min(20.0, max(4.0, 4.0 * (tokens / 3e6) ** 0.25)))


def batch_tokens(tokens: float, length: int, device: Device, gpus: int = 1) -> int:
    """Tokens of a step over all GPUs in a run of `tokens`: a power of two, as `length` is."""
    best: float = REFERENCE_BATCH * (tokens / REFERENCE_TOKENS) ** BATCH_EXPONENT
    least = gpus * max(length, GPU_STEP_TOKENS if device.kind == "cuda" else 2 * length)
    wanted = max(least, min(best, tokens / LEAST_STEPS))
    return int(2 ** math.floor(math.log2(wanted)))


def _within(
    name: str, hours: float, config: ModelConfig, device: Device, gpus: int,
    price: float | None, most: float, unique: float,
) -> Prediction:  # fmt: skip
    """The run of that model for so many hours, of at most so many tokens."""
    optimizer, tokens = _optimizer(config, device), 1e9
    for _ in range(2):  # the batch follows from the tokens, and its speed decides their number
        batch = batch_tokens(tokens, config.context, device, gpus)
        wishes = Wishes(config.context, batch, optimizer=optimizer, gpus=gpus)
        found = predict(name, config, wishes, device, Horizon(hours=hours, unique=unique), price)
        tokens = min(found.tokens, most)
    return predict(name, config, wishes, device, Horizon(tokens=tokens, unique=unique), price)


def _settings(layers: int, width: int) -> ModelSettings:
    head_dim = 32 if width < 256 else 64 if width < 1280 else 128
    heads = width // head_dim
    return ModelSettings(
        preset="qwen3-1m",
        layers=layers,
        width=width,
        heads=heads,
        kv_heads=heads,
        head_dim=head_dim,
        mlp_width=64 * math.ceil(width * 8 / 3 / 64),
        context=256 if width <= 256 else 512 if width <= 512 else 1024,
    )


def _optimizer(config: ModelConfig, device: Device) -> OptimizerConfig:
    """Muon on GPUs; on a CPU its products cost more steps than they save (docs/lab-notes.md)."""
    if device.kind == "cuda":
        return OptimizerConfig(
            kind="muon",
            learning_rate=MUON_REST_RATE,
            matrix_learning_rate=MUON_RATE,
            final_share=0.0,
        )
    rate = float(f"{ADAMW_RATE_TIMES_WIDTH / config.width:.2g}")
    return OptimizerConfig(kind="adamw", learning_rate=rate, final_share=0.0)


def _vocabulary(text_bytes: float) -> int:
    if not text_bytes:
        return VOCABULARY
    from hornbook.tokenizer.build import fitting_vocabulary

    return fitting_vocabulary(int(text_bytes))


def _recipe(prediction: Prediction, hours: float, text: str | None, name: str) -> dict[str, Any]:
    """The recipe's sections: what differs from the defaults."""
    config, setup = prediction.config, prediction.choice.setup
    settings, optimizer = _settings(config.layers, config.width), setup.optimizer
    steps = max(1, round(prediction.tokens / setup.step_tokens))
    every = max(1, min(250, steps // 10))
    rates = {"kind": optimizer.kind, "learning_rate": optimizer.learning_rate}
    if optimizer.kind == "muon":
        rates["matrix_learning_rate"] = optimizer.matrix_learning_rate
    return {
        "name": name,
        "description": f"Made by `hornbook plan` for {hours:g} hours on {prediction.device.name}.",
        "prepare": {"inputs": [text] if text else []},
        "tokenize": {"kind": "bpe", "vocabulary": config.vocabulary if not text else 0},
        "model": {
            field: getattr(settings, field)
            for field in (
                "preset", "layers", "width", "heads", "kv_heads", "head_dim", "mlp_width", "context"
            )
        },
        "optimizer": {
            **rates,
            "warmup_steps": optimizer.warmup_steps,
            "final_share": optimizer.final_share,
        },
        "pretrain": {
            # The shorter of the two counts: the time is kept to, and the text not overused.
            "minutes": round(60 * hours, 2),
            "tokens": math.ceil(prediction.tokens),
            "global_batch_tokens": setup.step_tokens,
            "gpus": setup.gpus if setup.gpus > 1 else 0,
            "evaluate_every": every,
            "sample_every": 2 * every,
        },
    }  # fmt: skip
