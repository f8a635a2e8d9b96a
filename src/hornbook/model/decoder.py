"""The decoder: one module that is, number for number, each of the four stock families.

In: token ids (or embeddings). Out: hidden states, and logits of the next token. What a family is
made of is in `families/`; nothing here asks for a family's name.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from hornbook.errors import HornbookError
from hornbook.model.attention import Attention, document_mask
from hornbook.model.cache import KeyValueCache, LayerCache
from hornbook.model.check import check
from hornbook.model.config import ModelConfig
from hornbook.model.families import FAMILIES, Architecture
from hornbook.model.layers import Embedding, OutputHead, build_mlp, build_norm
from hornbook.model.rotary import Rotary, Rotation

PAD_BIAS = -100.0
"""Initial bias of logits that only pad. We mask them anyway; an exported model has no mask, and
would otherwise give an id that no tokenizer knows about the chance of an average token."""


class Block(nn.Module):
    """One layer: attention and feed-forward network, each added to the residual stream."""

    def __init__(self, config: ModelConfig, architecture: Architecture):
        super().__init__()
        self.attention_norm = build_norm(config, architecture)
        self.attention = Attention(config, architecture)
        self.mlp_norm = None if architecture.parallel else build_norm(config, architecture)
        self.mlp = build_mlp(config, architecture)
        self.dropout = nn.Dropout(config.residual_dropout)

    def forward(
        self,
        x: Tensor,
        rotation: Rotation | None,
        mask: Tensor | None,
        cache: LayerCache | None,
    ) -> Tensor:
        """[rows, T, width] -> [rows, T, width]."""
        normed = self.attention_norm(x)
        x = x + self.dropout(self.attention(normed, rotation, mask, cache))
        if self.mlp_norm is not None:
            normed = self.mlp_norm(x)
        out: Tensor = x + self.dropout(self.mlp(normed))
        return out


class Decoder(nn.Module):
    """A causal language model of the family, shape and vocabulary that `config` says.

    Args:
        config: the architecture.
        generator: source of the initial weights (CPU); None: torch's global one.
        initialise: False leaves the weights as memory had them, for a caller who fills them all.
    """

    def __init__(
        self,
        config: ModelConfig,
        generator: torch.Generator | None = None,
        *,
        initialise: bool = True,
    ):
        super().__init__()
        check(config)
        self.config = config
        architecture = FAMILIES[config.family].architecture
        self.embedding = Embedding(config.vocabulary_rows, config.width)
        self.positions: Embedding | None = None
        self.rotary: Rotary | None = None
        if architecture.positions == "learned":
            self.positions = Embedding(config.context, config.width)
        else:
            self.rotary = Rotary(config)
        self.blocks = nn.ModuleList(Block(config, architecture) for _ in range(config.layers))
        self.final_norm = build_norm(config, architecture)
        self.lm_head = OutputHead(config, architecture)
        if initialise:
            self.initialise(generator)

    @torch.no_grad()
    def initialise(self, generator: torch.Generator | None = None) -> None:
        """Draw new weights as GPT-2 did: normal, narrower at the ends of residual branches.

        Standard deviation `initializer_range`; for the 2 * layers projections that add to the
        residual stream divided by sqrt(2 * layers) (Radford et al. 2019, section 2.3). Biases are
        0, gains 1. The same generator state gives the same weights.
        """
        spread = self.config.initializer_range
        for name, parameter in self.named_parameters():
            if parameter.dim() == 1:
                parameter.fill_(1.0 if name.endswith("norm.weight") else 0.0)
            elif name.endswith(("attention.output.weight", "mlp.down.weight")):
                parameter.normal_(
                    0.0, spread / math.sqrt(2 * self.config.layers), generator=generator
                )
            else:
                parameter.normal_(0.0, spread, generator=generator)
        if self.lm_head.bias is not None:
            self.lm_head.bias[self.config.vocabulary :] = PAD_BIAS

    def hidden(
        self,
        ids: Tensor,
        positions: Tensor | None = None,
        documents: Tensor | None = None,
        cache: KeyValueCache | None = None,
    ) -> Tensor:
        """The last layer's output, after the final norm.

        Args:
            ids: int64 [rows, T] token ids, or float [rows, T, width] embeddings in their place.
            positions: int64 [rows, T], each below the context length; None: 0..T-1.
            documents: int [rows, T], number of the document within its row, -1 for padding;
                attention stays inside a document. None: a row is one document.
            cache: attend also to the tokens it holds, and add these at `positions`, which must
                be given. Not together with `documents`.

        Returns:
            [rows, T, width].

        Raises:
            HornbookError: T is longer than the context.
        """
        tokens = ids.shape[1]
        if tokens > self.config.context:
            raise HornbookError(
                f"a sequence of {tokens} tokens is longer than the model's context of "
                f"{self.config.context}",
                hint="Give shorter sequences, or train a model with a longer context",
            )
        mask = self._mask(positions, documents, cache)
        x = self._embed(ids, positions)
        rotation = None if self.rotary is None else self.rotary(positions, tokens)
        for index, block in enumerate(self.blocks):
            layer_cache = None
            if cache is not None and positions is not None:
                layer_cache = cache.layer(index, positions)
            x = block(x, rotation, mask, layer_cache)
        hidden: Tensor = self.final_norm(x)
        return hidden

    def head(self, hidden: Tensor) -> Tensor:
        """Logits of the next token: [..., width] -> float32 [..., vocabulary_rows].

        Columns from `config.vocabulary` on only pad, and are -inf.
        """
        logits: Tensor = self.lm_head(hidden, self.embedding.weight)
        return logits

    def forward(
        self,
        ids: Tensor,
        positions: Tensor | None = None,
        documents: Tensor | None = None,
    ) -> Tensor:
        """`head(hidden(...))`: float32 [rows, T, vocabulary_rows]."""
        return self.head(self.hidden(ids, positions, documents))

    def _mask(
        self, positions: Tensor | None, documents: Tensor | None, cache: KeyValueCache | None
    ) -> Tensor | None:
        """Who sees whom, bool [rows, 1, T, S]; None for plain causal attention."""
        if cache is not None:
            assert positions is not None and documents is None
            return cache.mask(positions)
        return None if documents is None else document_mask(documents)

    def _embed(self, ids: Tensor, positions: Tensor | None) -> Tensor:
        """Token embeddings (or those given), with learned positions added where there are any."""
        x = ids if ids.is_floating_point() else self.embedding(ids)
        if self.positions is not None:
            where = slice(ids.shape[1]) if positions is None else positions
            x = x + self.positions.weight[where]
        return functional.dropout(x, self.config.embedding_dropout, self.training)
