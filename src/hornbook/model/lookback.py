"""What the `speedrun` family adds to Qwen3: two looks at the token before, and value embeddings.

In: hidden states, keys, token ids. Out: the same, with something added. Each trick is a field of
`ModelConfig` of its own, off in the stock families, so that its gain can be measured.

The token before is a token of the same row. While decoding it has been computed by an earlier call;
a `KeyValueCache` keeps it, by position like keys and values, so that padding and unequal prompts
make no difference.

All three come from the NanoGPT speedrun (github.com/KellerJordan/modded-nanogpt).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hornbook.errors import HornbookError
from hornbook.model.config import GATE_WIDTH, ModelConfig
from hornbook.model.layers import Embedding, Linear


def previous(x: Tensor, memory: Tensor | None = None, positions: Tensor | None = None) -> Tensor:
    """Of each token what `x` has for the token before it; the first of a row is its own.

    Args:
        x: [rows, T, ...].
        memory: [rows, slots, ...] of a cache, by position; x is written into it.
        positions: int64 [rows, T], with `memory`.
    """
    if memory is None or positions is None:
        return torch.cat([x[:, :1], x[:, :-1]], dim=1)
    rows = torch.arange(len(positions), device=positions.device)[:, None]
    memory[rows, positions] = x.to(memory.dtype)
    return memory[rows, (positions - 1).clamp(min=0)].to(x.dtype)


def shift_keys(
    key: Tensor, memory: Tensor | None = None, positions: Tensor | None = None
) -> Tensor:
    """Give the first half of the heads the key of the token before, not rotated yet.

    Such a head finds a token by what came before it: an induction head (arXiv:2209.11895) in one
    layer instead of two. `memory` [rows, slots, kv_heads // 2, head_dim].

    Args:
        key: [rows, T, kv_heads, head_dim].
        memory: see `previous`.
        positions: see `previous`.
    """
    half = key.shape[2] // 2
    before = previous(key[:, :, :half], memory, positions)
    return torch.cat([before, key[:, :, half:]], dim=2)


class Smear(nn.Module):
    """Add to each embedding a share of the one before: strength * sigmoid(gate(x)) * before.

    The strength is learned, and 0 at first.
    """

    def __init__(self) -> None:
        super().__init__()
        self.gate = Linear(GATE_WIDTH, 1, bias=False)
        self.strength = nn.Parameter(torch.empty(1))

    def forward(
        self, x: Tensor, memory: Tensor | None = None, positions: Tensor | None = None
    ) -> Tensor:
        """[rows, T, width] -> the same; `memory` and `positions` as for `previous`."""
        share = self.strength * torch.sigmoid(self.gate(x[..., :GATE_WIDTH]))
        return x + share * previous(x, memory, positions)


class ValueEmbeddings(nn.Module):
    """Further embeddings of the tokens, added to the values of the first and the last layers.

    Table i of n serves layer i and layer `layers` - n + i, each with a learned share (value
    residuals, arXiv:2410.17897, from embeddings). Tables cost memory but next to no arithmetic.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        count = config.value_embeddings
        self.head_shape = (config.kv_heads, config.head_dim)
        self.layers = [*range(count), *range(config.layers - count, config.layers)]
        width = config.kv_heads * config.head_dim
        self.tables = nn.ModuleList(Embedding(config.vocabulary_rows, width) for _ in range(count))
        self.gates = nn.Parameter(torch.empty(2 * count))

    def forward(self, ids: Tensor) -> dict[int, Tensor]:
        """int64 [rows, T] -> layer: what to add to its values, [rows, T, kv_heads, head_dim].

        Raises:
            HornbookError: embeddings came in place of ids.
        """
        if ids.is_floating_point():
            raise HornbookError(
                "this model adds embeddings of tokens to its values, and was given no tokens",
                where="model.value_embeddings",
                hint="Use a model of a stock family",
            )
        found = [table(ids).unflatten(-1, self.head_shape) for table in self.tables]
        shares = torch.sigmoid(self.gates)
        return {
            layer: shares[place] * found[place % len(found)]
            for place, layer in enumerate(self.layers)
        }
