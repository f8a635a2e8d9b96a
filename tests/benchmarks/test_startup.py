"""benchmarks/startup.py runs from end to end, and says where the time went."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent.parent / "benchmarks" / "startup.py"


@pytest.mark.long
def test_three_starts_in_small(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--tiny", "--profile", "--out", str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(command, env=environment, check=True, timeout=280)
    starts = json.loads((tmp_path / "startup_profiled.json").read_text())["starts"]
    assert list(starts) == ["cold", "cached", "again"]
    for name, start in starts.items():
        begins = {call["what"]: call["begin"] for call in start["calls"]}
        order = ["interpreter is up", "import torch", "import hornbook", "Decoder.initialise"]
        order += ["start.start", "Stepper.step", "Trainer._read"]
        assert sorted(order, key=begins.__getitem__) == order
        assert ("start.probe" in begins) == (name != "again")
        assert "cumulative" in (tmp_path / f"startup_{name}_profile.txt").read_text()
