"""Prepare by datatrove's executors writes what `prepare` writes, byte for byte."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hornbook.corpus.config import NearConfig, PrepareConfig
from hornbook.corpus.prepare import prepare
from hornbook.corpus.scale import Executor, files_of, prepare_at_scale
from hornbook.errors import HornbookError


def write_folder(folder: Path) -> PrepareConfig:
    """Five files of 100 documents, with equal and near ones in other files."""
    folder.mkdir()
    draw = random.Random(0)
    texts = [" ".join(f"w{draw.randrange(3_000)}" for _ in range(60)) for _ in range(400)]
    texts += texts[:50] + [text.rsplit(" ", 2)[0] for text in texts[100:150]]
    for number in range(5):
        rows = [json.dumps({"text": text}) + "\n" for text in texts[number::5]]
        (folder / f"{number}.jsonl").write_text("".join(rows))
    (folder / "none.jsonl").touch()
    return PrepareConfig(inputs=[str(folder)], near=NearConfig(on=True), shard_megabytes=0)


def shards(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*.parquet")}


def same_as_on_one_machine(tmp_path: Path, executor: Executor, **settings: int) -> None:
    config = write_folder(tmp_path / "in")
    prepare_at_scale(config, tmp_path / "many", executor, tasks=3, **settings)
    check_against_one_machine(config, tmp_path)


def check_against_one_machine(config: PrepareConfig, tmp_path: Path) -> None:
    prepare(config, tmp_path / "one")
    assert len(shards(tmp_path / "one")) > 100
    assert shards(tmp_path / "many") == shards(tmp_path / "one")
    reports = [
        json.loads((tmp_path / name / "prepare.json").read_text()) for name in ("one", "many")
    ]
    assert reports[0].pop("messages")[1:] == reports[1].pop("messages")[-3:]
    assert reports[0] == reports[1] and reports[0]["dropped"]["near.duplicate"]["documents"] > 40
    assert not (tmp_path / "many/work").exists()


def test_files_are_divided_into_neighbouring_groups(tmp_path: Path) -> None:
    sizes = [5, 0, 50, 1, 1, 1, 40, 0]
    for number, size in enumerate(sizes):
        (tmp_path / f"{number}.txt").write_text("x" * size)
    for world_size in (1, 2, 3, 20):
        groups = [files_of([str(tmp_path)], rank, world_size) for rank in range(world_size)]
        assert [number for group in groups for number in group] == list(range(len(sizes)))


def test_without_datatrove_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "datatrove.executor", None)
    with pytest.raises(HornbookError, match=r"pip install .hornbook\[scale\]"):
        prepare_at_scale(PrepareConfig(inputs=["x"]), tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("workers", [1, 2])
def test_local(tmp_path: Path, workers: int) -> None:
    pytest.importorskip("datatrove", reason="needs the extra `scale`")
    same_as_on_one_machine(tmp_path, "local", workers=workers)


SBATCH = """#!/bin/bash
# Runs each task of a job at once, in place of a cluster that would do it later.
script=${@: -1}
last=$(sed -n 's/^#SBATCH --array=0-\\([0-9]*\\).*/\\1/p' "$script")
for task in $(seq 0 "$last"); do
  SLURM_ARRAY_TASK_ID=$task SLURM_JOB_ID=1 SLURM_NODELIST=here \\
    bash "$script" >> "$(dirname "$0")/log" 2>&1 || exit 1
done
echo "Submitted batch job 1"
"""
SRUN = """#!/bin/bash
# srun -l -n 1 COMMAND
exec "${@:4}"
"""
SCONTROL = """#!/bin/bash
# scontrol show hostnames LIST
echo "$3"
"""


@pytest.mark.long
def test_slurm_script(tmp_path: Path) -> None:
    pytest.importorskip("datatrove", reason="needs the extra `scale`")
    config = write_folder(tmp_path / "in")
    cluster = tmp_path / "cluster"
    cluster.mkdir()
    for name, script in (("sbatch", SBATCH), ("srun", SRUN), ("scontrol", SCONTROL)):
        (cluster / name).write_text(script)
        (cluster / name).chmod(0o755)
    script = Path(__file__).parents[2] / "deploy" / "slurm-prepare.sh"
    path = os.pathsep.join([str(cluster), str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", str(script), "--tasks", "3", "--out", str(tmp_path / "many"),
         "--config.inputs", f"[{tmp_path / 'in'}]", "--config.near.on", "true",
         "--config.shard_megabytes", "0", "--settings", "{partition: cpu, time: '1:00:00'}"],
        env={**os.environ, "PATH": path}, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    log = cluster / "log"
    assert done.returncode == 0, done.stderr + (log.read_text() if log.exists() else "")
    check_against_one_machine(config, tmp_path)


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_the_slurm_script_is_shell_and_says_how_it_is_used() -> None:
    script = str(Path(__file__).parents[2] / "deploy" / "slurm-prepare.sh")
    assert subprocess.run(["bash", "-n", script]).returncode == 0
    done = subprocess.run(["bash", script], capture_output=True, text=True)
    assert done.returncode == 2 and "usage" in done.stderr
