"""Loss on the fixed validation set, for the training loop.

In: the validation split of a token folder. Out: a function of the model that gives nats a token and
bits per byte, on the same rows each time.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from hornbook.errors import HornbookError
from hornbook.model.decoder import Decoder
from hornbook.progress import warn
from hornbook.tokens.batch import IGNORE, Batch
from hornbook.tokens.validation import validation_rows
from hornbook.train.parallel import ALONE, World
from hornbook.train.step import free_memory, is_out_of_memory

TOKENS_A_PASS = 8192
"""Tokens in one forward pass: fills a processor, and keeps the activations small."""

LOGITS_AT_ONCE = {"cpu": 2**26, "mps": 2**26, "cuda": 2**24}
"""Logits in memory at once, in float32 and held about three times, beside what training holds:
256 MiB, and 64 MiB on a GPU, so that they are less than those of a training step."""


class ValidationLoss:
    """Measures a model on the fixed validation set.

    Args:
        folder: token folder with a validation split.
        sequence_length: tokens in a row.
        max_tokens: size of the set; 0: the whole split.
        verify: check the shards' sha256.
        world: the processes that measure together, each on its slice of the rows.

    Attributes:
        tokens: size of the set, as it is.
    """

    def __init__(
        self,
        folder: Path,
        sequence_length: int,
        max_tokens: int,
        *,
        verify: bool,
        world: World = ALONE,
    ):
        self._world = world
        self._rows = validation_rows(folder, sequence_length, max_tokens=max_tokens, verify=verify)
        self.tokens = self._rows.targets
        self._count = max(1, TOKENS_A_PASS // sequence_length)

    @torch.no_grad()
    def __call__(self, model: Decoder, micro_batch: int | None = None) -> dict[str, float]:
        """`validation_loss`: mean nats over all targets, as the training loss counts them;
        `validation_bits_per_byte`: nats of the text's tokens, ends of text left out, / ln 2 / its
        UTF-8 bytes. The model computes in float32 unless the caller set autocast; softmax and sums
        are in float32 and float64 in any case. Dropout off; the model's mode is put back.

        Where memory runs out, smaller passes are done; not even a row at a time: `HornbookError`.

        Args:
            model: on its device.
            micro_batch: on a GPU no pass is over more rows, as those of training are not.
        """
        training = model.training
        model.eval()
        device = model.embedding.weight.device
        if micro_batch and device.type == "cuda":
            self._count = min(self._count, micro_batch)
        nats = text_nats = torch.zeros((), dtype=torch.float64)
        # All processes do the same passes, as FSDP needs it; a row beyond the slice is masked.
        first, end = self._world.rows(self._rows.rows_per_epoch)
        start, stop = first, first - (-self._rows.rows_per_epoch // self._world.size)
        while start < stop:
            batch = self._rows.rows(start, min(self._count, stop - start))
            batch.targets[max(0, end - start) :] = IGNORE
            losses = self._losses(model, batch, device)
            (too_large,) = self._world.any(losses is None)
            if too_large or losses is None:
                self._count = halved(
                    self._count, device, "pretrain.evaluate_every",
                    "Set pretrain.micro_batch lower, or optimizer.kind to adamw8bit",
                )  # fmt: skip
                continue
            is_text = batch.targets.flatten() != self._rows.end_of_text
            nats = nats + losses.double().sum()
            text_nats = text_nats + (losses * is_text).double().sum()
            start += self._count
        model.train(training)
        total, text_total = self._world.sum(nats.item(), text_nats.item())
        return {
            "validation_loss": total / self._rows.targets,
            "validation_bits_per_byte": text_total / math.log(2) / max(1, self._rows.bytes),
        }

    def _losses(self, model: Decoder, batch: Batch, device: torch.device) -> Tensor | None:
        """The loss of each target, float32 [rows * T] on the CPU; None when memory ran out."""
        at_once = max(1, LOGITS_AT_ONCE[device.type] // model.config.vocabulary_rows)
        try:
            batch = batch.to(device)
            hidden = model.hidden(batch.inputs, batch.positions, batch.documents).flatten(0, 1)
            targets = batch.targets.flatten()
            parts = [
                functional.cross_entropy(
                    model.head(hidden[first : first + at_once]),
                    targets[first : first + at_once],
                    ignore_index=IGNORE,
                    reduction="none",
                )
                for first in range(0, len(targets), at_once)
            ]
            return torch.cat(parts).cpu()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return None


def halved(rows: int, device: torch.device, where: str, hint: str) -> int:
    """Half as many rows, after a pass over `rows` ran out of memory; what it left is given back.

    Raises `HornbookError`, with `where` and `hint`, when it was one row.
    """
    if rows == 1:
        raise HornbookError("evaluating one row does not fit in memory", where=where, hint=hint)
    free_memory(device)
    warn(f"out of memory while evaluating: going on with {rows // 2} rows at a time")
    return rows // 2
