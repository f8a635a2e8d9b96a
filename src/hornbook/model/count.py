"""How many parameters a model has, and how many floating-point operations a token costs.

In: a `ModelConfig`; nothing is built. Out: counts. `vocabulary_rows` counts as it is in memory, so
that a model's published number needs its published vocabulary (GPT-2: 50,257 rows).
"""

from __future__ import annotations

from dataclasses import dataclass

from hornbook.model.config import GATE_WIDTH, ModelConfig
from hornbook.model.families import FAMILIES


@dataclass(frozen=True)
class ParameterCount:
    """Numbers that are learned."""

    embedding: int
    """Token embedding, learned positions, an untied head with its bias, and what the speedrun
    family adds (value embeddings, nearly all)."""
    blocks: int
    """All else: the layers and the final norm. Often called non-embedding parameters."""

    @property
    def total(self) -> int:
        """Every parameter once; a tied head is the embedding, and is not counted again."""
        return self.embedding + self.blocks


def parameters(config: ModelConfig) -> ParameterCount:
    """Count the parameters of `Decoder(config)`."""
    architecture = FAMILIES[config.family].architecture
    width, rows = config.width, config.vocabulary_rows
    embedding = rows * width
    if architecture.positions == "learned":
        embedding += config.context * width
    if not config.tied:
        embedding += rows * width
    if architecture.head_bias:
        embedding += rows
    embedding += _value_tables(config) + 2 * config.value_embeddings
    if config.smear:
        embedding += GATE_WIDTH + 1

    def projection(inputs: int, outputs: int) -> int:
        return inputs * outputs + (outputs if architecture.bias else 0)

    query, key = config.heads * config.head_dim, config.kv_heads * config.head_dim
    attention = projection(width, query + 2 * key) + projection(query, width)
    if architecture.query_key_norm:
        attention += 2 * config.head_dim
    into_mlp = config.mlp_width * (2 if architecture.mlp == "swiglu" else 1)
    mlp = projection(width, into_mlp) + projection(config.mlp_width, width)
    norm = width * (2 if architecture.norm == "layer" else 1)
    norms = norm * (1 if architecture.parallel else 2)
    return ParameterCount(embedding, config.layers * (attention + mlp + norms) + norm)


def flops_per_token(config: ModelConfig, sequence_length: int) -> int:
    """Floating-point operations of forward and backward, a token: 6 N + 12 L d T.

    N is all parameters, L the layers, d = heads * head_dim, T the sequence length (PaLM,
    arXiv:2204.02311, appendix B; nanoGPT's convention). Attention is counted as if it were not
    causal, so the model FLOPs utilisation (MFU) computed from it compares with published ones.
    Value embeddings are left out of N: they are looked up.
    """
    attention = 12 * config.layers * config.heads * config.head_dim * sequence_length
    return 6 * (parameters(config).total - _value_tables(config)) + attention


def _value_tables(config: ModelConfig) -> int:
    """Parameters of the value embeddings, of which a token only looks some up."""
    return config.value_embeddings * config.vocabulary_rows * config.kv_heads * config.head_dim
