"""The family that is not stock: what each trick computes, and that all else works with it."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from hornbook.errors import HornbookError
from hornbook.model.attention import attention_reference
from hornbook.model.cache import KeyValueCache
from hornbook.model.config import GATE_WIDTH, ModelSettings
from hornbook.model.count import flops_per_token, parameters
from hornbook.model.decoder import Decoder
from hornbook.model.engine import Engine
from hornbook.model.huggingface import config_from_stock, export_weights, stock_config
from hornbook.model.lookback import previous, shift_keys
from hornbook.model.presets import PRESETS, resolve
from hornbook.model.rotary import rotate
from hornbook.recipe import load_recipe
from hornbook.stages import stages_of

OFF = {"key_shift": False, "smear": False, "value_embeddings": 0}
ON = {"key_shift": True, "smear": True, "value_embeddings": 2}
IDS = torch.randint(0, 89, (2, 12), generator=torch.Generator().manual_seed(5))


@pytest.fixture(params=["all", *ON])
def tricks(request: pytest.FixtureRequest) -> dict[str, int]:
    """All tricks, and each alone."""
    return ON if request.param == "all" else {**OFF, request.param: ON[request.param]}


@torch.no_grad()
def test_without_tricks_it_is_qwen3(tiny_decoder):
    plain = tiny_decoder("speedrun", **OFF)
    qwen3 = Decoder(dataclasses.replace(plain.config, family="qwen3"), initialise=False)
    qwen3.load_state_dict(plain.state_dict())
    assert torch.equal(qwen3.eval()(IDS), plain(IDS))


@torch.no_grad()
def test_each_trick_changes_the_result_and_looks_at_no_later_token(tricks, tiny_decoder):
    decoder = tiny_decoder("speedrun", **tricks)
    plain = Decoder(dataclasses.replace(decoder.config, **OFF), initialise=False).eval()
    plain.load_state_dict(decoder.state_dict(), strict=False)
    assert not torch.allclose(decoder(IDS), plain(IDS))
    other = IDS.clone()
    other[:, 7:] = (other[:, 7:] + 1) % 89
    torch.testing.assert_close(decoder(other)[:, :7], decoder(IDS)[:, :7])


def test_previous_is_the_token_before():
    x = torch.arange(10.0).view(1, 5, 2)
    assert previous(x)[0, :, 0].tolist() == [0, 0, 2, 4, 6]


@torch.no_grad()
def test_attention_with_shifted_keys_and_added_values_step_by_step(tiny_decoder):
    decoder = tiny_decoder("speedrun")
    layer, config = decoder.blocks[0].attention, decoder.config
    x, extra = torch.randn(2, 12, config.width), torch.randn(2, 12, config.kv_heads, 8)
    fused = layer.qkv(x).view(2, 12, -1, 8)
    query, key, value = fused.split([config.heads, config.kv_heads, config.kv_heads], dim=2)
    query, key = layer.query_norm(query), layer.key_norm(key)
    for token in range(11, 0, -1):  # from the last, as each takes the key of the one before
        key[:, token, : config.kv_heads // 2] = key[:, token - 1, : config.kv_heads // 2]
    rotation = decoder.rotary(None, 12)
    parts = (rotate(query, rotation), rotate(key, rotation), value + extra)
    mixed = attention_reference(*(part.transpose(1, 2) for part in parts))
    wanted = layer.output(mixed.transpose(1, 2).flatten(2))
    torch.testing.assert_close(layer(x, rotation, None, None, Engine(), extra), wanted)


@torch.no_grad()
def test_smear_adds_a_share_of_the_embedding_before(tiny_decoder):
    smear = tiny_decoder("speedrun").smear
    x = torch.randn(2, 12, 32)
    out = smear(x)
    for token in range(1, 12):
        gate = torch.sigmoid(x[:, token, :GATE_WIDTH] @ smear.gate.weight[0])[:, None]
        wanted = x[:, token] + smear.strength * gate * x[:, token - 1]
        torch.testing.assert_close(out[:, token], wanted)


@torch.no_grad()
def test_tables_serve_the_first_and_the_last_layers(tiny_decoder):
    found = tiny_decoder("speedrun").value_embeddings(IDS)
    assert sorted(found) == [0, 1, 3, 4]
    assert found[0].shape == (2, 12, 2, 8)
    torch.testing.assert_close(found[0] / found[0].norm(), found[3] / found[3].norm())
    torch.testing.assert_close(found[1] / found[1].norm(), found[4] / found[4].norm())


@pytest.mark.parametrize("steps", [[1] * 12, [12], [5, 1, 1, 5], [1, 11]], ids=str)
@torch.no_grad()
def test_pieces_equal_the_whole(tricks, steps, tiny_decoder):
    decoder = tiny_decoder("speedrun", **tricks)
    cache = KeyValueCache(decoder.config, rows=2, length=20)
    pieces = []
    for piece in IDS.split(steps, dim=1):
        pieces.append(decoder.hidden(piece, cache.positions(piece.shape[1]), cache=cache))
        cache.advance(piece.shape[1])
    torch.testing.assert_close(torch.cat(pieces, 1), decoder.hidden(IDS), rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_unequal_prompts_and_rows_that_come_and_go(tiny_decoder):
    decoder = tiny_decoder("speedrun")
    texts, prompts = [IDS[0], IDS[1, :9], IDS[0].flip(0)], [7, 4, 1]
    padded = torch.zeros(3, 7, dtype=torch.int64)
    for row, (text, length) in enumerate(zip(texts, prompts, strict=True)):
        padded[row, :length] = text[:length]
    cache = KeyValueCache(decoder.config, rows=3, length=12)
    decoder.hidden(padded, cache.positions(7), cache=cache)
    cache.advance(torch.tensor(prompts))
    cache.reset(1)  # another text in the place of the second
    texts[1], prompts[1] = IDS[1].flip(0), 5
    part = cache.select(1, 2)
    decoder.hidden(texts[1][None, :5], part.positions(5), cache=part)
    part.advance(5)
    whole = [decoder.hidden(text[None])[0] for text in texts]
    for step in range(4):
        following = [text[length + step] for text, length in zip(texts, prompts, strict=True)]
        ids = torch.stack(following)[:, None]
        hidden = decoder.hidden(ids, cache.positions(1), cache=cache)
        cache.advance(1)
        for row, length in enumerate(prompts):
            torch.testing.assert_close(
                hidden[row, 0], whole[row][length + step], rtol=1e-3, atol=1e-4
            )


def test_zero_outputs_begin_by_guessing_and_then_everything_learns(tiny_config):
    decoder = Decoder(tiny_config("speedrun"), torch.Generator().manual_seed(0))
    assert decoder.embedding.weight.std().item() == pytest.approx(1.0, rel=0.1)
    matrix = decoder.blocks[0].mlp.gate_up.weight
    assert matrix.std().item() == pytest.approx(32**-0.5, rel=0.1)
    optimizer = torch.optim.Adam(decoder.parameters(), lr=0.01)
    initial = [parameter.detach().clone() for parameter in decoder.parameters()]
    losses = []
    for _ in range(6):
        logits = decoder(IDS[:, :-1]).flatten(0, 1)
        loss = functional.cross_entropy(logits, IDS[:, 1:].flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(math.log(89), abs=1e-6)
    assert losses[-1] < losses[0] - 0.5
    for (name, parameter), first in zip(decoder.named_parameters(), initial, strict=True):
        assert not torch.equal(parameter, first), name


def test_initialisation_of_stock_families(tiny_config):
    config = tiny_config("qwen3", initialise="zero-outputs", tied=False, embedding_std=0.5)
    decoder = Decoder(config, torch.Generator().manual_seed(0))
    assert decoder.embedding.weight.std().item() == pytest.approx(0.5, rel=0.1)
    assert not decoder.lm_head.weight.any()
    assert not decoder.blocks[1].mlp.down.weight.any()
    tied = Decoder(tiny_config("llama", initialise="zero-outputs"))
    assert tied.embedding.weight.std().item() == pytest.approx(0.02, rel=0.1)


@pytest.mark.parametrize("mode", ["selective", "full"])
def test_checkpointing_repeats_every_bit(mode, tiny_decoder):
    def gradients(engine: Engine) -> list[torch.Tensor]:
        decoder = tiny_decoder("speedrun", layers=4).train()
        decoder.engine = engine
        with torch.autocast("cpu", torch.bfloat16):
            decoder.loss(decoder.hidden(IDS), IDS).backward()
        return [parameter.grad for parameter in decoder.parameters()]

    repeated = zip(gradients(Engine(checkpointing=mode)), gradients(Engine()), strict=True)
    assert all(torch.equal(one, other) for one, other in repeated)


def test_narrow_arithmetic_stays_narrow(tiny_decoder):
    decoder = tiny_decoder("speedrun")
    decoder.engine = Engine(residual="bf16")
    exact = decoder(IDS)[..., :89]
    with torch.autocast("cpu", torch.bfloat16):
        hidden = decoder.hidden(IDS)
        logits = decoder.head(hidden)[..., :89]
    assert hidden.dtype == torch.bfloat16
    assert (logits - exact).norm() / exact.norm() < 0.1


def test_padded_heads_equal_plain_ones(tiny_decoder):
    decoder = tiny_decoder("speedrun", head_dim=10, width=40)
    plain = decoder(IDS)
    decoder.engine = Engine(attention="cudnn")  # which pads; here another kernel computes it
    torch.testing.assert_close(decoder(IDS), plain)


def test_compiles_to_one_graph(tiny_decoder):
    torch.compiler.reset()
    decoder = tiny_decoder("speedrun")
    compiled = torch.compile(decoder, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(IDS), decoder(IDS))


def test_tables_are_looked_up_and_count_no_operations():
    config = PRESETS["speedrun-85m"]
    without = dataclasses.replace(config, value_embeddings=0)
    assert parameters(config).embedding > parameters(without).embedding + 3 * 32768 * 768
    assert flops_per_token(config, 1024) == pytest.approx(flops_per_token(without, 1024))


def test_cannot_be_exported(tiny_decoder):
    decoder = tiny_decoder("speedrun")
    with pytest.raises(HornbookError, match="cannot be exported") as refused:
        stock_config(decoder.config)
    assert "qwen3" in (refused.value.hint or "")
    with pytest.raises(HornbookError, match="'speedrun' is not supported"):
        config_from_stock({"model_type": "speedrun"})
    stock = tiny_decoder("qwen3", initialise="zero-outputs", embedding_std=1.0)
    assert len(export_weights(stock)) > 0
    assert stock_config(stock.config)["initializer_range"] == 0.02


def test_what_it_cannot_do_is_refused(tiny_decoder):
    decoder = tiny_decoder("speedrun")
    with pytest.raises(HornbookError, match="token before also where another document begins"):
        decoder(IDS, documents=torch.zeros(2, 12, dtype=torch.int32))
    with pytest.raises(HornbookError, match="was given no tokens"):
        decoder.hidden(decoder.embedding(IDS))


@pytest.mark.parametrize("name", ON)
def test_tricks_are_of_this_family_alone(name):
    with pytest.raises(HornbookError, match=f"{name} is of the family speedrun alone"):
        resolve(ModelSettings(preset="qwen3-1m", **{name: ON[name]}), 300)


def test_each_trick_can_be_turned_off_in_a_recipe():
    config = resolve(ModelSettings(preset="speedrun-85m", **OFF), 300)
    assert not (config.key_shift or config.smear or config.value_embeddings)
    with pytest.raises(HornbookError, match="value_embeddings must be 0 to 6"):
        resolve(ModelSettings(preset="speedrun-85m", value_embeddings=7), 300)
    with pytest.raises(HornbookError, match="width must be at least 24 with smear"):
        resolve(ModelSettings(preset="speedrun-85m", width=16, heads=2), 300)


def test_shifting_keys_of_one_head_shifts_none():
    key = torch.randn(1, 4, 1, 8)
    assert torch.equal(shift_keys(key), key)


def test_export_of_a_run_leaves_nothing_behind(tmp_path: Path, tiny_decoder, monkeypatch):
    from hornbook.publish import export as publish
    from hornbook.train.load import LoadedModel

    source = tmp_path / "run"
    loaded = LoadedModel(tiny_decoder("speedrun"), source / "tokenizer.json", "run", 1, "run")
    monkeypatch.setattr(publish, "load_model", lambda path: loaded)
    tokenizer = type("Tokenizer", (), {"size": 89, "end_of_text": 0, "special_ids": {"e": 0}})
    monkeypatch.setattr(publish.Tokenizer, "load", lambda path: tokenizer)
    with pytest.raises(HornbookError, match="cannot be exported"):
        publish.export(source, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_running_its_recipe_leaves_the_export_out():
    assert "export" not in stages_of(load_recipe("speedrun"))
    assert "export" in stages_of(load_recipe("speedrun-stock"))
