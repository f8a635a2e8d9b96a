"""Float8: refused in words where it does not work; elsewhere it changes layers, not weights."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from torch import nn

from hornbook.errors import HornbookError
from hornbook.model import float8


def pretend_hopper(monkeypatch) -> None:
    monkeypatch.setattr(float8, "_problem", lambda device: None)


def test_a_cpu_is_refused(tiny_decoder):
    with pytest.raises(HornbookError, match="float8 does not work here: a cpu device has none"):
        float8.convert(tiny_decoder("gpt2"))


def test_an_old_gpu_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    assert "compute capability 8.0" in str(float8._problem(torch.device("cuda")))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    assert float8._problem(torch.device("cuda")) is None


def test_without_torchao_it_says_what_to_install(tiny_decoder, monkeypatch):
    pretend_hopper(monkeypatch)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(HornbookError, match="needs torchao") as error:
        float8.convert(tiny_decoder("gpt2"))
    assert "hornbook[float8]" in str(error.value)


@pytest.mark.skipif(importlib.util.find_spec("torchao") is None, reason="needs torchao")
def test_only_the_blocks_layers_change(tiny_decoder, monkeypatch):
    pretend_hopper(monkeypatch)
    decoder = tiny_decoder("llama")
    before = dict(decoder.named_parameters())
    float8.convert(decoder)
    after = dict(decoder.named_parameters())
    assert list(after) == list(before)
    assert all(after[name] is before[name] for name in before)
    changed = {type(module).__name__ for module in decoder.blocks.modules()}
    assert "Float8Linear" in changed
    # 88 is no multiple of 16, so `down` (88 -> 32) and nothing else stays.
    assert isinstance(decoder.blocks[0].mlp.down, nn.Linear)
    assert type(decoder.blocks[0].mlp.down).__name__ == "Linear"


@pytest.mark.skipif(importlib.util.find_spec("torchao") is None, reason="needs torchao")
def test_odd_sizes_are_refused(tiny_decoder, monkeypatch):
    pretend_hopper(monkeypatch)
    with pytest.raises(HornbookError, match="multiples of 16"):
        float8.convert(tiny_decoder("gpt2", width=36, head_dim=9, mlp_width=144))
