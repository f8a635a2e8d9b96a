"""The forecast on the page: words, line, band, target and crossing; and in a real browser."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hornbook.report.build import build_report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

PICTURE = {
    "tokens": [8192, 81920, 819200], "loss": [8.0, 5.0, 4.0],
    "fit_tokens": [163840, 819200], "fit": [4.5, 4.0],
    "ahead_tokens": [819200, 1638400, 3276800],
    "low": [3.9, 3.6, 3.3], "middle": [4.0, 3.8, 3.6], "high": [4.1, 4.0, 3.9],
}  # fmt: skip


def add_forecast(run: Path, **changed: Any) -> None:
    values = {
        "format": 1, "loss": 4.0, "target": 3.7, "outcome": "expected",
        "total": [1_500_000.0, 2_400_000.0, None], "picture": PICTURE, **changed,
    }  # fmt: skip
    (run / "forecast").mkdir(exist_ok=True)
    (run / "forecast" / "forecast.json").write_text(json.dumps(values))
    (run / "forecast" / "forecast.txt").write_text("target   3.700 <b>some/model</b>\n")


def drawn(page: str) -> list[dict[str, Any]]:
    data = re.search(r'id="report-data">(.*?)</script>', page, re.S)
    assert data
    found: list[dict[str, Any]] = json.loads(data[1])["forecasts"]
    return found


def test_the_page_has_band_target_and_crossing(
    new_run: Callable[..., Path], tmp_path: Path
) -> None:
    run = new_run("one", steps=100)
    add_forecast(run)
    page = build_report([run], tmp_path / "report.html").read_text()
    (forecast,) = drawn(page)
    assert {name: forecast[name] for name in PICTURE} == PICTURE
    assert forecast["target"] == 3.7 and forecast["total"] == [1_500_000.0, 2_400_000.0, None]
    assert 'id="forecast-0"' in page and 'href="#forecast"' in page
    assert "target 3.700, reached after about 2.40 million tokens." in page
    assert "<b>some/model</b>" not in page and "&lt;b&gt;some/model" in page


def test_a_forecast_from_before_the_run_went_on_says_so(
    new_run: Callable[..., Path], tmp_path: Path
) -> None:
    run = new_run("one", steps=100)
    add_forecast(run, tokens=1e9)
    assert "makes it anew" not in build_report([run], tmp_path / "report.html").read_text()
    add_forecast(run, tokens=5_000)
    page = build_report([run], tmp_path / "report.html").read_text()
    assert "Made after 5,000 tokens; the run has " in page


def test_a_target_never_reached_has_no_crossing(
    new_run: Callable[..., Path], tmp_path: Path
) -> None:
    run = new_run("one", steps=100)
    add_forecast(run, outcome="never", total=[None, None, None])
    page = build_report([run], tmp_path / "report.html").read_text()
    assert drawn(page)[0]["total"] == [] and "target 3.700, never." in page


def test_without_a_forecast_there_is_no_such_part(
    new_run: Callable[..., Path], tmp_path: Path
) -> None:
    run = new_run("one", steps=100)
    page = build_report([run], tmp_path / "report.html").read_text()
    assert drawn(page) == [] and 'id="forecast"' not in page
    add_forecast(run)
    (run / "forecast" / "forecast.json").write_text("{")
    page = build_report([run], tmp_path / "report.html").read_text()
    assert drawn(page) == [] and "The forecast could not be read" in page


@pytest.mark.long
@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_it_is_drawn(new_run: Callable[..., Path], tmp_path: Path) -> None:
    run = new_run("one", steps=100)
    add_forecast(run)
    page = build_report([run], tmp_path / "report.html")
    assert CHROMIUM is not None
    flags = [
        "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
        f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=3000", "--dump-dom",
    ]  # fmt: skip
    command = [CHROMIUM, *flags, page.as_uri()]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    root = dom[dom.index("<html") : dom.index(">", dom.index("<html"))]
    assert 'data-ready="true"' in root and "data-error" not in root
    assert dom.count("<canvas") == dom.count('class="chart"') == 7
