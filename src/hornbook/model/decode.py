"""Decoding: one token for every row a step, and the host kept out of the way.

In: a decoder, a cache, settings, prompts. Out: the ids of each step, in order.

A step is a pure function of tensors that never move (the tokens chosen last, the cache, random
numbers, ids seen), and never asks the host. So on CUDA it is captured as a graph, after its first
run, and replayed: one launch a token in place of some 200. The ids come to the host `STEPS_AHEAD`
steps later, while the GPU computes on; what it computed for a row that had ended is dropped.

    step = DecodeStep(model, cache, config, vocabulary=size)
    step.prefill(prompts)
    for ids in decoded(step, 200):
        ...
    step.prefill(other_prompts)          # as many rows; the graph stays
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from hornbook.model.cache import KeyValueCache
from hornbook.model.config import GenerateConfig
from hornbook.model.decoder import Decoder
from hornbook.model.kernels import kernels_work
from hornbook.model.sampling import next_tokens, next_tokens_by_kernel, random_numbers

STEPS_AHEAD = 4
"""Steps that a GPU is ahead of the host. One would do if the host never stumbled; each more wastes
a step (about half a millisecond) when the last row ends."""

EAGER_STEPS = 1
"""Steps before the capture, which needs kernels compiled and libraries set up."""


class DecodeStep:
    """The next token of every row; calling it computes and chooses one more.

    Args:
        model: in evaluation mode.
        cache: empty; as many rows as there are prompts, with slots for prompt and continuation.
            It is told to use the Triton kernels where they run.
        config: how tokens are chosen.
        vocabulary: ids from here on are never chosen, though the head may have columns for them.

    Attributes:
        tokens: int64 [rows], chosen last. -1: the model computed NaN.
        drawn: int64 [rows], how many random numbers each row has used.
    """

    def __init__(
        self,
        model: Decoder,
        cache: KeyValueCache,
        config: GenerateConfig,
        *,
        vocabulary: int,
    ):
        self._model, self._cache, self._config = model, cache, config
        self._vocabulary = vocabulary
        rows, device = len(cache.lengths), cache.lengths.device
        self.tokens = torch.zeros(rows, dtype=torch.int64, device=device)
        self.drawn = torch.zeros_like(self.tokens)
        # No row gets more tokens than it has slots.
        numbers = np.stack([random_numbers(config.seed, row, cache.length) for row in range(rows)])
        self._numbers = torch.from_numpy(numbers).to(device)
        self._seen: Tensor | None = None
        if config.repetition_penalty != 1:
            self._seen = torch.zeros(rows, vocabulary, dtype=torch.bool, device=device)
        cache.kernels = kernels_work(device)
        self._eager = EAGER_STEPS
        self._graph: torch.cuda.CUDAGraph | None = None

    def prefill(self, prompts: Sequence[Sequence[int]]) -> None:
        """Begin: read a prompt for each row in one pass, and choose the first tokens."""
        self._cache.clear()
        self.drawn.zero_()
        if self._seen is not None:
            self._seen.zero_()
        device = self.tokens.device
        lengths = torch.tensor([len(prompt) for prompt in prompts])
        padded = nn.utils.rnn.pad_sequence(
            [torch.tensor(prompt) for prompt in prompts], batch_first=True
        ).to(device)
        if self._seen is not None:
            for row, prompt in enumerate(prompts):
                self._seen[row, [id for id in prompt if id < self._vocabulary]] = True
        positions = self._cache.positions(padded.shape[1])
        hidden = self._model.hidden(padded, positions, cache=self._cache)
        lengths = lengths.to(device)
        self._cache.advance(lengths)
        last = hidden[torch.arange(len(prompts), device=device), lengths - 1]
        self._choose(_logits(self._model, last)[:, : self._vocabulary])

    def __call__(self) -> None:
        """The step, replayed where it can be."""
        if not self.tokens.is_cuda:
            self.compute()
        elif self._eager > 0:
            self._eager -= 1
            self.compute()
        else:
            if self._graph is None:
                self._graph = self._captured()
            self._graph.replay()

    def compute(self) -> None:
        """The step, launch by launch."""
        ids = self.tokens.clamp(min=0)
        if self._cache.kernels:
            from hornbook.model.matvec import fits, step_logits

            if fits(self._model, len(ids)):
                self._choose(step_logits(self._model, ids, self._cache, self._vocabulary))
                return
        hidden = self._model.hidden(ids[:, None], self._cache.positions(1), cache=self._cache)
        self._cache.advance(1)
        self._choose(_logits(self._model, hidden[:, 0])[:, : self._vocabulary])

    def _choose(self, logits: Tensor) -> None:
        """From logits [rows, vocabulary] to `tokens`, in place."""
        numbers = self._numbers.gather(1, self.drawn[:, None]).squeeze(1)
        if self._cache.kernels:
            ids = next_tokens_by_kernel(logits, self._config, seen=self._seen, numbers=numbers)
        else:
            ids = next_tokens(logits, self._config, seen=self._seen, numbers=numbers)
            # Before anything is looked up by them: drawn from NaN they may be no ids at all.
            ids = torch.where(logits.isnan().any(-1), -1, ids)
        self.tokens.copy_(ids)
        if self._seen is not None:
            self._seen.scatter_(1, self.tokens.clamp(min=0)[:, None], True)
        self.drawn += 1

    def _captured(self) -> torch.cuda.CUDAGraph:
        """The step as a graph, which `compute` does not run yet.

        `torch.cuda.graph` would first hand all unused memory back to the driver, which training
        would have to fetch again.
        """
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.stream(_capture_stream(self.tokens.device)):
            # Only this thread is held to what a capture allows: in training, others copy
            # batches and write checkpoints meanwhile.
            graph.capture_begin(capture_error_mode="thread_local")
            try:
                self.compute()
            finally:
                graph.capture_end()
        return graph


@functools.cache
def _capture_stream(device: torch.device) -> torch.cuda.Stream:
    """One for all captures: cuBLAS keeps some 32 MB for each stream that it has seen."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def decoded(step: DecodeStep, count: int, ahead: int | None = None) -> Iterator[list[int]]:
    """The ids of `count` steps, of which `DecodeStep.prefill` has made the first.

    `ahead` steps are under way beyond the one whose ids are given out; None: as many as suit the
    device. The ids do not depend on it.
    """
    cuda = step.tokens.is_cuda
    if ahead is None:
        ahead = STEPS_AHEAD if cuda else 0
    under_way: deque[_Copy] = deque()
    try:
        for number in range(count):
            if number > 0:
                step()
            under_way.append(_Copy(step.tokens))
            if len(under_way) > ahead:
                yield under_way.popleft().wait()
        while under_way:
            yield under_way.popleft().wait()
    finally:
        if cuda:
            # Whoever has enough leaves steps under way, which need the graph and its memory.
            torch.cuda.current_stream().synchronize()


class _Copy:
    """Numbers on their way to the host."""

    def __init__(self, tokens: Tensor):
        self._host = torch.empty_like(tokens, device="cpu", pin_memory=tokens.is_cuda)
        self._host.copy_(tokens, non_blocking=True)
        self._event: torch.cuda.Event | None = None
        if tokens.is_cuda:
            self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._event.record()

    def wait(self) -> list[int]:
        if self._event is not None:
            self._event.synchronize()
        numbers: list[int] = self._host.tolist()
        return numbers


def _logits(model: Decoder, hidden: Tensor) -> Tensor:
    """`model.head`, its product not rounded to a narrow dtype on the way to float32.

    Rounded to bfloat16, the two likeliest tokens are often equal: SmolLM2-135M's likeliest token
    then differed from float32's at 2.2 % of places in Wikipedia, without at 1.0 %.
    """
    if not hidden.is_cuda or hidden.dtype == torch.float32:
        return model.head(hidden)
    head = model.lm_head
    weight = model.embedding.weight if head.weight is None else head.weight
    logits = torch.mm(hidden, weight.t(), out_dtype=torch.float32)
    return logits if head.bias is None else logits + head.bias


def narrowed(model: Decoder, dtype: torch.dtype, before: Decoder | None = None) -> Decoder:
    """The model with weights of `dtype`, whole: itself, or a copy on the same device.

    Tables of rotary positions stay float32. A model whose weights are spread over processes is
    copied in any case; all of them must call this. `before` is an earlier copy, which is brought
    up to date and returned: its weights stay where they are in memory, as graphs need it.
    """
    with torch.inference_mode(False), torch.no_grad():  # DTensors know no inference mode
        weights = model.state_dict()
        sharded = any(hasattr(tensor, "full_tensor") for tensor in weights.values())
        if model.embedding.weight.dtype == dtype and not sharded:
            return model

        def whole(name: str) -> Tensor:
            # One at a time: all of them in float32 may not fit beside what training holds.
            tensor: Tensor = weights[name].full_tensor() if sharded else weights[name]
            return tensor.to(dtype)

        device = model.embedding.weight.device
        if before is not None:
            there = before.embedding.weight
            if (there.dtype, there.device) == (dtype, device):
                for name, tensor in before.state_dict().items():
                    tensor.copy_(whole(name))
                return before
        narrow = Decoder(model.config, initialise=False)
        narrow.load_state_dict({name: whole(name) for name in weights}, assign=True)
        narrow.lm_head.to(dtype)  # the mask of its padding too
        return narrow.to(device).eval()
