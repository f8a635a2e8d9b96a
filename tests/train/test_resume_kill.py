"""Real processes, killed at random moments: the loss column is that of an undisturbed run.

The seed of the moments is in every message; `HORNBOOK_KILL_SEED` repeats one.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny_run

STEPS = 40
SETTINGS = {"steps": STEPS, "checkpoint_every": 6, "evaluate_every": 5, "sample_every": 6}


def start(folder: Path, settings: dict[str, object]) -> subprocess.Popen[bytes]:
    """A process that trains in `folder`."""
    command = [sys.executable, tiny_run.__file__, str(folder), json.dumps(settings)]
    return subprocess.Popen(command, stderr=subprocess.DEVNULL)


def lines(folder: Path) -> int:
    path = folder / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def wait_for_lines(process: subprocess.Popen[bytes], folder: Path, more: int) -> None:
    """Until metrics.jsonl, cut back first, has so many more lines, or the process ended."""
    goal = min(lines(folder) + more, STEPS)
    while process.poll() is None and lines(folder) >= goal:
        time.sleep(0.001)
    while process.poll() is None and lines(folder) < goal:
        time.sleep(0.001)


def train_with_kills(folder: Path, kills: int) -> None:
    seed = int(os.environ.get("HORNBOOK_KILL_SEED", random.randrange(10**6)))
    print(f"HORNBOOK_KILL_SEED={seed}")
    moments = random.Random(seed)
    for _ in range(kills):
        process = start(folder, SETTINGS)
        wait_for_lines(process, folder, moments.randint(1, 2 * STEPS // kills))
        time.sleep(moments.uniform(0, 0.02))
        process.send_signal(signal.SIGKILL)
        process.wait()
    tiny_run.fit(folder, SETTINGS)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    tiny_run.fit(folder, SETTINGS)
    return folder


def check_alike(folder: Path, undisturbed: Path) -> None:
    assert tiny_run.losses(folder) == tiny_run.losses(undisturbed)
    assert len(tiny_run.losses(folder)) == STEPS
    assert (folder / "samples.jsonl").read_text() == (undisturbed / "samples.jsonl").read_text()
    evaluations = [
        [r["validation_loss"] for r in tiny_run.records(path) if "validation_loss" in r]
        for path in (folder, undisturbed)
    ]
    assert evaluations[0] == evaluations[1]


def test_killed_once(tmp_path: Path, undisturbed: Path) -> None:
    train_with_kills(tmp_path / "killed", 1)
    check_alike(tmp_path / "killed", undisturbed)


KILLED_IN_A_PHASE = """
import os, signal, sys
from hornbook.train import checkpoint, checkpoint_files
from hornbook.train.checkpoint import CheckpointStore
PHASES = {
    "stage": (CheckpointStore, "_copy", 40),
    "tensor write": (checkpoint_files, "write_tensors", 4),
    "rename": (checkpoint_files, "publish", 2),
    "prune": (checkpoint.shutil, "rmtree", 1),
}
folder, settings, phase = sys.argv[1:]
owner, name, nth = PHASES[phase]
real, calls = getattr(owner, name), []

def dying(*arguments, **options):
    calls.append(name)
    if len(calls) == nth:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*arguments, **options)

setattr(owner, name, dying)
import json, tiny_run
from pathlib import Path
tiny_run.fit(Path(folder), json.loads(settings))
"""


LONG = [pytest.param(phase, marks=pytest.mark.long) for phase in ("stage", "prune")]


@pytest.mark.parametrize("phase", [*LONG, "tensor write", "rename"])
def test_killed_inside_each_phase_of_a_checkpoint(
    tmp_path: Path, undisturbed: Path, phase: str
) -> None:
    folder = tmp_path / "killed"
    command = [sys.executable, "-c", KILLED_IN_A_PHASE, str(folder), json.dumps(SETTINGS), phase]
    environment = {**os.environ, "PYTHONPATH": str(Path(tiny_run.__file__).parent)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert 0 < len(tiny_run.losses(folder)) < STEPS
    tiny_run.fit(folder, SETTINGS)
    check_alike(folder, undisturbed)


@pytest.mark.long
def test_killed_ten_times(tmp_path: Path, undisturbed: Path) -> None:
    train_with_kills(tmp_path / "killed", 10)
    check_alike(tmp_path / "killed", undisturbed)


def test_terminated(tmp_path: Path, undisturbed: Path) -> None:
    process = start(tmp_path / "killed", SETTINGS)
    wait_for_lines(process, tmp_path / "killed", 9)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 130
    stopped = tiny_run.events(tmp_path / "killed", "stopped")[-1]["step"]
    folders = sorted(path.name for path in (tmp_path / "killed" / "checkpoints").iterdir())
    assert folders[-1] == f"step-{stopped:08d}"
    assert tiny_run.losses(tmp_path / "killed")[-1][0] == stopped < STEPS
    tiny_run.fit(tmp_path / "killed", SETTINGS)
    check_alike(tmp_path / "killed", undisturbed)
