"""What all kinds share: skipped steps, scaled gradients, bfloat16 weights."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import pytest
import torch
from tests.optim.tiny_decoder import give_gradients, tiny_decoder
from torch import Tensor, nn

from hornbook.errors import HornbookError
from hornbook.optim.config import OptimizerConfig
from hornbook.optim.groups import build_optimizer, check_optimizer, set_learning_rate
from hornbook.optim.optimizer import Optimizer

CPU = torch.device("cpu")
WIDE = {"width": 64, "head_dim": 16, "mlp_width": 128}  # so that 8 bits apply
KINDS = {
    "adamw": OptimizerConfig(),
    "cautious": OptimizerConfig(cautious=True),
    "adamw8bit": OptimizerConfig(kind="adamw8bit"),
    "muon": OptimizerConfig(kind="muon", learning_rate=1e-3),
    "normuon": OptimizerConfig(
        kind="muon", learning_rate=1e-3, normalize=True, cautious=True
    ),
    "offload": OptimizerConfig(offload=True),
}  # fmt: skip
every_kind = pytest.mark.parametrize("config", KINDS.values(), ids=KINDS.keys())
both_dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])


def snapshot(model: nn.Module, optimizer: Optimizer) -> list[Tensor]:
    states = [optimizer.state[p] for p in model.parameters()]
    tensors = [*model.parameters(), *(t for state in states for t in state.values())]
    return [t.detach().clone() for t in tensors]


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@every_kind
@both_dtypes
@pytest.mark.parametrize("begun", [False, True])
def test_a_skipped_step_changes_nothing(
    config: OptimizerConfig, dtype: torch.dtype, begun: bool
) -> None:
    model = tiny_decoder(**WIDE).to(dtype)
    optimizer = build_optimizer(model, config, CPU)
    if begun:
        give_gradients(model, 0)
        optimizer.step()
    for parameter in model.parameters():
        if not begun:
            optimizer.state[parameter] = optimizer.new_state(parameter)
        parameter.grad = torch.full_like(parameter, float("nan"))
    before = snapshot(model, optimizer)
    optimizer.found_inf = torch.tensor(1.0)
    optimizer.step()
    assert same(snapshot(model, optimizer), before)
    optimizer.found_inf = torch.tensor(0.0)
    give_gradients(model, 1)
    optimizer.step()
    after = snapshot(model, optimizer)
    assert all(t.isfinite().all() for t in after)
    assert all(optimizer.state[p]["step"] == 1 + begun for p in model.parameters())


@every_kind
@both_dtypes
def test_new_state_is_what_the_first_step_makes(
    config: OptimizerConfig, dtype: torch.dtype
) -> None:
    model = tiny_decoder(**WIDE).to(dtype)
    optimizer = build_optimizer(model, config, CPU)
    give_gradients(model, 0)
    optimizer.step()
    for parameter in model.parameters():
        made = {k: (t.shape, t.dtype) for k, t in optimizer.new_state(parameter).items()}
        assert made == {k: (t.shape, t.dtype) for k, t in optimizer.state[parameter].items()}


@every_kind
@both_dtypes
def test_a_resumed_run_goes_on_bit_for_bit(config: OptimizerConfig, dtype: torch.dtype) -> None:
    model = tiny_decoder(**WIDE).to(dtype)
    optimizer = build_optimizer(model, config, CPU)
    for step in range(3):
        give_gradients(model, step)
        optimizer.step()
    taken_up = tiny_decoder(**WIDE).to(dtype)
    taken_up.load_state_dict(model.state_dict())
    other = build_optimizer(taken_up, config, CPU)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for step in range(3, 6):
        for m, o in ((model, optimizer), (taken_up, other)):
            give_gradients(m, step)
            o.step()
    assert same(snapshot(model, optimizer), snapshot(taken_up, other))


@pytest.mark.parametrize("kind", ["adamw", "adamw8bit", "muon"])
def test_bfloat16_weights_learn_what_rounding_to_nearest_cannot(kind: str) -> None:
    """Updates are a tenth of half a bfloat16 step, all in one direction."""
    config = dataclasses.replace(
        KINDS[kind], learning_rate=2e-4, matrix_learning_rate=2e-4, weight_decay=0.0
    )
    moved = {}
    for dtype in (torch.float32, torch.bfloat16):
        model = tiny_decoder(**WIDE)
        for parameter in model.parameters():
            nn.init.ones_(parameter)
        model.to(dtype)
        optimizer = build_optimizer(model, config, CPU)
        direction = torch.Generator().manual_seed(3)
        gradients = [torch.randn(p.shape, generator=direction) for p in model.parameters()]
        for _ in range(50):
            for parameter, gradient in zip(model.parameters(), gradients, strict=True):
                parameter.grad = gradient.to(dtype)
            optimizer.step()
        moved[dtype] = torch.cat([p.detach().float().reshape(-1) - 1 for p in model.parameters()])
    exact, rounded = moved[torch.float32], moved[torch.bfloat16]
    assert (rounded * exact).sum() / exact.square().sum() == pytest.approx(1, abs=0.05)
    nearest = torch.ones(()) + 2e-4
    assert nearest.bfloat16() == 1


def test_bfloat16_weights_follow_float32_on_a_small_problem() -> None:
    """Least squares: rounding to nearest stalls an order of magnitude earlier."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(256, 32, generator=generator)
    wanted = inputs @ torch.randn(32, 8, generator=generator)
    losses = {}
    for name in ("float32", "stochastic", "nearest"):
        module = nn.Linear(32, 8, bias=False)
        nn.init.zeros_(module.weight)
        module.to(torch.float32 if name == "float32" else torch.bfloat16)
        optimizer: torch.optim.Optimizer = build_optimizer(
            module, OptimizerConfig(learning_rate=1e-2, weight_decay=0.0), CPU
        )
        if name == "nearest":
            optimizer = torch.optim.AdamW(module.parameters(), lr=1e-3, weight_decay=0.0)
        tail = []
        for step in range(800):
            set_learning_rate(optimizer, 1e-2 * (1 - step / 800))
            optimizer.zero_grad()
            loss = (inputs @ module.weight.float().T - wanted).square().mean()
            loss.backward()
            optimizer.step()
            tail.append(float(loss.detach()))
        losses[name] = sum(tail[-50:]) / 50
    assert losses["stochastic"] < 1e-3
    assert losses["nearest"] > 10 * losses["stochastic"], losses


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"kind": "muon", "learning_rate": 0.0}, "learning_rate"),
        ({"embedding_learning_rate": 0.1, "learning_rate": 0.0}, "learning_rate"),
        ({"head_learning_rate": -0.1}, "head_learning_rate"),
        ({"matrix_learning_rate": -1.0}, "matrix_learning_rate"),
        ({"momentum": 1.0}, "momentum"),
        ({"normalize": True}, "normalize"),
        ({"kind": "adamw8bit", "offload": True}, "offload"),
        ({"cautious": True, "offload": True}, "offload"),
    ],
)
def test_settings_without_meaning_are_refused(settings: dict[str, Any], field: str) -> None:
    with pytest.raises(HornbookError, match=f"optimizer.{field}"):
        check_optimizer(OptimizerConfig(**settings))


def test_learning_rates_keep_their_proportion() -> None:
    config = OptimizerConfig(kind="muon", learning_rate=1e-3, matrix_learning_rate=2e-2)
    optimizer = build_optimizer(tiny_decoder(), config, CPU)
    set_learning_rate(optimizer, 5e-4)
    assert {g["rule"]: g["lr"] for g in optimizer.param_groups} == {"adamw": 5e-4, "muon": 1e-2}


def test_embeddings_and_head_have_learning_rates_of_their_own() -> None:
    config = OptimizerConfig(
        kind="muon", learning_rate=1e-3, embedding_learning_rate=0.1, head_learning_rate=4e-3
    )
    model = tiny_decoder()
    optimizer = build_optimizer(model, config, CPU)
    set_learning_rate(optimizer, 5e-4)
    rates = {p: group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert rates[model.embedding.weight] == pytest.approx(0.05)
    assert rates[model.lm_head.weight] == pytest.approx(2e-3)
    assert rates[model.final_norm.weight] == 5e-4
    assert len(rates) == len(list(model.parameters()))
    with pytest.raises(HornbookError, match=r"optimizer\.head_learning_rate"):
        build_optimizer(tiny_decoder(tied=True), config, CPU)
