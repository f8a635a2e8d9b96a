"""Two GPUs: the losses of one, DDP and FSDP, by the launcher that `--gpus 2` uses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "scaling.py"
SCRIPT = Path(__file__).parents[1] / "train" / "agreeing.py"


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_two_gpus_learn_what_one_does(tmp_path: Path) -> None:
    command = [sys.executable, str(BENCHMARK), "--tiny", "--gpus", "2", "--out", str(tmp_path)]
    done = subprocess.run(command, env={**os.environ}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    cases = {
        case["case"]: case for case in json.loads((tmp_path / "scaling.json").read_text())["cases"]
    }
    expected = cases["124M alone"]["losses"]
    for name in ("124M ddp", "124M fsdp", "124M fsdp, then alone"):
        ours = cases[name]["losses"]
        # bf16 products: the order in which they add up differs with the number of rows.
        assert ours == pytest.approx(expected[: len(ours)], rel=2e-2), name


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_two_gpus_agree_and_exchange_no_more_than_it_takes(tmp_path: Path) -> None:
    """As `tests/train/test_agreement.py` has it on CPUs."""
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone",
        "--nproc-per-node", "2", str(SCRIPT), str(tmp_path), "cuda",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    for rank, problem in enumerate(("no such kernel (in process 1 of 2)", "no such kernel")):
        found = json.loads((tmp_path / f"process-{rank}.json").read_text())
        assert found["weights"] == {"fp32": [], "bf16": []}
        assert found["problem"] == {"ddp": problem, "fsdp": problem}
        counts = found["exchanged"]
        assert counts["fsdp, kept"]["_allgather_base_"] == 3
        assert counts["fsdp, kept"]["_reduce_scatter_base_"] == 3
        assert counts["hsdp"]["allreduce_"] == 3
