"""What a model is: the recipe's section, and the resolved architecture.

`ModelSettings` is what a person writes (a preset and what differs from it); `ModelConfig` is the
complete architecture that the decoder is built from and that checkpoints carry.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Family = Literal["gpt2", "phi", "llama", "qwen3", "speedrun"]
Initial = Literal["gpt2", "zero-outputs"]
RopeScaling = Literal["none", "llama3"]

DROPOUTS = ("embedding_dropout", "attention_dropout", "residual_dropout")
"""The fields of `ModelConfig` that `ModelSettings.dropout` sets."""

GATE_WIDTH = 24
"""Leading dimensions of an embedding that decide how much of the one before is smeared into it."""


@dataclass
class ModelSettings:
    """The model to train: a preset, and any field of it changed."""

    preset: str = "gpt2-124m"
    """Name of a built-in size; `hornbook recipes` lists them."""

    context: int | None = None
    """Longest sequence, in tokens."""

    layers: int | None = None
    """Number of decoder blocks."""

    heads: int | None = None
    """Attention heads."""

    kv_heads: int | None = None
    """Key/value heads (llama, qwen3): fewer than `heads` is grouped-query attention."""

    width: int | None = None
    """Model width (hidden size)."""

    mlp_width: int | None = None
    """Width inside the feed-forward layer."""

    head_dim: int | None = None
    """Width of a head; default width / heads."""

    tied: bool | None = None
    """Share the embedding matrix with the output head."""

    dropout: float | None = None
    """Dropout probability of embeddings, attention and residual branches."""

    initialise: Initial | None = None
    """Initial weights: `gpt2`'s; or `zero-outputs`: what adds to the residual stream and an untied
    head start at zero and embeddings wide, which learns faster with high rates (muon)."""

    embedding_std: float | None = None
    """Standard deviation of the initial embedding; default: after `initialise`, 0.02 or 1."""

    key_shift: bool | None = None
    """Half of the heads look tokens up by the token before them (family speedrun alone)."""

    smear: bool | None = None
    """Mix a learned share of the embedding before into each (family speedrun alone)."""

    value_embeddings: int | None = None
    """Tables of embeddings added to the values of so many first and last layers (family speedrun
    alone). Each has the size of the embedding."""

    vocabulary_rows: int | None = None
    """Rows of the embedding; default: the tokenizer's size rounded up to a multiple of 64.
    Rows past the tokenizer's size only pad, and are masked in loss and sampling."""


@dataclass(frozen=True)
class ModelConfig:
    """A complete architecture. All sizes are counts; nothing is left to be guessed."""

    family: Family
    vocabulary: int
    """Ids that can occur: 0 <= id < vocabulary."""
    vocabulary_rows: int
    """Rows of embedding and head in memory, >= vocabulary. A multiple of 64 is faster."""
    context: int
    """Longest sequence, in tokens."""
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    width: int
    mlp_width: int
    tied: bool
    """The head uses the embedding matrix."""
    embedding_dropout: float = 0.0
    attention_dropout: float = 0.0
    residual_dropout: float = 0.0
    norm_epsilon: float = 1e-5
    rope_theta: float = 10000.0
    rotary_fraction: float = 1.0
    """Share of each head's dimensions that is rotated (phi: 0.4)."""
    rope_scaling: RopeScaling = "none"
    """`llama3`: slow rotations are slowed further, as Llama 3.1 does for its long context."""
    rope_factor: float = 1.0
    rope_low_frequency_factor: float = 1.0
    rope_high_frequency_factor: float = 4.0
    rope_original_context: int = 0
    """The four numbers of `llama3` scaling, under the names of its stock config."""
    initializer_range: float = 0.02
    initialise: Initial = "gpt2"
    embedding_std: float | None = None
    """See `Decoder.initialise`."""
    key_shift: bool = False
    smear: bool = False
    value_embeddings: int = 0
    """The tricks of the speedrun family: see `lookback`."""
    exported_rows: int | None = None
    """`vocab_size` of the exported model; None: `vocabulary`, so that rows which only pad are left
    out. A number only where the stock model has such rows itself (Phi-2: 51,200)."""

    @property
    def rotated_dimensions(self) -> int:
        """Leading dimensions of each head that are rotated."""
        return int(self.head_dim * self.rotary_fraction)


@dataclass
class GenerateConfig:
    """How text is sampled from a model."""

    max_tokens: int = 200
    """Longest continuation, in tokens."""

    temperature: float = 0.8
    """Sharpness of the distribution; 0 is greedy."""

    top_k: int = 0
    """Sample among the k most likely tokens; 0: all."""

    top_p: float = 0.95
    """Sample among the likeliest tokens that together have this probability; 1: all."""

    min_p: float = 0.0
    """Leave out tokens less likely than this share of the likeliest one."""

    repetition_penalty: float = 1.0
    """Divide the (positive) logits of tokens that occurred by this (CTRL, arXiv:1909.05858)."""

    stop: list[str] = field(default_factory=list)
    """Strings that end the text; they are not returned."""

    seed: int = 1337
    """Seed of the sampling."""

    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Arithmetic of the model. `auto`: bf16 on a GPU that has it, else as the weights are stored.
    Logits are float32 on a GPU in any case."""
