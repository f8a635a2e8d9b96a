"""Two processes learn what one does: losses, tokens, checkpoints; whole or sharded models."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import several
import tiny_run
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_run import LENGTH, MODEL, CountingRows, losses
from torch import distributed

from hornbook.errors import HornbookError
from hornbook.model.decoder import Decoder
from hornbook.optim.config import OptimizerConfig
from hornbook.tokens.batch import IGNORE
from hornbook.train.checkpoint import named_tensors
from hornbook.train.checkpoint_files import Checkpoint
from hornbook.train.config import PretrainConfig
from hornbook.train.load import load_model
from hornbook.train.objective import bind
from hornbook.train.parallel import World
from hornbook.train.sharding import Sharing, break_off, choose_sharding

PROCESSES = 2
FIRST, SECOND, THIRD = 3, 6, 9
"""Steps after which one process hands over to two, and they to one."""


def setting(rows: int = 8, **other: Any) -> dict[str, Any]:
    kinds = {"kind": other.pop("kind", "adamw")}
    return {"pretrain": {"global_batch_tokens": rows * LENGTH, **other}, "optimizer": kinds}


SETTINGS = {
    "ddp": setting(sharding="ddp", micro_batch=2),
    "ddp uneven": setting(rows=7, sharding="ddp", micro_batch=3),
    "ddp muon": setting(sharding="ddp", kind="muon"),
    "fsdp": setting(sharding="fsdp", micro_batch=2),
    "fsdp uneven": setting(rows=7, sharding="fsdp", micro_batch=3),
    "fsdp muon": setting(sharding="fsdp", kind="muon"),
    "fsdp adamw8bit": setting(sharding="fsdp", kind="adamw8bit"),
}


def in_several(
    runs: list[dict[str, Any]], processes: int = PROCESSES
) -> subprocess.CompletedProcess[str]:
    """Train with so many processes."""
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone",
        "--nproc-per-node", str(processes), several.__file__, json.dumps(runs),
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Runs of one process, then two, then one again, in each setting; trained to the end."""
    root = tmp_path_factory.mktemp("parallel")
    runs = {
        name: {"folder": str(root / name.replace(" ", "-")), **values}
        for name, values in SETTINGS.items()
    }
    for run in runs.values():
        several.train({**run, "steps": FIRST})
    done = in_several([{**run, "steps": SECOND} for run in runs.values()])
    assert done.returncode == 0, done.stderr[-3000:]
    for run in runs.values():
        several.train({**run, "steps": THIRD})
    return {name: Path(run["folder"]) for name, run in runs.items()}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, list[list[int]]]]:
    """The same settings, trained by one process from the first step to the last."""
    root = tmp_path_factory.mktemp("alone")
    found: dict[str, tuple[Path, list[list[int]]]] = {}
    for name, values in SETTINGS.items():
        same = name.replace("fsdp", "ddp")
        if same not in found:
            folder = root / same.replace(" ", "-")
            _, objective = several.train({"folder": str(folder), "steps": THIRD, **values})
            found[same] = folder, objective.seen
        found[name] = found[same]
    return found


@pytest.mark.parametrize("name", SETTINGS)
def test_losses_are_those_of_one_process(
    name: str, folders: dict[str, Path], alone: dict[str, tuple[Path, list[list[int]]]]
) -> None:
    ours, expected = losses(folders[name]), losses(alone[name][0])
    assert [step for step, _ in ours] == list(range(1, THIRD + 1))
    # 8-bit state multiplies differences in last bits, which rounding then makes whole levels.
    tolerance = 2e-3 if "8bit" in name else 2e-5
    assert dict(ours) == pytest.approx(dict(expected), rel=tolerance)


@pytest.mark.parametrize("name", SETTINGS)
def test_every_row_is_learnt_once(
    name: str, folders: dict[str, Path], alone: dict[str, tuple[Path, list[list[int]]]]
) -> None:
    rows = SETTINGS[name]["pretrain"]["global_batch_tokens"] // LENGTH
    source = CountingRows()
    batch = source.rows(FIRST * rows, (SECOND - FIRST) * rows)
    wanted = [
        [*inputs, targets[-1]]
        for inputs, targets in zip(batch.inputs.tolist(), batch.targets.tolist(), strict=True)
    ]
    seen = []
    for rank in range(PROCESSES):
        seen += json.loads((folders[name] / f"seen-{rank}.json").read_text())
    missing = Counter(map(tuple, wanted)) - Counter(map(tuple, seen))
    assert not missing
    assert len(seen) == len(wanted)


@pytest.mark.parametrize("name", ["ddp", "fsdp"])
def test_one_process_writes_the_files(name: str, folders: dict[str, Path]) -> None:
    lines = [
        json.loads(line) for line in (folders[name] / "metrics.jsonl").read_text().split("\n")[:-1]
    ]
    assert sum("event" in line and line["event"] == "resumed" for line in lines) == 2
    names = sorted(path.name for path in (folders[name] / "checkpoints").iterdir())
    assert names == [f"step-{step:08d}" for step in (SECOND, THIRD)]


def test_a_sharded_checkpoint_is_read_whole(folders: dict[str, Path]) -> None:
    """Its files hold parts, each of them less than half; put together they are the model."""
    path = folders["fsdp"] / "checkpoints" / f"step-{SECOND:08d}"
    assert Checkpoint(path, SECOND).problem() is None
    parts = sorted(file.name for file in (path / "model").iterdir())
    assert parts == ["part-00000-00001.safetensors", "part-00001-00001.safetensors"]
    (path / "tokenizer.json").write_text("{}")
    whole, replicated = (
        load_model(folder).decoder
        for folder in (path, _with_tokenizer(folders["ddp"] / "checkpoints" / path.name))
    )
    tensors = named_tensors(replicated)
    for tensor_name, tensor in named_tensors(whole).items():
        torch.testing.assert_close(tensor, tensors[tensor_name], rtol=1e-3, atol=1e-4)


@pytest.mark.long
@pytest.mark.parametrize("sharding", ["ddp", "fsdp"])
def test_memory_running_out_in_one_process_ends_the_run_which_goes_on(
    tmp_path: Path, sharding: str
) -> None:
    run = {
        "folder": str(tmp_path), "steps": 4, **setting(sharding=sharding, micro_batch=2),
    }  # fmt: skip
    done = in_several([{**run, "passes": 6}])  # two passes a step: in the middle of the third
    assert done.returncode != 0
    assert "step 3: out of memory in process 1 of 2" in done.stderr
    assert "with a micro-batch of 1 rows" in done.stderr
    machine = json.loads((tmp_path / "machine.json").read_text())
    assert machine["micro_batches"] == [[1, 2], [3, 1]]
    done = in_several([run])
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().split("\n")[:-1]]
    assert [line["micro_batch"] for line in lines if "loss" in line] == [2, 2, 1, 1]


def _with_tokenizer(path: Path) -> Path:
    (path / "tokenizer.json").write_text("{}")
    return path


# ------------------------------------------------------------------------- without any processes


@given(st.integers(1, 40), st.integers(1, 9))
def test_slices_share_out_every_row(total: int, size: int) -> None:
    worlds = [World(rank, size) for rank in range(size)]
    ends = [world.rows(total) for world in worlds]
    assert [row for first, end in ends for row in range(first, end)] == list(range(total))
    if total < size:
        with pytest.raises(HornbookError, match="cannot be shared out"):
            worlds[0].check_rows(total)
        return
    batches = [world.share_of(CountingRows()).rows(5, total) for world in worlds]
    assert len({len(batch) for batch in batches}) == 1
    whole = CountingRows().rows(5, total)
    learnt = [
        batch.targets[: end - first] for batch, (first, end) in zip(batches, ends, strict=True)
    ]
    assert torch.equal(torch.cat(learnt), whole.targets)
    for batch, (first, end) in zip(batches, ends, strict=True):
        assert (batch.targets[end - first :] == IGNORE).all()


@pytest.mark.parametrize("where", ["forward", "backward"])
def test_a_sharded_model_survives_a_pass_that_broke_off(where: str) -> None:
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        model = Decoder(replace(MODEL, **several.STILL), torch.Generator().manual_seed(1))
        sharing = Sharing(World(), PretrainConfig(precision="fp32"), OptimizerConfig())
        sharing.kind = "fsdp"
        sharing._shard(model.train(), None)
        forward, batch = bind(tiny_run.NextToken(), model), CountingRows().rows(0, 4)

        def step() -> tuple[float, list[torch.Tensor]]:
            loss, _ = forward(batch)
            loss.backward()
            gradients = [parameter.grad.full_tensor() for parameter in model.parameters()]
            model.zero_grad(set_to_none=True)
            return loss.item(), gradients

        loss, gradients = step()
        block = model.blocks[1]
        layers = block.layers
        broken = Broken.apply if where == "backward" else out_of_memory
        block.layers = lambda *given: broken(layers(*given))  # type: ignore[method-assign]
        with pytest.raises(torch.OutOfMemoryError):
            step()
        block.layers = layers  # type: ignore[method-assign]
        break_off(model)
        again, same = step()
        assert again == loss
        assert all(torch.equal(a, b) for a, b in zip(gradients, same, strict=True))
    finally:
        distributed.destroy_process_group()


def out_of_memory(*given: Any) -> Any:
    raise torch.OutOfMemoryError("out of memory")


class Broken(torch.autograd.Function):
    """Memory runs out in its backward pass."""

    @staticmethod
    def forward(context: Any, x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    backward = staticmethod(out_of_memory)


def test_sharding_is_chosen_by_memory() -> None:
    def chosen(gigabytes: float, wanted: str = "auto", size: int = 8, local: int = 8) -> str | None:
        return choose_sharding(
            wanted, whole_bytes=gigabytes * 1e9, memory_bytes=80e9, size=size, local_size=local
        )

    assert chosen(30) == chosen(30, size=64) == "ddp"
    assert chosen(60) == "fsdp"
    assert chosen(60, size=64) == "hsdp", "a host's eight devices are enough"
    assert chosen(1000, size=64) == "fsdp", "it takes all of them"
    assert chosen(1, "fsdp") == "fsdp"
    with pytest.raises(HornbookError, match="several hosts"):
        chosen(1, "hsdp")
