"""Choices of the machine: made by trying, written down, used again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_run import MODEL, PRETRAIN, CountingRows

from hornbook.errors import HornbookError
from hornbook.model.decoder import Decoder
from hornbook.model.engine import Engine
from hornbook.optim.config import OptimizerConfig
from hornbook.optim.groups import build_optimizer
from hornbook.train import machine as machines
from hornbook.train import probe_memory
from hornbook.train.compiling import start
from hornbook.train.machine import Machine, asked, device_name, pick_device
from hornbook.train.objective import Forward, NextToken
from hornbook.train.precision import Precision
from hornbook.train.probe import bf16_slowdown, choose_precision, probe
from hornbook.train.probe_memory import (
    allocate_state,
    choose_memory,
    cpu_micro_batch,
    even_rows,
)
from hornbook.train.trial import Trial

CPU = torch.device("cpu")


def some_machine(**values: Any) -> Machine:
    usual: dict[str, Any] = {
        "device": "cpu",
        "device_name": device_name("cpu"),
        "precision": "bf16",
        "compile": "off",
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
    assert machine.engine() == Engine()
    # As the first version wrote it.
    values = json.loads((tmp_path / "machine.json").read_text())
    for name in ("weights", "attention", "checkpointing", "budget", "cross_entropy", "residual"):
        del values[name]
    del values["float8"], values["asked"]["weights"], values["asked"]["attention"]
    values["compile"] = True
    (tmp_path / "machine.json").write_text(json.dumps(values))
    earlier = Machine.read(tmp_path)
    assert earlier is not None and earlier.engine() == Engine(compile="on")
    assert earlier.answers(PRETRAIN, "cpu")
    assert not earlier.answers(replace(PRETRAIN, attention="math"), "cpu")
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


def a_trial(rows: int = 8, device: torch.device = CPU) -> Trial:
    model = Decoder(MODEL, torch.Generator().manual_seed(1)).train()
    return Trial(model, NextToken(), CountingRows().rows(0, rows), device)


def test_probing_leaves_no_trace() -> None:
    trial = a_trial()
    optimizer = build_optimizer(trial.model, OptimizerConfig(), CPU)
    before = {name: p.clone() for name, p in trial.model.named_parameters()}
    config = replace(PRETRAIN, precision="auto", micro_batch=0)
    machine = probe(config, trial, optimizer)
    forward = start(machine, trial, config.compile)
    allocate_state(optimizer)
    optimizer.state.clear()
    assert all(torch.equal(p, before[name]) for name, p in trial.model.named_parameters())
    assert machine.precision == "fp32"
    assert "too small" in machine.reasons["precision"]
    assert (machine.engine(), machine.micro_batches) == (Engine(), [[1, 8]])
    assert forward(trial.batch)[0] > 0
    assert {group["lr"] for group in optimizer.param_groups} == {OptimizerConfig().learning_rate}


def wide_trial() -> Trial:
    wide = Decoder(replace(MODEL, width=128, head_dim=64))
    return Trial(wide, NextToken(), CountingRows().rows(0, 8), CPU)


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
    monkeypatch.setattr("hornbook.train.probe.bf16_slowdown", lambda: 1.2)
    reasons: dict[str, str] = {}
    assert choose_precision(replace(PRETRAIN, precision="auto"), wide_trial(), reasons) == chosen
    assert reasons["precision"].startswith("bf16 measured")


def test_a_model_is_not_tried_where_a_cpu_emulates_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    def tried(*arguments: Any) -> float:
        raise AssertionError("with 124M parameters this takes five minutes")

    monkeypatch.setattr(Trial, "seconds", tried)
    monkeypatch.setattr("hornbook.train.probe.bf16_slowdown", lambda: 40.0)
    reasons: dict[str, str] = {}
    assert choose_precision(replace(PRETRAIN, precision="auto"), wide_trial(), reasons) == "fp32"
    assert reasons["precision"] == "this CPU has no bf16: 40x as slow"


def test_how_slow_bf16_is_comes_from_products_of_this_cpu() -> None:
    assert 0.01 < bf16_slowdown() < 1000


def test_a_precision_that_does_not_work_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any) -> float:
        raise FloatingPointError("the loss is nan")

    monkeypatch.setattr(Trial, "seconds", fail)
    with pytest.raises(HornbookError, match="fp16 does not work on this cpu: the loss is nan"):
        choose_precision(replace(PRETRAIN, precision="fp16"), a_trial(), {})


def test_bf16_on_a_gpu_that_emulates_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    trial = a_trial(device=torch.device("cuda"))
    with pytest.raises(HornbookError, match=r"pretrain\.precision: bf16 .*: it has no bf16"):
        choose_precision(replace(PRETRAIN, precision="bf16"), trial, {})
    with pytest.raises(HornbookError, match=r"pretrain\.weights: bf16 .*Set it to fp32"):
        choose_precision(replace(PRETRAIN, precision="auto", weights="bf16"), trial, {})


def test_a_kernel_that_does_not_work_is_refused() -> None:
    trial = a_trial()
    optimizer = build_optimizer(trial.model, OptimizerConfig(), CPU)
    with pytest.raises(HornbookError, match=r"pretrain\.cross_entropy: fused does not work here"):
        probe(replace(PRETRAIN, cross_entropy="fused"), trial, optimizer)


def test_what_is_asked_for_is_what_the_engine_is() -> None:
    trial = a_trial()
    optimizer = build_optimizer(trial.model, OptimizerConfig(), CPU)
    asked_for: dict[str, Any] = {
        "attention": "math",
        "cross_entropy": "chunked",
        "activation_checkpointing": "full",
        "residual": "bf16",
    }
    machine = probe(replace(PRETRAIN, **asked_for), trial, optimizer)
    assert machine.engine() == Engine(
        attention="math", cross_entropy="chunked", checkpointing="full", residual="bf16"
    )


# --------------------------------------------------------------------------- memory, as on a GPU


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> dict[tuple[str, str], int]:
    """A GPU on which each way to compute (checkpointing, cross-entropy) holds so many rows; 4 rows
    fill it, 16 are the most that pay."""
    most: dict[tuple[str, str], int] = {}

    def fits(trial: Trial, precision: Precision, rows: int, **_: Any) -> bool:
        engine = trial.model.engine
        assert engine.compile == "off"
        return rows <= most.get((engine.checkpointing, engine.cross_entropy), 0)

    monkeypatch.setattr(Trial, "fits", fits)
    monkeypatch.setattr(probe_memory, "memory_limit", lambda device, share: share)
    monkeypatch.setattr(probe_memory, "free_memory", lambda device: None)
    monkeypatch.setattr(probe_memory, "FILLING_TOKENS", 4 * 16)
    monkeypatch.setattr(probe_memory, "GPU_TOKENS", 16 * 16)
    return most


def chosen(rows: int, engine: Engine = Engine(), **settings: Any) -> Machine:  # noqa: B008
    """The choices for a step of so many rows."""
    trial = a_trial(rows)
    optimizer = build_optimizer(trial.model, OptimizerConfig(), CPU)
    trial.device = torch.device("cuda")
    machine = some_machine(device="cuda")
    machine.use(replace(engine, compile="on"))
    config = replace(PRETRAIN, **{"micro_batch": 0, **settings})
    choose_memory(config, machine, trial, Precision("fp32", CPU), optimizer)
    assert not optimizer.state and machine.compile == "on"
    return machine


def test_nothing_is_given_up_where_memory_is_plenty(memory: dict[tuple[str, str], int]) -> None:
    memory["none", "plain"] = 100
    machine = chosen(64)
    assert (machine.micro_batches, machine.engine()) == ([[1, 16]], Engine(compile="on"))
    assert chosen(12).micro_batches == [[1, 12]]


def test_as_little_as_fits_is_given_up(memory: dict[tuple[str, str], int]) -> None:
    memory.update({("none", "plain"): 2, ("none", "chunked"): 3, ("selective", "chunked"): 9})
    machine = chosen(64)
    assert (machine.checkpointing, machine.cross_entropy) == ("selective", "chunked")
    assert machine.micro_batches == [[1, 8]]
    # Where nothing fills the device, what the most rows fit with; of equals the first.
    memory["selective", "chunked"] = 3
    machine = chosen(64)
    assert (machine.checkpointing, machine.cross_entropy) == ("none", "plain")
    assert machine.micro_batches == [[1, 2]]


def test_what_is_asked_for_is_not_given_up(memory: dict[tuple[str, str], int]) -> None:
    memory.update({("none", "plain"): 2, ("selective", "chunked"): 32})
    settings: dict[str, Any] = {"cross_entropy": "plain", "activation_checkpointing": "none"}
    assert chosen(64, **settings).micro_batches == [[1, 2]]
    # Rows that were asked for are halved by the first step, if need be, and not here.
    assert chosen(64, micro_batch=32, **settings).micro_batches == [[1, 32]]
    assert chosen(64, micro_batch=32).checkpointing == "selective"
    machine = chosen(64, micro_batch=64)
    assert (machine.checkpointing, machine.micro_batches) == ("full", [[1, 64]])


def test_a_budget_is_tried_with_selective_checkpointing(
    memory: dict[tuple[str, str], int],
) -> None:
    memory["selective", "plain"] = 8
    machine = chosen(64, activation_checkpointing="budget", engine=Engine(checkpointing="budget"))
    assert (machine.checkpointing, machine.micro_batches) == ("budget", [[1, 8]])


def test_one_row_that_does_not_fit_is_said(memory: dict[tuple[str, str], int]) -> None:
    with pytest.raises(HornbookError, match="one row of 16 tokens does not fit"):
        chosen(8)


def test_micro_batches_are_alike_where_they_can_be() -> None:
    assert [even_rows(*numbers) for numbers in ((60, 16), (64, 16), (61, 16), (10, 4), (3, 8))] == [
        15, 16, 16, 4, 3,
    ]  # fmt: skip


# --------------------------------------------------------------------------------------- compiling


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
    machine = some_machine(compile="on", precision="fp32", micro_batches=[[1, 16]])
    fitting = 4
    start(machine, a_trial(16), wanted)
    assert (tried, machine.micro_batches, machine.compile) == ([16, 8, 4], [[1, 4]], "on")
    fitting = 0
    with pytest.raises(HornbookError, match="one row of 16 tokens does not fit"):
        start(machine, a_trial(16), wanted)


SCRIPT = """
import os
os.environ["PATH"] = ""  # neither gcc nor clang nor c++
os.environ.pop("CXX", None), os.environ.pop("CC", None)
import sys
from tiny_run import fit
from pathlib import Path
from hornbook.errors import HornbookError
from hornbook.train import probe
probe._compile = lambda config, trial: "on"  # as `auto` has it on CUDA
try:
    outcome = fit(Path(sys.argv[1]), {"steps": 2, "micro_batch": 8, "compile": sys.argv[2]})
    print(outcome.step, outcome.loss)
except HornbookError as error:
    print(error)
"""


@pytest.mark.long
@pytest.mark.parametrize("wanted", ["auto", "on"])
def test_without_a_compiler_training_goes_on_and_says_so(tmp_path: Path, wanted: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path), wanted],
        capture_output=True,
        text=True,
        env={**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")},
        cwd=Path(__file__).parent,
    )
    assert done.returncode == 0, done.stderr
    if wanted == "auto":
        assert done.stdout.startswith("2 "), done.stderr
        assert "torch.compile does not work here, training goes on without it: " in done.stderr
        machine = Machine.read(tmp_path)
        assert machine is not None and machine.compile == "off"
    else:
        assert done.stdout.startswith("pretrain.compile: torch.compile does not work here: ")
