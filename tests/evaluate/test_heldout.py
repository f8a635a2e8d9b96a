"""Held-out loss against stock transformers over the same windows, and what bits per byte mean."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForCausalLM

from hornbook.errors import HornbookError
from hornbook.evaluate.config import EvaluateConfig
from hornbook.evaluate.heldout import IGNORE, HeldOut, document_windows, evaluate_documents
from hornbook.model.config import Family, ModelConfig
from hornbook.model.decoder import Decoder
from hornbook.model.huggingface import export_weights, stock_config
from hornbook.tokenizer.assemble import AddedToken, tokenizer_json
from hornbook.tokenizer.tokenizer import Tokenizer

TEXTS = [
    "the thin man, then the other: über — 'thé' 😀\n" * 3,
    "t",
    "",
    "To be, or not to be, that is the question.",
    "\n",
]


def byte_tokenizer(folder: Path, merges: list[tuple[bytes, bytes]]) -> Tokenizer:
    """Single bytes (id = byte), then the merges, then end-of-text."""
    tokens = {bytes([byte]): byte for byte in range(256)}
    for left, right in merges:
        tokens[left + right] = len(tokens)
    end = [AddedToken(len(tokens), "<|endoftext|>")]
    folder.mkdir(exist_ok=True)
    path = folder / "tokenizer.json"
    path.write_text(tokenizer_json(tokens, merges, "gpt2", own_special=end), encoding="utf-8")
    return Tokenizer.load(path)


@pytest.fixture
def tokenizer(tmp_path: Path) -> Tokenizer:
    return byte_tokenizer(tmp_path, [(b"t", b"h"), (b"th", b"e")])


def small_model(family: Family, tokenizer: Tokenizer, context: int = 16) -> Decoder:
    config = ModelConfig(
        family=family, vocabulary=tokenizer.size, vocabulary_rows=tokenizer.size + 13,
        context=context, layers=2, heads=2, kv_heads=2, head_dim=8, width=16, mlp_width=32,
        tied=False, rotary_fraction=0.5 if family == "phi" else 1.0,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(1)
    model = Decoder(config, generator)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model.eval()


def reference_nats(model: Decoder, tokenizer: Tokenizer, text: str, stride: int) -> float:
    """The plain way, with the stock model: one window at a time, one token at a time."""
    settings = stock_config(model.config)
    stock = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(**settings), attn_implementation="eager"
    ).eval()  # fmt: skip
    stock.load_state_dict(export_weights(model))
    ids = [tokenizer.end_of_text, *tokenizer.encode(text)]
    context, nats, scored = model.config.context, 0.0, 0
    for start in range(0, len(ids) - 1, stride):
        window = ids[start : start + context + 1]
        with torch.no_grad():
            logits = stock(torch.tensor([window[:-1]])).logits[0].double()
        for position, target in enumerate(window[1:], start=start + 1):
            if position > scored:
                nats -= float(logits[position - 1 - start].log_softmax(-1)[target])
                scored = position
        if start + context + 1 >= len(ids):
            break
    assert scored == len(ids) - 1
    return nats


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("stride", [0, 1, 5, 16])
def test_equals_stock_over_the_same_windows(
    family: Family, stride: int, tokenizer: Tokenizer
) -> None:
    model = small_model(family, tokenizer)
    measured = evaluate_documents(
        model, tokenizer, TEXTS, EvaluateConfig(stride=stride, batch_tokens=48)
    )
    nats = sum(reference_nats(model, tokenizer, text, stride or 8) for text in TEXTS if text)
    tokens = sum(len(tokenizer.encode(text)) for text in TEXTS)
    text_bytes = sum(len(text.encode()) for text in TEXTS)
    assert (measured.tokens, measured.bytes, measured.documents) == (tokens, text_bytes, 4)
    assert measured.loss == pytest.approx(nats / tokens, rel=1e-5)
    assert measured.perplexity == pytest.approx(math.exp(nats / tokens), rel=1e-4)
    assert measured.bits_per_byte == pytest.approx(nats / math.log(2) / text_bytes, rel=1e-5)


@pytest.mark.parametrize("batch", [1, 32, 1000])
def test_the_batch_and_the_order_make_no_difference(batch: int, tokenizer: Tokenizer) -> None:
    model = small_model("llama", tokenizer)
    plain = evaluate_documents(model, tokenizer, TEXTS, EvaluateConfig())
    other = evaluate_documents(
        model, tokenizer, reversed(TEXTS), EvaluateConfig(batch_tokens=batch)
    )
    assert other.loss == pytest.approx(plain.loss, rel=1e-6)


@settings(max_examples=200, deadline=None)
@given(st.integers(2, 60), st.integers(1, 12), st.data())
def test_every_token_is_scored_once_from_enough_context(
    length: int, context: int, data: st.DataObject
) -> None:
    stride = data.draw(st.integers(1, context))
    ids = np.arange(length, dtype=np.int32)
    seen: list[int] = []
    for window in document_windows(ids, context, stride):
        assert 0 < len(window.inputs) == len(window.targets) <= context
        # ids are their own positions: a target follows its input, nothing is shifted.
        scored = window.targets != IGNORE
        assert (window.targets[scored] == window.inputs[scored] + 1).all()
        for position in np.flatnonzero(scored):
            before = position + 1
            assert before >= min(context - stride + 1, window.targets[position])
        seen += window.targets[scored].tolist()
    assert seen == list(range(1, length))


def constant_model(log_probabilities: torch.Tensor) -> Decoder:
    """Predicts the same distribution everywhere (phi: the head has a bias)."""
    size = len(log_probabilities)
    config = ModelConfig(
        family="phi", vocabulary=size, vocabulary_rows=size, context=8, layers=1, heads=1,
        kv_heads=1, head_dim=4, width=4, mlp_width=4, tied=False, rotary_fraction=0.5,
    )  # fmt: skip
    model = Decoder(config)
    with torch.no_grad():
        model.lm_head.weight.zero_()
        model.lm_head.bias.copy_(log_probabilities)
    return model


def test_bits_per_byte_compare_between_tokenizers(tmp_path: Path) -> None:
    # The same model of text (every byte equally likely) spelt in two vocabularies.
    single = byte_tokenizer(tmp_path / "single", [])
    merged = byte_tokenizer(tmp_path / "merged", [(b"t", b"h"), (b"th", b"e"), (b"o", b"r")])
    results: list[HeldOut] = []
    for tokenizer in (single, merged):
        lengths = torch.tensor([len(tokenizer.token_bytes(id)) for id in range(tokenizer.size)])
        log_probabilities = -lengths * math.log(256.0)
        log_probabilities[tokenizer.end_of_text] = -1e9
        model = constant_model(log_probabilities)
        results.append(evaluate_documents(model, tokenizer, TEXTS, EvaluateConfig()))
    assert results[0].bits_per_byte == pytest.approx(8.0, abs=1e-5)
    assert results[1].bits_per_byte == pytest.approx(8.0, abs=1e-3)
    assert results[0].bytes == results[1].bytes
    assert results[0].tokens > results[1].tokens
    assert results[0].perplexity == pytest.approx(256.0, rel=1e-5)
    assert results[1].perplexity > 300


def test_max_tokens_counts_the_bytes_of_just_these_tokens(tokenizer: Tokenizer) -> None:
    model = small_model("llama", tokenizer)
    texts = ["abc", "the\u20ac", "never read"]
    measured = evaluate_documents(model, tokenizer, texts, EvaluateConfig(max_tokens=5))
    # "the" is one token of three bytes; the euro sign is cut after its first byte.
    assert (measured.tokens, measured.bytes, measured.documents) == (5, 3 + 3 + 1, 2)


def test_a_large_vocabulary_is_taken_in_parts(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = small_model("gpt2", tokenizer)
    whole = evaluate_documents(model, tokenizer, TEXTS, EvaluateConfig())
    monkeypatch.setattr("hornbook.evaluate.heldout.HEAD_LOGITS", 1000)
    parts = evaluate_documents(model, tokenizer, TEXTS, EvaluateConfig())
    assert parts.loss == pytest.approx(whole.loss, rel=1e-6)


def test_out_of_memory_halves_the_rows(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = small_model("gpt2", tokenizer)
    whole = evaluate_documents(model, tokenizer, TEXTS, EvaluateConfig())
    hidden, most, passes = model.hidden, 3, []

    def limited(ids: torch.Tensor) -> torch.Tensor:
        passes.append(len(ids))
        if len(ids) > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return hidden(ids)

    monkeypatch.setattr(model, "hidden", limited)
    halved = evaluate_documents(model, tokenizer, TEXTS, EvaluateConfig())
    assert halved == replace(
        whole,
        loss=pytest.approx(whole.loss, rel=1e-6),
        perplexity=pytest.approx(whole.perplexity, rel=1e-5),
        bits_per_byte=pytest.approx(whole.bits_per_byte, rel=1e-6),
    )
    first = next(number for number, rows in enumerate(passes) if rows <= most)
    assert max(passes[first:]) <= most, "what did not fit is not tried again"
    assert "out of memory while evaluating" in capsys.readouterr().err
    most = 0
    with pytest.raises(
        HornbookError, match=r"one row does not fit in memory.*evaluate\.device cpu"
    ):
        evaluate_documents(model, tokenizer, TEXTS, EvaluateConfig())


def test_record_of_evals_jsonl(tokenizer: Tokenizer) -> None:
    model = small_model("llama", tokenizer).train()
    record = evaluate_documents(model, tokenizer, TEXTS, EvaluateConfig()).to_record()
    assert {"loss", "perplexity", "bits_per_byte", "tokens", "bytes", "bytes_per_token"} <= set(
        record
    )
    assert record["bytes_per_token"] == record["bytes"] / record["tokens"]
    assert model.training


def test_mistakes_are_named(tokenizer: Tokenizer) -> None:
    model = small_model("llama", tokenizer)
    with pytest.raises(HornbookError, match="no text to evaluate"):
        evaluate_documents(model, tokenizer, ["", ""], EvaluateConfig())
    with pytest.raises(HornbookError, match=r"stride.*context of 16 tokens, not 17"):
        evaluate_documents(model, tokenizer, TEXTS, EvaluateConfig(stride=17))
    with torch.no_grad():
        model.final_norm.weight.fill_(float("nan"))
    with pytest.raises(HornbookError, match="loss on these texts is nan"):
        evaluate_documents(model, tokenizer, TEXTS, EvaluateConfig())
