"""Text from a model: a batch of unequal prompts, continued with a key/value cache.

In: a decoder, prompts as ids (or text), settings. Out: a `Generation` for each prompt, and text
handed to a callback as it becomes certain.

All prompts are read in one forward pass, then each pass adds one token to every row until the last
row is finished (`decode.py`); a GPU runs ahead of the text, and what it writes after a row's end is
dropped. What a row gets depends on its prompt, the settings and its place in the list, not on the
other rows (up to float rounding in the matrix products).

    generate(model, prompts, config, tokenizer=tokenizer)     # once
    generator = Generator(model, tokenizer)                   # again and again, faster on a GPU
    generator(prompts, config)
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from hornbook.errors import HornbookError
from hornbook.model.cache import KeyValueCache
from hornbook.model.config import GenerateConfig
from hornbook.model.decode import DecodeStep, decoded, narrowed
from hornbook.model.decoder import Decoder
from hornbook.model.sampling import check_settings
from hornbook.model.stop import StopFilter
from hornbook.tokenizer.tokenizer import StreamDecoder, Tokenizer

StopReason = Literal["end_of_text", "stop", "length", "context"]

OnText = Callable[[int, str], None]
"""Called with the prompt's number and the next piece of its text: whole characters, never part of
a stop string. The pieces together are `Generation.text`."""

SLOTS_MULTIPLE = 256
"""On a GPU a cache has a multiple of this many slots, or as many as the context, so that calls of
similar length use the same; a step reads only those that are in use."""


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


class Generator:
    """Continues prompts with a model, again and again, and keeps what costs time to make.

    On a GPU that is the copy of the weights in another precision, the cache and the captured step
    of the last call, for calls with as many prompts, similar lengths and the same sampling. The
    model may be trained between the calls. Dropout is off meanwhile.
    """

    def __init__(self, model: Decoder, tokenizer: Tokenizer):
        self._model, self._tokenizer = model, tokenizer
        self._narrow: Decoder | None = None
        self._step: DecodeStep | None = None
        self._step_key: tuple[object, ...] = ()

    @torch.inference_mode()
    def __call__(
        self,
        prompts: Sequence[Sequence[int]],
        config: GenerateConfig,
        on_text: OnText | None = None,
    ) -> list[Generation]:
        """Continue each prompt, on the device where the model is.

        Raises:
            HornbookError: a prompt is longer than the context or has unknown ids, a setting has no
                meaning, or the model computes NaN.
        """
        check_settings(config)
        model, tokenizer = self._model, self._tokenizer
        rows = [
            _Row(number, list(prompt) or [tokenizer.end_of_text], model, config, tokenizer, on_text)
            for number, prompt in enumerate(prompts)
        ]
        weight = model.embedding.weight
        training = model.training
        model.eval()
        on_device = torch.cuda.device(weight.device) if weight.is_cuda else contextlib.nullcontext()
        try:
            # The dtype is that of the weights, also for samples within training's autocast.
            with on_device, torch.autocast(weight.device.type, enabled=False):
                served = narrowed(model, _dtype(weight, config.precision), self._narrow)
                self._narrow = None if served is model else served
                self._continue(served, rows, config)
        finally:
            model.train(training)
        return [row.result() for row in rows]

    def _continue(self, model: Decoder, rows: list[_Row], config: GenerateConfig) -> None:
        """Add tokens to all rows until each is finished."""
        steps = max((row.room for row in rows if row.stop is None), default=0)
        if steps == 0:
            return
        slots = max(len(row.prompt) + row.room for row in rows)
        step = self._step_for(model, len(rows), slots, config)
        step.prefill([row.prompt for row in rows])
        for ids in decoded(step, steps):
            for row, id in zip(rows, ids, strict=True):
                if row.stop is None:
                    row.take(id)
            if all(row.stop is not None for row in rows):
                return
        raise AssertionError("every row ends when its room is used up")

    def _step_for(
        self, model: Decoder, rows: int, slots: int, config: GenerateConfig
    ) -> DecodeStep:
        """The step of the last call where it fits, or a new one."""
        weight = model.embedding.weight
        if weight.is_cuda:
            slots = min(-(-slots // SLOTS_MULTIPLE) * SLOTS_MULTIPLE, model.config.context)
        tensors = (*model.parameters(), *model.buffers())
        key = (
            rows, slots, replace(config, max_tokens=0, stop=[]),
            weight.device, weight.dtype, *(tensor.data_ptr() for tensor in tensors),
        )  # fmt: skip
        if self._step is None or self._step_key != key:
            self._step = None  # so that its memory is free before it is needed again
            cache = KeyValueCache(model.config, rows, slots, weight.device, weight.dtype)
            vocabulary = min(self._tokenizer.size, model.config.vocabulary)
            self._step = DecodeStep(model, cache, config, vocabulary=vocabulary)
            self._step_key = key
        return self._step


def generate(
    model: Decoder,
    prompts: Sequence[Sequence[int]],
    config: GenerateConfig,
    *,
    tokenizer: Tokenizer,
    on_text: OnText | None = None,
) -> list[Generation]:
    """One call of a `Generator`, of which nothing is kept."""
    return Generator(model, tokenizer)(prompts, config, on_text)


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
        self._at_once = on_text is not None or bool(config.stop)
        """Each token's text is wanted when it comes. Else all is decoded at the end: for 64 rows it
        took the host 0.13 ms a step, the other way 0.56, as long as a step may take a GPU."""
        self._told = 0
        """Ids whose text is in `_pieces`."""
        self._pieces: list[str] = []
        if self.room == 0:
            self._finish(self._at_room)

    def take(self, id: int) -> None:
        """Add the next token; -1 says that there was none to choose."""
        if id < 0:
            raise HornbookError(
                "the model computes NaN, so there is nothing to sample from",
                hint="Its weights may be damaged, or training diverged: see the loss in the report",
            )  # fmt: skip
        if id == self._end_of_text:
            self._finish("end_of_text")
            return
        self.ids.append(id)
        self.room -= 1
        if self._at_once:
            self._tell()
        if self._filter.stopped:
            self.stop = "stop"
        elif self.room == 0:
            self._finish(self._at_room)

    def result(self) -> Generation:
        assert self.stop is not None
        return Generation(self.prompt, self.ids, "".join(self._pieces), self.stop)

    def _tell(self) -> None:
        self._give(self._filter.feed(self._decoder.feed(self.ids[self._told :])))
        self._told = len(self.ids)

    def _finish(self, reason: StopReason) -> None:
        self._tell()
        self._give(self._filter.feed(self._decoder.finish()) + self._filter.finish())
        self.stop = "stop" if self._filter.stopped else reason

    def _give(self, text: str) -> None:
        if text:
            self._pieces.append(text)
            if self._on_text is not None:
                self._on_text(self._number, text)


def _dtype(weight: Tensor, precision: str) -> torch.dtype:
    """What `GenerateConfig.precision` means for a model with this weight."""
    has_bf16 = weight.is_cuda and torch.cuda.is_bf16_supported(including_emulation=False)
    if precision == "auto":
        return torch.bfloat16 if has_bf16 else weight.dtype
    if precision == "bf16" and weight.is_cuda and not has_bf16:
        raise HornbookError(
            "this GPU has no bf16", where="generate.precision", hint="Set it to auto"
        )
    return torch.bfloat16 if precision == "bf16" else torch.float32
