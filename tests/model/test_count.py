"""Counts against published numbers, arithmetic by hand, and models really built."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from hornbook.model.count import flops_per_token, parameters
from hornbook.model.decoder import Decoder
from hornbook.model.presets import PRESETS


def test_gpt2_124m_by_hand():
    config = replace(PRESETS["gpt2-124m"], vocabulary_rows=50257)
    # c_attn, c_proj, c_fc, c_proj with their biases, and two LayerNorms
    layer = 768 * 2304 + 2304 + 768 * 768 + 768 + 2 * (768 * 3072) + 3072 + 768 + 4 * 768
    count = parameters(config)
    assert layer == 7_087_872
    assert count.blocks == 12 * layer + 2 * 768
    assert count.embedding == (50257 + 1024) * 768
    assert count.total == 124_439_808


@pytest.mark.parametrize(
    ("preset", "rows", "total"),
    [
        ("gpt2-355m", 50257, 354_823_168),
        ("gpt2-774m", 50257, 774_030_080),
        ("gpt2-1.5b", 50257, 1_557_611_200),
        ("phi2", 51200, 2_779_683_840),
        ("llama-1b", 128256, 1_235_814_400),  # Llama-3.2-1B
        ("qwen3-0.6b", 151936, 596_049_920),  # Qwen3-0.6B
    ],
)
def test_published_totals(preset, rows, total):
    assert parameters(replace(PRESETS[preset], vocabulary_rows=rows)).total == total


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_count_is_what_is_built(name):
    with torch.device("meta"):
        decoder = Decoder(PRESETS[name], initialise=False)
    built = {key: parameter.numel() for key, parameter in decoder.named_parameters()}
    count = parameters(PRESETS[name])
    assert sum(built.values()) == count.total
    embedding = ("embedding.", "positions.", "lm_head.", "smear.", "value_embeddings.")
    assert sum(n for key, n in built.items() if key.startswith(embedding)) == count.embedding


@pytest.mark.parametrize(("tied", "kv_heads"), [(True, 2), (False, 4), (False, 1)])
def test_tiny_variants(family, tied, kv_heads, tiny_decoder):
    kv_heads = 4 if family == "gpt2" else kv_heads
    decoder = tiny_decoder(family, tied=tied, kv_heads=kv_heads)
    assert sum(p.numel() for p in decoder.parameters()) == parameters(decoder.config).total


@pytest.mark.parametrize("name", [name for name in PRESETS if name[-1] in "mb"])
def test_names_tell_the_truth(name):
    """Within 6 %: of the total for the makers' own names, of the blocks for ours."""
    number = name.split("-")[-1]
    named = float(number[:-1]) * {"m": 1e6, "b": 1e9}[number[-1]]
    count = parameters(PRESETS[name])
    if name.startswith("gpt2"):
        assert count.total == pytest.approx(named, rel=0.06)
    elif name == "qwen3-0.6b":
        assert count.total + (151936 - 32768) * 1024 == pytest.approx(named, rel=0.06)
    else:
        assert count.blocks == pytest.approx(named, rel=0.11 if named == 1e6 else 0.06)


def test_flops_by_hand():
    config = replace(PRESETS["gpt2-124m"], vocabulary_rows=50257)
    assert flops_per_token(config, 1024) == 6 * 124_439_808 + 12 * 12 * 768 * 1024
    wide = PRESETS["qwen3-0.6b"]
    attention = 12 * 28 * 16 * 128 * 2048
    assert flops_per_token(wide, 2048) == 6 * parameters(wide).total + attention
