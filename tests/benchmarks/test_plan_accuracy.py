"""The plan's benchmark: nothing held out was calibrated with, and a report needs no GPU."""

from __future__ import annotations

import dataclasses
import importlib
import json
from pathlib import Path
from typing import Any

import pytest

from hornbook.model.engine import Engine
from hornbook.plan.device import find_device
from hornbook.plan.memory import memory
from hornbook.plan.setup import Setup
from hornbook.plan.speed import step_time

BENCHMARKS = Path(__file__).parent.parent.parent / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("plan_accuracy")


def measured(case: Any) -> dict[str, Any]:
    """A case as if it had taken a tenth longer and a twentieth more than predicted."""
    engine = Engine(residual="bf16", compile=case.pretrain["compile"], cross_entropy="fused")
    rows = case.micro_batch * case.micro_batches
    setup = Setup(case.length, rows, case.micro_batch, engine=engine)
    step = step_time(case.config(), setup, find_device("h200"))
    return {
        "case": case.name,
        "device": "NVIDIA H200",
        "step_seconds": 1.1 * step.seconds,
        "peak_bytes": 1.05 * memory(case.config(), setup).peak,
        "config": dataclasses.asdict(case.config()),
        "setup": dataclasses.asdict(setup),
        "machine": {"gpu": "NVIDIA H200"},
    }


def test_held_out_presets_are_others(benchmark: Any) -> None:
    groups = benchmark.CALIBRATION, benchmark.HELD_OUT
    calibrated, held_out = ({case.preset for case in group} for group in groups)
    assert not calibrated & held_out
    names = [case.name for group in groups for case in group]
    assert len({benchmark.file_of(Path(), case) for group in groups for case in group}) == len(
        names
    )


def test_a_report_compares_what_was_measured_and_names_what_failed(
    benchmark: Any, tmp_path: Path
) -> None:
    first, second, failed = benchmark.CALIBRATION[0], benchmark.HELD_OUT[0], benchmark.HELD_OUT[1]
    for case in (first, second):
        benchmark.write_json(benchmark.file_of(tmp_path, case), measured(case))
    error = {"case": failed.name, "error": "killed"}
    benchmark.write_json(benchmark.file_of(tmp_path, failed), error)
    groups = {"calibration": benchmark.CALIBRATION, "held out": benchmark.HELD_OUT}
    benchmark.report(tmp_path, groups)
    for path in (tmp_path / "plan_accuracy").glob("*.json"):
        path.unlink()
    benchmark.report(tmp_path, groups)  # the report alone is enough to report again
    report = json.loads((tmp_path / "plan_accuracy.json").read_text())
    (row,) = report["held out"]
    assert row["case"] == second.name
    assert (row["ratio"], row["ratio "]) == ("1.10", "0.95")
    assert report["constants"]["matmul and all rates, times"] == pytest.approx(1 / 1.1)
    assert error in report["cases"]
    assert report["machine"]["gpu"] == "NVIDIA H200"


def test_what_was_measured_on_a_gpu_is_predicted(benchmark: Any) -> None:
    cases = json.loads((BENCHMARKS / "results" / "plan_accuracy.json").read_text())["cases"]
    checked = 0
    for case in cases:
        if "error" in case or case["setup"]["engine"]["checkpointing"] == "full":
            continue  # `full` was measured with a bug (docs/plan.md)
        found = benchmark.predicted(case)
        assert found["memory_ratio"] == pytest.approx(1, abs=0.10), case["case"]
        assert found["speed_ratio"] == pytest.approx(1, abs=0.20), case["case"]
        checked += 1
    assert checked >= 15
