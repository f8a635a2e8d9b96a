"""Muon against torch.optim.Muon, matrix by matrix; its options against their definitions."""

from __future__ import annotations

import copy

import pytest
import torch
from tests.optim.tiny_decoder import give_gradients, tiny_decoder
from torch import Tensor, nn

from hornbook.model.families import FAMILIES
from hornbook.optim import muon
from hornbook.optim.config import OptimizerConfig
from hornbook.optim.groups import build_optimizer, set_learning_rate
from hornbook.optim.muon import normalise_rows, orthogonal_updates, orthogonalise

CPU = torch.device("cpu")


@pytest.mark.parametrize("family", ["gpt2", "qwen3"])
def test_equals_torch_muon_matrix_by_matrix_and_adamw_elsewhere(family: str) -> None:
    model = tiny_decoder(family)
    settings = OptimizerConfig(
        kind="muon", learning_rate=3e-3, matrix_learning_rate=0.02, weight_decay=0.5, momentum=0.9
    )
    ours = build_optimizer(model, settings, CPU)
    names = {p: name for name, p in model.named_parameters()}
    pieces: dict[str, list[nn.Parameter]] = {}
    rest: list[nn.Parameter] = []
    for weight in FAMILIES[family].weights(model.config):
        parameter = dict(model.named_parameters())[weight.name]
        if weight.name.startswith("blocks.") and parameter.dim() == 2:
            parts = parameter.detach().clone().split(list(weight.matrix_rows))
            pieces[weight.name] = [nn.Parameter(part.clone()) for part in parts]
        else:
            rest.append(nn.Parameter(parameter.detach().clone()))
            pieces[weight.name] = [rest[-1]]
    matrices = [p for parts in pieces.values() for p in parts if all(p is not r for r in rest)]
    theirs = torch.optim.Muon(matrices, lr=0.02, weight_decay=0.5, momentum=0.9)
    others = torch.optim.AdamW(
        [
            {"params": [p for p in rest if p.dim() == 2], "weight_decay": 0.5},
            {"params": [p for p in rest if p.dim() < 2], "weight_decay": 0.0},
        ],
        betas=(settings.beta1, settings.beta2),
    )
    assert len(matrices) > 2 * 4
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for step, rate in enumerate((3e-3, 1e-3, 2e-3)):
        give_gradients(model, step)
        for parameter in names:
            parts = pieces[names[parameter]]
            for part, grad in zip(
                parts, parameter.grad.split([len(p) for p in parts]), strict=True
            ):
                part.grad = grad.clone()
        set_learning_rate(ours, rate)
        theirs.param_groups[0]["lr"] = rate * 0.02 / 3e-3
        set_learning_rate(others, rate)
        for optimizer in (ours, theirs, others):
            optimizer.step()
    for name, parameter in model.named_parameters():
        wanted = torch.cat(pieces[name])
        moved = (wanted - before[name]).norm()
        # torch's iterations are in bfloat16, ours on the CPU in float32: 2^-8 an element.
        tolerance = (
            1e-6 if len(pieces[name]) == 1 and any(pieces[name][0] is r for r in rest) else 0.02
        )
        assert (parameter - wanted).norm() < tolerance * moved, name


def test_the_iterations_are_those_of_torch_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.optim import _muon

    monkeypatch.setattr(Tensor, "bfloat16", lambda self: self.clone())
    for rows, columns in ((16, 16), (48, 16), (16, 40)):
        matrices = torch.randn(3, rows, columns)
        wanted = [
            _muon._zeropower_via_newtonschulz(m, muon.COEFFICIENTS, muon.ITERATIONS, 1e-7)
            for m in matrices
        ]
        torch.testing.assert_close(
            orthogonalise(matrices), torch.stack(wanted), rtol=1e-4, atol=1e-5
        )


def test_singular_values_come_near_one() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        values = torch.linalg.svdvals(orthogonalise(torch.randn(4, 64, 32).to(dtype)).float())
        assert values.min() > 0.6 and values.max() < 1.25


def test_stacks_of_any_size_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    results = []
    for elements in (muon.STACK_ELEMENTS, 1):
        monkeypatch.setattr(muon, "STACK_ELEMENTS", elements)
        model = tiny_decoder()
        optimizer = build_optimizer(model, OptimizerConfig(kind="muon"), CPU)
        give_gradients(model, 0)
        optimizer.step()
        results.append(torch.cat([p.detach().reshape(-1) for p in model.parameters()]))
    torch.testing.assert_close(*results)


def test_normuon_keeps_the_norm_and_evens_the_rows_out() -> None:
    torch.manual_seed(0)
    matrices = torch.randn(2, 8, 16) * torch.linspace(0.1, 3, 8)[:, None]
    made, squares = normalise_rows(matrices, torch.zeros(2, 8, 1), beta2=0.95)
    torch.testing.assert_close(squares, 0.05 * matrices.square().mean(dim=2, keepdim=True))
    norms = made.norm(dim=2)
    torch.testing.assert_close(norms, norms.mean(dim=1, keepdim=True).expand(2, 8))
    torch.testing.assert_close(made.flatten(1).norm(dim=1), matrices.flatten(1).norm(dim=1))


def test_cautious_decay_spares_weights_that_the_update_makes_larger() -> None:
    results = {}
    for cautious, decay in ((False, 0.5), (True, 0.5), (False, 0.0)):
        model = tiny_decoder()
        settings = OptimizerConfig(kind="muon", weight_decay=decay, cautious=cautious)
        optimizer = build_optimizer(model, settings, CPU)
        give_gradients(model, 0)
        optimizer.step()
        results[cautious, decay] = model.blocks[0].mlp.down.weight.detach()
    before = tiny_decoder().blocks[0].mlp.down.weight.detach()
    shrinks = (results[False, 0.0] - before) * before <= 0
    assert 0.2 < shrinks.float().mean() < 0.8
    wanted = torch.where(shrinks, results[False, 0.5], results[False, 0.0])
    torch.testing.assert_close(results[True, 0.5], wanted)


def test_parameters_without_a_gradient_stay() -> None:
    model = tiny_decoder()
    optimizer = build_optimizer(model, OptimizerConfig(kind="muon", normalize=True), CPU)
    give_gradients(model, 0)
    still = model.blocks[1].attention.qkv.weight
    still.grad = None
    before = copy.deepcopy(still.detach())
    optimizer.step()
    assert torch.equal(still, before) and still not in optimizer.state


def test_a_process_may_own_no_matrix() -> None:
    """Fewer matrices than processes."""
    for columns in (16, 48):
        none, squares = torch.empty(0, 64, columns), torch.empty(0, 64, 1)
        found, new = orthogonal_updates(none, (32, 16, 16), squares, 0.9)
        assert found.shape == none.shape and new is not None and new.shape == squares.shape
