"""`hornbook forecast` from the command line: files, words, picture, refusals."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tests.evaluate.synthetic_curves import Known, rates, tokens, write_metrics

from hornbook.cli import main
from hornbook.evaluate.forecast import Forecast
from hornbook.files import read_json
from hornbook.forecasting import lines

STEPS = 600
KNOWN = Known(2.5, 1.0, 0.4, float(tokens(STEPS)[-1]), 0.03, 0.3)


@pytest.fixture
def run(small_runs: tuple[Path, Path], tmp_path: Path) -> Path:
    """A real run, but for its losses, whose law is known."""
    folder = tmp_path / "run"
    shutil.copytree(small_runs[0], folder)
    losses = KNOWN.measured(tokens(STEPS), 1)
    write_metrics(folder / "pretrain" / "metrics.jsonl", losses, rates(STEPS, "constant"))
    return folder


def test_a_target(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = float(KNOWN.loss(3 * KNOWN.unit))
    assert main(["forecast", str(run), "--target-loss", f"{target:.3f}"]) == 0
    said = capsys.readouterr().out
    assert "more tokens (80 %:" in said and "arXiv:2404.10102" in said and "rtx4090" in said
    values = read_json(run / "forecast" / "forecast.json")
    assert values["outcome"] == "expected" and values["total"][1] > KNOWN.unit
    assert (run / "forecast" / "forecast.txt").read_text() in said
    page = (run / "report.html").read_text()
    assert 'id="forecast"' in page and "Loss ahead" in page


def test_json_without_a_target(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["forecast", str(run), "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["outcome"] == "none" and values["target"] is None and not values["costs"]
    assert values["floor"][0] < 2.5 < values["floor"][2]


def test_the_runs_own_export_is_reached(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["forecast", str(run), "--reference", str(run / "export")]) == 0
    assert "reached already" in capsys.readouterr().out


def test_a_name(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["forecast", str(run), "--reference", "phi-2"]) == 0
    said = capsys.readouterr().out
    assert "never published" in said and "(phi-2)" in said


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--target-loss", "3", "--reference", "gpt2"], "both given"),
        (["--forecast.bootstrap", "5"], "at least 100"),
        (["--forecast.seed", "-1"], "0 or more"),
        (["--target-loss", "0"], "above 0"),
        (["--reference", "models/gpt2"], "no directory"),
        (["--reference", "gpt7"], "no model of which a number is known"),
        (["--forecast.gpu", "h900"], "no GPU 'h900'"),
    ],
)
def test_mistakes(
    run: Path, capsys: pytest.CaptureFixture[str], words: list[str], why: str
) -> None:
    assert main(["forecast", str(run), *words]) == 2
    assert why in capsys.readouterr().err


def test_a_flat_loss(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flat = Known(5.0, 0.0, 0.4, KNOWN.unit, 0.03, 0.3).measured(tokens(STEPS), 3)
    write_metrics(run / "pretrain" / "metrics.jsonl", flat, rates(STEPS, "constant"))
    assert main(["forecast", str(run), "--target-loss", "4.9"]) == 2
    assert "does not fall" in capsys.readouterr().err


def test_how_many_laws_know_a_size_and_what_little_time_costs() -> None:
    found = Forecast(
        unit="nats a token", tokens=1e9, loss=3.0, floor=[2.5, 2.6, 2.7], exponent=[0.2, 0.3, 0.4],
        gain=None, ahead=[], target=2.0, outcome="never", total=[None, None, None], reach=0.0,
        sizes=[{"name": "a", "parameters": 6.3e12}, {"name": "b", "parameters": None}],
        costs=[{"device": "here", "measured": True, "hours": [0.0, 1e-4, 1.0],
                "dollars": [0.0, 2e-4, 2.0]}],
    )  # fmt: skip
    said = " ".join(" ".join(lines(found)).split())
    assert "by 1 of 2 laws; by the others no size gets there" in said
    assert "under 1 s (under 1 s to 1.0 hours), under $0.01" in said


def test_too_little(small_runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["forecast", str(small_runs[0]), "--target-loss", "3"]) == 2
    assert "too few to forecast from" in capsys.readouterr().err
    assert not (small_runs[0] / "forecast").exists()


def test_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["forecast", str(tmp_path)]) == 2
    assert "is no run directory" in capsys.readouterr().err
