"""Every way of computing against the plain one: forward, loss and all gradients."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from hornbook.model import attention, checkpointing
from hornbook.model.attention import padded_head_dim
from hornbook.model.decoder import Decoder
from hornbook.model.engine import Engine
from hornbook.tokens.batch import IGNORE

IDS = torch.randint(0, 89, (3, 20), generator=torch.Generator().manual_seed(5))
TARGETS = IDS.roll(-1, 1).masked_fill(torch.arange(20) >= 17, IGNORE)
DOCUMENTS = torch.tensor([[0] * 6 + [1] * 9 + [-1] * 5, [0] * 20, [0] * 19 + [1]])
DROPOUT = {"embedding_dropout": 0.1, "attention_dropout": 0.1, "residual_dropout": 0.1}


def compute(
    decoder: Decoder, engine: Engine, *, documents: Tensor | None = None, autocast: bool = False
) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss and gradients, dropout from a fixed seed."""
    decoder.engine = engine
    decoder.train()
    decoder.zero_grad()
    torch.manual_seed(11)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        loss = decoder.loss(decoder.hidden(IDS, documents=documents), TARGETS)
    (loss / 7).backward()
    gradients = {name: p.grad.clone() for name, p in decoder.named_parameters()}
    return loss.detach(), gradients


def assert_equal(ours, plain) -> None:
    assert torch.equal(ours[0], plain[0])
    for name, gradient in plain[1].items():
        assert torch.equal(ours[1][name], gradient), name


def assert_near(ours, plain, tolerance: float) -> None:
    torch.testing.assert_close(ours[0], plain[0], rtol=tolerance, atol=0)
    for name, far in distances(ours, plain).items():
        assert far <= tolerance, name


def distances(ours, plain) -> dict[str, float]:
    """Of each gradient as a whole, relative: its entries near 0 are sums that cancel."""
    return {
        name: float((ours[1][name] - gradient).norm() / gradient.norm().clamp(min=1e-9))
        for name, gradient in plain[1].items()
    }


@pytest.mark.parametrize("multiple", [8, 64])
@pytest.mark.parametrize("packed", [False, True])
def test_padded_heads_equal_plain_ones(family, packed, multiple, tiny_decoder, monkeypatch):
    monkeypatch.setattr(attention, "HEAD_DIM_MULTIPLE", multiple)
    decoder = tiny_decoder(family, head_dim=10, width=40)
    assert padded_head_dim(10, "cudnn") > 10
    documents = DOCUMENTS if packed else None
    plain = compute(decoder, Engine(), documents=documents)
    assert_near(compute(decoder, Engine(attention="cudnn"), documents=documents), plain, 1e-5)


def test_padded_heads_drop_the_same(tiny_decoder):
    decoder = tiny_decoder("gpt2", head_dim=10, width=40, **DROPOUT)
    assert_near(compute(decoder, Engine(attention="flash")), compute(decoder, Engine()), 1e-5)


@pytest.mark.parametrize("kernel", ["cudnn", "flash", "efficient", "math"])
def test_a_kernel_that_is_not_here_falls_to_another(family, kernel, tiny_decoder):
    decoder = tiny_decoder(family)
    assert_near(compute(decoder, Engine(attention=kernel)), compute(decoder, Engine()), 1e-5)


@pytest.mark.parametrize("kernel", ["cudnn", "math"])
def test_the_choice_of_kernel_compiles_to_one_graph(kernel, tiny_decoder):
    decoder = tiny_decoder("llama", head_dim=10, width=40)
    decoder.engine = Engine(attention=kernel)
    torch.compiler.reset()
    before = torch.nn.attention._cur_sdpa_kernel_backends(with_priority=True)
    compiled = torch.compile(decoder, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(IDS), decoder(IDS))
    assert torch.nn.attention._cur_sdpa_kernel_backends(with_priority=True) == before


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("mode", ["selective", "full"])
def test_checkpointing_repeats_every_bit(family, mode, autocast, tiny_decoder):
    for dropout in ({}, DROPOUT):
        decoder = tiny_decoder(family, **dropout)
        plain = compute(decoder, Engine(), documents=DOCUMENTS, autocast=autocast)
        engine = Engine(checkpointing=mode)
        assert_equal(compute(decoder, engine, documents=DOCUMENTS, autocast=autocast), plain)


@pytest.mark.parametrize("draws", [False, True])
def test_dropout_after_a_kept_operation_that_draws(draws, monkeypatch) -> None:
    """As CUDA's attention kernels with dropout: kept, it does not draw its numbers again, and the
    dropout after it drew these, so that `selective` had other gradients. (tests/gpu has the real
    ones.)"""
    monkeypatch.setattr(checkpointing, "ATTENTION", (torch.ops.aten.rand_like.default,))

    def layer(x: Tensor) -> Tensor:
        weights = torch.rand_like(x)
        return torch.nn.functional.dropout(x * weights, 0.5).sin()

    found = []
    for mode in ("none", "selective"):
        x = torch.linspace(1, 2, 100).requires_grad_()
        torch.manual_seed(3)
        checkpointing.checkpointed(layer, mode, 10, draws, x).sum().backward()
        found.append(x.grad)
    assert torch.equal(*found) == draws


def kept(decoder: Decoder, engine: Engine, *, compiled: bool = False) -> int:
    """Bytes that autograd keeps of the blocks' activations."""
    decoder.engine = engine
    decoder.train()
    storages = {}

    def keep(tensor: Tensor) -> Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    parameters = {p.untyped_storage().data_ptr() for p in decoder.parameters()}
    hidden_states = decoder.hidden
    if compiled:  # this backend decides what to keep as the real one does
        torch.compiler.reset()
        hidden_states = torch.compile(hidden_states, backend="aot_eager_decomp_partition")
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        hidden = hidden_states(IDS)
    assert hidden.requires_grad
    return sum(size for place, size in storages.items() if place not in parameters)


def test_full_checkpointing_keeps_the_blocks_inputs(tiny_decoder):
    decoder = tiny_decoder("llama", layers=6)
    plain, full = (kept(decoder, Engine(checkpointing=mode)) for mode in ("none", "full"))
    assert full < plain / 5


@pytest.mark.parametrize("mlp", ["plain", "fused"])
def test_full_checkpointing_keeps_the_blocks_inputs_compiled(mlp, tiny_decoder):
    full = Engine(checkpointing="full", mlp=mlp)
    layers = (tiny_decoder("gpt2", layers=layers) for layers in (2, 3))
    fewer, more = (kept(decoder, full, compiled=True) for decoder in layers)
    block_input = 4 * IDS.numel() * tiny_decoder("gpt2").config.width
    assert more - fewer < 2 * block_input  # and some vectors; of the MLP alone it would be 8


@pytest.mark.parametrize(("family", "parts"), [("gpt2", 1), ("llama", 2)])
def test_selective_checkpointing_repeats_only_the_widest_products(family, parts, tiny_decoder):
    # (Of this llama, queries, keys and values together are wider than `mlp_width`.)
    decoder = tiny_decoder(family, kv_heads=4)
    flops = {}
    for mode in ("none", "selective"):
        decoder.engine = Engine(checkpointing=mode)
        loss = decoder.train().hidden(IDS).sum()
        with FlopCounterMode(display=False) as counter:
            loss.backward()
        flops[mode] = counter.get_total_flops()
    config = decoder.config
    up = 2 * IDS.numel() * config.width * config.mlp_width * parts
    assert flops["selective"] - flops["none"] == config.layers * up


@pytest.mark.parametrize("head", ["chunked", "fused"])
@pytest.mark.parametrize("tied", [False, True])
def test_cross_entropy_equals_the_plain_one(family, head, tied, tiny_decoder, monkeypatch):
    monkeypatch.setattr("hornbook.model.cross_entropy.CHUNK_LOGITS", 96 * 7)  # 60 rows: 9 chunks
    decoder = tiny_decoder(family, tied=tied)
    plain = compute(decoder, Engine())
    ours = compute(decoder, Engine(cross_entropy=head))
    assert_near(ours, plain, 1e-5)
    if not tied:
        assert torch.all(ours[1]["lm_head.weight"][89:] == 0), "rows that only pad"
    # In bfloat16, both are as far from float32.
    narrow = compute(decoder, Engine(), autocast=True)
    far = distances(narrow, plain)
    for name, ours in distances(
        compute(decoder, Engine(cross_entropy=head), autocast=True), plain
    ).items():
        assert ours < 1.3 * far[name] + 1e-3, name


def test_residual_in_bfloat16(family, tiny_decoder):
    decoder = tiny_decoder(family)
    decoder.engine = Engine(residual="bf16")
    seen = []
    decoder.blocks[1].register_forward_pre_hook(lambda block, inputs: seen.append(inputs[0].dtype))
    narrow = compute(decoder, Engine(residual="bf16"), autocast=True)
    wide = compute(decoder, Engine(), autocast=True)
    assert seen == [torch.bfloat16, torch.float32]
    exact = compute(decoder, Engine())
    far = distances(wide, exact)
    for name, ours in distances(narrow, exact).items():
        assert ours < 3 * far[name] + 1e-3, name
    assert_equal(compute(decoder, Engine(residual="bf16")), exact)


def test_evaluation_is_not_checkpointed_nor_compiled(tiny_decoder, monkeypatch):
    decoder = tiny_decoder("qwen3")
    plain = decoder(IDS)
    decoder.engine = Engine(checkpointing="full", compile="regional", cross_entropy="chunked")
    monkeypatch.setattr("hornbook.model.decoder._compiled_training", None)
    monkeypatch.setattr("hornbook.model.decoder.checkpointed", None)
    assert torch.equal(decoder(IDS), plain)


def test_engines_are_values():
    assert replace(Engine(), compile="on") == Engine(compile="on") != Engine()


@pytest.mark.parametrize("mode", ["none", "selective", "full"])
def test_gelu_inside_the_products(family, mode, tiny_decoder):
    decoder = tiny_decoder(family, **DROPOUT)
    plain = compute(decoder, Engine())
    assert_near(compute(decoder, Engine(mlp="fused", checkpointing=mode)), plain, 1e-5)
    narrow = compute(decoder, Engine(), autocast=True)
    assert_near(compute(decoder, Engine(mlp="fused"), autocast=True), narrow, 0.02)


def test_gelu_inside_the_products_keeps_no_more(tiny_decoder):
    decoder = tiny_decoder("gpt2")
    plain, fused = (kept(decoder, Engine(mlp=mlp)) for mlp in ("plain", "fused"))
    assert fused <= plain
