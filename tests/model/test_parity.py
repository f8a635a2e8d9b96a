"""Every family against stock transformers: logits, each gradient, weights both ways."""

from __future__ import annotations

import copy

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional
from transformers import AutoConfig, AutoModelForCausalLM

from hornbook.files import write_json
from hornbook.model.decoder import Decoder
from hornbook.model.huggingface import (
    config_from_stock,
    export_weights,
    import_directory,
    stock_config,
)

VARIANTS = [
    ("gpt2", {}),
    ("gpt2", {"tied": False, "mlp_width": 72}),
    ("gpt2", {"vocabulary": 96, "exported_rows": 96}),
    ("phi", {}),
    ("phi", {"tied": True, "kv_heads": 2, "rope_theta": 500.0}),
    ("phi", {"exported_rows": 96}),
    ("llama", {}),
    ("llama", {"tied": False, "kv_heads": 1}),
    ("llama", {"kv_heads": 4, "head_dim": 16, "rope_theta": 700.0, "norm_epsilon": 1e-3}),
    (
        "llama",
        {
            "rope_scaling": "llama3",
            "rope_factor": 8.0,
            "rope_low_frequency_factor": 1.0,
            "rope_high_frequency_factor": 4.0,
            "rope_original_context": 40,
            "rope_theta": 100.0,
        },
    ),
    ("qwen3", {}),
    ("qwen3", {"tied": False, "kv_heads": 4, "rope_theta": 1e6}),
    ("qwen3", {"width": 36, "kv_heads": 1}),
]


def save_stock(decoder: Decoder, folder) -> None:
    """A directory as `hornbook export` writes it, without the tokenizer."""
    folder.mkdir(exist_ok=True)
    save_file(export_weights(decoder), folder / "model.safetensors", metadata={"format": "pt"})
    write_json(folder / "config.json", stock_config(decoder.config, eos_token_id=3))


def stock_model(folder):
    model, report = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"], report
    assert not report["mismatched_keys"], report
    return model.eval()


def distance(ours: torch.Tensor, stock: torch.Tensor) -> float:
    """||ours - stock|| / ||stock||."""
    assert ours.shape == stock.shape
    return ((ours - stock).norm() / stock.norm()).item()


@pytest.mark.parametrize(("family", "changes"), VARIANTS, ids=str)
def test_logits_and_every_gradient_equal_stock(family, changes, tiny_decoder, tmp_path):
    decoder = tiny_decoder(family, **changes)
    save_stock(decoder, tmp_path)
    stock = stock_model(tmp_path)
    vocabulary = decoder.config.vocabulary
    ids = torch.randint(0, vocabulary, (3, 40), generator=torch.Generator().manual_seed(7))

    logits = decoder(ids)
    expected = stock(ids).logits
    assert distance(logits[..., :vocabulary], expected[..., :vocabulary]) < 1e-4
    assert torch.all(logits[..., vocabulary:] == -torch.inf)

    for output in (logits, expected):
        ours = output[:, :-1, :vocabulary].flatten(0, 1)
        functional.cross_entropy(ours, ids[:, 1:].flatten()).backward()
    gradients = copy.deepcopy(decoder)
    for ours, source in zip(gradients.parameters(), decoder.parameters(), strict=True):
        ours.data = source.grad
    mapped = export_weights(gradients)
    named = dict(stock.named_parameters())
    assert mapped.keys() == named.keys()
    for name, parameter in named.items():
        assert parameter.grad.norm() > 0, name
        assert distance(mapped[name], parameter.grad) < 1e-4, name


@pytest.mark.parametrize(("family", "changes"), VARIANTS, ids=str)
def test_weights_come_back_the_same(family, changes, tiny_decoder, tmp_path):
    decoder = tiny_decoder(family, **changes)
    save_stock(decoder, tmp_path)
    stock_model(tmp_path).save_pretrained(tmp_path / "stock")
    back = import_directory(tmp_path / "stock")
    before, after = export_weights(decoder), export_weights(back)
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert torch.equal(tensor, after[name]), name


@pytest.mark.parametrize(("family", "changes"), VARIANTS, ids=str)
def test_configuration_both_ways(family, changes, tiny_config):
    config = tiny_config(family, attention_dropout=0.25, **changes)
    written = stock_config(config, bos_token_id=1, eos_token_id=2)
    # Stock configurations change the dictionaries that they are given.
    stock = AutoConfig.for_model(**copy.deepcopy(written)).to_dict()
    for key, value in written.items():
        if key in stock and key not in ("dtype", "rope_parameters"):
            assert stock[key] == value, key
    assert config_from_stock(stock) == config_from_stock(written)
    assert stock_config(config_from_stock(stock), bos_token_id=1, eos_token_id=2) == written


def test_positions_equal_stock(family, tiny_decoder, tmp_path):
    decoder = tiny_decoder(family)
    save_stock(decoder, tmp_path)
    stock = stock_model(tmp_path)
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(0, 89, (2, 12), generator=generator)
    positions = torch.randint(0, 40, (2, 12), generator=generator)
    with torch.no_grad():
        mask = torch.ones(2, 1, 12, 12, dtype=torch.bool).tril()
        expected = stock(ids, attention_mask=mask, position_ids=positions).logits
        assert distance(decoder(ids, positions)[..., :89], expected) < 1e-4


def test_training_mode_dropout_rates_equal_stock(family, tiny_config, tmp_path):
    """Where stock drops, we drop as often: compared in the mean over many draws."""
    rates = {"attention_dropout": 0.3}
    if family in ("gpt2", "phi"):
        rates |= {"embedding_dropout": 0.2, "residual_dropout": 0.4}
    decoder = Decoder(tiny_config(family, layers=1, **rates), torch.Generator().manual_seed(0))
    save_stock(decoder, tmp_path)
    stock = stock_model(tmp_path).train()
    decoder.train()
    ids = torch.arange(12)[None].expand(600, 12)
    torch.manual_seed(0)
    with torch.no_grad():
        ours, theirs = decoder(ids)[..., :89], stock(ids).logits
    assert distance(ours.var(0).mean(-1), theirs.var(0).mean(-1)) < 0.1
    assert distance(ours.mean(0), theirs.mean(0)) < 0.1
