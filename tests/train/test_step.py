"""One step: accumulation, clipping, running out of memory, numbers that are none."""

from __future__ import annotations

import math
import weakref
from typing import Any
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_run import MODEL, CountingRows
from torch import Tensor, nn

from hornbook.errors import HornbookError
from hornbook.model.decoder import Decoder
from hornbook.optim.config import OptimizerConfig
from hornbook.optim.groups import build_optimizer
from hornbook.tokens.batch import IGNORE, Batch
from hornbook.train import precision as precisions
from hornbook.train.objective import NextToken, bind
from hornbook.train.precision import Precision, PrecisionName
from hornbook.train.step import (
    Moment,
    NotFinite,
    Stepper,
    StepReport,
    even_size,
    forward_backward,
    pieces,
)

CPU = torch.device("cpu")


class Steps(Stepper):
    """Says at once what a step did, and knows what a batch of tokens weighs."""

    def do(self, step: int, batch: Batch, micro_batch: int, **settings: Any) -> StepReport:
        return self.step(step, batch, micro_batch, NextToken().weight(batch), **settings).result()


def stepper(
    objective: Any = None, *, clip: float = 0.0, precision: PrecisionName = "fp32", rate: float = 0
) -> tuple[Decoder, Steps]:
    """A model without dropout, and what trains it."""
    objective = objective or NextToken()
    model = Decoder(MODEL, torch.Generator().manual_seed(1)).eval()
    optimizer = build_optimizer(model, OptimizerConfig(learning_rate=rate), CPU)
    return model, Steps(
        model,
        bind(objective, model),
        optimizer,
        Precision(precision, CPU),
        gradient_clip=clip,
        seed=3,
    )


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


class Limited(NextToken):
    """Runs out of memory above so many rows, as the second micro-batch of a step."""

    def __init__(self, most: int):
        self.most, self.calls = most, 0

    def __call__(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        self.calls += 1
        if len(batch) > self.most and self.calls > 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return super().__call__(model, batch)


class Odd(NextToken):
    """Multiplies the loss of the n-th micro-batch, or adds a gradient that is not a number."""

    def __init__(self, call: int, factor: float | None):
        self.call, self.factor, self.calls = call, factor, 0

    def __call__(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        self.calls += 1
        loss, metrics = super().__call__(model, batch)
        if self.calls == self.call:
            # sqrt has an infinite slope at 0; times 0 that is not a number.
            loss = loss * self.factor if self.factor else loss + (loss * 0).sqrt()
        return loss, metrics


def test_accumulation_is_one_big_batch_whatever_is_masked() -> None:
    batch = CountingRows().rows(0, 8)
    batch.targets[4:6] = IGNORE  # a micro-batch of two rows without any target
    model, one = stepper()
    loss, _ = NextToken()(model, batch)
    mean = loss / (batch.targets != IGNORE).sum()
    mean.backward()
    expected = gradients(model)
    for micro_batch in (8, 5, 3, 2, 1):
        report = one.do(1, batch, micro_batch)
        assert report.loss == pytest.approx(float(mean.detach()), rel=1e-6)
        for name, gradient in gradients(model).items():
            torch.testing.assert_close(gradient, expected[name], msg=f"{name} {micro_batch}")


@settings(deadline=None)
@given(rows=st.integers(1, 40), most=st.integers(1, 50))
def test_pieces_are_the_rows_in_order_few_and_even(rows: int, most: int) -> None:
    batch = Batch(torch.arange(rows)[:, None], torch.arange(rows)[:, None])
    parts = pieces(batch, most)
    assert torch.cat([part.inputs for part in parts]).flatten().tolist() == list(range(rows))
    assert len(parts) == math.ceil(rows / most)
    assert {len(part) for part in parts[:-1]} <= {even_size(rows, most)}
    assert max(len(part) for part in parts) <= most


def test_clips_the_global_norm() -> None:
    model, one = stepper(clip=0.1)
    report = one.do(1, CountingRows().rows(0, 8), 4)
    norm = torch.linalg.vector_norm(torch.cat([g.flatten() for g in gradients(model).values()]))
    assert report.gradient_norm is not None and report.gradient_norm > 0.5
    assert float(norm) == pytest.approx(0.1, rel=1e-3)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_narrow_precisions_are_near_fp32_and_gradients_unscaled(precision: PrecisionName) -> None:
    batch = CountingRows().rows(0, 8)
    exact_model, exact = stepper(clip=0.1, rate=1e-3)
    model, narrow = stepper(clip=0.1, rate=1e-3, precision=precision)
    for step in (1, 2):
        expected, report = exact.do(step, batch, 4), narrow.do(step, batch, 4)
        assert report.updated
        assert report.loss == pytest.approx(expected.loss, rel=1e-2)
        assert report.gradient_norm == pytest.approx(expected.gradient_norm, rel=3e-2)
    for ours, theirs in zip(model.parameters(), exact_model.parameters(), strict=True):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours, theirs, atol=2.5e-3, rtol=0)


def test_fp16_overflow_skips_the_update_and_lowers_the_scale() -> None:
    model, one = stepper(Odd(1, 3e4), precision="fp16", rate=1e-2)
    before = {name: p.clone() for name, p in model.named_parameters()}
    report = one.do(1, CountingRows().rows(0, 8), 8)
    assert (report.updated, report.gradient_norm) == (False, None)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert one.precision.state()["scale"] == 2.0**15
    again = Precision("fp16", CPU)
    again.load_state(one.precision.state())
    assert again.state() == one.precision.state()


def test_out_of_memory_redoes_the_step_in_halves() -> None:
    batch = CountingRows().rows(0, 8)
    said: list[tuple[int, int]] = []
    model, limited = stepper(Limited(2))
    report = limited.do(9, batch, 8 - 1, smaller=lambda *change: said.append(change))
    reference_model, reference = stepper()
    expected = reference.do(9, batch, 1)
    assert said == [(9, 3), (9, 1)]
    assert report == expected
    reference_gradients = gradients(reference_model)
    for name, gradient in gradients(model).items():
        assert torch.equal(gradient, reference_gradients[name])


def test_one_row_that_does_not_fit_is_said() -> None:
    _, limited = stepper(Limited(0))
    with pytest.raises(HornbookError, match=r"step 2: one row of 16 tokens does not fit"):
        limited.do(2, CountingRows().rows(0, 4), 2)


def test_other_errors_are_not_taken_for_memory() -> None:
    batch = CountingRows().rows(0, 4)
    batch.inputs[0, 0] = 10_000
    with pytest.raises(IndexError):
        stepper()[1].do(1, batch, 4)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_no_number_names_step_and_rows_and_changes_nothing(value: float) -> None:
    model, one = stepper(Odd(2, value), rate=1e-2)
    before = {name: p.clone() for name, p in model.named_parameters()}
    with pytest.raises(NotFinite, match=r"step 7: the loss is (nan|inf) in rows 1004-1007"):
        one.do(7, CountingRows().rows(0, 8), 4, rows=(1000, 1008))
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    # One of two processes has half of the rows, and does not know whose loss it was.
    _, one = stepper(Odd(2, value))
    with pytest.raises(NotFinite, match=r"rows 1000-1015"):
        one.do(7, CountingRows().rows(0, 8), 4, rows=(1000, 1016))


def test_a_gradient_that_is_no_number_names_the_cause() -> None:
    _, one = stepper(Odd(2, None))
    with pytest.raises(NotFinite, match=r"step 7: the gradient is nan in rows 0-7.*backward pass"):
        one.do(7, CountingRows().rows(0, 8), 4, rows=(0, 8))


def test_weights_that_are_no_numbers_are_named() -> None:
    model, one = stepper()
    with torch.no_grad():
        model.final_norm.weight[3] = math.nan
    with pytest.raises(NotFinite, match=r"the weights final_norm.weight are not finite"):
        one.do(7, CountingRows().rows(0, 8), 8, rows=(0, 8))


def test_a_step_without_targets_is_an_error_not_a_division_by_zero() -> None:
    batch = CountingRows().rows(0, 8)
    batch.targets.fill_(IGNORE)
    with pytest.raises(HornbookError, match=r"step 5: nothing to learn from in rows 32-39"):
        stepper()[1].do(5, batch, 4, rows=(32, 40))


def test_moments_are_the_devices_own_on_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    handed: list[str] = []

    class Event:
        def __init__(self, enable_timing: bool):
            assert enable_timing

        def record(self) -> None:
            self.at = 1000.0 * len(handed)
            handed.append("event")

        def synchronize(self) -> None:
            handed.append("wait")

        def elapsed_time(self, later: Event) -> float:
            return later.at - self.at

    monkeypatch.setattr(torch.cuda, "Event", Event)
    first, second = Moment(torch.device("cuda")), Moment(torch.device("cuda"))
    assert second.since(first) == 1.0, "events count in milliseconds"
    assert handed == ["event", "event"], "the device is asked for nothing else"
    second.wait()
    assert handed[2:] == ["wait"]
    assert Moment(CPU).since(Moment(CPU)) <= 0


# ------------------------------------------------------- pipelined, as on CUDA: the device decides


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_pipelined_steps_are_those_that_wait(precision: PrecisionName) -> None:
    # fp16 overflows in the second step.
    odd = {"objective": Odd(3, 3e4)} if precision == "fp16" else {}
    model, one = stepper(clip=0.1, rate=1e-2, precision=precision, **odd)
    other_model, pipelined = stepper(clip=0.1, rate=1e-2, precision=precision, **(
        {"objective": Odd(3, 3e4)} if odd else {}
    ))  # fmt: skip
    pipelined.pipelined = True
    pending, expected = [], []
    for step in range(1, 5):
        batch = CountingRows().rows(step * 8, 8)
        expected.append(one.do(step, batch, 4))
        pending.append(pipelined.step(step, batch, 4, NextToken().weight(batch)))
    assert [each.result() for each in pending] == expected
    assert [each.updated for each in expected] == [True, precision != "fp16", True, True]
    for ours, theirs in zip(other_model.parameters(), model.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert pipelined.precision.state() == one.precision.state()


@pytest.mark.parametrize("factor", [math.nan, None])
def test_pipelined_nothing_changes_after_a_step_that_is_not_finite(factor: float | None) -> None:
    model, one = stepper(Odd(3, factor), rate=1e-2)
    one.pipelined = True
    batch = CountingRows().rows(0, 8)
    weight = NextToken().weight(batch)
    one.step(1, batch, 4, weight).result()
    before = {name: p.clone() for name, p in model.named_parameters()}
    bad = one.step(2, batch, 4, weight)
    one.step(3, batch, 4, weight)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    with pytest.raises(NotFinite, match=r"step 2: the (loss|gradient) is nan") as error:
        bad.result()
    assert error.value.step == 2


def test_the_loss_scale_is_that_of_gradscaler() -> None:
    ours, theirs = Precision("fp16", CPU), torch.amp.GradScaler("cpu", growth_interval=3)
    with patch.object(precisions, "GROWTH_STEPS", 3):
        for overflows in (0, 0, 0, 1, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0):
            weight = nn.Parameter(torch.ones(1))
            optimizer = torch.optim.SGD([weight])
            theirs.scale(weight.sum() * (math.inf if overflows else 1.0)).backward()
            theirs.unscale_(optimizer)
            theirs.update()
            ours.update_scale(torch.tensor(float(overflows)))
            assert ours.state()["scale"] == theirs.get_scale()
            assert ours.state()["_growth_tracker"] == theirs._get_growth_tracker()


def test_a_scale_that_does_not_help_is_an_error() -> None:
    _, one = stepper(Odd(1, 3e4), precision="fp16")
    one.precision.load_state({"scale": 1.0, "_growth_tracker": 0})
    gradient = one._parameters[0]
    gradient.register_hook(lambda grad: grad * math.inf)
    with pytest.raises(HornbookError, match="step 3: fp16 gradients overflow however small"):
        one.do(3, CountingRows().rows(0, 8), 8)


class Recorded:
    """A pass of four rows that is only said to be recorded, as `Replay` is used."""

    def __init__(self, forward: Any, precision: Precision) -> None:
        self.forward, self.precision, self.calls = forward, precision, []

    def takes(self, part: Batch) -> bool:
        return len(part) == 4

    def clear(self) -> None:
        self.calls.append("clear")

    def __call__(self, part: Batch, weight: float) -> Any:
        self.calls.append(len(part))
        return forward_backward(self.forward, part, self.precision, lambda loss: loss / weight)


def test_recorded_passes_take_the_micro_batches_of_their_shape() -> None:
    model, plain = stepper()
    expected = plain.do(1, CountingRows().rows(0, 11), 4)
    again, one = stepper()
    one._replay = recorded = Recorded(one._forward, one.precision)
    assert one.do(1, CountingRows().rows(0, 11), 4) == expected
    assert recorded.calls == ["clear", 4, 4]
    for name, gradient in gradients(again).items():
        assert torch.equal(gradient, gradients(model)[name])


def test_memory_is_given_back_when_nobody_holds_the_recorded_pass_any_more() -> None:
    _, one = stepper(Limited(2))
    one._replay = recorded = Recorded(one._forward, one.precision)
    holders: list[Any] = [weakref.ref(recorded), recorded]  # the trainer holds it, too
    del recorded
    left: list[bool] = []
    with patch("hornbook.train.step.free_memory", lambda device: left.append(holders[0]() is None)):
        one.do(1, CountingRows().rows(0, 8), 4, smaller=lambda step, rows: holders.pop())
    assert left == [True]
