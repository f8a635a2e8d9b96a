"""Curves are thinned out without losing what matters in them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from hornbook.report.build import render
from hornbook.report.charts import build_charts, build_clock, running_mean, thin_out, window_of
from hornbook.report.data import Curves, read_run

values_with_gaps = st.lists(
    st.one_of(st.floats(-1e6, 1e6), st.just(float("nan"))), min_size=0, max_size=400
).map(np.array)


@given(values_with_gaps, st.integers(10, 60))
def test_thinning_keeps_ends_and_extremes(values: np.ndarray, points: int) -> None:
    kept = thin_out(values.astype(np.float64), points)
    finite = np.flatnonzero(np.isfinite(values))
    assert len(kept) <= points and np.all(np.diff(kept) > 0)
    assert set(kept) <= set(finite)
    if len(finite):
        assert {kept[0], kept[-1]} == {finite[0], finite[-1]}
        assert values[kept].min() == values[finite].min()
        assert values[kept].max() == values[finite].max()
    if len(finite) <= points:
        assert kept.tolist() == finite.tolist()


@settings(max_examples=50)
@given(values_with_gaps, st.integers(1, 30))
def test_running_mean_is_the_mean_of_its_window(values: np.ndarray, window: int) -> None:
    values = values.astype(np.float64)
    means = running_mean(values, window)
    for i in range(len(values)):
        reach = min(window // 2, i)
        around = values[i - reach : i + reach + 1]
        around = around[np.isfinite(around)]
        if len(around):
            np.testing.assert_allclose(means[i], around.mean(), rtol=1e-6, atol=1e-3)
        else:
            assert np.isnan(means[i])


def test_curves_and_clock_of_a_run(new_run: Callable[..., Path]) -> None:
    run = read_run(new_run(steps=600))
    charts = {chart["id"]: chart for chart in build_charts([run])}
    assert list(charts) == [
        "loss", "learning_rate", "gradient_norm", "tokens_per_second", "loader_wait", "memory_gb"
    ]  # fmt: skip
    assert [curve["kind"] for curve in charts["loss"]["curves"]] == ["raw", "line", "validation"]
    assert [curve["kind"] for curve in charts["learning_rate"]["curves"]] == ["line"]
    raw = charts["loss"]["curves"][0]
    assert raw["step"] == list(range(1, 601))
    np.testing.assert_allclose(raw["value"], run.curves.training["loss"], rtol=1e-4)
    assert "in 600 steps" in charts["loss"]["description"]
    clock = build_clock(run)
    assert len(clock["step"]) == len(clock["tokens"]) == len(clock["seconds"]) <= 420
    assert clock["step"][-1] == 600 and clock["tokens"][-1] == 600 * 8192
    interpolated = np.interp(run.curves.training["step"], clock["step"], clock["seconds"])
    np.testing.assert_allclose(interpolated, run.curves.training["seconds"], atol=0.1)


def test_short_runs_are_not_averaged(new_run: Callable[..., Path]) -> None:
    run = read_run(new_run(steps=10))
    assert window_of(run) == 1
    kinds = {curve["kind"] for chart in build_charts([run]) for curve in chart["curves"]}
    assert kinds == {"line", "validation"}


def test_a_million_steps_stay_light(new_run: Callable[..., Path]) -> None:
    run = read_run(new_run(steps=40))
    count = 1_000_000
    steps = np.arange(1, count + 1, dtype=np.float64)
    noise = np.random.default_rng(0).normal(0, 0.05, count)
    loss = 3 + 6 * steps**-0.2 + noise
    loss[777_776] = 50.0
    columns = {name: np.abs(noise) for name in run.curves.training}
    columns |= {"step": steps, "tokens": steps * 1e6, "seconds": steps * 1.1, "loss": loss}
    held_out = {name: columns.get(name, loss)[::100] for name in run.curves.validation}
    run.curves = Curves(columns, held_out, run.curves.events)
    page = render([run])
    assert len(page) < 300_000
    raw = build_charts([run])[0]["curves"][0]
    assert len(raw["step"]) <= 2000
    assert 50.0 in raw["value"] and raw["step"][raw["value"].index(50.0)] == 777_777


def test_chart_data_is_plain_json(new_run: Callable[..., Path]) -> None:
    folder = new_run(steps=40)
    with open(folder / "pretrain" / "metrics.jsonl", "a") as metrics:
        metrics.write('{"step": 41, "loss": NaN, "tokens": NaN, "seconds": 1e999}\n')
    run = read_run(folder)
    json.dumps([build_charts([run]), build_clock(run)], allow_nan=False)
