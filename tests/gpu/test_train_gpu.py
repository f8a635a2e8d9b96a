"""The training loop on a real GPU: precisions, exactness, memory running out."""

from __future__ import annotations

import gc
import math
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1] / "train"))
from tiny_run import MODEL, CountingRows, build, events, fit, losses, records

from hornbook.errors import HornbookError
from hornbook.evaluate.heldout import Window, _score
from hornbook.model.decoder import Decoder
from hornbook.optim.config import OptimizerConfig
from hornbook.optim.groups import build_optimizer
from hornbook.tokens.batch import Batch
from hornbook.tokens.prefetch import Prefetcher
from hornbook.train.machine import Machine
from hornbook.train.objective import NextToken, bind
from hornbook.train.precision import Precision
from hornbook.train.probe_attention import fastest_attention
from hornbook.train.step import Moment, NotFinite, Stepper
from hornbook.train.trial import Trial
from hornbook.train.validation import ValidationLoss

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

CUDA = torch.device("cuda")

SMALL = {"layers": 4, "width": 256, "heads": 4, "kv_heads": 4, "head_dim": 64, "mlp_width": 1024}
"""Large enough that its matrix products are those of a large model."""

EAGER = {"device": "cuda", "compile": "off", "precision": "bf16", "evaluate_every": 0}


@pytest.fixture(autouse=True)
def memory_given_back() -> Any:
    yield
    torch.cuda.set_sync_debug_mode("default")
    torch.cuda.set_per_process_memory_fraction(1.0)
    torch.cuda.empty_cache()
    torch.compiler.reset()


class Multiplied(NextToken):
    """The loss of the second micro-batch of a step is multiplied."""

    def __init__(self, step: int, factor: float):
        self.rows = CountingRows().rows(8 * step - 4, 4).inputs
        self.factor = factor

    def __call__(self, model: Any, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        loss, metrics = super().__call__(model, batch)
        factor = self.factor if torch.equal(batch.inputs.cpu(), self.rows) else 1.0
        return loss * factor, metrics


# -------------------------------------------------------------------------------------- precision


@pytest.mark.parametrize("weights", ["fp32", "bf16"])
def test_a_run_learns(tmp_path: Path, weights: str) -> None:
    settings = {"device": "cuda", "precision": "bf16", "steps": 60, "weights": weights}
    outcome = fit(tmp_path, settings, model=SMALL)
    assert outcome.loss is not None and outcome.loss < 3.0
    machine = Machine.read(tmp_path)
    assert machine is not None and machine.compile == "on", machine and machine.reasons
    assert machine.micro_batches == [[1, 4]]


def test_fp16_learns_as_bf16_does(tmp_path: Path) -> None:
    """The path of cards without bf16. Within noise: no further apart than two seeds of dropout."""
    curves = {}
    for name, settings in {
        "bf16": {"precision": "bf16"},
        "fp16": {"precision": "fp16"},
        "seed": {"precision": "bf16", "seed": 7},
    }.items():
        folder = tmp_path / name
        fit(folder, {**EAGER, "steps": 200, **settings}, model=SMALL, optimizer={
            "learning_rate": 1e-3, "schedule": "constant",
        })  # fmt: skip
        assert not events(folder, "nan")
        curve = torch.tensor([loss for _, loss in losses(folder)])
        curves[name] = curve.unfold(0, 20, 20).mean(1)  # means of 20 steps
    apart = (curves["fp16"] - curves["bf16"]).abs()
    noise = (curves["seed"] - curves["bf16"]).abs()
    assert float(curves["fp16"][-1]) < 1.0
    assert float(apart.max()) <= max(0.02, 2 * float(noise.max())), (apart, noise)


def test_fp16_overflow_is_skipped_on_the_device(tmp_path: Path) -> None:
    overflowing = Multiplied(3, 1e6)
    settings = {**EAGER, "precision": "fp16", "steps": 6}
    fit(tmp_path, settings, model=SMALL, objective=overflowing)
    lines = [line for line in records(tmp_path) if "loss" in line]
    skipped = [line["step"] for line in lines if line["gradient_norm"] is None]
    assert 3 in skipped
    assert [event["step"] for event in events(tmp_path, "overflow")] == skipped


# ------------------------------------------------------------------------------------- exactness


def test_no_step_waits_for_the_device(tmp_path: Path) -> None:
    """Only reading the numbers may; PyTorch itself says so of everything else."""
    model = Decoder(replace(MODEL, **SMALL), torch.Generator().manual_seed(1)).to(CUDA)
    optimizer = build_optimizer(model, OptimizerConfig(), CUDA)
    for name in ("bf16", "fp16"):
        stepper = Stepper(
            model, bind(NextToken(), model), optimizer, Precision(name, CUDA),
            gradient_clip=1.0, seed=1,
        )  # fmt: skip
        with Prefetcher(
            CountingRows(), ((8 * step, 8) for step in range(4)), device=CUDA,
            weigh=NextToken().weight,
        ) as batches:  # fmt: skip
            stepper.step(1, next(batches), 4, batches.weight).result()  # allocates, loads kernels
            torch.cuda.set_sync_debug_mode("error")
            try:
                pending = [stepper.step(step, next(batches), 4, batches.weight) for step in (2, 3)]
            finally:
                torch.cuda.set_sync_debug_mode("default")
            assert all(math.isfinite(each.result().loss) for each in pending)


@pytest.mark.parametrize("kind", ["adamw", "adamw8bit", "muon"])
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_the_loop_waits_for_nothing_but_the_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, precision: str
) -> None:
    settings = {**EAGER, "precision": precision, "steps": 30, "sample_every": 0}
    trainer = build(tmp_path, {**settings, "checkpoint_every": 0}, model=SMALL,
                    optimizer={"kind": kind})  # fmt: skip
    steps: list[str] = []
    wait, one_step = Moment.wait, trainer._one_step

    def waiting(moment: Moment) -> None:
        mode = torch.cuda.get_sync_debug_mode()
        torch.cuda.set_sync_debug_mode("default")
        wait(moment)
        torch.cuda.set_sync_debug_mode(mode)

    def watched(*arguments: Any) -> None:
        steps.append("error" if 5 <= len(steps) < 25 else "default")  # the first load kernels
        torch.cuda.set_sync_debug_mode(steps[-1])
        one_step(*arguments)

    monkeypatch.setattr(Moment, "wait", waiting)
    monkeypatch.setattr(trainer, "_one_step", watched)
    assert trainer.fit().step == len(steps) == 30


def test_a_step_takes_what_the_device_takes(tmp_path: Path) -> None:
    """Here the host is the slower one, so that a step is long over when it is read at a drain."""

    class Late(CountingRows):
        """Is a second late with rows that are prepared well after the start."""

        def rows(self, start: int, count: int) -> Batch:
            if start == 8 * 30:
                time.sleep(1.0)
            return super().rows(start, count)

    settings = {**EAGER, "steps": 41, "evaluate_every": 3, "sample_every": 0}
    outcome = fit(tmp_path, {**settings, "checkpoint_every": 7}, model=SMALL, source=Late())
    lines = [line for line in records(tmp_path) if "loss" in line]
    seconds = torch.tensor([8 * 16 / line["tokens_per_second"] for line in lines])
    assert len(seconds) == 41
    median = float(seconds.median())
    # Without the first steps, which load kernels, and with one that had to wait for its rows.
    usual = torch.cat([seconds[5:30], seconds[31:]])
    print(f"median {median:.5f} s, least {usual.min():.5f}, most {usual.max():.5f}")
    assert usual.min() > median / 4 and usual.quantile(0.9) < 3 * median
    assert float(seconds[30]) > 0.5, "waiting for data is part of a step"
    assert float(seconds.sum()) < outcome.seconds
    assert lines[-1]["memory_gb"] <= torch.cuda.max_memory_allocated() / 1e9


def test_deterministic_runs_are_bit_identical_also_when_resumed(tmp_path: Path) -> None:
    settings = {"device": "cuda", "deterministic": True, "checkpoint_every": 5}
    constant = {"schedule": "constant", "warmup_steps": 0}
    for name in ("one", "two"):
        fit(tmp_path / name, {**settings, "steps": 20}, model=SMALL, optimizer=constant)
    assert losses(tmp_path / "one") == losses(tmp_path / "two")
    fit(tmp_path / "cut", {**settings, "steps": 10}, model=SMALL, optimizer=constant)
    fit(tmp_path / "cut", {**settings, "steps": 20}, model=SMALL, optimizer=constant)
    assert losses(tmp_path / "cut") == losses(tmp_path / "one")


def test_a_step_that_is_not_finite_is_named_and_nothing_is_saved_after_it(tmp_path: Path) -> None:
    with pytest.raises(NotFinite, match=r"step 13: the loss is nan in rows 100-103"):
        fit(tmp_path, EAGER, model=SMALL, objective=Multiplied(13, math.nan))
    assert [event["step"] for event in events(tmp_path, "nan")] == [13]
    assert losses(tmp_path)[-1][0] == 12
    assert fit(tmp_path, EAGER, model=SMALL).reason == "finished"


# --------------------------------------------------------------------------- choosing and memory


def test_an_attention_kernel_is_found() -> None:
    model = Decoder(replace(MODEL, **SMALL)).to(CUDA)
    batch = CountingRows().rows(0, 8).to(CUDA)
    kernel, reason = fastest_attention(
        Trial(model, NextToken(), batch, CUDA), Precision("bf16", CUDA)
    )
    assert kernel in ("cudnn", "flash", "efficient") and " ms" in reason


class Hungry(NextToken):
    """Needs a gigabyte for each row."""

    def __call__(self, model: Any, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        torch.empty(len(batch), 2**30, dtype=torch.uint8, device="cuda")
        return super().__call__(model, batch)


def leave(gigabytes: float) -> None:
    """Let PyTorch take so much more than it holds."""
    gc.collect()
    torch.cuda.empty_cache()
    total = torch.cuda.mem_get_info()[1]
    most = torch.cuda.memory_reserved() + gigabytes * 2**30
    torch.cuda.set_per_process_memory_fraction(most / total)


def test_a_micro_batch_that_is_too_large_is_made_to_fit(tmp_path: Path) -> None:
    leave(5)
    fit(
        tmp_path / "found", {**EAGER, "steps": 3, "micro_batch": 0}, model=SMALL, objective=Hungry()
    )
    machine = Machine.read(tmp_path / "found")
    assert machine is not None and machine.micro_batches[0][1] in (2, 4)
    fit(
        tmp_path / "asked", {**EAGER, "steps": 3, "micro_batch": 8}, model=SMALL, objective=Hungry()
    )
    assert [event["step"] for event in events(tmp_path / "asked", "micro_batch")] == []
    machine = Machine.read(tmp_path / "asked")
    assert machine is not None and machine.micro_batch(1) in (2, 4)


def test_out_of_memory_in_the_middle(tmp_path: Path) -> None:
    class Shrinking(Hungry):
        calls = 0

        def __call__(self, model: Any, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
            self.calls += 1
            if self.calls == 20:
                leave(2.5)
            return super().__call__(model, batch)

    # A recorded pass does not come by here, and takes no memory anew.
    settings = {**EAGER, "steps": 30, "micro_batch": 8, "activation_checkpointing": "none",
                "cross_entropy": "plain", "cuda_graph": "off"}  # fmt: skip
    outcome = fit(tmp_path, settings, model=SMALL, objective=Shrinking())
    assert outcome.step == 30
    changes = events(tmp_path, "micro_batch")
    assert len(changes) >= 1 and "memory had run out" in changes[0]["message"]
    assert records(tmp_path)[-2]["micro_batch"] in (1, 2)


@torch.no_grad()
def test_evaluation_takes_what_memory_there_is() -> None:
    """As many rows as fit, both while training and of documents; numbers are the same."""
    config = replace(MODEL, **SMALL, vocabulary=50257, vocabulary_rows=50304, context=1024)
    model = Decoder(config, torch.Generator().manual_seed(1)).to(CUDA).eval()
    ids = torch.randint(0, 50257, (8, 1025), generator=torch.Generator().manual_seed(2))
    windows = [Window(row[:-1].int().numpy(), row[1:].int().numpy()) for row in ids]
    whole = _score(model, windows)
    assert whole is not None
    leave(0.5)
    assert _score(model, windows * 128) is None
    torch.cuda.empty_cache()
    parts = [_score(model, [window]) for window in windows]
    assert sum(part[0] for part in parts if part) == pytest.approx(whole[0], rel=1e-5)
    validation = ValidationLoss.__new__(ValidationLoss)
    batch = Batch(ids[:, :-1].contiguous(), ids[:, 1:].contiguous())
    losses = validation._losses(model, batch, CUDA)
    assert losses is not None and float(losses.sum()) == pytest.approx(whole[0], rel=1e-5)


def test_one_row_that_does_not_fit_is_an_error(tmp_path: Path) -> None:
    leave(0.5)
    with pytest.raises(HornbookError, match="does not fit in memory"):
        fit(tmp_path, {**EAGER, "steps": 3}, model=SMALL, objective=Hungry())
