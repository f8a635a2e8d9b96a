"""The decoder: one module that is, number for number, each of the four stock families, and a fifth.

In: token ids (or embeddings). Out: hidden states, and logits of the next token. What a family is
made of is in `families/`; nothing here asks for a family's name.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from hornbook.errors import HornbookError
from hornbook.model.attention import (
    SMALLEST_FLEXIBLE_HEAD,
    Attention,
    Mask,
    document_blocks,
    document_mask,
)
from hornbook.model.cache import KeyValueCache, LayerCache
from hornbook.model.check import check
from hornbook.model.checkpointing import checkpointed
from hornbook.model.config import ModelConfig
from hornbook.model.cross_entropy import linear_cross_entropy
from hornbook.model.engine import COMPILER_OPTIONS, Engine
from hornbook.model.families import FAMILIES, Architecture
from hornbook.model.kernels import kernels_work
from hornbook.model.layers import Embedding, GeluMLP, OutputHead, build_mlp, build_norm
from hornbook.model.lookback import Smear, ValueEmbeddings
from hornbook.model.rotary import Rotary, Rotation
from hornbook.tokens.batch import IGNORE

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
        self.inner_width = config.mlp_width * (2 if architecture.mlp == "swiglu" else 1)
        self.dropout = nn.Dropout(config.residual_dropout)

    def forward(
        self,
        x: Tensor,
        rotation: Rotation | None,
        mask: Mask,
        cache: LayerCache | None,
        engine: Engine,
        extra_value: Tensor | None = None,
    ) -> Tensor:
        """[rows, T, width] -> [rows, T, width]; extra_value as in `Attention.forward`."""
        if not self.training or cache is not None:
            return self.layers(x, rotation, mask, cache, engine, extra_value)
        train = _compiled_training() if engine.compile == "regional" else Block.train_forward
        return train(self, x, rotation, mask, engine, extra_value)

    def train_forward(
        self,
        x: Tensor,
        rotation: Rotation | None,
        mask: Mask,
        engine: Engine,
        extra_value: Tensor | None,
    ) -> Tensor:
        """`layers`, keeping for the backward pass what `engine.checkpointing` says."""
        arguments = (x, rotation, mask, None, engine, extra_value)
        draws = self.attention.dropout > 0
        return checkpointed(self.layers, engine.checkpointing, self.inner_width, draws, *arguments)

    def layers(
        self,
        x: Tensor,
        rotation: Rotation | None,
        mask: Mask,
        cache: LayerCache | None,
        engine: Engine,
        extra_value: Tensor | None,
    ) -> Tensor:
        """What a block computes."""
        normed = self.attention_norm(x)
        x = x + self.dropout(self.attention(normed, rotation, mask, cache, engine, extra_value))
        if self.mlp_norm is not None:
            normed = self.mlp_norm(x)
        mlp = self.mlp
        if engine.mlp == "fused" and self.training and isinstance(mlp, GeluMLP):
            out: Tensor = x + self.dropout(mlp.fused(normed))
        else:
            out = x + self.dropout(mlp(normed))
        return out


class Decoder(nn.Module):
    """A causal language model of the family, shape and vocabulary that `config` says.

    Args:
        config: the architecture.
        generator: source of the initial weights (CPU); None: torch's global one.
        initialise: False leaves the weights as memory had them, for a caller who fills them all.

    Attributes:
        engine: how it computes; set it before the model is bound to its objective.
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
        self.engine = Engine()
        architecture = FAMILIES[config.family].architecture
        self.embedding = Embedding(config.vocabulary_rows, config.width)
        self.positions: Embedding | None = None
        self.rotary: Rotary | None = None
        if architecture.positions == "learned":
            self.positions = Embedding(config.context, config.width)
        else:
            self.rotary = Rotary(config)
        self.smear = Smear() if config.smear else None
        self.value_embeddings = ValueEmbeddings(config) if config.value_embeddings else None
        self.blocks = nn.ModuleList(Block(config, architecture) for _ in range(config.layers))
        self.final_norm = build_norm(config, architecture)
        self.lm_head = OutputHead(config, architecture)
        if initialise:
            self.initialise(generator)

    @torch.no_grad()
    def initialise(
        self,
        generator: torch.Generator | None = None,
        put: Callable[[Tensor, Tensor], Any] = Tensor.copy_,
    ) -> None:
        """Draw new weights, normally distributed; biases are 0, gains 1.

        As `config.initialise` says. `gpt2`: standard deviation `initializer_range`; for the
        2 * layers projections that add to the residual stream divided by sqrt(2 * layers) (Radford
        et al. 2019, section 2.3). `zero-outputs`: those projections and an untied head are 0, so
        that each block begins as the identity and the first loss is that of guessing; other
        matrices have 1 / sqrt(width), and the embedding, where the head is its own, 1 (nanochat).

        The same generator state gives the same weights. They are drawn in float32, one parameter
        after the other; `put(parameter, drawn)` takes each to where the parameter is.
        """
        config = self.config
        zero = config.initialise == "zero-outputs"
        spread = config.width**-0.5 if zero else config.initializer_range
        output_spread = 0.0 if zero else spread / math.sqrt(2 * config.layers)
        embedding_spread = 1.0 if zero and not config.tied else config.initializer_range
        spreads = {
            "embedding.weight": config.embedding_std or embedding_spread,
            "lm_head.weight": 0.0 if zero else spread,
        }
        for name, parameter in self.named_parameters():
            drawn = torch.empty(parameter.shape)
            if parameter.dim() == 1:
                drawn.fill_(1.0 if name.endswith("norm.weight") else 0.0)
            elif name.endswith(("attention.output.weight", "mlp.down.weight")):
                drawn.normal_(0.0, output_spread, generator=generator)
            else:
                drawn.normal_(0.0, spreads.get(name, spread), generator=generator)
            if name == "lm_head.bias":
                drawn[config.vocabulary :] = PAD_BIAS
            put(parameter, drawn)

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
        if self.smear is not None:
            x = self.smear(x, None if cache is None else cache.embeddings, positions)
        if self.engine.residual == "bf16" and torch.is_autocast_enabled(x.device.type):
            # Two bytes a number less in every addition and norm, forward and backward.
            x = x.to(torch.get_autocast_dtype(x.device.type))
        rotation = None if self.rotary is None else self.rotary(positions, tokens)
        extra_values = {} if self.value_embeddings is None else self.value_embeddings(ids)
        for index, block in enumerate(self.blocks):
            layer_cache = None
            if cache is not None and positions is not None:
                layer_cache = cache.layer(index, positions)
            x = block(x, rotation, mask, layer_cache, self.engine, extra_values.get(index))
        hidden: Tensor = self.final_norm(x)
        return hidden

    def head(self, hidden: Tensor) -> Tensor:
        """Logits of the next token: [..., width] -> float32 [..., vocabulary_rows].

        Columns from `config.vocabulary` on only pad, and are -inf.
        """
        logits: Tensor = self.lm_head(hidden, self.embedding.weight)
        return logits

    def loss(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """The cross-entropy of the next tokens, summed, in nats: a float32 scalar.

        Args:
            hidden: [rows, T, width], of `hidden`.
            targets: int64 [rows, T]; `IGNORE` carries no loss.
        """
        if self.engine.cross_entropy == "plain" or not torch.is_grad_enabled():
            # (The other ways find the gradient at once, which would be for nothing without one.)
            regional = self.engine.compile == "regional" and self.training
            return (_compiled_loss() if regional else Decoder._plain_loss)(self, hidden, targets)
        if torch.is_autocast_enabled(hidden.device.type):
            hidden = hidden.to(torch.get_autocast_dtype(hidden.device.type))
        weight = self.lm_head.weight
        return linear_cross_entropy(
            hidden.flatten(0, 1),
            self.embedding.weight if weight is None else weight,
            self.lm_head.bias,
            targets.flatten(),
            vocabulary=self.config.vocabulary,
            chunked=self.engine.cross_entropy == "chunked",
        )

    def forward(
        self,
        ids: Tensor,
        positions: Tensor | None = None,
        documents: Tensor | None = None,
    ) -> Tensor:
        """`head(hidden(...))`: float32 [rows, T, vocabulary_rows]."""
        return self.head(self.hidden(ids, positions, documents))

    def _plain_loss(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """`loss` by PyTorch's own cross-entropy, over all logits in float32."""
        return functional.cross_entropy(
            self.head(hidden).flatten(0, 1),
            targets.flatten(),
            ignore_index=IGNORE,
            reduction="sum",
        )

    def _mask(
        self, positions: Tensor | None, documents: Tensor | None, cache: KeyValueCache | None
    ) -> Mask:
        """Who sees whom; None for plain causal attention."""
        if cache is not None:
            assert positions is not None and documents is None
            return cache.mask(positions)
        if documents is None:
            return None
        if self.smear is not None or self.config.key_shift:
            raise HornbookError(
                "this model looks at the token before also where another document begins",
                where="data.document_mask",
                hint="Set it to false, or train a model of a stock family",
            )
        # flex_attention has a backward pass on CUDA alone, no dropout, no small heads, and is
        # compiled for each shape, by Triton.
        flexible = (
            self.training
            and self.engine.attention != "math"
            and not self.config.attention_dropout
            and self.config.head_dim >= SMALLEST_FLEXIBLE_HEAD
            and kernels_work(documents.device)
        )
        return document_blocks(documents) if flexible else document_mask(documents)

    def _embed(self, ids: Tensor, positions: Tensor | None) -> Tensor:
        """Token embeddings (or those given), with learned positions added where there are any."""
        x = ids if ids.is_floating_point() else self.embedding(ids)
        if self.positions is not None:
            where = slice(ids.shape[1]) if positions is None else positions
            x = x + self.positions.weight[where]
        return functional.dropout(x, self.config.embedding_dropout, self.training)


# For `Engine.compile == "regional"`. All blocks share the code that is compiled for the first: its
# weights are inputs of the compiled graph. Each new shape compiles anew (`dynamic=False`), since a
# training run has few, and a graph for any shape is slower.


@functools.cache
def _compiled_training() -> Callable[..., Tensor]:
    return torch.compile(
        Block.train_forward, fullgraph=True, dynamic=False, options=COMPILER_OPTIONS
    )


@functools.cache
def _compiled_loss() -> Callable[..., Tensor]:
    return torch.compile(
        Decoder._plain_loss, fullgraph=True, dynamic=False, options=COMPILER_OPTIONS
    )
