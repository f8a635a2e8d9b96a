"""The loop: what it writes, when it ends, and that nothing besides training changes the loss."""

from __future__ import annotations

import json
import math
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_run import CountingRows, build, evaluate, events, fit, losses, records
from torch import Tensor, nn

from hornbook.errors import HornbookError
from hornbook.tokens.batch import Batch
from hornbook.tokens.prefetch import Prefetcher
from hornbook.train import horizon, supply
from hornbook.train import step as steps
from hornbook.train import trainer as trainers
from hornbook.train.machine import Machine
from hornbook.train.objective import NextToken
from hornbook.train.step import NotFinite, Stepper


class Scripted(NextToken):
    """Does something at the n-th forward pass."""

    def __init__(self, call: int, action: Any, always: Any = lambda: None):
        self.call, self.action, self.always, self.calls = call, action, always, 0

    def __call__(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        loss, metrics = super().__call__(model, batch)
        self.always()
        self.calls += len(batch) > 1  # a row alone is only a trial
        if self.calls == self.call:
            loss = self.action(loss)
        targets = torch.tensor(self.weight(batch))
        return loss, {**metrics, "share": targets}


def test_learns_and_writes_what_the_report_reads(tmp_path: Path) -> None:
    outcome = fit(tmp_path)
    lines = records(tmp_path)
    training = [line for line in lines if "loss" in line]
    assert [line["step"] for line in training] == list(range(1, 41))
    assert training[0]["loss"] == pytest.approx(math.log(61), abs=0.1)
    assert training[-1]["loss"] < 1.5
    assert set(training[0]) == {
        "step", "tokens", "seconds", "loss", "learning_rate", "gradient_norm", "tokens_per_second",
        "mfu", "memory_gb", "loader_wait", "micro_batch",
    }  # fmt: skip
    assert training[9]["tokens"] == 10 * 8 * 16
    assert [line["seconds"] for line in training] == sorted(line["seconds"] for line in training)
    validation = [line for line in lines if "validation_loss" in line]
    assert [(line["step"], line["tokens"]) for line in validation] == [(20, 2560), (40, 5120)]
    samples = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    assert [set(line) for line in samples] == [{"step", "prompt", "text"}] * 2
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["step-00000030", "step-00000040"]
    assert (outcome.reason, outcome.step, outcome.total_steps) == ("finished", 40, 40)
    assert outcome.validation["validation_loss"] == validation[-1]["validation_loss"]
    assert outcome.loss == sum(line["loss"] for line in training) / 40
    assert (outcome.checkpoint, outcome.tokens) == ("step-00000040", 5120)


def test_two_runs_are_bit_identical_whatever_is_evaluated_and_sampled(tmp_path: Path) -> None:
    fit(tmp_path / "a", {"steps": 12})
    fit(tmp_path / "b", {"steps": 12, "checkpoint_every": 3}, evaluate=None, sample=None)
    assert losses(tmp_path / "a") == losses(tmp_path / "b")
    fit(tmp_path / "c", {"steps": 12, "seed": 2})
    assert losses(tmp_path / "a") != losses(tmp_path / "c"), "dropout has another seed"


def test_two_fits_are_one(tmp_path: Path) -> None:
    constant = {"schedule": "constant", "warmup_steps": 0}
    fit(tmp_path / "one", {"steps": 20}, optimizer=constant)
    fit(tmp_path / "two", {"steps": 7, "evaluate_every": 4}, optimizer=constant)
    second = fit(tmp_path / "two", {"steps": 20}, optimizer=constant)
    assert losses(tmp_path / "two") == losses(tmp_path / "one")
    assert second.loss == fit(tmp_path / "one", {"steps": 20}, optimizer=constant).loss
    assert events(tmp_path / "two", "horizon")[0]["message"] == "20 steps instead of 7"


def test_narrow_weights_learn_and_two_fits_are_one(tmp_path: Path) -> None:
    settings = {"weights": "bf16", "precision": "auto"}
    constant = {"schedule": "constant", "warmup_steps": 0}
    fit(tmp_path / "one", {**settings, "steps": 40}, optimizer=constant)
    trainer = build(tmp_path / "two", {**settings, "steps": 11}, optimizer=constant)
    trainer.fit()
    assert {p.dtype for p in trainer._model.parameters()} == {torch.bfloat16}
    fit(tmp_path / "two", {**settings, "steps": 40}, optimizer=constant)
    assert losses(tmp_path / "two") == losses(tmp_path / "one")
    assert losses(tmp_path / "one")[-1][1] < 1.7


def test_a_finished_run_does_nothing_more(tmp_path: Path) -> None:
    first = fit(tmp_path, {"steps": 6})
    before = [line for line in records(tmp_path) if "event" not in line]
    again = fit(tmp_path, {"steps": 6})
    assert (again.step, again.loss, again.validation) == (6, first.loss, first.validation)
    assert [line for line in records(tmp_path) if "event" not in line] == before


def test_accumulation_gives_the_loss_of_one_big_batch(tmp_path: Path) -> None:
    still = {"embedding_dropout": 0.0, "attention_dropout": 0.0, "residual_dropout": 0.0}
    curves = []
    for micro_batch in (8, 3, 1):
        folder = tmp_path / str(micro_batch)
        fit(folder, {"steps": 10, "micro_batch": micro_batch}, model=still)
        curves.append(torch.tensor(losses(folder)))
    torch.testing.assert_close(curves[1], curves[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(curves[2], curves[0], rtol=1e-4, atol=1e-5)


# ----------------------------------------------------------------------------------- interruptions


def test_a_signal_saves_leaves_and_the_run_goes_on(tmp_path: Path) -> None:
    def terminate(loss: Tensor) -> Tensor:
        os.kill(os.getpid(), signal.SIGTERM)
        return loss

    fit(tmp_path / "whole", objective=Scripted(0, None))
    outcome = fit(tmp_path / "cut", objective=Scripted(40, terminate))
    assert (outcome.reason, outcome.interrupted, outcome.step) == ("interrupted", True, 20)
    assert len(events(tmp_path / "cut", "stopped")) == 1
    assert not any("validation_loss" in line for line in records(tmp_path / "cut"))
    outcome = fit(tmp_path / "cut", objective=Scripted(0, None))
    assert outcome.reason == "finished"
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")

    def validations(name: str) -> list[tuple[int, float]]:
        lines = [line for line in records(tmp_path / name) if "validation_loss" in line]
        return [(line["step"], line["validation_loss"]) for line in lines]

    assert validations("cut") == validations("whole"), "the one due at step 20 is made up for"
    assert events(tmp_path / "cut", "resumed")[0]["message"] == "goes on from step 20"


def test_what_a_stopped_run_makes_up_for_is_written_once_also_when_killed(tmp_path: Path) -> None:
    def act(loss: Tensor) -> Tensor:
        os.kill(os.getpid(), signal.SIGTERM)
        return loss

    def crash(loss: Tensor) -> Tensor:
        raise ZeroDivisionError

    fit(tmp_path / "whole", objective=Scripted(0, None))
    fit(tmp_path / "cut", objective=Scripted(40, act))
    with pytest.raises(ZeroDivisionError):
        fit(tmp_path / "cut", objective=Scripted(3, crash))
    fit(tmp_path / "cut", objective=Scripted(0, None))
    for name in ("validation_loss", "loss"):
        column = [
            [r[name] for r in records(tmp_path / run) if name in r] for run in ("cut", "whole")
        ]
        assert column[0] == column[1]
    samples = [(tmp_path / run / "samples.jsonl").read_text() for run in ("cut", "whole")]
    assert samples[0] == samples[1]


def test_a_horizon_below_the_finished_step_ends_at_once(tmp_path: Path) -> None:
    fit(tmp_path, {"steps": 12})
    outcome = fit(tmp_path, {"steps": 5})
    assert (outcome.reason, outcome.step, outcome.total_steps) == ("finished", 12, 5)
    assert outcome.checkpoint == "step-00000012"
    assert fit(tmp_path, {"steps": 14}).step == 14


def test_a_signal_before_the_first_step_is_obeyed_too(tmp_path: Path) -> None:
    class Terminating(CountingRows):
        asked = False

        def rows(self, start: int, count: int) -> Batch:
            if not self.asked:
                self.asked = True
                os.kill(os.getpid(), signal.SIGTERM)
            return super().rows(start, count)

    outcome = fit(tmp_path / "cut", source=Terminating())
    assert (outcome.step, outcome.loss, outcome.checkpoint) == (0, None, "step-00000000")
    fit(tmp_path / "cut", {"steps": 5})
    fit(tmp_path / "whole", {"steps": 5})
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")


def test_a_crash_cuts_metrics_back_to_the_checkpoint(tmp_path: Path) -> None:
    def crash(loss: Tensor) -> Tensor:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fit(tmp_path / "cut", objective=Scripted(2 * 17, crash))
    assert losses(tmp_path / "cut")[-1][0] == 16
    with (tmp_path / "cut" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 17, "lo')
    fit(tmp_path / "cut")
    fit(tmp_path / "whole")
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")


def test_a_damaged_checkpoint_falls_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fit(tmp_path / "cut", {"steps": 25, "keep": 5})
    state = tmp_path / "cut" / "checkpoints" / "step-00000025" / "state.json"
    state.write_text(state.read_text().replace("25", "26", 1))
    fit(tmp_path / "cut")
    fit(tmp_path / "whole")
    # The schedule of the first start was that of 25 steps.
    assert losses(tmp_path / "cut")[:5] != losses(tmp_path / "whole")[:5]
    assert events(tmp_path / "cut", "resumed")[-1]["step"] == 20
    assert "step-00000025" in capsys.readouterr().err


# --------------------------------------------------- as on CUDA, where a step's numbers come later


@pytest.fixture
def pipelined(monkeypatch: pytest.MonkeyPatch) -> None:
    class Pipelined(Stepper):
        def __init__(self, *arguments: Any, **settings: Any):
            super().__init__(*arguments, **settings)
            self.pipelined = True

    monkeypatch.setattr(trainers, "Stepper", Pipelined)


def timeless(folder: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without what is measured."""
    measured = {"seconds", "tokens_per_second", "loader_wait", "memory_gb"}
    return [{k: v for k, v in line.items() if k not in measured} for line in records(folder)]


def test_a_pipelined_run_writes_the_same(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    settings = {"sample_every": 7, "checkpoint_every": 9}
    fit(tmp_path / "waiting", settings)
    request.getfixturevalue("pipelined")
    fit(tmp_path / "whole", settings)
    assert timeless(tmp_path / "whole") == timeless(tmp_path / "waiting")

    def terminate(loss: Tensor) -> Tensor:
        os.kill(os.getpid(), signal.SIGTERM)
        return loss

    fit(tmp_path / "cut", settings, objective=Scripted(26, terminate))
    assert losses(tmp_path / "cut")[-1][0] == 13
    fit(tmp_path / "cut", settings)
    assert losses(tmp_path / "cut") == losses(tmp_path / "waiting")


@pytest.mark.parametrize("kind", ["waiting", "pipelined"])
def test_a_step_takes_what_the_device_takes(
    tmp_path: Path,
    kind: str,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """From the end of the step before to its own: with the wait for data, without what else came
    between, and whenever its numbers are read."""
    clock = 0.0

    class Moment:
        def __init__(self, device: torch.device):
            self.at = clock

        def wait(self) -> None:
            pass

        def since(self, earlier: Moment) -> float:
            return self.at - earlier.at

    def passes(seconds: float, then: Any = None) -> Any:
        nonlocal clock
        clock += seconds
        return then

    class Slow(Prefetcher):
        taken = 0

        def __next__(self) -> Batch:
            self.taken += 1
            return passes(5.0 if self.taken in (3, 8) else 0.0, super().__next__())

    if kind == "pipelined":
        request.getfixturevalue("pipelined")
    for module in (trainers, steps):
        monkeypatch.setattr(module, "Moment", Moment)
    monkeypatch.setattr(supply, "Prefetcher", Slow)
    often = {"steps": 12, "evaluate_every": 5, "sample_every": 6, "checkpoint_every": 7}
    fit(
        tmp_path,
        often,
        objective=Scripted(-1, None, lambda: passes(1.0)),
        evaluate=lambda model: passes(100.0, evaluate(model)),
        sample=lambda model, step: passes(100.0, []),
    )
    lines = [line for line in records(tmp_path) if "loss" in line]
    seconds = [8 * 16 / line["tokens_per_second"] for line in lines]
    # Two micro-batches a step; data was late in the middle, and right after a checkpoint.
    expected = [7.0 if line["step"] in (3, 8) else 2.0 for line in lines]
    assert seconds == pytest.approx(expected, rel=0.01)


@pytest.mark.usefixtures("pipelined")
def test_a_pipelined_run_stops_a_step_later_and_stays_stopped(tmp_path: Path) -> None:
    settings = {"steps": 500, "stop_at_loss": "initial-2.8", "evaluate_every": 0}
    outcome = fit(tmp_path, settings)
    column = [loss for _, loss in losses(tmp_path)]
    assert outcome.reason == "target"
    assert sum(column[-51:-1]) / 50 <= column[0] - 2.8 < sum(column[-52:-2]) / 50
    assert fit(tmp_path, settings).step == outcome.step == len(column)


@pytest.mark.usefixtures("pipelined")
def test_pipelined_nan_names_its_step_and_rows(tmp_path: Path) -> None:
    with pytest.raises(NotFinite, match=r"step 13: the loss is nan in rows 100-103"):
        fit(tmp_path, objective=Scripted(2 * 13, lambda loss: loss * math.nan))
    assert [event["step"] for event in events(tmp_path, "nan")] == [13]
    assert losses(tmp_path)[-1][0] == 12


# ---------------------------------------------------------------------------------- out of memory


def test_a_smaller_micro_batch_is_remembered_and_replayed(tmp_path: Path) -> None:
    def run_out(loss: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("out of memory")

    fit(tmp_path / "a", {"steps": 15}, objective=Scripted(2 * 12, run_out))
    sizes = [line["micro_batch"] for line in records(tmp_path / "a") if "loss" in line]
    assert sizes == [4] * 11 + [2] * 4
    assert [event["step"] for event in events(tmp_path / "a", "micro_batch")] == [12]
    # Another start, from before the change, with memory enough: the same bits.
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "machine.json").write_bytes((tmp_path / "a" / "machine.json").read_bytes())
    fit(tmp_path / "b", {"steps": 15}, objective=Scripted(0, None))
    assert losses(tmp_path / "b") == losses(tmp_path / "a")
    assert [event["step"] for event in events(tmp_path / "b", "micro_batch")] == [12]
    # And where machine.json is lost, the checkpoint knows.
    (tmp_path / "a" / "machine.json").unlink()
    fit(tmp_path / "a", {"steps": 16}, objective=Scripted(0, None))
    assert records(tmp_path / "a")[-2]["micro_batch"] == 2


# ------------------------------------------------------------------------------ what is odd is said


def test_nan_stops_names_the_step_and_keeps_the_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(NotFinite, match=r"step 13: the loss is nan in rows 100-103"):
        fit(tmp_path, objective=Scripted(2 * 13, lambda loss: loss * math.nan))
    assert events(tmp_path, "nan")[0]["step"] == 13
    assert fit(tmp_path).reason == "finished", "the checkpoint of step 10 was good"


def test_spike_is_an_event(tmp_path: Path) -> None:
    fit(tmp_path, {"steps": 15}, objective=Scripted(2 * 13, lambda loss: loss * 5))
    assert [event["step"] for event in events(tmp_path, "loss_spike")] == [13]


def test_a_first_loss_far_from_guessing_is_an_event(tmp_path: Path) -> None:
    fit(tmp_path, {"steps": 1}, objective=Scripted(1, lambda loss: loss * 5))
    assert "ln(61)" in events(tmp_path, "initial_loss")[0]["message"]


def test_metrics_of_the_objective_are_means_over_the_step(tmp_path: Path) -> None:
    fit(tmp_path, {"steps": 2}, objective=Scripted(0, None))
    assert [line["share"] for line in records(tmp_path) if "loss" in line] == [1.0, 1.0]


def test_fp16_goes_on_with_its_scale(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"steps": 12, "precision": "fp16"}
    overflow = Scripted(2, lambda loss: loss * 3e5)
    fit(
        tmp_path / "cut",
        {**settings, "steps": 6},
        objective=overflow,
        optimizer={"warmup_steps": 0},
    )
    state = tmp_path / "cut" / "checkpoints" / "step-00000006" / "state.json"
    assert json.loads(state.read_text())["scaler"]["scale"] == 2.0**15
    assert len(events(tmp_path / "cut", "overflow")) == 1
    assert records(tmp_path / "cut")[0]["gradient_norm"] is None
    fit(tmp_path / "cut", settings)
    assert losses(tmp_path / "cut")[-1][0] == 12


def test_another_global_batch_is_refused(tmp_path: Path) -> None:
    fit(tmp_path, {"steps": 2})
    with pytest.raises(HornbookError, match="was trained with 8 rows a step, not 16"):
        fit(tmp_path, {"steps": 4, "global_batch_tokens": 256})


# ------------------------------------------------------------------------------------- when it ends


def test_stops_at_the_training_loss(tmp_path: Path) -> None:
    settings = {"steps": 500, "stop_at_loss": "initial-2.8", "evaluate_every": 0}
    outcome = fit(tmp_path, settings)
    column = [loss for _, loss in losses(tmp_path)]
    assert outcome.reason == "target"
    assert sum(column[-50:]) / 50 <= column[0] - 2.8 < sum(column[-51:-1]) / 50
    assert outcome.checkpoint == f"step-{len(column):08d}"
    assert len(events(tmp_path, "target")) == 1
    assert fit(tmp_path, settings).step == outcome.step, "started again it is still reached"


def test_stops_at_the_validation_loss(tmp_path: Path) -> None:
    outcome = fit(tmp_path, {"stop_at_loss": "2.0", "evaluate_every": 5, "steps": 500})
    validation = [r["validation_loss"] for r in records(tmp_path) if "validation_loss" in r]
    assert outcome.reason == "target"
    assert validation[-1] <= 2.0 < validation[-2]
    assert outcome.step % 5 == 0


def test_minutes_become_steps_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def a_step_takes(seconds: float) -> None:
        def rehearsed(rehearse: Any, budget: float) -> float:
            rehearse()
            return seconds

        monkeypatch.setattr(horizon, "seconds_of_step", rehearsed)

    a_step_takes(1.0)
    settings = {"steps": 0, "minutes": 1.0, "evaluate_tokens": 0, "threads": 1}
    stopped = build(tmp_path, settings, objective=Scripted(6, lambda loss: loss / 0))
    with pytest.raises(NotFinite):
        stopped.fit()
    a_step_takes(0.001)
    outcome = fit(tmp_path, settings)
    assert 40 <= outcome.total_steps <= 60
    assert outcome.step == outcome.total_steps
    steps_per_minute = json.loads((tmp_path / "machine.json").read_text())["steps_per_minute"]
    assert steps_per_minute == outcome.total_steps
    longer = fit(tmp_path, {**settings, "minutes": 1.5})
    assert longer.total_steps == round(1.5 * outcome.total_steps)


def test_calibration_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(horizon, "CALIBRATION_SECONDS", 0.0)
    fit(tmp_path / "steps", {"steps": 5})
    fit(tmp_path / "minutes", {"steps": 5, "minutes": 1000.0})
    assert losses(tmp_path / "steps") == losses(tmp_path / "minutes")
    machine = Machine.read(tmp_path / "minutes")
    assert machine is not None and machine.steps_per_minute is not None


def test_memory_that_runs_out_while_calibrating_costs_the_graph(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_out(loss: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("out of memory")

    class Graph:
        def takes(self, part: Batch) -> bool:
            return False

        def clear(self) -> None: ...

    monkeypatch.setattr(horizon, "CALIBRATION_SECONDS", 0.0)
    monkeypatch.setattr(trainers, "choose_replay", lambda *_: Graph())
    for call, kept in ((0, True), (1, False)):
        settings = {"steps": 3, "minutes": 1000.0}
        trainer = build(tmp_path / str(call), settings, objective=Scripted(call, run_out))
        trainer.fit()
        assert (trainer._stepper._replay is not None) == kept


def test_no_length_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HornbookError, match="nothing says how long to train"):
        build(tmp_path, {"steps": 0})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"activation_budget": 1.5}, r"pretrain\.activation_budget: must be between 0 and 1"),
        ({"weights": "bf16"}, r"pretrain\.weights: bf16 cannot be trained in fp32"),
        ({"float8": True, "compile": "off"}, r"pretrain\.float8: 8 bits without compiling"),
        ({"float8": True}, r"pretrain\.float8"),
        ({"activation_checkpointing": "budget"}, r"pretrain\.activation_checkpointing: a budget"),
    ],
)
def test_settings_that_cannot_work_are_refused(
    tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(HornbookError, match=message):
        fit(tmp_path, settings)


def test_evaluation_sees_a_model_in_evaluation_mode(tmp_path: Path) -> None:
    def check(model: nn.Module) -> dict[str, float]:
        assert not model.training and not torch.is_grad_enabled()
        return evaluate(model)  # type: ignore[arg-type]

    trainer = build(tmp_path, {"steps": 2, "evaluate_every": 1}, evaluate=check)
    trainer.fit()


@pytest.mark.shared
def test_learns_real_text(tmp_path: Path, shared_data: Path) -> None:
    text = (shared_data / "tinyshakespeare.txt").read_bytes()[:200_000]
    known = sorted(set(text))
    ids = torch.tensor([known.index(byte) for byte in text])

    class Text(CountingRows):
        def _row(self, number: int) -> Tensor:
            start = number * 7919 % (len(ids) - 17)
            return ids[start : start + 17]

    settings = {"steps": 150, "global_batch_tokens": 512, "micro_batch": 32}
    outcome = fit(tmp_path, settings, source=Text(), evaluate=None, model={
        "vocabulary": len(known), "vocabulary_rows": 64,
    })  # fmt: skip
    first = losses(tmp_path)[0][1]
    assert first == pytest.approx(math.log(len(known)), abs=0.2)
    assert outcome.loss is not None and outcome.loss < first - 1


def test_a_graph_of_kernels_needs_a_gpu(tmp_path: Path) -> None:
    with pytest.raises(HornbookError, match=r"no CUDA graph can be used here: it needs an NVIDIA"):
        fit(tmp_path, {"cuda_graph": "on"})
