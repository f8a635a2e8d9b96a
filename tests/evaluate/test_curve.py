"""Which points of a metrics file are fitted, and what is said of the rest."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tests.evaluate.synthetic_curves import STEP_TOKENS, drawn, rates, tokens, write_metrics

from hornbook.errors import HornbookError
from hornbook.evaluate.curve import read_curve
from hornbook.evaluate.fit import fit
from hornbook.evaluate.forecast import check_enough


def metrics(folder: Path, steps: int, schedule: str, total: int | None = None) -> Path:
    losses = drawn(1, steps).measured(tokens(steps), 1)
    return write_metrics(folder / "metrics.jsonl", losses, rates(steps, schedule, total))


def test_the_falling_part_of_wsd_is_not_fitted(tmp_path: Path) -> None:
    curve = read_curve(metrics(tmp_path, 1000, "wsd"))
    assert not curve.falling and curve.annealed
    assert curve.fitted.sum() == pytest.approx(780, abs=10)
    assert not curve.fitted[:20].any() and not curve.fitted[810:].any()
    assert curve.dropped == {"warm-up": 20, "learning rate falling": pytest.approx(200, abs=10)}
    # In the constant part a step is as many tokens of the area as of the text.
    steps = np.diff(curve.exposure[curve.fitted])
    assert steps == pytest.approx(STEP_TOKENS, rel=0.01)


def test_a_constant_rate_is_fitted_to_its_end(tmp_path: Path) -> None:
    curve = read_curve(metrics(tmp_path, 600, "wsd", total=2000))
    assert curve.fitted[-1] and not curve.annealed and not curve.falling


def test_of_cosine_the_upper_half_is_fitted_along_the_area(tmp_path: Path) -> None:
    """A curve that is a power of the area is found again, though the rate falls."""
    learning_rates = rates(2000, "cosine")
    area = np.cumsum(STEP_TOKENS * learning_rates / 1e-3)
    known = drawn(2, 1000)
    path = write_metrics(tmp_path / "metrics.jsonl", known.loss(area), learning_rates)
    curve = read_curve(path)
    assert curve.falling and curve.annealed
    assert (learning_rates[curve.fitted] >= 0.5e-3).all()
    found = fit(curve.exposure[curve.fitted], curve.loss[curve.fitted])
    assert found.exponent == pytest.approx(known.exponent, abs=0.02)


def test_what_is_no_number_is_counted_and_left_out(tmp_path: Path) -> None:
    path = metrics(tmp_path, 500, "constant")
    lines = path.read_text().splitlines()
    steps = [n for n, line in enumerate(lines) if '"loss"' in line]
    for place, loss in ((steps[100], float("nan")), (steps[200], float("inf"))):
        lines[place] = json.dumps({**json.loads(lines[place]), "loss": loss})
    lines[steps[300]] = json.dumps({**json.loads(lines[steps[300]]), "loss": None})
    lines[steps[400]] = '{"step": 40'
    lines.append(json.dumps({"step": 500, "event": "stopped", "message": "asked to"}))
    path.write_text("\n".join(lines) + "\n" + '{"step": 501, "lo')  # is just being written
    curve = read_curve(path)
    assert curve.dropped == {"unreadable line": 1, "not a number": 3, "warm-up": 20}
    assert len(curve.loss) == 496 and np.isfinite(curve.loss).all()


def test_a_run_that_went_back_is_read_as_it_went_on(tmp_path: Path) -> None:
    path = metrics(tmp_path, 300, "constant")
    again = [line for line in path.read_text().splitlines() if json.loads(line)["step"] > 250]
    changed = [{**json.loads(line), "loss": 9.0} for line in again]
    with open(path, "a") as handle:
        handle.writelines(json.dumps(line) + "\n" for line in changed)
    curve = read_curve(path)
    assert len(curve.loss) == 300 and (curve.loss[250:] == 9.0).all()


def test_validation_losses(tmp_path: Path) -> None:
    curve = read_curve(metrics(tmp_path, 1000, "wsd"), "validation")
    assert len(curve.loss) == 100 and curve.averaged == 1
    assert curve.tokens_per_point == 10 * STEP_TOKENS and curve.tokens_per_step == STEP_TOKENS
    assert curve.fitted.sum() == pytest.approx(78, abs=2)


def test_the_validation_before_the_first_step_has_no_place(tmp_path: Path) -> None:
    path = metrics(tmp_path, 1000, "constant")
    before = json.dumps({"step": 0, "tokens": 0, "seconds": 0.0, "validation_loss": 10.8})
    path.write_text(before + "\n" + path.read_text())
    assert len(read_curve(path, "validation").loss) == 100
    assert len(read_curve(path).loss) == 1000


def test_the_loss_at_an_older_step(tmp_path: Path) -> None:
    """A checkpoint's, when the run has gone on since."""
    curve = read_curve(metrics(tmp_path, 600, "constant"))
    assert curve.loss_at(300) == pytest.approx(curve.loss[250:300].mean())
    assert curve.loss_at(600) == curve.now and curve.loss_at(0) == curve.loss[0]


def test_nothing_to_read(tmp_path: Path) -> None:
    with pytest.raises(HornbookError, match="nothing is trained here yet"):
        read_curve(tmp_path / "metrics.jsonl")
    path = write_metrics(tmp_path / "metrics.jsonl", np.full(5, np.nan), np.full(5, 1e-3))
    with pytest.raises(HornbookError, match="0 losses in it are numbers"):
        read_curve(path)
    path.write_text("")
    with pytest.raises(HornbookError, match="at least 200 of them"):
        read_curve(path)


def test_a_damaged_file_is_no_mistake_of_ours(tmp_path: Path) -> None:
    path = write_metrics(tmp_path / "metrics.jsonl", np.linspace(5, 4, 400), np.full(400, 1e-3))
    lines = path.read_text(encoding="utf-8").splitlines()
    lines[50] = lines[50].replace('"loss": ', '"loss": 1' + 400 * "0")
    lines[60] = 100_000 * "["
    lines[70] = lines[70].replace('"loss": ', '"loss": 1e308, "was": ')
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    curve = read_curve(path)
    assert curve.dropped == {"unreadable line": 1, "not a number": 2}
    same = [json.dumps(json.loads(line) | {"tokens": 8192}) for line in lines[:40]]
    path.write_text("\n".join(same) + "\n", encoding="utf-8")
    with pytest.raises(HornbookError, match="too few to forecast from"):
        check_enough(read_curve(path), "loss")
    with pytest.raises(HornbookError, match="cannot be read"):
        read_curve(tmp_path)
