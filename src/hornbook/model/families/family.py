"""What a family is: its architecture, its stock configuration, its weights' stock names.

In: a `ModelConfig`, or a stock `config.json` as a dict. Out: the other of the two, and the list of
weights that says how each of our parameters is put together from stock tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from hornbook.errors import HornbookError
from hornbook.model.config import ModelConfig

StockConfig = dict[str, Any]
"""The contents of a Hugging Face `config.json`."""


@dataclass(frozen=True)
class Architecture:
    """The parts a decoder is built from; everything with a number is in `ModelConfig`."""

    norm: Literal["layer", "rms"]
    """LayerNorm with bias (arXiv:1607.06450), or RMSNorm (arXiv:1910.07467)."""
    mlp: Literal["gelu", "swiglu"]
    """tanh-approximated GELU (arXiv:1606.08415), or SwiGLU (arXiv:2002.05202)."""
    positions: Literal["learned", "rotary"]
    """Learned position embeddings, or rotated queries and keys (RoPE, arXiv:2104.09864)."""
    parallel: bool
    """Attention and MLP read the same normalised input and are added together (GPT-J's block)."""
    bias: bool
    """Biases in the projections of attention and MLP."""
    head_bias: bool
    """A bias on the logits."""
    query_key_norm: bool
    """RMSNorm over each head of queries and keys (arXiv:2010.04245)."""


@dataclass(frozen=True)
class Slice:
    """Rows of one of our parameters (along dimension 0) that are a tensor of their own in stock."""

    name: str
    rows: int


@dataclass(frozen=True)
class Weight:
    """One of our parameters, and the stock tensors it is made of."""

    name: str
    """Our parameter's name in `Decoder.state_dict()`."""
    stock: tuple[Slice, ...]
    """Stock tensors, stacked along dimension 0 in this order."""
    transposed: bool = False
    """Stock stores [in, out] (GPT-2's Conv1D), we store [out, in]."""
    vocabulary: bool = False
    """Dimension 0 counts vocabulary rows, which export may trim."""
    matrices: tuple[int, ...] = ()
    """Rows of the separate projections inside one fused stock tensor; empty: one each in `stock`.
    Whoever treats projections one by one (Muon, low-rank adapters) reads `matrix_rows`."""

    @property
    def matrix_rows(self) -> tuple[int, ...]:
        """Rows of each separate projection, in order; they sum to dimension 0."""
        return self.matrices or tuple(part.rows for part in self.stock)


@dataclass(frozen=True)
class Family:
    """A stock architecture: how to build it, and how to speak with Hugging Face about it."""

    name: str
    """`model_type` in config.json."""
    stock_class: str | None
    """The class of `transformers` that loads what we export; None: there is none."""
    base_prefix: str
    """Prefix of all names but the head's; absent in directories saved without a head."""
    architecture: Architecture
    to_stock: Callable[[ModelConfig], StockConfig]
    """The family's own keys of config.json."""
    from_stock: Callable[[StockConfig], ModelConfig]
    shape: str
    """What the stock family demands of the shape, in words."""
    demands: Callable[[ModelConfig], dict[str, bool]]
    """Setting -> whether the stock family can have it."""
    weights: Callable[[ModelConfig], list[Weight]]
    """Every parameter of the decoder, in the order of the forward pass."""


def same(ours: str, stock: str, rows: int) -> Weight:
    """A parameter that is one stock tensor as it stands."""
    return Weight(ours, (Slice(stock, rows),))


def vocabulary_rows(ours: str, stock: str, config: ModelConfig) -> Weight:
    """An embedding or head: rows that only pad may be left out in stock."""
    return Weight(ours, (Slice(stock, config.vocabulary_rows),), vocabulary=True)


def linear(ours: str, stock: Sequence[tuple[str, int]], *, bias: bool) -> list[Weight]:
    """A (fused) projection from stock modules, given as (module name, output rows) in order."""
    kinds = ("weight", "bias") if bias else ("weight",)
    return [
        Weight(f"{ours}.{kind}", tuple(Slice(f"{name}.{kind}", rows) for name, rows in stock))
        for kind in kinds
    ]


def require(stock: StockConfig, key: str, where: str = "config.json") -> Any:
    """A stock setting that has no default."""
    if stock.get(key) is None:
        raise HornbookError(f"{key!r} is missing", where=where)
    return stock[key]


def refuse_unless(stock: StockConfig, key: str, default: Any, *allowed: Any) -> None:
    """Refuse a stock setting (or its default) whose value we do not compute."""
    value = stock.get(key, default)
    if value not in allowed:
        raise HornbookError(
            f"{key} is {value!r}, which is not supported",
            where="config.json",
            hint=f"Supported: {', '.join(map(repr, allowed))}",
        )


def integer_ratio(width: int, heads: int) -> int:
    """width / heads, which must be whole."""
    if width % heads:
        raise HornbookError(
            f"the width {width} is no multiple of the {heads} attention heads", where="config.json"
        )
    return width // heads
