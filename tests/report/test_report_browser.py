"""The page in a real browser: the charts are drawn, and no script fails."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from hornbook.report.build import build_report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed"),
]

SETTINGS = {
    "as it opens": [],
    "tokens": [('value="step" checked', 'value="step"'),
               ('value="tokens"', 'value="tokens" checked')],
    "time, logarithmic": [('value="step" checked', 'value="step"'),
                          ('value="seconds"', 'value="seconds" checked'),
                          ('name="log-x"', 'name="log-x" checked'),
                          ('name="log-y"', 'name="log-y" checked')],
}  # fmt: skip


def rendered(page: Path, folder: Path) -> str:
    """The page's elements after its scripts ran."""
    assert CHROMIUM is not None
    flags = [
        "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
        f"--user-data-dir={folder / 'profile'}", "--window-size=1400,3000",
        "--virtual-time-budget=3000", "--dump-dom",
    ]  # fmt: skip
    command = [CHROMIUM, *flags, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("several", [False, True])
def test_charts_are_drawn(
    new_run: Callable[..., Path], tmp_path: Path, name: str, several: bool
) -> None:
    hostile = "</script><script>document.documentElement.dataset.hacked=1</script>"
    runs = [new_run("one", steps=300), new_run("<b>two", steps=200, logged=150, peak=2e-3)]
    with open(runs[0] / "pretrain" / "samples.jsonl", "a") as samples:
        samples.write('{"step": 300, "prompt": "", "text": "%s"}\n' % hostile)  # noqa: UP031
    page = build_report(runs if several else runs[:1], tmp_path / "report.html")
    html = page.read_text()
    for before, after in SETTINGS[name]:
        assert before in html
        html = html.replace(before, after)
    page.write_text(html)
    dom = rendered(page, tmp_path)
    root = dom[dom.index("<html") : dom.index(">", dom.index("<html"))]
    assert 'data-ready="true"' in root
    assert "data-error" not in root and "data-hacked" not in root
    assert dom.count("<canvas") == html.count('class="chart"') == 6


def test_a_page_without_curves(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    folder.mkdir()
    (folder / "recipe.yaml").write_text("name: new\n")
    dom = rendered(build_report([folder], tmp_path / "report.html"), tmp_path)
    assert 'data-ready="true"' in dom and "<canvas" not in dom
