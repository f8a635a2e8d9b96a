"""When a run reaches a target: expected, reached, far, never; and what is refused."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.evaluate.synthetic_curves import Known, rates, tokens, write_metrics

from hornbook.errors import HornbookError
from hornbook.evaluate.cost import Cost, costs
from hornbook.evaluate.curve import Curve, read_curve
from hornbook.evaluate.forecast import Forecast, check_enough, forecast
from hornbook.evaluate.laws import Place
from hornbook.evaluate.reference import Reference
from hornbook.model.presets import PRESETS
from hornbook.plan.setup import Wishes

STEPS = 1000
KNOWN = Known(2.0, 1.0, 0.45, float(tokens(STEPS)[-1]), 0.03, 0.3)
SPEED = 1e5
DEVICE = Cost("here", True, SPEED, 3.6)


def curve_of(folder: Path, schedule: str = "constant", gain: float = 0.0) -> Curve:
    losses = KNOWN.measured(tokens(STEPS), 1)
    learning_rates = rates(STEPS, schedule)
    losses -= gain * (1 - np.minimum(1, learning_rates / 1e-3)) * (np.arange(STEPS) > STEPS / 2)
    return read_curve(write_metrics(folder / "metrics.jsonl", losses, learning_rates))


def made(curve: Curve, target: float | Reference | None, apart: float = 0.0) -> Forecast:
    place = Place(124e6, 85e6, float(curve.tokens[-1]), curve.now, 4.4, 400)
    return forecast(curve, "loss", target, place, apart, [DEVICE], 400, 1)


def test_a_target_ahead(tmp_path: Path) -> None:
    curve = curve_of(tmp_path)
    target = float(KNOWN.loss(4 * KNOWN.unit))
    found = made(curve, target)
    low, middle, high = found.total
    assert low is not None and middle is not None and high is not None
    assert found.outcome == "expected" and low < 4 * KNOWN.unit < high
    assert middle == pytest.approx(4 * KNOWN.unit, rel=0.5)
    hours = [(total - found.tokens) / SPEED / 3600 for total in (low, middle, high)]
    assert found.costs[0]["hours"] == pytest.approx(hours)
    assert found.costs[0]["dollars"] == pytest.approx([3.6 * each for each in hours])
    assert found.loss == pytest.approx(float(KNOWN.loss(KNOWN.unit)), abs=0.03)
    for each in found.ahead:
        truth = float(KNOWN.loss(each["tokens"]))
        assert each["loss"][0] < truth < each["loss"][2]
    assert len(found.laws) == 3 and not found.calibrated  # 8M tokens are too few for them


def test_a_target_that_is_passed(tmp_path: Path) -> None:
    found = made(curve_of(tmp_path), 3.5)
    assert found.outcome == "reached" and found.total == [found.tokens] * 3 and not found.costs


def test_a_target_below_the_floor(tmp_path: Path) -> None:
    found = made(curve_of(tmp_path), 1.3)
    assert found.outcome == "never" and found.floor[0] > 1.3
    assert found.total[1] is None and (found.reach or 0) < 0.05
    sizes = [size["parameters"] for size in found.sizes]
    # So far below, no size would do: the laws' own floors are above it.
    assert sizes == [None] * 3
    sizes = [size["parameters"] for size in made(curve_of(tmp_path), 2.0).sizes]
    assert all(size is None or size > 85e6 for size in sizes)


def test_a_target_too_far_to_say(tmp_path: Path) -> None:
    """Beyond 100 times the tokens nothing is promised, though no floor is in the way."""
    found = made(curve_of(tmp_path), 1.8)
    assert found.outcome == "far" and found.total[1] is None and len(found.sizes) == 3


def test_too_few_tokens_a_parameter_are_said(tmp_path: Path) -> None:
    curve = curve_of(tmp_path)  # 8.2M tokens
    assert not any("a parameter" in note for note in made(curve, None).notes)
    place = Place(9e9, 9e9, float(curve.tokens[-1]), curve.now, 4.4, 400)
    notes = forecast(curve, "loss", None, place, 0.0, [DEVICE], 100, 1).notes
    assert any("tokens a parameter 0.0009 (0.002 to 52)" in note for note in notes)


def test_what_the_falling_rate_gained_is_counted_on_again(tmp_path: Path) -> None:
    plain = made(curve_of(tmp_path), None)
    curve = curve_of(tmp_path, "wsd", gain=0.2)
    fallen = made(curve, None)
    assert plain.gain is None
    assert fallen.gain == pytest.approx(0.2, abs=0.05)
    assert fallen.ahead[0]["loss"][1] == pytest.approx(plain.ahead[0]["loss"][1] - 0.2, abs=0.06)


def test_after_a_cosine_the_forecast_begins_at_the_loss_that_is_there(tmp_path: Path) -> None:
    """The area under the rate goes on from all of it so far, not from where the fit ended."""
    learning_rates = rates(STEPS, "cosine")
    area = np.cumsum(np.diff(tokens(STEPS), prepend=0.0) * learning_rates / 1e-3)
    losses = KNOWN.loss(area) + np.random.default_rng(1).normal(0, 0.02, STEPS)
    curve = read_curve(write_metrics(tmp_path / "metrics.jsonl", losses, learning_rates))
    found = made(curve, None)
    assert found.picture["ahead_tokens"][0] == pytest.approx(found.tokens)
    assert found.picture["middle"][0] == pytest.approx(found.loss, abs=0.05)


def test_a_loss_that_jumped_is_said_and_one_that_rises_refused(tmp_path: Path) -> None:
    assert not any("something changed" in note for note in made(curve_of(tmp_path), None).notes)
    losses = KNOWN.measured(tokens(STEPS), 1)
    losses[900:] += 0.4
    path = tmp_path / "metrics.jsonl"
    curve = read_curve(write_metrics(path, losses, rates(STEPS, "constant")))
    assert any("something changed" in note for note in made(curve, None).notes)
    losses[500:] += np.linspace(0, 3, 500)
    curve = read_curve(write_metrics(path, losses, rates(STEPS, "constant")))
    with pytest.raises(HornbookError, match="does not fall"):
        made(curve, None)


FLAT = Known(5.0, 0.0, 0.3, KNOWN.unit, 0.05, 0.5)


def refused(curve: Curve) -> str:
    """What a forecast is refused for; nothing where it is not."""
    try:
        made(curve, None)
    except HornbookError as error:
        return str(error)
    return ""


def test_a_loss_that_does_not_fall_is_refused(tmp_path: Path) -> None:
    """Of noise alone a fit falls as often as it rises; what slopes of other runs became, which the
    forecast takes from there, made of that a confident fall."""
    x, path = tokens(STEPS), tmp_path / "metrics.jsonl"
    said = [
        refused(read_curve(write_metrics(path, FLAT.measured(x, seed), rates(STEPS, "constant"))))
        for seed in range(20)
    ]
    assert sum("does not fall" in each for each in said) >= 18
    for level in (0.0, 5.0):
        losses = np.full(STEPS, level)
        curve = read_curve(write_metrics(path, losses, rates(STEPS, "constant")))
        assert "does not fall" in refused(curve)


def test_a_loss_that_no_longer_falls_is_refused(tmp_path: Path) -> None:
    x, path = tokens(STEPS), tmp_path / "metrics.jsonl"
    fallen = np.maximum(0.0, 5.0 * ((x / (0.5 * x[-1])) ** -0.1 - 1))
    said = [
        refused(
            read_curve(
                write_metrics(path, FLAT.measured(x, seed) + fallen, rates(STEPS, "constant"))
            )
        )
        for seed in range(20)
    ]
    assert sum("no longer falls" in each for each in said) >= 15


def test_a_slow_fall_is_no_promise_of_a_fast_one(tmp_path: Path) -> None:
    x = tokens(STEPS)
    slow = Known(4.9, 0.1, 0.3, x[-1], 0.01, 0.0)
    path = write_metrics(tmp_path / "metrics.jsonl", slow.measured(x, 1), rates(STEPS, "constant"))
    found = made(read_curve(path), None)
    _, middle, high = found.ahead[0]["loss"]
    assert 4.94 < middle < float(slow.loss(x[-1])) < high + 0.01
    assert any("slope" in note for note in found.notes)


def test_laws_are_held_against_the_forecast_without_a_target(tmp_path: Path) -> None:
    curve = curve_of(tmp_path)
    assert not any(each["laws"] for each in made(curve, None).ahead)  # before they begin
    late = replace(curve, tokens=1000 * curve.tokens, exposure=1000 * curve.exposure)
    for each in made(late, None).ahead:
        assert len(each["laws"]) == 3 and all(
            0 < loss < curve.now for loss in each["laws"].values()
        )
    found = made(late, float(KNOWN.loss(4 * KNOWN.unit)))
    assert found.calibrated and all(
        law["tokens"] is None or law["tokens"] > found.tokens for law in found.laws
    )


def test_a_reference_moves_with_the_runs_own_validation_loss(tmp_path: Path) -> None:
    """The run is 0.3 worse on the documents than on its training text; so is the target."""
    curve = curve_of(tmp_path)
    own = curve.now + 0.3
    reference = Reference("other", "measured", own - 0.2, own - 0.2, own - 0.2, "measured")
    found = made(curve, reference, curve.now - own)
    assert found.target == pytest.approx(curve.now - 0.2)
    assert found.total == pytest.approx(made(curve, curve.now - 0.2).total, rel=0.05)
    vague = replace(reference, how="law", low=own - 0.3, high=own - 0.1)
    wide = made(curve, vague, curve.now - own)
    narrow_high, wide_high = found.total[2] or math.inf, wide.total[2] or math.inf
    assert (wide.total[0] or 0) < (found.total[0] or 0) and wide_high >= narrow_high


@pytest.mark.parametrize(
    ("steps", "words"),
    [(3, "Train about"), (150, "Train about 7[0-9] steps more"), (199, "Train about 2[0-9] steps")],
)
def test_too_little_is_refused_and_what_is_needed_said(
    tmp_path: Path, steps: int, words: str
) -> None:
    losses = KNOWN.measured(tokens(steps), 1)
    path = write_metrics(tmp_path / "metrics.jsonl", losses, rates(steps, "constant"))
    with pytest.raises(HornbookError, match=words):
        check_enough(read_curve(path), "loss")


def test_a_long_warm_up_leaves_too_short_a_range(tmp_path: Path) -> None:
    losses = KNOWN.measured(tokens(800), 1)
    learning_rates = rates(800, "constant", warmup=400)
    path = write_metrics(tmp_path / "metrics.jsonl", losses, learning_rates)
    with pytest.raises(HornbookError, match=r"too few .* over a \d\.\d-fold range of tokens"):
        check_enough(read_curve(path), "loss")
    more = np.concatenate([losses, KNOWN.measured(tokens(1100), 2)])
    path = write_metrics(tmp_path / "metrics.jsonl", more, rates(1900, "constant", warmup=400))
    check_enough(read_curve(path), "loss")


def test_no_constant_part_yet(tmp_path: Path) -> None:
    learning_rates = np.linspace(1e-5, 1e-3, 100)
    path = write_metrics(tmp_path / "m.jsonl", KNOWN.measured(tokens(100), 1), learning_rates)
    with pytest.raises(HornbookError, match=r"too few to forecast from: .*; 200 and"):
        check_enough(read_curve(path), "loss")


def test_other_gpus_are_scaled_by_how_this_one_did() -> None:
    """Half as fast as planned here: half as fast as planned elsewhere."""
    config = PRESETS["gpt2-124m"]
    wishes = Wishes(sequence_length=1024, global_batch_tokens=65536)
    names = "NVIDIA H100 80GB HBM3"
    fast, slow = (costs(speed, names, config, wishes, "l4", None) for speed in (4e5, 2e5))
    assert [cost.device for cost in fast][:2] == [names, "l4"]
    assert "h100" not in [cost.device for cost in fast]
    assert fast[0].price == 2.69 and fast[0].measured and not fast[1].measured
    for quick, half in zip(fast, slow, strict=True):
        assert half.tokens_per_second == pytest.approx(quick.tokens_per_second / 2)
    assert costs(4e5, names, config, wishes, "l4", 1.0)[1].price == 1.0
    unknown = costs(1e3, "AMD EPYC", config, wishes, "this", None)
    assert unknown[0].price == 0.0 and unknown[0].tokens_per_second == 1e3
