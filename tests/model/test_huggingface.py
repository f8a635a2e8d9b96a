"""Stock directories: shards, missing prefixes, and everything that must be refused clearly."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2Model, LlamaConfig, LlamaForCausalLM

from hornbook.errors import HornbookError
from hornbook.files import read_json, write_json
from hornbook.model.families import FAMILIES
from hornbook.model.huggingface import (
    config_from_stock,
    export_weights,
    import_directory,
    stock_config,
)

IDS = torch.arange(24).reshape(2, 12)


@pytest.fixture
def folder(tiny_decoder, tmp_path):
    """A stock directory of a small Llama."""
    decoder = tiny_decoder("llama")
    save_file(export_weights(decoder), tmp_path / "model.safetensors")
    write_json(tmp_path / "config.json", stock_config(decoder.config))
    return tmp_path


def change_config(folder, **changes) -> None:
    write_json(folder / "config.json", {**read_json(folder / "config.json"), **changes})


def change_weights(folder, change) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def test_shards_with_an_index(tmp_path):
    stock = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=60,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
        )
    ).eval()
    stock.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    decoder = import_directory(tmp_path)
    assert decoder.config.vocabulary_rows == decoder.config.exported_rows == 60
    torch.testing.assert_close(decoder(IDS), stock(IDS).logits)
    min(tmp_path.glob("*.safetensors")).unlink()
    with pytest.raises(HornbookError, match="is not a readable safetensors file"):
        import_directory(tmp_path)


def test_saved_without_a_head_as_gpt2s_own_directory_is(tmp_path):
    config = GPT2Config(vocab_size=60, n_positions=16, n_embd=32, n_layer=2, n_head=4)
    stock = GPT2Model(config).eval()
    stock.save_pretrained(tmp_path)
    names = load_file(tmp_path / "model.safetensors")
    assert "wte.weight" in names
    change_weights(tmp_path, lambda tensors: tensors.update({"h.0.attn.bias": torch.ones(3)}))
    hidden = import_directory(tmp_path).hidden(IDS)
    torch.testing.assert_close(hidden, stock(IDS).last_hidden_state, rtol=1e-4, atol=1e-5)


def test_half_precision_becomes_float32(folder, tiny_decoder):
    change_weights(
        folder,
        lambda tensors: tensors.update({k: v.bfloat16() for k, v in tensors.items()}),
    )
    decoder = import_directory(folder)
    assert {p.dtype for p in decoder.parameters()} == {torch.float32}
    expected = tiny_decoder("llama").embedding.weight[:89].bfloat16().float()
    assert torch.equal(decoder.embedding.weight, expected)


def test_a_tied_head_may_be_written_twice(folder):
    def copy_head(tensors):
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()

    change_weights(folder, copy_head)
    import_directory(folder)
    change_weights(folder, lambda tensors: tensors["lm_head.weight"].add_(1.0))
    with pytest.raises(HornbookError, match=r"ties head and embedding.*two that differ"):
        import_directory(folder)


def test_another_family_names_the_four(folder):
    change_config(folder, model_type="mamba")
    with pytest.raises(
        HornbookError, match=r"config\.json: .*'mamba' is not supported.*gpt2, phi, llama, qwen3"
    ):
        import_directory(folder)


@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [
        ("llama", {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "type 'yarn'"),
        ("llama", {"rope_scaling": {"type": "linear", "factor": 4.0}}, "type 'linear'"),
        ("llama", {"rope_scaling": {"rope_type": "llama3", "factor": 4.0}}, "low_freq_factor"),
        ("llama", {"attention_bias": True}, "attention_bias is True"),
        ("llama", {"mlp_bias": True}, "mlp_bias is True"),
        ("llama", {"hidden_act": "gelu"}, "hidden_act is 'gelu'.*Supported: 'silu'"),
        ("llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5"),
        ("llama", {"hidden_size": None}, "'hidden_size' is missing"),
        ("llama", {"head_dim": None, "hidden_size": 30}, "30 is no multiple of the 4 attention"),
        ("llama", {"num_key_value_heads": 3}, "kv_heads"),
        ("llama", {"quantization_config": {"quant_method": "awq"}}, "quantised"),
        ("qwen3", {"use_sliding_window": True}, "use_sliding_window is True"),
        ("qwen3", {"layer_types": ["sliding_attention"]}, "layer_types"),
        ("phi", {"qk_layernorm": True}, "qk_layernorm is True"),
        ("phi", {"head_dim": 7}, "head_dim is 7"),
        ("gpt2", {"activation_function": "relu"}, "activation_function is 'relu'"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
        ("gpt2", {"scale_attn_weights": False}, "scale_attn_weights is False"),
        ("gpt2", {"add_cross_attention": True}, "add_cross_attention is True"),
    ],
    ids=str,
)
def test_settings_that_would_change_the_arithmetic(family, changes, message, tiny_config, tmp_path):
    write_json(tmp_path / "config.json", {**stock_config(tiny_config(family)), **changes})
    with pytest.raises(HornbookError, match=message) as raised:
        import_directory(tmp_path)
    assert str(tmp_path / "config.json") in str(raised.value)


def test_defaults_of_stock_configurations():
    """Keys that old directories leave out have the value that stock transformers gives them."""
    shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
    shape |= {"intermediate_size": 64, "vocab_size": 10, "max_position_embeddings": 8}
    llama = config_from_stock({"model_type": "llama", **shape})
    assert (llama.kv_heads, llama.head_dim, llama.norm_epsilon, llama.tied) == (4, 8, 1e-6, False)
    qwen3 = config_from_stock({"model_type": "qwen3", **shape})
    assert (qwen3.head_dim, qwen3.rope_theta) == (128, 10000.0)
    phi = config_from_stock({"model_type": "phi", **shape})
    assert (phi.rotary_fraction, phi.tied, phi.norm_epsilon) == (0.5, False, 1e-5)
    gpt2 = config_from_stock(
        {"model_type": "gpt2", "n_embd": 32, "n_head": 4, "n_layer": 1, "vocab_size": 10}
    )
    assert (gpt2.mlp_width, gpt2.tied, gpt2.context) == (128, True, 1024)
    assert gpt2.residual_dropout == 0.1


def test_missing_misshapen_and_unknown_tensors(folder):
    change_config(folder, num_hidden_layers=4)
    with pytest.raises(HornbookError, match=r"'model\.layers\.3\.\S+' is missing"):
        import_directory(folder)
    change_config(folder, num_hidden_layers=2)
    with pytest.raises(HornbookError, match=r"lacks, such as 'model\.layers\.2\."):
        import_directory(folder)
    change_config(folder, num_hidden_layers=3, intermediate_size=80)
    with pytest.raises(HornbookError, match=r"gate_proj.* has shape"):
        import_directory(folder)


def test_fused_parts_are_checked_one_by_one(folder):
    """Query and key rows that are wrong each, but right together, are not taken."""

    def exchange(tensors):
        query, key = (f"model.layers.0.self_attn.{name}_proj.weight" for name in "qk")
        tensors[query], tensors[key] = tensors[key], tensors[query]

    change_weights(folder, exchange)
    with pytest.raises(HornbookError, match=r"q_proj\.weight' has shape \[16, 32\]"):
        import_directory(folder)


def test_no_weights(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(HornbookError, match=r"has no \*\.safetensors"):
        import_directory(folder)
    (folder / "pytorch_model.bin").write_bytes(b"never read")
    with pytest.raises(HornbookError, match=r"only as pickle.*save_pretrained"):
        import_directory(folder)


@pytest.mark.parametrize("content", [b"", b"rubbish" * 100])
def test_damaged_weights(folder, content):
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(HornbookError, match=r"model\.safetensors: is not a readable"):
        import_directory(folder)


def test_truncated_weights(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(HornbookError, match=r"model\.safetensors: is not a readable"):
        import_directory(folder)


def test_no_configuration(tmp_path):
    with pytest.raises(HornbookError, match=r"config\.json: no such file"):
        import_directory(tmp_path)
    (tmp_path / "config.json").write_text("[1, 2]")
    with pytest.raises(HornbookError, match=r"config\.json: is not a JSON object"):
        import_directory(tmp_path)


def test_an_index_does_not_lead_out_of_its_folder(folder):
    weight_map = dict.fromkeys(load_file(folder / "model.safetensors"), "../model.safetensors")
    inner = folder / "inner"
    inner.mkdir()
    write_json(inner / "config.json", read_json(folder / "config.json"))
    index = inner / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(HornbookError, match="inner"):
        import_directory(inner)


def test_slices_of_fused_weights(family, tiny_decoder):
    """Every parameter is described once, and its separate projections fill it."""
    decoder = tiny_decoder(family, tied=False)
    config = decoder.config
    weights = FAMILIES[family].weights(config)
    shapes = {name: parameter.shape for name, parameter in decoder.named_parameters()}
    assert sorted(weight.name for weight in weights) == sorted(shapes)
    assert len({weight.name for weight in weights}) == len(weights) == len(shapes)
    for weight in weights:
        assert sum(weight.matrix_rows) == shapes[weight.name][0], weight.name
    by_name = {weight.name: weight for weight in weights}
    qkv = by_name["blocks.1.attention.qkv.weight"]
    query, key = config.heads * config.head_dim, config.kv_heads * config.head_dim
    assert qkv.matrix_rows == (query, key, key)
    if family != "gpt2":
        attention = "model.layers.1.self_attn"
        stock = [f"{attention}.{name}_proj.weight" for name in "qkv"]
        assert [part.name for part in qkv.stock] == stock
    if family in ("llama", "qwen3"):
        gate_up = by_name["blocks.0.mlp.gate_up.weight"]
        assert gate_up.matrix_rows == (config.mlp_width, config.mlp_width)
