"""docs/performance.md says what the results files say; a comparison runs from end to end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks.tables import FORECAST_PAGE, PAGE, filled

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.parametrize("path", [PAGE, FORECAST_PAGE], ids=lambda path: path.name)
def test_a_page_has_the_numbers_of_the_results_files(path: Path) -> None:
    page = path.read_text(encoding="utf-8")
    assert filled(page) == page, "run `python benchmarks/tables.py`"


def test_tables_are_filled_in_and_missing_ones_named(tmp_path: Path) -> None:
    machine = {"gpu": "H100", "torch": "2.11"}
    for name, row in (("x_1", {"who": "a", "tokens/s": "5"}), ("x_2", {"who": "b", "GB": "7"})):
        result = {"machine": machine, "command": f"run {name}", "table": [row]}
        (tmp_path / f"{name}.json").write_text(json.dumps(result))
    page = "# A\n<!-- table: x_* -->\nold\n<!-- end -->\n<!-- table: y -->\n<!-- end -->\nlast\n"
    first = filled(page, tmp_path)
    assert "| who | tokens/s | GB |\n|---|---|---|\n| a | 5 |  |\n| b |  | 7 |\n" in first
    assert "Measured on H100, torch 2.11: `run x_2`" in first
    assert "old" not in first
    assert "<!-- table: y -->\n\nNot measured yet." in first
    assert filled(first, tmp_path) == first


@pytest.mark.long
@pytest.mark.parametrize(
    ("script", "result"),
    [
        ("train_speed.py", "train_speed_phi2.json"),
        ("memory.py", "memory_phi2.json"),
    ],
)
def test_a_comparison_runs_in_small(tmp_path: Path, script: str, result: str) -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / script), "--tiny", "--only", "phi2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([*command, "--out", str(tmp_path)], env=environment, check=True, timeout=280)
    measured = json.loads((tmp_path / result).read_text())
    assert not [trial for trial in measured["trials"] if "error" in trial]
    assert len(measured["table"]) == len(measured["contestants"]) > 1
