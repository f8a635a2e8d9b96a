"""References: measured on the same documents whatever the tokenizer; published; by law."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from hornbook.errors import HornbookError
from hornbook.evaluate.config import EvaluateConfig
from hornbook.evaluate.heldout import HeldOut
from hornbook.evaluate.laws import LAWS, Place
from hornbook.evaluate.reference import MOST_BYTES, documents_to_measure, measure, reference_of
from hornbook.evaluating import evaluate_model, evaluation_texts
from hornbook.recipe import load_recipe

OWN = HeldOut(
    loss=4.0, perplexity=54.6, bits_per_byte=4.0 / math.log(2) / 4.5, tokens=1000, bytes=4500,
    documents=3, stride=32, context=64,
)  # fmt: skip
EARLY = Place(2.78e9, 2.5e9, 4e7, 4.0, 4.5, 50257)
CONFIG = EvaluateConfig(device="cpu")


def test_another_tokenizer_is_compared_in_bits_a_byte(small_runs: tuple[Path, Path]) -> None:
    run, other = small_runs
    documents = run / "prepare" / "validation"
    texts = documents_to_measure(evaluation_texts(load_recipe(str(run)), [documents]))
    own, step = measure(run, texts, CONFIG)
    assert step == 5
    place = replace(EARLY, token_bytes=own.bytes_per_token)
    found = reference_of(str(other), texts, own, place, CONFIG)
    recipe = load_recipe(str(other), {"evaluate": {"max_tokens": 0, "device": "cpu"}})
    alone = evaluate_model(other, recipe, [documents], None)
    assert alone["bytes_per_token"] != pytest.approx(own.bytes_per_token, rel=0.02)
    bits = found.loss / math.log(2) / own.bytes_per_token
    assert bits == pytest.approx(alone["bits_per_byte"], rel=1e-6)
    assert found.how == "measured" and found.low == found.high == found.loss
    same = reference_of(str(run / "export"), texts, own, place, CONFIG)
    assert same.loss == pytest.approx(own.loss, rel=1e-4)  # its own export


def test_a_published_number_is_marked_as_such() -> None:
    found = reference_of("openai-community/gpt2", [], OWN, EARLY, CONFIG)
    assert found.how == "published" and "arXiv:2101.00027" in found.note
    assert "not measured on your text" in found.note
    assert found.loss == pytest.approx(1.2253 * math.log(2) * 4.5)


def test_phi2_is_said_to_be_unpublished() -> None:
    found = reference_of("microsoft/phi-2", [], OWN, EARLY, CONFIG)
    assert found.how == "law" and "never published" in found.note
    # E + A / 2.78e9^0.3478 + B / 1.4e12^0.3658 = 1.8172 + 0.2537 + 0.0747, in tokens of 3.9 bytes
    chinchilla = 4.5 / 3.9 * (1.8172 + 0.2537 + 0.0747)
    assert found.low < chinchilla < found.high and 1.08 < found.high / found.low < 2
    # A run within the range of the laws is what they are calibrated on.
    late = replace(EARLY, tokens=1e10, loss=2.9)
    moved = reference_of("phi-2", [], replace(OWN, loss=2.9), late, CONFIG)
    higher = reference_of("phi-2", [], replace(OWN, loss=3.0), late, CONFIG)
    assert higher.loss == pytest.approx(moved.loss + 0.1)
    assert len(LAWS) == 3


def test_an_unknown_name() -> None:
    with pytest.raises(HornbookError, match=r"no directory.*Did you mean 'gpt2-xl'"):
        reference_of("gpt2-xxl", [], OWN, EARLY, CONFIG)


def test_a_megabyte_of_documents_is_enough() -> None:
    texts = (f"{n} " + "x" * 99_998 for n in range(10**9))
    chosen = documents_to_measure(texts)
    assert MOST_BYTES <= sum(map(len, chosen)) < MOST_BYTES + 200_000
