"""From a recipe's model section to an architecture, and what is refused."""

from __future__ import annotations

import pytest

from hornbook.errors import HornbookError
from hornbook.model.check import check
from hornbook.model.config import ModelSettings
from hornbook.model.huggingface import exported_rows
from hornbook.model.presets import PRESETS, resolve


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_preset_resolves_to_itself(name):
    preset = PRESETS[name]
    check(preset)
    assert resolve(ModelSettings(preset=name), preset.vocabulary) == preset


@pytest.mark.parametrize(
    ("preset", "vocabulary", "rows", "exported"),
    [
        ("gpt2-124m", 50257, 50304, 50257),
        ("gpt2-124m", 50273, 50304, 50273),
        ("gpt2-124m", 4096, 4096, 4096),
        ("gpt2-124m", 100, 128, 100),
        ("phi2", 50257, 51200, 51200),
        ("phi2", 50311, 51200, 51200),
        ("phi2", 51201, 51264, 51201),
        ("phi2", 4000, 4032, 4000),
        ("llama-1m", 32768, 32768, 32768),
        ("qwen3-0.6b", 32770, 32832, 32770),
    ],
)
def test_vocabulary_rows(preset, vocabulary, rows, exported):
    config = resolve(ModelSettings(preset=preset), vocabulary)
    assert config.vocabulary == vocabulary
    assert config.vocabulary_rows == rows
    assert exported_rows(config) == exported


def test_given_rows_are_kept_in_memory():
    config = resolve(ModelSettings(preset="gpt2-124m", vocabulary_rows=50257), 50257)
    assert config.vocabulary_rows == 50257
    with pytest.raises(HornbookError, match=r"model: vocabulary_rows is 50000, but there are"):
        resolve(ModelSettings(preset="gpt2-124m", vocabulary_rows=50000), 50257)
    with pytest.raises(HornbookError, match=r"model: vocabulary_rows is 50304, but"):
        resolve(ModelSettings(preset="phi2", vocabulary_rows=50304), 50257)


def test_what_is_not_given_follows():
    config = resolve(ModelSettings(preset="llama-125m", width=192, heads=6, head_dim=64), 1000)
    assert (config.width, config.heads, config.kv_heads, config.head_dim) == (192, 6, 2, 64)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"preset": "gpt2-124m", "width": 256, "heads": 4}, (256, 4, 4, 64, 1024)),
        ({"preset": "gpt2-124m", "heads": 8}, (768, 8, 8, 96, 3072)),
        ({"preset": "llama-15m", "width": 192, "heads": 3}, (192, 3, 1, 64, 480)),
        ({"preset": "llama-125m", "width": 256, "heads": 4, "kv_heads": 4}, (256, 4, 4, 64, 688)),
        ({"preset": "qwen3-0.6b", "layers": 2}, (1024, 16, 8, 128, 3072)),
        ({"preset": "qwen3-0.6b", "width": 512, "head_dim": 64}, (512, 16, 8, 64, 1536)),
    ],
)
def test_shapes(settings, expected):
    config = resolve(ModelSettings(**settings), 1000)
    shape = (config.width, config.heads, config.kv_heads, config.head_dim, config.mlp_width)
    assert shape == expected


def test_other_settings():
    config = resolve(
        ModelSettings(preset="gpt2-124m", context=64, tied=False, dropout=0.2, mlp_width=100), 1000
    )
    assert (config.context, config.tied, config.mlp_width) == (64, False, 100)
    assert config.embedding_dropout == config.attention_dropout == config.residual_dropout == 0.2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"preset": "gpt2-124M"}, r"model\.preset: .*'gpt2-124M'.*Did you mean 'gpt2-124m'"),
        ({"width": 100}, r"model\.width: .*100 is no multiple of the 12 heads.*96 or 108"),
        ({"heads": 7}, r"model\.width: .*no multiple of the 7 heads"),
        ({"heads": 0}, r"model\.heads: must be at least 1"),
        ({"width": -768}, r"model\.width: must be at least 1"),
        ({"layers": 0}, r"model: layers must be at least 1"),
        ({"context": 0}, r"model: context must be at least 1"),
        ({"mlp_width": 0}, r"model: mlp_width must be at least 1"),
        ({"dropout": 1.0}, r"model: embedding_dropout must be at least 0 and below 1"),
        ({"kv_heads": 6}, r"model: kv_heads does not fit: stock gpt2"),
        ({"head_dim": 32}, r"model: head_dim does not fit: stock gpt2"),
        ({"preset": "phi2", "head_dim": 64}, r"model: head_dim does not fit: stock phi"),
        ({"preset": "llama-125m", "kv_heads": 5}, r"model: kv_heads must divide the 12 heads"),
        ({"preset": "llama-125m", "heads": 8}, r"model\.heads: 8 heads cannot share.*kv_heads"),
        ({"preset": "llama-125m", "width": 774, "head_dim": 64}, r"model: width does not fit"),
        ({"preset": "llama-125m", "head_dim": 33}, r"model: head_dim of 33 leaves 33 dimensions"),
    ],
)
def test_refusals(settings, message):
    with pytest.raises(HornbookError, match=message):
        resolve(ModelSettings(**settings), 1000)
