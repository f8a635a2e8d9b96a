"""Text from a model: a batch of unequal prompts, continued with a key/value cache.

In: a decoder, prompts as ids (or text), settings. Out: a `Generation` for each prompt, and text
handed to a callback as it becomes certain.

All prompts are read in one forward pass, then each pass adds one token to every row until the last
row is finished. What a row gets depends on its prompt, the settings and its place in the list, not
on the other rows (up to float rounding in the matrix products).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from hornbook.errors import HornbookError
from hornbook.model.cache import KeyValueCache
from hornbook.model.config import GenerateConfig
from hornbook.model.decoder import Decoder
from hornbook.model.sampling import check_settings, next_tokens, random_numbers
from hornbook.model.stop import StopFilter
from hornbook.tokenizer.tokenizer import StreamDecoder, Tokenizer

StopReason = Literal["end_of_text", "stop", "length", "context"]

OnText = Callable[[int, str], None]
"""Called with the prompt's number and the next piece of its text: whole characters, never part of
a stop string. The pieces together are `Generation.text`."""


@dataclass(frozen=True)
class Generation:
    """A prompt and its continuation."""

    prompt: list[int]
    """Ids the model went on from; an empty prompt starts from end-of-text."""
    ids: list[int]
    """Ids of the continuation: the tokens of a stop string included, end-of-text not."""
    text: str
    """The continuation without special tokens, up to the stop string."""
    stop: StopReason
    """Why it ended: the model wrote end-of-text, a stop string came, `max_tokens` were written,
    or prompt and continuation fill the model's context."""


@torch.inference_mode()
def generate(
    model: Decoder,
    prompts: Sequence[Sequence[int]],
    config: GenerateConfig,
    *,
    tokenizer: Tokenizer,
    on_text: OnText | None = None,
) -> list[Generation]:
    """Continue each prompt, on the device where the model is; dropout is off meanwhile.

    Raises:
        HornbookError: a prompt is longer than the context or has unknown ids, a setting has no
            meaning, or the model computes NaN.
    """
    check_settings(config)
    rows = [
        _Row(number, list(prompt) or [tokenizer.end_of_text], model, config, tokenizer, on_text)
        for number, prompt in enumerate(prompts)
    ]
    training = model.training
    model.eval()
    try:
        _continue(model, rows, config, min(tokenizer.size, model.config.vocabulary))
    finally:
        model.train(training)
    return [row.result() for row in rows]


def generate_text(
    model: Decoder,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    config: GenerateConfig,
    on_text: OnText | None = None,
) -> list[Generation]:
    """`generate` for prompts that are text."""
    encoded = [tokenizer.encode(prompt) for prompt in prompts]
    return generate(model, encoded, config, tokenizer=tokenizer, on_text=on_text)


class _Row:
    """One prompt and what has been written after it."""

    def __init__(
        self,
        number: int,
        prompt: list[int],
        model: Decoder,
        config: GenerateConfig,
        tokenizer: Tokenizer,
        on_text: OnText | None,
    ):
        context = model.config.context
        if len(prompt) > context:
            raise HornbookError(
                f"has {len(prompt):,} tokens, the model's context holds {context:,}",
                where=f"prompt {number + 1}", hint="Shorten the prompt",
            )  # fmt: skip
        if not all(0 <= id < model.config.vocabulary for id in prompt):
            raise HornbookError(
                f"has ids outside the model's vocabulary of {model.config.vocabulary:,}",
                where=f"prompt {number + 1}", hint="Was it encoded by the model's own tokenizer?",
            )  # fmt: skip
        self.prompt, self.ids = prompt, list[int]()
        self.room = min(config.max_tokens, context - len(prompt))
        """Tokens that can still be written."""
        self.stop: StopReason | None = None
        self._at_room: StopReason = "length" if self.room == config.max_tokens else "context"
        self._number, self._end_of_text = number, tokenizer.end_of_text
        self._decoder, self._filter = StreamDecoder(tokenizer), StopFilter(config.stop)
        self._on_text = on_text
        self._pieces: list[str] = []
        if self.room == 0:
            self._finish(self._at_room)

    def take(self, id: int) -> None:
        """Add the next token."""
        if id == self._end_of_text:
            self._finish("end_of_text")
            return
        self.ids.append(id)
        self.room -= 1
        self._give(self._filter.feed(self._decoder.feed([id])))
        if self._filter.stopped:
            self.stop = "stop"
        elif self.room == 0:
            self._finish(self._at_room)

    def result(self) -> Generation:
        assert self.stop is not None
        return Generation(self.prompt, self.ids, "".join(self._pieces), self.stop)

    def _finish(self, reason: StopReason) -> None:
        self._give(self._filter.feed(self._decoder.finish()) + self._filter.finish())
        self.stop = "stop" if self._filter.stopped else reason

    def _give(self, text: str) -> None:
        if text:
            self._pieces.append(text)
            if self._on_text is not None:
                self._on_text(self._number, text)


def _continue(model: Decoder, rows: list[_Row], config: GenerateConfig, vocabulary: int) -> None:
    """Add tokens (ids below `vocabulary`) to all rows until each is finished."""
    steps = max((row.room for row in rows if row.stop is None), default=0)
    if steps == 0:
        return
    weight = model.embedding.weight
    device = weight.device
    lengths = torch.tensor([len(row.prompt) for row in rows], device=device)
    slots = max(len(row.prompt) + row.room for row in rows)
    cache = KeyValueCache(model.config, len(rows), slots, device, weight.dtype)
    numbers = torch.from_numpy(
        np.stack([random_numbers(config.seed, row, steps) for row in range(len(rows))])
    ).to(device)
    seen = _seen(rows, vocabulary, device) if config.repetition_penalty != 1 else None
    prompts = _padded([row.prompt for row in rows]).to(device)
    hidden = model.hidden(prompts, cache.positions(prompts.shape[1]), cache=cache)
    cache.advance(lengths)
    last = hidden[torch.arange(len(rows), device=device), lengths - 1]
    for step in range(steps):
        # Columns without a token only pad, in whatever way the vocabulary came to have them.
        logits = model.head(last)[:, :vocabulary]
        if bool(logits.isnan().any()):
            raise HornbookError(
                "the model computes NaN, so there is nothing to sample from",
                hint="Its weights may be damaged, or training diverged: see the loss in the report",
            )  # fmt: skip
        ids = next_tokens(logits, config, seen=seen, numbers=numbers[:, step])
        for row, id in zip(rows, ids.tolist(), strict=True):
            if row.stop is None:
                row.take(id)
        if all(row.stop is not None for row in rows):
            return
        if seen is not None:
            seen.scatter_(1, ids[:, None], True)
        last = model.hidden(ids[:, None], cache.positions(1), cache=cache)[:, 0]
        cache.advance(1)
    raise AssertionError("every row ends when its room is used up")


def _padded(prompts: list[list[int]]) -> Tensor:
    """int64 [rows, longest], filled up on the right, where the cache never looks."""
    padded = torch.zeros(len(prompts), max(map(len, prompts)), dtype=torch.int64)
    for row, prompt in enumerate(prompts):
        padded[row, : len(prompt)] = torch.tensor(prompt)
    return padded


def _seen(rows: list[_Row], vocabulary: int, device: torch.device) -> Tensor:
    """Which ids occur in each prompt: bool [rows, vocabulary]."""
    seen = torch.zeros(len(rows), vocabulary, dtype=torch.bool)
    for number, row in enumerate(rows):
        seen[number, [id for id in row.prompt if id < vocabulary]] = True
    return seen.to(device)
