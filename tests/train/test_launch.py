"""Several processes through the command line: one command, one error, signals, deaths, restarts."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from hornbook.cli import main
from hornbook.files import read_json
from hornbook.train.load import load_model

RECIPE = """
name: tiny
prepare: {inputs: [%s], validation_share: 0.1}
tokenize: {vocabulary: 280, encoder: tokenizers, workers: 1}
model: {preset: llama-1m, layers: 1, heads: 2, kv_heads: 2, width: 16, mlp_width: 32, context: 32}
optimizer: {schedule: constant}
pretrain:
  {steps: 12, gpus: 2, device: cpu, precision: fp32, threads: 1, global_batch_tokens: 256,
   micro_batch: 2, evaluate_every: 6, evaluate_tokens: 512, sample_every: 6, sample_tokens: 4,
   checkpoint_every: 4, tensorboard: false}
"""


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory with tokens, not trained."""
    folder = tmp_path_factory.mktemp("launch")
    draw = random.Random(0)
    words = ["the", "king", "queen", "went", "home", "with", "a", "sword"]
    lines = [" ".join(draw.choices(words, k=60)) for _ in range(120)]
    (folder / "text.txt").write_text("\n\n".join(lines))
    (folder / "tiny.yaml").write_text(RECIPE % (folder / "text.txt"))
    for stage in ("prepare", "tokenize"):
        words = [stage, "--recipe", str(folder / "tiny.yaml"), "--run", str(folder / "run")]
        assert main(words) == 0
    return folder / "run"


@pytest.fixture
def run(prepared: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    shutil.copytree(prepared, tmp_path / "run")
    return tmp_path / "run"


def start(run: Path, *words: str, torchrun: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    """`hornbook pretrain --run RUN ...`, started by itself or by torchrun."""
    program = [sys.executable, "-m", "hornbook"]
    if torchrun:  # before Python 3.12 it takes --run for its own --run-path, unless after --
        program = [sys.executable, "-m", "torch.distributed.run", *torchrun, "-m", "--", "hornbook"]
    return subprocess.Popen(
        [*program, "pretrain", "--run", str(run), *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def done(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Its exit code, and what it said."""
    out, err = process.communicate(timeout=120)
    return process.returncode, out + err


def losses(run: Path) -> list[tuple[int, float]]:
    file = run / "pretrain" / "metrics.jsonl"
    lines = file.read_text().split("\n")[:-1] if file.exists() else []
    return [(r["step"], r["loss"]) for r in map(json.loads, lines) if "loss" in r]


def validation(run: Path) -> list[float]:
    lines = (run / "pretrain" / "metrics.jsonl").read_text().splitlines()
    return [r["validation_loss"] for r in map(json.loads, lines) if "validation_loss" in r]


def wait_for(process: subprocess.Popen[str], condition: Callable[..., bool]) -> None:
    """Wait for something that a process does; should it end, it must have done it."""
    deadline = time.monotonic() + 120
    while not condition():
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            pytest.fail("".join(process.communicate()))
        time.sleep(0.02)


def children(process: subprocess.Popen[str]) -> dict[int, int]:
    """Process number of each rank among the descendants of a process."""
    found, parents = {}, {process.pid}
    while parents:
        parent = parents.pop()
        tasks = Path(f"/proc/{parent}/task").glob("*/children")
        inner = {int(child) for task in tasks for child in task.read_text().split()}
        parents |= inner
        for child in inner:
            try:
                variables = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
            except OSError:  # it has just ended
                continue
            ranks = [int(v[5:]) for v in variables if v.startswith(b"RANK=")]
            if ranks and child not in found.values():
                found[ranks[0]] = child
    return found


def test_one_command_trains_with_two_processes(run: Path) -> None:
    code, said = done(start(run))
    assert code == 0, said
    assert said.count("machine:") == said.count("step 12: validation_loss") == 1
    assert [step for step, _ in losses(run)] == list(range(1, 13))
    assert read_json(run / "pretrain" / "stage.json")["outcome"] == "done"
    machine = read_json(run / "pretrain" / "machine.json")
    assert (machine["processes"], machine["micro_batches"]) == (2, [[1, 2]])
    alone = run.with_name("alone")
    shutil.copytree(run, alone, ignore=shutil.ignore_patterns("pretrain"))
    assert main(["pretrain", "--run", str(alone), "--gpus", "1"]) == 0
    assert dict(losses(alone)) == pytest.approx(dict(losses(run)), rel=1e-5)


@pytest.mark.long
def test_a_sharded_run_starts_and_is_judged_as_a_whole_one(run: Path) -> None:
    """Its initial weights bit for bit, which no step changes here; its samples; its validation."""
    still = ["--optimizer.learning_rate", "0", "--optimizer.schedule", "constant"]
    assert main(["pretrain", "--run", str(run), "--gpus", "1", *still]) == 0
    sharded = run.with_name("sharded")
    shutil.copytree(run, sharded, ignore=shutil.ignore_patterns("pretrain"))
    code, said = done(start(sharded, "--gpus", "2", "--pretrain.sharding", "fsdp", *still))
    assert code == 0, said
    ours, whole = (load_model(path).decoder for path in (sharded, run))
    for name, parameter in whole.named_parameters():
        assert torch.equal(ours.get_parameter(name), parameter), name
    texts = [(path / "pretrain" / "samples.jsonl").read_text() for path in (sharded, run)]
    assert texts[0] == texts[1] and texts[0].count("\n") == 2
    numbers = [validation(path) for path in (sharded, run)]
    assert numbers[0] == pytest.approx(numbers[1], rel=1e-6)


@pytest.mark.long
def test_an_error_of_one_process_is_said_once(run: Path) -> None:
    code, said = done(start(run, "--pretrain.global_batch_tokens", "1"))
    assert code == 2
    assert said.count("error:") == 1 and "Traceback" not in said
    assert "a step of 1 rows cannot be shared out among 2 processes" in said
    assert read_json(run / "pretrain" / "stage.json")["outcome"] == "failed"


def test_more_gpus_than_there_are(run: Path) -> None:
    code, said = done(start(run, "--gpus", "99", "--pretrain.device", "cuda"))
    assert code == 2
    assert "99 GPUs asked, " in said and said.count("error:") == 1


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_in_all_and_the_run_goes_on(run: Path, number: signal.Signals) -> None:
    process = start(run, "--pretrain.steps", "100000", "--pretrain.checkpoint_every", "0")
    wait_for(process, lambda: len(losses(run)) > 5)
    process.send_signal(number)
    code, said = done(process)
    assert code == 130, said
    stopped = losses(run)[-1][0]
    assert (run / "pretrain" / "checkpoints" / f"step-{stopped:08d}").is_dir()
    code, said = done(start(run, "--pretrain.steps", str(stopped + 2)))
    assert code == 0, said
    assert [step for step, _ in losses(run)] == list(range(1, stopped + 3))


@pytest.mark.long
def test_a_killed_process_ends_the_run_and_it_goes_on(run: Path) -> None:
    process = start(run, "--pretrain.steps", "100000")
    wait_for(process, lambda: len(losses(run)) > 20)
    os.kill(children(process)[1], signal.SIGKILL)
    code, said = done(process)
    assert code == 2
    assert said.count("error:") == 1 and "Traceback" not in said
    assert "process 1 of 2 was ended by SIGKILL" in said
    saved = max((run / "pretrain" / "checkpoints").glob("step-????????")).name
    code, said = done(start(run, "--pretrain.steps", str(len(losses(run)) + 4)))
    assert code == 0, said
    assert f"goes on from step {int(saved[5:])}" in said


@pytest.mark.long
def test_processes_end_with_who_started_them(run: Path) -> None:
    process = start(run, "--pretrain.steps", "100000")
    wait_for(process, lambda: len(losses(run)) > 2)
    workers = children(process)
    assert sorted(workers) == [0, 1]
    process.kill()
    process.communicate()
    for worker in workers.values():
        while Path(f"/proc/{worker}/exe").exists():  # the test's own time limit ends this
            time.sleep(0.02)


@pytest.mark.long
def test_torchrun_starts_the_same(run: Path) -> None:
    code, said = done(start(run, torchrun=("--nproc-per-node", "2", "--standalone")))
    assert code == 0, said
    assert said.count("machine:") == said.count("written to") == 1
    assert [step for step, _ in losses(run)] == list(range(1, 13))


@pytest.mark.long
def test_torchrun_restarts_after_a_death(run: Path) -> None:
    options = ("--nproc-per-node", "2", "--standalone", "--max-restarts", "2")
    process = start(run, "--pretrain.steps", "400", torchrun=options)
    for steps in (60, 120):
        wait_for(process, lambda steps=steps: len(losses(run)) > steps)
        victim = children(process)[1]
        os.kill(victim, signal.SIGKILL)
        wait_for(process, lambda victim=victim: children(process).get(1, victim) != victim)
    code, said = done(process)
    assert code == 0, said
    undisturbed = run.with_name("undisturbed")
    shutil.copytree(run, undisturbed, ignore=shutil.ignore_patterns("pretrain"))
    assert done(start(undisturbed, "--pretrain.steps", "400"))[0] == 0
    assert losses(run) == losses(undisturbed)
