"""The schedule against hand values and PyTorch's own schedulers."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR

from hornbook.optim.config import OptimizerConfig
from hornbook.optim.schedule import learning_rate


def config(**values: object) -> OptimizerConfig:
    return OptimizerConfig(**{"learning_rate": 1.0, "warmup_steps": 10, **values})


def test_cosine_by_hand() -> None:
    settings = config(final_share=0.2)
    rates = [learning_rate(settings, step, 110) for step in (0, 4, 9, 10, 60, 110, 500)]
    assert rates == pytest.approx([1 / 11, 5 / 11, 10 / 11, 1.0, 0.6, 0.2, 0.2])


def test_wsd_by_hand() -> None:
    settings = config(schedule="wsd", decay_share=0.2, final_share=0.0)
    rates = [learning_rate(settings, step, 200) for step in (9, 10, 100, 160, 170, 190, 199, 200)]
    assert rates == pytest.approx([10 / 11, 1, 1, 1, 0.75, 0.25, 0.025, 0.0])


def test_constant_stays() -> None:
    settings = config(schedule="constant")
    assert {learning_rate(settings, step, 200) for step in range(10, 300)} == {1.0}


def test_warm_up_is_at_most_a_tenth_of_the_run() -> None:
    settings = config(warmup_steps=1000, schedule="constant")
    assert learning_rate(settings, 4, 50) == pytest.approx(5 / 6)
    assert learning_rate(settings, 5, 50) == 1.0
    assert learning_rate(settings, 0, 5) == 1.0


def test_equals_pytorch_schedulers() -> None:
    settings = config(learning_rate=3e-4, final_share=0.1)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=3e-4)
    scheduler = SequentialLR(
        optimizer,
        [
            LinearLR(optimizer, start_factor=1 / 11, total_iters=10),
            CosineAnnealingLR(optimizer, T_max=140, eta_min=3e-5),
        ],
        milestones=[10],
    )
    for step in range(150):
        assert learning_rate(settings, step, 150) == pytest.approx(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()


@given(
    schedule=st.sampled_from(["cosine", "constant", "wsd"]),
    total=st.integers(1, 300),
    warmup=st.integers(0, 300),
    final=st.floats(0, 1),
    decay=st.floats(0, 1),
)
def test_rises_once_then_falls(
    schedule: str, total: int, warmup: int, final: float, decay: float
) -> None:
    settings = config(schedule=schedule, warmup_steps=warmup, final_share=final, decay_share=decay)
    rates = [learning_rate(settings, step, total) for step in range(total)]
    peak = rates.index(max(rates))
    assert rates[peak] == pytest.approx(1.0)
    assert peak <= total // 10
    assert rates[:peak] == sorted(rates[:peak])
    falling = rates[peak:]
    assert all(a >= b - 1e-12 for a, b in pairwise(falling))
    assert min(falling) >= final - 1e-12
