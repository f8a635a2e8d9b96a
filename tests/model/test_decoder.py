"""What the decoder does besides being right: dropout, initial weights, dtypes, embeddings."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from hornbook.errors import HornbookError
from hornbook.model.cache import KeyValueCache
from hornbook.model.decoder import PAD_BIAS, Decoder

IDS = torch.arange(30).reshape(2, 15)


def test_hidden_and_head_are_forward(family, tiny_decoder):
    decoder = tiny_decoder(family)
    torch.testing.assert_close(decoder.head(decoder.hidden(IDS)), decoder(IDS))
    assert decoder(IDS).dtype == torch.float32
    assert decoder.hidden(IDS).shape == (2, 15, decoder.config.width)


def test_embeddings_in_place_of_ids(family, tiny_decoder):
    decoder = tiny_decoder(family)
    assert torch.equal(decoder.hidden(decoder.embedding(IDS)), decoder.hidden(IDS))


def test_positions_default_to_counting(family, tiny_decoder):
    decoder = tiny_decoder(family)
    counted = torch.arange(15).expand(2, 15)
    torch.testing.assert_close(decoder(IDS, counted), decoder(IDS))


def test_too_long_a_sequence_is_refused(tiny_decoder):
    decoder = tiny_decoder("gpt2")
    with pytest.raises(HornbookError, match="41 tokens is longer than the model's context of 40"):
        decoder(torch.zeros(1, 41, dtype=torch.int64))


@pytest.mark.parametrize("place", ["embedding_dropout", "attention_dropout", "residual_dropout"])
def test_dropout_only_in_training(family, place, tiny_decoder):
    decoder = tiny_decoder(family, **{place: 0.5})
    plain = tiny_decoder(family)
    assert torch.equal(decoder(IDS), plain(IDS))
    decoder.train()
    torch.manual_seed(1)
    first = decoder(IDS)
    torch.manual_seed(1)
    assert torch.equal(decoder(IDS), first), "the same seed drops the same"
    assert not torch.equal(decoder(IDS), first)


def test_embedding_dropout_rate(tiny_decoder):
    decoder = tiny_decoder("llama", layers=1, embedding_dropout=0.25).train()
    dropped = decoder._embed(IDS.repeat(100, 1), None)
    assert (dropped == 0).float().mean().item() == pytest.approx(0.25, abs=0.01)
    kept = dropped[dropped != 0] / decoder.embedding(IDS.repeat(100, 1))[dropped != 0]
    torch.testing.assert_close(kept, torch.full_like(kept, 1 / 0.75))


def test_initial_weights_are_gpt2s_and_repeat(family, tiny_config):
    config = tiny_config(
        family,
        layers=8,
        vocabulary=900,
        vocabulary_rows=960,
        width=80,
        head_dim=20,
        tied=False,
    )
    decoder = Decoder(config, torch.Generator().manual_seed(3))
    again = Decoder(config, torch.Generator().manual_seed(3))
    other = Decoder(config, torch.Generator().manual_seed(4))
    for name, parameter in decoder.named_parameters():
        assert torch.equal(parameter, again.get_parameter(name)), name
        if parameter.dim() == 1:
            expected = torch.full_like(parameter, 1.0 if name.endswith("norm.weight") else 0.0)
            if name == "lm_head.bias":
                expected[900:] = PAD_BIAS
            assert torch.equal(parameter, expected), name
            continue
        assert not torch.equal(parameter, other.get_parameter(name)), name
        narrow = name.endswith(("attention.output.weight", "mlp.down.weight"))
        spread = 0.02 / math.sqrt(16) if narrow else 0.02
        assert parameter.std().item() == pytest.approx(spread, rel=0.06), name
        assert abs(parameter.mean().item()) < 5 * spread / math.sqrt(parameter.numel()), name


def test_first_loss_is_that_of_guessing(family, tiny_config):
    decoder = Decoder(tiny_config(family), torch.Generator().manual_seed(0))
    loss = functional.cross_entropy(decoder(IDS)[:, :-1].flatten(0, 1), IDS[:, 1:].flatten())
    assert loss.item() == pytest.approx(math.log(89), abs=0.1), "pad columns take no probability"


def test_pad_rows_get_no_gradient(family, tiny_decoder):
    decoder = tiny_decoder(family, tied=False)
    loss = functional.cross_entropy(decoder(IDS)[:, :-1].flatten(0, 1), IDS[:, 1:].flatten())
    loss.backward()
    assert decoder.lm_head.weight.grad[:89].norm() > 0
    assert torch.all(decoder.lm_head.weight.grad[89:] == 0)
    assert torch.all(decoder.embedding.weight.grad[89:] == 0)


def test_no_padding_masks_nothing(family, tiny_decoder):
    decoder = tiny_decoder(family, vocabulary=96)
    assert decoder(IDS).isfinite().all()


@pytest.mark.parametrize("how", ["autocast", "weights"])
def test_bfloat16(family, how, tiny_config):
    decoder = Decoder(tiny_config(family), torch.Generator().manual_seed(0))
    exact = decoder(IDS)[..., :89]
    if how == "weights":
        decoder = decoder.to(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16, enabled=how == "autocast"):
        logits = decoder(IDS)
    assert logits.dtype == torch.float32
    assert torch.all(logits[..., 89:] == -torch.inf)
    assert (logits[..., :89] - exact).norm() / exact.norm() < 0.03
    loss = functional.cross_entropy(logits[:, :-1].flatten(0, 1), IDS[:, 1:].flatten())
    loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in decoder.parameters())


def test_state_holds_each_number_once(family, tiny_decoder):
    decoder = tiny_decoder(family)
    assert set(decoder.state_dict()) == {name for name, _ in decoder.named_parameters()}


def test_compiles_to_one_graph(family, tiny_decoder):
    decoder = tiny_decoder(family)
    documents = torch.tensor([[0] * 5 + [1] * 10, [0] * 13 + [-1] * 2])
    compiled = torch.compile(decoder, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(IDS), decoder(IDS))
    torch.testing.assert_close(
        compiled(IDS, documents=documents), decoder(IDS, documents=documents)
    )
    step = torch.compile(decoder.hidden, fullgraph=True, backend="eager")
    with torch.no_grad():
        cache = KeyValueCache(decoder.config, rows=2, length=16)
        torch.testing.assert_close(
            step(IDS, cache.positions(15), cache=cache), decoder.hidden(IDS), rtol=1e-3, atol=1e-4
        )
