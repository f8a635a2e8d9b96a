"""Held-out loss, perplexity and bits per byte of a model on documents.

In: a model, its tokenizer, texts. Out: `HeldOut`, and its line for `evals.jsonl`.

What is measured, precisely. Each document is scored alone, as end-of-text followed by the
document's tokens: the first token is predicted from end-of-text, as at the start of a document in
training. Every token of the text is scored exactly once; the end-of-text that closes a document
in training is not scored, since it is no part of the text. `loss` is the mean over these tokens;
`bits_per_byte` is their sum, in bits, over the UTF-8 bytes of the texts. Bytes do not depend on
the tokenizer, so bits per byte compare between models of any tokenizer (loss and perplexity only
between models of the same one). This is the rolling log-likelihood of lm-evaluation-harness, but
with windows that overlap.

A document longer than the context is scored in windows that move by `stride` tokens; a window
scores only what the one before did not reach, so each of its tokens sees at least
`context - stride` tokens before it (Hugging Face's "Perplexity of fixed-length models").
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from hornbook.errors import HornbookError
from hornbook.evaluate.config import EvaluateConfig
from hornbook.model.decoder import Decoder
from hornbook.progress import bar
from hornbook.tokenizer.tokenizer import Tokenizer
from hornbook.tokens.batch import IGNORE
from hornbook.train.step import is_out_of_memory
from hornbook.train.validation import halved

HEAD_LOGITS = 2**24
"""Logits computed at a time: 64 MB, so that a large vocabulary does not fill the memory."""


@dataclass(frozen=True)
class HeldOut:
    """How well a model predicts texts."""

    loss: float
    """Nats a token, over the tokens of the texts."""
    perplexity: float
    """exp(loss)."""
    bits_per_byte: float
    tokens: int
    """Tokens scored."""
    bytes: int
    """UTF-8 bytes of the text that these tokens stand for."""
    documents: int
    stride: int
    """Tokens by which the window moved."""
    context: int

    @property
    def bytes_per_token(self) -> float:
        """How much text a token holds."""
        return self.bytes / self.tokens

    def to_record(self) -> dict[str, float | int]:
        """The measured part of a line of evals.jsonl."""
        return {
            "loss": self.loss,
            "perplexity": self.perplexity,
            "bits_per_byte": self.bits_per_byte,
            "tokens": self.tokens,
            "bytes": self.bytes,
            "bytes_per_token": self.bytes_per_token,
            "documents": self.documents,
            "stride": self.stride,
            "context": self.context,
        }


@dataclass(frozen=True)
class Window:
    """A piece of a document for one row of a forward pass."""

    inputs: np.ndarray
    """int32 `[length]`."""
    targets: np.ndarray
    """int32 `[length]`: the id after each input; IGNORE where an earlier window scored it."""


def evaluate_documents(
    model: Decoder, tokenizer: Tokenizer, texts: Iterable[str], config: EvaluateConfig
) -> HeldOut:
    """Score `texts` with `model`, on the device where the model is, in the model's own dtype.

    Holds the ids of all texts in memory (about as much as the texts themselves).

    Raises:
        HornbookError: there is no text, a setting has no meaning, the loss is not a number, or not
            even one window at a time fits in memory.
    """
    context = model.config.context
    stride = config.stride or max(1, context // 2)
    if not 0 < stride <= context:
        raise HornbookError(
            f"must be between 1 and the model's context of {context} tokens, not {stride}",
            where="evaluate.stride",
        )
    encoded, text_bytes = _encode(tokenizer, texts, config.max_tokens)
    tokens = sum(len(ids) - 1 for ids in encoded)
    if tokens == 0:
        raise HornbookError("there is no text to evaluate on", hint="Name some with evaluate.text")
    windows = [window for ids in encoded for window in document_windows(ids, context, stride)]
    nats, rows = 0.0, len(windows)
    training = model.training
    model.eval()
    try:
        with bar("evaluating", tokens) as progress, torch.inference_mode():
            for batch in _batches(windows, config.batch_tokens):
                while batch:
                    part = batch[:rows]
                    measured = _score(model, part)
                    if measured is None:
                        rows = halved(
                            len(part), model.embedding.weight.device, "evaluate",
                            "Evaluate on a CPU: --evaluate.device cpu",
                        )  # fmt: skip
                        continue
                    nats += measured[0]
                    progress.advance(measured[1])
                    batch = batch[rows:]
    finally:
        model.train(training)
    if not math.isfinite(nats):
        raise HornbookError(
            f"the model's loss on these texts is {nats}",
            hint="Its weights may be damaged, or training diverged: see the loss in the report",
        )
    loss = nats / tokens
    return HeldOut(
        loss=loss,
        perplexity=math.exp(loss) if loss < 700 else math.inf,
        bits_per_byte=nats / math.log(2) / text_bytes,
        tokens=tokens,
        bytes=text_bytes,
        documents=len(encoded),
        stride=stride,
        context=context,
    )


def document_windows(ids: np.ndarray, context: int, stride: int) -> Iterator[Window]:
    """Cut a document (end-of-text, then its tokens) into windows of at most `context` inputs.

    Every id but the first is the target of exactly one window.
    """
    scored = 0
    count = len(ids) - 1
    for start in range(0, count, stride):
        end = min(start + context, count)
        targets = ids[start + 1 : end + 1].copy()
        targets[: scored - start] = IGNORE
        yield Window(ids[start:end], targets)
        scored = end
        if end == count:
            return


def _encode(
    tokenizer: Tokenizer, texts: Iterable[str], max_tokens: int
) -> tuple[list[np.ndarray], int]:
    """Ids of each document, end-of-text first, and the bytes of text they stand for."""
    encoded: list[np.ndarray] = []
    text_bytes, remaining = 0, max_tokens or math.inf
    with bar("encoding", None) as progress:
        for text in texts:
            ids = tokenizer.encode(text)
            if not ids:
                continue
            size = len(text.encode("utf-8"))
            if len(ids) > remaining:
                ids = ids[: int(remaining)]
                size = sum(len(tokenizer.token_bytes(id)) for id in ids)
            encoded.append(np.array([tokenizer.end_of_text, *ids], dtype=np.int32))
            text_bytes += size
            remaining -= len(ids)
            progress.advance(size)
            if remaining == 0:
                break
    return encoded, text_bytes


def _batches(windows: list[Window], positions: int) -> Iterator[list[Window]]:
    """Windows of similar length together, as many as fit in `positions` once padded."""
    batch: list[Window] = []
    for window in sorted(windows, key=lambda window: -len(window.inputs)):
        longest = len(batch[0].inputs) if batch else len(window.inputs)
        if batch and (len(batch) + 1) * longest > positions:
            yield batch
            batch = []
        batch.append(window)
    if batch:
        yield batch


def _score(model: Decoder, windows: list[Window]) -> tuple[float, int] | None:
    """The summed loss (nats) of a batch of windows, and how many tokens it is the loss of; None
    when memory ran out.

    Rows are padded on the right, where causal attention never looks from a scored position.
    """
    device = model.embedding.weight.device
    longest = max(len(window.inputs) for window in windows)
    inputs = np.zeros((len(windows), longest), dtype=np.int64)
    targets = np.full((len(windows), longest), IGNORE, dtype=np.int64)
    for row, window in enumerate(windows):
        inputs[row, : len(window.inputs)] = window.inputs
        targets[row, : len(window.targets)] = window.targets
    at_once = max(1, HEAD_LOGITS // model.config.vocabulary_rows)
    try:
        hidden = model.hidden(torch.from_numpy(inputs).to(device))
        expected = torch.from_numpy(targets).to(device)
        scored = expected != IGNORE
        hidden, expected = hidden[scored], expected[scored]
        sums = [
            functional.cross_entropy(
                model.head(hidden[start : start + at_once]),
                expected[start : start + at_once],
                reduction="sum",
            )
            for start in range(0, len(expected), at_once)
        ]
        return sum(torch.stack(sums).tolist()), len(expected)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return None
