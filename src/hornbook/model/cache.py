"""Keys and values of tokens already seen, so that generation computes each token once.

In: a model's sizes, and how many rows (sequences) of how many slots. Out: a cache that
`Decoder.hidden(ids, positions, cache=cache)` reads and fills. Shapes never change, so that a
compiled model or a CUDA graph can use it; rows come and go by `reset`.

A token at position p of its sequence lives in slot p of its row, and a query at position p sees the
slots 0..p. Prompts of unequal length are therefore padded on the right: what padding leaves in the
slots behind a prompt is never seen, since each slot is overwritten by the token that belongs there
before a query reaches it.

    cache = KeyValueCache(model.config, rows=2, length=64, device=device, dtype=dtype)
    hidden = model.hidden(prompts, cache.positions(prompts.shape[1]), cache=cache)
    cache.advance(prompt_lengths)                     # how many tokens of each row were real
    hidden = model.hidden(next_ids, cache.positions(1), cache=cache)
    cache.advance(1)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hornbook.model.config import ModelConfig
from hornbook.model.rotary import Rotation


@dataclass(frozen=True)
class LayerCache:
    """One layer's part of the cache, and the positions that are now being written."""

    keys: Tensor
    """[rows, slots, kv_heads, head_dim]"""
    values: Tensor
    """Like keys."""
    positions: Tensor
    """int64 [rows, T]"""
    kernels: bool = False
    """One token a row may go through the Triton kernel."""
    plain_keys: Tensor | None = None
    """With `key_shift`: keys of the heads that are shifted, before that; see `lookback`."""

    def attends(self, tokens: int) -> bool:
        """Whether `attend` stands for rotation, `update` and attention, with `tokens` a row."""
        return self.kernels and tokens == 1

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, rotation: Rotation | None
    ) -> Tensor:
        """Rotate, write and attend in one launch, reading only the slots that are in use.

        Query [rows, 1, heads, head_dim], key and value [rows, 1, kv_heads, head_dim]; returns the
        query's shape.
        """
        from hornbook.model.decode_kernels import attend

        return attend(query, key, value, self.keys, self.values, self.positions, rotation)

    def update(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Write key and value [rows, T, kv_heads, head_dim]; return those of all slots."""
        rows = torch.arange(self.positions.shape[0], device=self.positions.device)[:, None]
        self.keys[rows, self.positions] = key.to(self.keys.dtype)
        self.values[rows, self.positions] = value.to(self.values.dtype)
        return self.keys, self.values


class KeyValueCache:
    """Keys and values of `rows` sequences of at most `length` tokens, all on one device.

    Memory: 2 * layers * rows * length * kv_heads * head_dim numbers.
    """

    def __init__(
        self,
        config: ModelConfig,
        rows: int,
        length: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ):
        shape = (config.layers, rows, length, config.kv_heads, config.head_dim)
        # Zeros, not empty: slots that are masked still meet a product, where NaN would spread.
        self._keys = torch.zeros(shape, device=device, dtype=dtype)
        self._values = torch.zeros(shape, device=device, dtype=dtype)
        self._plain_keys: Tensor | None = None
        if config.key_shift:
            shifted = (*shape[:3], config.kv_heads // 2, config.head_dim)
            self._plain_keys = torch.zeros(shifted, device=device, dtype=dtype)
        self.embeddings: Tensor | None = None
        """With `smear`: embeddings of the tokens, [rows, slots, width]; see `lookback`."""
        if config.smear:
            self.embeddings = torch.zeros(rows, length, config.width, device=device, dtype=dtype)
        self.lengths = torch.zeros(rows, device=device, dtype=torch.int64)
        """Tokens held in each row, int64 [rows]."""
        self.kernels = False
        """Let one token a row go through the Triton kernel; whoever sets it knows that it runs."""

    @property
    def length(self) -> int:
        """Slots in a row."""
        return self._keys.shape[2]

    def positions(self, tokens: int) -> Tensor:
        """The next positions of every row, int64 [rows, tokens].

        A row that is full stays on its last slot, so that a finished one may go on in the batch,
        unseen. Who feeds a row that is not finished minds its length.
        """
        assert tokens <= self.length, (tokens, self.length)
        steps = torch.arange(tokens, device=self.lengths.device)
        return (self.lengths[:, None] + steps).clamp(max=self.length - 1)

    def advance(self, tokens: Tensor | int) -> None:
        """Count `tokens` (one number, or one a row) as held."""
        self.lengths += tokens

    def reset(self, row: int) -> None:
        """Make a row empty, for another sequence."""
        self.lengths[row] = 0

    def clear(self) -> None:
        """Make all rows empty and all slots zero, as they were at first."""
        held = (self._keys, self._values, self._plain_keys, self.embeddings, self.lengths)
        for tensor in held:
            if tensor is not None:
                tensor.zero_()

    def select(self, start: int, stop: int) -> KeyValueCache:
        """Rows [start, stop) as a cache of their own that shares this one's memory.

        For the prompt of a sequence that joins others under way: its tokens are computed for its
        row alone.
        """
        part = object.__new__(KeyValueCache)
        part._keys, part._values = self._keys[:, start:stop], self._values[:, start:stop]
        plain, embeddings = self._plain_keys, self.embeddings
        part._plain_keys = None if plain is None else plain[:, start:stop]
        part.embeddings = None if embeddings is None else embeddings[start:stop]
        part.lengths = self.lengths[start:stop]
        part.kernels = self.kernels
        return part

    def layer(self, index: int, positions: Tensor) -> LayerCache:
        """What layer `index` needs to attend to the past and to add `positions` [rows, T]."""
        plain = None if self._plain_keys is None else self._plain_keys[index]
        return LayerCache(self._keys[index], self._values[index], positions, self.kernels, plain)

    def mask(self, positions: Tensor) -> Tensor | None:
        """Which slots each query sees: bool [rows, 1, T, slots], slot <= position.

        None where the kernel needs no mask.
        """
        if self.kernels and positions.shape[1] == 1:
            return None
        slots = torch.arange(self.length, device=positions.device)
        return (slots <= positions[:, :, None]).unsqueeze(1)
