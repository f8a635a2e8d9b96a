"""How good another, finished model is, as a target for a run.

In: a directory with weights, or a name. Out: a `Reference`: with weights, bits a byte measured on
the very documents that the run is measured on, so that tokenizers may differ; without them a number
that somebody published, on other text than yours; for Phi-2, whose pretraining loss was never
published, what the laws give for its size and tokens, and how wide that is.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from hornbook.errors import HornbookError, nearest
from hornbook.evaluate.config import EvaluateConfig
from hornbook.evaluate.heldout import HeldOut, evaluate_documents
from hornbook.evaluate.laws import LAWS, Place, loss_of
from hornbook.plan.loss import OFF
from hornbook.tokenizer.tokenizer import Tokenizer
from hornbook.train.load import load_model
from hornbook.train.machine import pick_device

MOST_BYTES = 1_000_000
"""Of the validation documents that both models are measured on: about 200,000 tokens."""


@dataclass(frozen=True)
class Reference:
    """A loss to reach, in nats a token of the run's tokenizer, on the run's validation text."""

    name: str
    how: Literal["measured", "published", "law"]
    loss: float
    low: float
    high: float
    note: str


PILE = "the Pile's test set (arXiv:2101.00027)"

PUBLISHED: dict[str, tuple[float, str]] = {
    "gpt2": (1.2253, PILE),
    "gpt2-medium": (1.0928, PILE),
    "gpt2-large": (1.0828, PILE),
    "gpt2-xl": (1.0468, PILE),
}
"""Bits a byte, and of what text."""

BY_LAW: dict[str, tuple[float, float]] = {"phi-2": (2.78e9, 1.4e12)}
"""Parameters and tokens of models whose loss was not published (their makers' model card)."""

BLOCKS_OF_PHI2 = 2.78e9 - 2 * 51200 * 2560
"""Without embedding and head."""


def documents_to_measure(texts: Iterable[str]) -> list[str]:
    """The first documents, to about a megabyte: the same for both models."""
    chosen: list[str] = []
    size = 0
    for text in texts:
        if size >= MOST_BYTES:
            break
        chosen.append(text)
        size += len(text.encode())
    return chosen


def measure(path: Path, texts: list[str], config: EvaluateConfig) -> tuple[HeldOut, int | None]:
    """Score all of the documents with the model at `path`; also its step, where it is a run."""
    loaded = load_model(path)
    decoder = loaded.decoder.to(pick_device(config.device))
    tokenizer = Tokenizer.load(loaded.tokenizer_file)
    return evaluate_documents(decoder, tokenizer, texts, replace(config, max_tokens=0)), loaded.step


def known_name(name: str) -> str | None:
    """`microsoft/phi-2` -> `phi-2`; None for a model that nothing is known of. Another path that
    ends so is a mistyped directory."""
    plain = name.lower().removeprefix("microsoft/").removeprefix("openai-community/")
    return plain if plain in PUBLISHED or plain in BY_LAW else None


def reference_of(
    name: str, texts: list[str], own: HeldOut, place: Place, config: EvaluateConfig
) -> Reference:
    """The target that a reference is.

    Args:
        name: a model directory, or a name of `PUBLISHED` or `BY_LAW`.
        texts: the run's validation documents.
        own: what the run's newest checkpoint scored on them.
        place: where the run is.
        config: how to evaluate.
    """
    to_nats = math.log(2) * own.bytes_per_token
    yours = f"this run: {own.bits_per_byte:.4f}"
    if Path(name).exists():
        found, _ = measure(Path(name), texts, config)
        nats = found.bits_per_byte * to_nats
        note = f"{found.bits_per_byte:.4f} bits a byte on your validation documents; {yours}"
        return Reference(name, "measured", nats, nats, nats, note)
    known = known_name(name)
    if known in PUBLISHED:
        bits, text = PUBLISHED[known]
        nats = bits * to_nats
        note = f"{bits} bits a byte, published for {text}, not measured on your text; {yours}"
        return Reference(name, "published", nats, nats, nats, note)
    if known in BY_LAW:
        parameters, tokens = BY_LAW[known]
        sizes = [BLOCKS_OF_PHI2 if law.blocks else parameters for law in LAWS]
        here = replace(place, loss=own.loss)
        found_by = [loss_of(law, here, n, tokens) for law, n in zip(LAWS, sizes, strict=True)]
        low, high = min(found_by) * (1 - OFF), max(found_by) * (1 + OFF)
        note = (
            "its pretraining loss was never published; laws give for its size and tokens"
            f" {low / to_nats:.2f} to {high / to_nats:.2f} bits a byte ({yours}). With its weights,"
            " give their directory"
        )
        return Reference(name, "law", sorted(found_by)[1], low, high, note)
    raise HornbookError(
        f"{name!r} is no directory, and no model of which a number is known", where="--reference",
        hint=nearest(name, [*PUBLISHED, *BY_LAW]),
    )  # fmt: skip
