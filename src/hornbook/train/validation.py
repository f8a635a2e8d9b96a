"""Loss on the fixed validation set, for the training loop.

In: the validation split of a token folder. Out: a function of the model that gives nats a token and
bits per byte, on the same rows each time.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch.nn import functional

from hornbook.model.decoder import Decoder
from hornbook.tokens.batch import IGNORE
from hornbook.tokens.validation import validation_rows

TOKENS_A_PASS = 8192
"""Tokens in one forward pass: fills a processor, and keeps the logits small."""


class ValidationLoss:
    """Measures a model on the fixed validation set.

    Args:
        folder: token folder with a validation split.
        sequence_length: tokens in a row.
        max_tokens: size of the set; 0: the whole split.
        verify: check the shards' sha256.

    Attributes:
        tokens: size of the set, as it is.
    """

    def __init__(self, folder: Path, sequence_length: int, max_tokens: int, *, verify: bool):
        self._rows = validation_rows(folder, sequence_length, max_tokens=max_tokens, verify=verify)
        self.tokens = self._rows.targets
        self._count = max(1, TOKENS_A_PASS // sequence_length)

    @torch.no_grad()
    def __call__(self, model: Decoder) -> dict[str, float]:
        """`validation_loss`: mean nats over all targets, as the training loss counts them;
        `validation_bits_per_byte`: nats of the text's tokens, ends of text left out, / ln 2 / its
        UTF-8 bytes. Float32, dropout off; the model's mode is put back.
        """
        training = model.training
        model.eval()
        device = model.embedding.weight.device
        nats = text_nats = torch.zeros((), dtype=torch.float64)
        for start in range(0, self._rows.rows_per_epoch, self._count):
            batch = self._rows.rows(start, self._count).to(device)
            logits = model(batch.inputs, batch.positions, batch.documents)
            losses = functional.cross_entropy(
                logits.flatten(0, 1), batch.targets.flatten(), ignore_index=IGNORE, reduction="none"
            )
            is_text = batch.targets.flatten() != self._rows.end_of_text
            nats = nats + losses.double().sum().cpu()
            text_nats = text_nats + (losses * is_text).double().sum().cpu()
        model.train(training)
        return {
            "validation_loss": nats.item() / self._rows.targets,
            "validation_bits_per_byte": text_nats.item() / math.log(2) / max(1, self._rows.bytes),
        }
