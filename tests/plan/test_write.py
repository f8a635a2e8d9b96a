"""The one dial: a recipe that is the right size for the time, the text and the device."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import pytest

from hornbook.errors import HornbookError
from hornbook.model.count import parameters
from hornbook.plan.device import find_device
from hornbook.plan.write import (
    EPOCHS,
    LEAST_STEPS,
    SHAPES,
    batch_tokens,
    design,
    shape,
    tokens_per_parameter,
)
from hornbook.recipe import build_recipe

H100 = find_device("h100")


def test_shapes_grow() -> None:
    sizes = [parameters(shape(*each, vocabulary=8192)).blocks for each in SHAPES]
    assert all(1.3 < larger / smaller < 5 for smaller, larger in pairwise(sizes))


def test_more_time_is_a_larger_model_and_more_tokens() -> None:
    made = [design(hours, H100).prediction for hours in (0.05, 0.5, 5, 50)]
    sizes = [each.count.blocks for each in made]
    assert sizes == sorted(set(sizes))
    assert [each.tokens for each in made] == sorted(each.tokens for each in made)
    for hours, each in zip((0.05, 0.5, 5, 50), made, strict=True):
        assert each.hours == pytest.approx(hours, rel=0.1)
        assert each.tokens >= tokens_per_parameter(each.tokens) * each.count.blocks


def test_little_text_is_not_seen_too_often() -> None:
    plenty, little = design(5, H100), design(5, H100, text="text", text_bytes=40e6)
    assert little.prediction.count.blocks < plenty.prediction.count.blocks
    loss = little.prediction.loss
    assert loss is not None
    assert loss.epochs <= EPOCHS * 1.01
    assert "more text" in little.note
    assert little.prediction.hours < 5


def test_a_small_card_limits_the_model() -> None:
    made = design(5000, find_device("rtx3090"))
    assert "memory" in made.note
    assert made.prediction.fits


def test_batches_grow_slowly_and_leave_enough_steps() -> None:
    sizes = [batch_tokens(10.0**power, 1024, H100) for power in range(7, 12)]
    assert sizes == sorted(sizes)
    assert all(size == 2 ** int(math.log2(size)) for size in sizes)
    assert batch_tokens(1.3e9, 1024, H100) == 2**19
    assert batch_tokens(1.3e9, 1024, H100, gpus=8) == 2**19, "it is that of all GPUs together"
    assert batch_tokens(1e7, 1024, H100, gpus=8) == 8 * batch_tokens(1e7, 1024, H100)
    assert batch_tokens(3e6, 256, find_device("cpu")) <= 2 * 3e6 / LEAST_STEPS


def test_rates_are_by_width_for_adamw_and_alike_for_muon() -> None:
    cpu = find_device("cpu")
    narrow, wide = design(0.1, cpu), design(20, cpu)
    one, other = (each.values["optimizer"]["learning_rate"] for each in (narrow, wide))
    widths = [each.prediction.config.width for each in (narrow, wide)]
    assert widths[0] < widths[1]
    assert one * widths[0] == pytest.approx(other * widths[1], rel=0.05)
    rates = {design(hours, H100).values["optimizer"]["matrix_learning_rate"] for hours in (0.1, 9)}
    assert len(rates) == 1


@pytest.mark.parametrize("device", ["cpu", "t4", "h200"])
def test_it_is_a_recipe(device: str, tmp_path: Path) -> None:
    made = design(0.2, find_device(device), text=str(tmp_path), text_bytes=3e6, name="mine")
    recipe = build_recipe(made.values, "test")
    assert recipe.name == "mine"
    assert recipe.prepare.inputs == [str(tmp_path)]
    assert recipe.pretrain.minutes == pytest.approx(12)
    assert recipe.pretrain.tokens == pytest.approx(made.prediction.tokens, abs=1)


def test_no_time_at_all_is_refused() -> None:
    with pytest.raises(HornbookError, match="less than one step"):
        design(1e-9, H100)
