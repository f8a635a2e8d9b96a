"""Compiled code that a later start finds on disk."""

from dataclasses import replace

import pytest
import torch
from tiny_run import MODEL
from torch._dynamo.utils import counters
from torch._inductor.utils import fresh_cache

from hornbook.model.decoder import Decoder
from hornbook.tokens.batch import Batch
from hornbook.train import compiling
from hornbook.train.machine import Machine
from hornbook.train.objective import NextToken
from hornbook.train.trial import Trial


def compiled(monkeypatch: pytest.MonkeyPatch, code: str) -> dict[str, int]:
    """How often the compiler found, and did not find, the graph of a step of the model's `code`."""
    monkeypatch.setattr(compiling, "_code", lambda: code)
    counters.clear()
    config = replace(MODEL, layers=1)
    tokens = torch.zeros(2, 8, dtype=torch.int64)
    device = torch.device("cpu")
    trial = Trial(Decoder(config).train(), NextToken(), Batch(tokens, tokens), device)
    # Attention is told which kernel to try; the other two have gradients of their own, by an
    # autograd function and by a custom operation.
    machine = Machine(
        "cpu", "", "fp32", 1, "", {}, micro_batches=[[1, 2]], compile="on", attention="flash",
        mlp="fused", cross_entropy="chunked",
    )  # fmt: skip
    compiling.start(machine, trial, "on")
    return {
        n: v for n, v in counters["aot_autograd"].items() if n.endswith(("hit", "miss", "bypass"))
    }


@pytest.mark.long
def test_a_graph_is_found_again_unless_the_code_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    with fresh_cache():
        assert compiled(monkeypatch, "old") == {"autograd_cache_miss": 1}
        assert compiled(monkeypatch, "old") == {"autograd_cache_hit": 1}
        assert compiled(monkeypatch, "new") == {"autograd_cache_miss": 1}
