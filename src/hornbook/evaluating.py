"""A model directory of any kind, loaded or measured.

In: a run, a checkpoint or a Hugging Face directory. Out: its decoder and tokenizer; its held-out
loss. Top-level, since it joins rooms: readers of text, the decoder, training's loading of models.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hornbook.recipe import Recipe

if TYPE_CHECKING:
    from hornbook.model.decoder import Decoder
    from hornbook.tokenizer.tokenizer import Tokenizer


def evaluate_model(
    source: Path, recipe: Recipe, documents: Sequence[Path], out: Path | None
) -> dict[str, Any]:
    """Held-out loss of any model directory; appended to `out/evals.jsonl` where `out` is given.

    Args:
        source: a run, a checkpoint or a Hugging Face directory.
        recipe: its `evaluate` section says how; `evaluate.text` wins over `documents`.
        documents: folders of document shards.
        out: folder for evals.jsonl.

    Returns:
        The line of evals.jsonl: model, step, split, loss, perplexity, bits_per_byte, tokens, bytes.
    """
    from hornbook.evaluate.heldout import evaluate_documents
    from hornbook.tokenizer.tokenizer import Tokenizer
    from hornbook.train.load import load_model
    from hornbook.train.machine import pick_device

    loaded = load_model(source)
    tokenizer = Tokenizer.load(loaded.tokenizer_file)
    decoder = loaded.decoder.to(pick_device(recipe.evaluate.device))
    texts = evaluation_texts(recipe, documents)
    measured = evaluate_documents(decoder, tokenizer, texts, recipe.evaluate)
    split = "validation" if recipe.evaluate.text is None else str(recipe.evaluate.text)
    record = {"model": loaded.name, "step": loaded.step, "split": split, **measured.to_record()}
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        with open(out / "evals.jsonl", "a", encoding="utf-8") as lines:
            lines.write(json.dumps(record) + "\n")
    return record


def evaluation_texts(recipe: Recipe, documents: Sequence[Path]) -> Iterator[str]:
    """The texts to evaluate on: `evaluate.text`, else the given folders of document shards."""
    from hornbook.corpus.normalise import mend_surrogates, normalise
    from hornbook.documents import read_documents
    from hornbook.gather.readers import read_inputs

    if recipe.evaluate.text is not None:
        clean = normalise if recipe.prepare.normalise else mend_surrogates
        for document in read_inputs(
            [recipe.evaluate.text],
            text_column=recipe.prepare.text_column,
            encoding=recipe.prepare.encoding,
        ):
            yield clean(document.text)
        return
    for folder in documents:
        for document in read_documents(folder):
            yield document.text


def load_for_generation(source: Path, device: str) -> tuple[Decoder, Tokenizer]:
    """The model of any directory, on a device, and its tokenizer."""
    from hornbook.tokenizer.tokenizer import Tokenizer
    from hornbook.train.load import load_model
    from hornbook.train.machine import pick_device

    loaded = load_model(source)
    return loaded.decoder.to(pick_device(device)), Tokenizer.load(loaded.tokenizer_file)
