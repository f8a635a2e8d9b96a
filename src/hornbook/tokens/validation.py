"""The fixed validation set: the same rows at every evaluation of a run.

In: a token folder with a validation split. Out: `ValidationRows`, and the bytes of text its targets
stand for, so that losses become bits per byte.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from hornbook.errors import HornbookError
from hornbook.tokenizer.tokenizer import Tokenizer
from hornbook.tokens.batch import IGNORE, Batch
from hornbook.tokens.loader import TokenFolder, as_batch, open_folder
from hornbook.tokens.rows import RowArrays


class ValidationRows:
    """Rows of T tokens of the validation split, in order; a `BatchSource` of one epoch.

    The split is cut into consecutive rows, the first token predicted from an end of text, the last
    row padded. Where that is more than `max_tokens`, rows spread evenly over the split are taken.

    Bits per byte are the nats of all text targets / ln 2 / `bytes`. Text targets are those that
    are neither `IGNORE` nor `end_of_text`: the end of text is no part of the text, and
    `hornbook evaluate` leaves it out too. (The mean loss over all `targets`, ends of text
    included, is what compares with the training loss.)

    Attributes:
        sequence_length: tokens in a row (T).
        rows_per_epoch: rows of the set.
        targets: tokens predicted in the set, the ends of text included.
        text_targets: those without the ends of text.
        bytes: UTF-8 bytes that the text targets stand for.
        end_of_text: the id that ends each document.
    """

    def __init__(
        self, folder: TokenFolder, tokenizer: Tokenizer, sequence_length: int, max_tokens: int
    ):
        self._stream = folder.stream
        self.sequence_length = sequence_length
        self.end_of_text = folder.manifest.end_of_text
        whole = -(-len(self._stream) // sequence_length)
        wanted = max(1, max_tokens // sequence_length) if max_tokens else whole
        self.rows_per_epoch = min(whole, wanted)
        self._numbers = np.arange(self.rows_per_epoch) * whole // self.rows_per_epoch
        byte_counts = np.array(
            [len(tokenizer.token_bytes(id)) for id in range(tokenizer.size)], np.int64
        )
        byte_counts[list(tokenizer.special_ids.values())] = 0
        self.targets = self.text_targets = self.bytes = 0
        for row in range(self.rows_per_epoch):
            targets = self.rows(row, 1).targets.numpy()
            targets = targets[targets != IGNORE]
            self.targets += targets.size
            self.text_targets += int((targets != self.end_of_text).sum())
            self.bytes += int(byte_counts[targets].sum())

    def rows(self, start: int, count: int) -> Batch:
        """Rows [start, start + count) of the set; those past its end are left out."""
        numbers = self._numbers[start : start + count].tolist()
        arrays = RowArrays.padding(len(numbers), self.sequence_length, self.end_of_text, mask=False)
        for slot, number in enumerate(numbers):
            begin = number * self.sequence_length
            length = min(self.sequence_length, len(self._stream) - begin)
            arrays.put(slot, 0, self._stream, begin, length)
        return as_batch(arrays)

    def describe(self) -> dict[str, Any]:
        """Sizes, as JSON."""
        return {
            "split": "validation",
            "sequence_length": self.sequence_length,
            "rows_per_epoch": self.rows_per_epoch,
            "targets": self.targets,
            "text_targets": self.text_targets,
            "bytes": self.bytes,
            "bytes_per_token": self.bytes / max(1, self.text_targets),
        }


def validation_rows(
    folder: Path, sequence_length: int, *, max_tokens: int = 0, verify: bool = True
) -> ValidationRows:
    """Open the fixed validation set of a token folder.

    Args:
        folder: a folder with manifest.json and tokenizer/.
        sequence_length: tokens in a row (T); a validation split shorter than that is padded.
        max_tokens: at most this many tokens, but at least one row; 0: the whole split.
        verify: check the shards' sha256.

    Raises:
        HornbookError: no validation tokens, or a shard is missing, truncated or altered.
    """
    opened = open_folder(folder, "validation", verify=verify)
    tokenizer = Tokenizer.load(folder / "tokenizer")
    if tokenizer.sha256 != opened.manifest.tokenizer_sha256:
        raise HornbookError(
            "is not the tokenizer that made the tokens beside it",
            where=tokenizer.path,
            hint="Run `hornbook tokenize --again`",
        )
    return ValidationRows(opened, tokenizer, sequence_length, max_tokens)
