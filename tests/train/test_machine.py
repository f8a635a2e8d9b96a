"""Choices of the machine: made by trying, written down, used again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_run import MODEL, PRETRAIN, CountingRows

from hornbook.errors import HornbookError
from hornbook.model.decoder import Decoder
from hornbook.optim.config import OptimizerConfig
from hornbook.optim.groups import build_optimizer
from hornbook.train import machine as machines
from hornbook.train import probe as probes
from hornbook.train.machine import Machine, asked, device_name, pick_device
from hornbook.train.objective import Forward, NextToken
from hornbook.train.precision import Precision
from hornbook.train.probe import Trial, allocate_state, choose_precision, cpu_micro_batch, probe

CPU = torch.device("cpu")


def some_machine(**values: Any) -> Machine:
    usual: dict[str, Any] = {
        "device": "cpu",
        "device_name": device_name("cpu"),
        "precision": "bf16",
        "compile": False,
        "threads": 2,
        "torch": torch.__version__,
        "asked": asked(PRETRAIN),
        "micro_batches": [[1, 16], [153, 8], [160, 4]],
    }
    return Machine(**{**usual, **values})


def test_micro_batches_are_replayed_from_their_steps() -> None:
    machine = some_machine()
    assert [machine.micro_batch(step) for step in (1, 152, 153, 159, 160, 999)] == [
        16, 16, 8, 8, 4, 4,
    ]  # fmt: skip
    machine.change_micro_batch(160, 2)
    machine.change_micro_batch(170, 1)
    assert machine.micro_batches == [[1, 16], [153, 8], [160, 2], [170, 1]]


def test_written_and_read_back(tmp_path: Path) -> None:
    assert Machine.read(tmp_path) is None
    machine = some_machine(reasons={"precision": "tried"}, steps_per_minute=12.5)
    machine.write(tmp_path)
    assert Machine.read(tmp_path) == machine
    (tmp_path / "machine.json").write_text('{"gpu": 1}')
    with pytest.raises(HornbookError, match="another version"):
        Machine.read(tmp_path)


def test_choices_hold_for_the_same_settings_on_the_same_device() -> None:
    assert some_machine().answers(replace(PRETRAIN, steps=99), "cpu")
    assert not some_machine().answers(replace(PRETRAIN, precision="bf16"), "cpu")
    assert not some_machine(device_name="abacus").answers(PRETRAIN, "cpu")
    assert not some_machine(device="cuda", device_name="NVIDIA B200").answers(PRETRAIN, "cpu")
    # Begun without a GPU, and now there is one.
    assert not some_machine().answers(PRETRAIN, "cuda")
    other = some_machine(precision="fp32")
    assert other.difference(some_machine()) == "precision fp32 instead of bf16"
    assert other.difference(some_machine(precision="fp32")) is None


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA A100-SXM4-40GB", 312e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA A10", 125e12),
        ("Tesla T4", 65e12),
        ("NVIDIA GeForce RTX 4090", 165e12),
        ("NVIDIA T400 4GB", None),
        ("NVIDIA Unheard 1", None),
    ],
)
def test_peak_flops_by_name(name: str, peak: float | None) -> None:
    assert some_machine(device="cuda", device_name=name).peak_flops() == peak


def test_peak_flops_only_where_they_mean_something() -> None:
    assert some_machine().peak_flops() is None
    fp32 = some_machine(device="cuda", device_name="NVIDIA H200", precision="fp32")
    assert fp32.peak_flops() is None


def test_a_device_that_does_not_work_is_refused() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    with pytest.raises(HornbookError, match=r"pretrain\.device: cuda does not work here"):
        pick_device("cuda")
    assert pick_device("cpu") == CPU


def test_threads_are_bounded_by_the_container(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    monkeypatch.setattr(machines, "_cpu_quota", lambda: 2)
    assert machines.cpu_threads(0) == 2
    assert machines.cpu_threads(5) == 5


def test_micro_batch_rule_on_a_cpu() -> None:
    assert cpu_micro_batch(64, 256, 4096) == 16
    assert cpu_micro_batch(8, 256, 4096) == 8
    assert cpu_micro_batch(64, 1024, 50304) == 1
    assert cpu_micro_batch(64, 8192, 50304) == 1


def test_probing_leaves_no_trace() -> None:
    model = Decoder(MODEL, torch.Generator().manual_seed(1)).train()
    optimizer = build_optimizer(model, OptimizerConfig(), CPU)
    before = {name: p.clone() for name, p in model.named_parameters()}
    config = replace(PRETRAIN, precision="auto", micro_batch=0)
    batch = CountingRows().rows(0, 8)
    machine, forward = probe(config, model, NextToken(), optimizer, batch, CPU)
    allocate_state(optimizer)
    optimizer.state.clear()
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert machine.precision == "fp32"
    assert "too small" in machine.reasons["precision"]
    assert (machine.compile, machine.micro_batches) == (False, [[1, 8]])
    assert forward(batch)[0] > 0
    assert {group["lr"] for group in optimizer.param_groups} == {OptimizerConfig().learning_rate}


@pytest.mark.parametrize(
    ("seconds", "chosen"), [((1.0, 0.5), "bf16"), ((1.0, 1.1), "fp32"), ((1.0, 9.0), "fp32")]
)
def test_a_cpu_takes_bf16_only_where_it_is_faster(
    monkeypatch: pytest.MonkeyPatch, seconds: tuple[float, float], chosen: str
) -> None:
    times = dict(zip(("fp32", "bf16"), seconds, strict=True))
    monkeypatch.setattr(
        Trial, "seconds", lambda self, precision, rows, forward=None: times[precision.name]
    )
    wide = Decoder(replace(MODEL, width=128, head_dim=64))
    trial = Trial(wide, NextToken(), CountingRows().rows(0, 8), CPU)
    reasons: dict[str, str] = {}
    assert choose_precision("auto", trial, reasons) == chosen
    assert reasons["precision"].startswith("bf16 measured")


def test_a_precision_that_does_not_work_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any) -> float:
        raise FloatingPointError("the loss is nan")

    monkeypatch.setattr(Trial, "seconds", fail)
    trial = Trial(Decoder(MODEL), NextToken(), CountingRows().rows(0, 8), CPU)
    with pytest.raises(HornbookError, match="fp16 does not work on this cpu: the loss is nan"):
        choose_precision("fp16", trial, {})


def test_the_micro_batch_is_doubled_while_it_fits_and_gains(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    speeds: dict[int, float | None] = {1: 1.0, 2: 1.9, 4: 3.5, 8: 3.52, 16: 9.9}
    monkeypatch.setattr(probes, "_rows_per_second", lambda t, p, rows, limit: speeds[rows])
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10, 10))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: None)
    model = Decoder(MODEL)
    optimizer = build_optimizer(model, OptimizerConfig(), CPU)
    trial = Trial(model, NextToken(), CountingRows().rows(0, 16), CPU)
    precision = Precision("fp32", CPU)
    assert probes.largest_micro_batch(trial, precision, optimizer) == 4
    speeds[4] = None
    assert probes.largest_micro_batch(trial, precision, optimizer) == 2

    def run_out(*arguments: Any) -> float:
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(probes, "_rows_per_second", run_out)
    with pytest.raises(HornbookError, match="one row of 16 tokens does not fit"):
        probes.largest_micro_batch(trial, precision, optimizer)
    assert not optimizer.state


@pytest.mark.parametrize("wanted", ["on", "auto"])
def test_memory_running_out_is_no_reason_not_to_compile(
    monkeypatch: pytest.MonkeyPatch, wanted: str
) -> None:
    tried: list[int] = []

    def run_out(
        self: Trial, precision: Precision, rows: int, forward: Forward | None = None
    ) -> float:
        tried.append(rows)
        if rows > fitting:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return 1.0

    monkeypatch.setattr(Trial, "seconds", run_out)
    monkeypatch.setattr(probes, "free_memory", lambda device: None)
    model = Decoder(MODEL)
    trial = Trial(model, NextToken(), CountingRows().rows(0, 16), CPU)
    machine = some_machine(device="cuda", micro_batches=[[1, 16]])
    fitting = 4
    probes._choose_compile(wanted, machine, trial, Precision("fp32", CPU))
    assert (tried, machine.micro_batches, machine.compile) == ([16, 8, 4], [[1, 4]], True)
    fitting = 0
    with pytest.raises(HornbookError, match="one row of 16 tokens does not fit"):
        probes._choose_compile(wanted, machine, trial, Precision("fp32", CPU))
