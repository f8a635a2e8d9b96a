"""SIGKILL inside every phase of a save leaves a whole checkpoint, and training goes on from it.

Each kill happens in a process of its own, forked from one driver so that torch is imported once.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

DRIVER = '''
import json, os, shutil, signal, sys
from pathlib import Path

import torch
from torch import nn

from hornbook.model.config import ModelConfig
from hornbook.optim.config import OptimizerConfig
from hornbook.optim.groups import build_optimizer
from hornbook.train import checkpoint, checkpoint_files
from hornbook.train.checkpoint import CheckpointStore
from hornbook.train.checkpoint_files import Checkpoint, list_checkpoints

torch.set_num_threads(1)
PHASES = {
    "stage": (CheckpointStore, "_copy", 3),
    "tensor write": (checkpoint_files, "write_tensors", 2),
    "state write": (checkpoint_files, "write_state", 1),
    "seal": (checkpoint_files, "seal", 1),
    "rename": (checkpoint_files, "publish", 1),
    "prune rename": (CheckpointStore, "_discard", 1),
    "prune delete": (checkpoint.shutil, "rmtree", 1),
}
SYSTEM_CALLS = ["fsync", "rename", "replace", "unlink", "rmdir", "mkdir", "open"]


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def kill_in_call(owner, name, nth):
    """Die in the middle of the nth call: the real work done, nothing after it."""
    real, calls = getattr(owner, name), []
    def dying(*arguments, **options):
        calls.append(name)
        if len(calls) == nth and when == "before":
            die()
        result = real(*arguments, **options)
        if len(calls) == nth and when == "after":
            die()
        return result
    setattr(owner, name, dying)


def kill_at_system_call(nth):
    """Die just before the nth of the calls that change the disk."""
    calls = []
    for name in SYSTEM_CALLS:
        def dying(*arguments, real=getattr(os, name), **options):
            calls.append(1)
            if len(calls) == nth:
                die()
            return real(*arguments, **options)
        setattr(os, name, dying)


def state_at(step):
    """Model and optimizer after `step` steps of a small deterministic training."""
    torch.manual_seed(0)
    model = nn.Linear(6, 6)
    model.config = ModelConfig("gpt2", 30, 32, 8, 1, 2, 2, 4, 8, 16, True)
    optimizer = build_optimizer(model, OptimizerConfig(learning_rate=0.01), torch.device("cpu"))
    for _ in range(step):
        optimizer.zero_grad()
        model(torch.randn(4, 6)).square().sum().backward()
        optimizer.step()
    return model, optimizer


def save(store, step):
    store.save(step, *state_at(step), {"rows": step}, wait=True)


def in_child(work):
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, status
    return os.WIFSIGNALED(status)


def save_then_die(folder, arm):
    store = CheckpointStore(folder, keep=1)
    for step in (1, 2):
        save(store, step)
    arm()
    save(store, 3)


def resume(folder, result):
    """What a new process finds: compare it bit for bit, then go on and save the next step."""
    store = CheckpointStore(folder, keep=1)
    found = store.latest()
    whole = [each.problem() is None for each in list_checkpoints(folder)]
    model, optimizer = state_at(0)
    store.load(found, model, optimizer)
    state = found.state()
    expected, expected_optimizer = state_at(found.step)
    same = all(
        torch.equal(a, b) and torch.equal(
            optimizer.state[a]["exp_avg_sq"], expected_optimizer.state[b]["exp_avg_sq"]
        )
        for a, b in zip(model.parameters(), expected.parameters())
    )
    save(store, found.step + 1)
    left = sorted(path.name for path in folder.iterdir())
    result.write_text(json.dumps({
        "step": found.step, "whole": all(whole), "same": same and state["rows"] == found.step,
        "left": left == [checkpoint_files.checkpoint_name(found.step + 1)],
    }))


def trial(root, arm):
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    killed = in_child(lambda: save_then_die(root / "checkpoints", arm))
    in_child(lambda: resume(root / "checkpoints", root / "result.json"))
    return {"killed": killed, **json.loads((root / "result.json").read_text())}


root = Path(sys.argv[2])
warm, _ = state_at(1)  # before any fork, have torch and the storage import all that they use
checkpoint_files.write_tensors(dict(warm.named_parameters()), root / "warm")
checkpoint_files.read_tensors(root / "warm", dict(warm.named_parameters()))
if sys.argv[1] == "phases":
    for when in ("before", "after"):
        for phase, (owner, name, nth) in PHASES.items():
            row = trial(root / "run", lambda: kill_in_call(owner, name, nth))
            print(json.dumps({"phase": phase, "when": when, **row}), flush=True)
else:
    nth, killed = 0, True
    while killed:
        nth += 1
        row = trial(root / "run", lambda: kill_at_system_call(nth))
        killed = row["killed"]
        print(json.dumps({"call": nth, **row}), flush=True)
'''


def drive(tmp_path: Path, mode: str) -> list[dict[str, object]]:
    script = tmp_path / "driver.py"
    script.write_text(DRIVER)
    done = subprocess.run(
        [sys.executable, str(script), mode, str(tmp_path)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_killed_in_every_phase(tmp_path: Path) -> None:
    rows = drive(tmp_path, "phases")
    assert len(rows) == 14
    for row in rows:
        assert row["killed"] and row["whole"] and row["same"] and row["left"], row
        # Until the rename the checkpoint before is the newest one; from then on the new one is.
        published = str(row["phase"]).startswith("prune") or (row["phase"], row["when"]) == (
            "rename",
            "after",
        )
        assert row["step"] == (3 if published else 2), row


@pytest.mark.long
def test_killed_before_every_call_that_changes_the_disk(tmp_path: Path) -> None:
    rows = drive(tmp_path, "calls")
    assert len(rows) > 20
    for row in rows:
        assert row["whole"] and row["same"] and row["left"], row
    steps = [row["step"] for row in rows]
    assert steps == sorted(steps) and set(steps) == {2, 3}
    assert not rows[-1]["killed"]
