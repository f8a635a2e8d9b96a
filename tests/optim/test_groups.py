"""Decay groups, and AdamW against its plain implementation."""

from __future__ import annotations

import torch
from tests.optim.tiny_decoder import tiny_decoder
from torch import nn

from hornbook.optim.config import OptimizerConfig
from hornbook.optim.groups import build_optimizer, set_learning_rate


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 4)
        self.norm = nn.LayerNorm(4)
        self.head = nn.Linear(4, 7)
        self.head.weight = self.embedding.weight
        self.frozen = nn.Parameter(torch.ones(4, 4), requires_grad=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.norm(self.embedding(ids)))
        return logits


def test_matrices_are_decayed_vectors_not_and_each_parameter_once() -> None:
    model = Tied()
    optimizer = build_optimizer(model, OptimizerConfig(weight_decay=0.3), torch.device("cpu"))
    decay = {p: group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert decay == {
        model.embedding.weight: 0.3,
        model.norm.weight: 0.0,
        model.norm.bias: 0.0,
        model.head.bias: 0.0,
    }
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 4


def test_updates_are_those_of_plain_adamw() -> None:
    torch.manual_seed(0)
    model, plain = Tied(), Tied()
    plain.load_state_dict(model.state_dict())
    config = OptimizerConfig(learning_rate=0.1, weight_decay=0.5, beta1=0.8, beta2=0.9)
    ours = build_optimizer(model, config, torch.device("cpu"))
    decayed, others = [plain.embedding.weight], [plain.norm.weight, plain.norm.bias]
    reference = torch.optim.AdamW(
        [
            {"params": decayed, "weight_decay": 0.5},
            {"params": [*others, plain.head.bias], "weight_decay": 0.0},
        ],
        lr=0.1,
        betas=(0.8, 0.9),
        foreach=False,
    )
    for rate in (0.1, 0.05, 0.2):
        set_learning_rate(ours, rate)
        set_learning_rate(reference, rate)
        for module, optimizer in ((model, ours), (plain, reference)):
            optimizer.zero_grad()
            module(torch.tensor([1, 2, 3])).square().sum().backward()
            optimizer.step()
    for ours_now, reference_now in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours_now, reference_now)


def test_float32_adamw_is_pytorchs_fused_one_bit_for_bit() -> None:
    torch.manual_seed(0)
    model, theirs = Tied(), Tied()
    theirs.load_state_dict(model.state_dict())
    ours = build_optimizer(model, OptimizerConfig(weight_decay=0.0), torch.device("cpu"))
    trained = [p for p in theirs.parameters() if p.requires_grad]
    fused = torch.optim.AdamW(trained, lr=6e-4, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
    for step in range(5):
        for module, optimizer in ((model, ours), (theirs, fused)):
            optimizer.zero_grad()
            module(torch.tensor([1, 2, step])).square().sum().backward()
            optimizer.step()
    for one, other in zip(model.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(one, other)
        assert all(torch.equal(ours.state[one][k], v) for k, v in fused.state[other].items())


def test_value_embeddings_have_the_rate_of_embeddings():
    shape = {"layers": 2, "value_embeddings": 1, "smear": True, "width": 32}
    model = tiny_decoder("speedrun", **shape)
    config = OptimizerConfig(
        kind="muon", learning_rate=0.01, embedding_learning_rate=0.1, head_learning_rate=0.003
    )
    optimizer = build_optimizer(model, config, torch.device("cpu"))
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert rates[id(model.embedding.weight)] == 0.1
    assert rates[id(model.value_embeddings.tables[0].weight)] == 0.1
    assert rates[id(model.lm_head.weight)] == 0.003
    assert rates[id(model.smear.gate.weight)] == 0.01
    assert rates[id(model.value_embeddings.gates)] == 0.01
    assert rates[id(model.blocks[0].attention.qkv.weight)] == config.matrix_learning_rate
