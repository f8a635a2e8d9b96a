"""A model bound to its objective, compiled in each way, and wrapped for several processes."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.distributed as dist
from tiny_run import MODEL, CountingRows
from torch._dynamo.utils import counters
from torch.nn.parallel import DistributedDataParallel

from hornbook.errors import HornbookError
from hornbook.model import decoder as decoder_module
from hornbook.model.decoder import Decoder
from hornbook.model.engine import Engine
from hornbook.train.objective import NextToken, bind

COMPILED = [
    Engine(compile="on"),
    Engine(compile="regional"),
    Engine(compile="on", checkpointing="full"),
    Engine(compile="regional", checkpointing="selective"),
    Engine(compile="on", checkpointing="budget", budget=0.3),
    Engine(compile="regional", cross_entropy="chunked", attention="flash"),
]


@pytest.fixture
def traced(monkeypatch):
    """torch.compile with all of its tracing, but PyTorch's own kernels."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    for cached in (decoder_module._compiled_training, decoder_module._compiled_loss):
        cached.cache_clear()
    torch._dynamo.reset()
    counters.clear()
    yield
    for cached in (decoder_module._compiled_training, decoder_module._compiled_loss):
        cached.cache_clear()


def gradients(forward, model) -> list[torch.Tensor]:
    model.zero_grad()
    torch.manual_seed(3)
    loss, metrics = forward(CountingRows().rows(0, 6))
    assert metrics == {}
    (loss / 9).backward()
    return [loss.detach(), *(p.grad.clone() for p in model.parameters())]


def decoder(engine: Engine, **changes) -> Decoder:
    undropped = {name: 0.0 for name in vars(MODEL) if name.endswith("dropout")}
    config = replace(MODEL, **{**undropped, "layers": 4, **changes})
    model = Decoder(config, torch.Generator().manual_seed(0))
    model.engine = engine
    return model


@pytest.mark.parametrize("engine", COMPILED, ids=lambda engine: f"{engine}")
def test_compiled_equals_plain(engine, traced):
    plain_model, model = decoder(Engine()), decoder(engine)
    plain, forward = bind(NextToken(), plain_model), bind(NextToken(), model)
    for ours, reference in zip(
        gradients(forward, model), gradients(plain, plain_model), strict=True
    ):
        torch.testing.assert_close(ours, reference, rtol=1e-4, atol=1e-6)
    gradients(forward, model)
    assert not counters["graph_break"]
    blocks_and_loss = 1 if engine.compile == "on" or engine.cross_entropy == "chunked" else 2
    assert counters["stats"]["unique_graphs"] == blocks_and_loss, "one block stands for all"


def test_dropout_is_drawn_anew_each_step_and_repeats_with_the_seed(traced):
    model = decoder(Engine(compile="on", checkpointing="full"), residual_dropout=0.2)
    forward = bind(NextToken(), model)
    first, again = gradients(forward, model), gradients(forward, model)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    torch.manual_seed(4)
    other, _ = forward(CountingRows().rows(0, 6))
    assert other.item() != first[0].item()


def test_evaluation_compiles_nothing(traced):
    for engine in (Engine(compile="on"), Engine(compile="regional")):
        model = decoder(engine)
        bind(NextToken(), model)
        model.eval()
        with torch.no_grad():
            model(CountingRows().rows(0, 2).inputs)
    assert not counters["stats"]


def test_several_processes_wrap_it_whole(traced, tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/ready", rank=0, world_size=1)
    try:
        for engine in (Engine(), Engine(compile="on"), Engine(compile="regional")):
            plain_model, model = decoder(Engine()), decoder(engine)
            wrapped = DistributedDataParallel(bind(NextToken(), model))
            plain = gradients(bind(NextToken(), plain_model), plain_model)
            for ours, reference in zip(gradients(wrapped, model), plain, strict=True):
                torch.testing.assert_close(ours, reference, rtol=1e-4, atol=1e-6)
    finally:
        dist.destroy_process_group()


def test_a_budget_changes_nothing_where_nothing_is_compiled():
    model = decoder(Engine(checkpointing="budget"))
    assert gradients(bind(NextToken(), model), model)


def test_what_is_not_here_is_refused_in_words():
    with pytest.raises(HornbookError, match="needs a CUDA device and Triton"):
        bind(NextToken(), decoder(Engine(cross_entropy="fused")))
