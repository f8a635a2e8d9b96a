"""The training loop: one for pretraining and for every objective that comes after it.

In: a model, a source of batches, an objective, settings, a folder. Out: checkpoints, metrics.jsonl,
samples.jsonl and machine.json in that folder, and an `Outcome`. What differs between kinds of
training is handed in; what happened before is found in the folder, so `fit` again goes on.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from hornbook.model.count import flops_per_token
from hornbook.model.decoder import Decoder
from hornbook.optim.config import OptimizerConfig
from hornbook.optim.groups import build_optimizer, set_learning_rate
from hornbook.optim.schedule import learning_rate
from hornbook.progress import Bar, bar, say, warn
from hornbook.tokens.batch import Batch, BatchSource
from hornbook.tokens.feed_client import FeedGone
from hornbook.tokens.prefetch import Prefetcher
from hornbook.train import horizon
from hornbook.train.check import check_training
from hornbook.train.checkpoint import CheckpointStore
from hornbook.train.checkpoint_files import checkpoint_name
from hornbook.train.config import PretrainConfig
from hornbook.train.lines import Show, step_lines
from hornbook.train.machine import pick_device
from hornbook.train.measure import Evaluate, Sample, Submitted, evaluating, first_sample
from hornbook.train.metrics import open_log
from hornbook.train.objective import Forward, Objective
from hornbook.train.parallel import ALONE, World
from hornbook.train.precision import Precision
from hornbook.train.process import Interrupt, collection_paused, reproducible, settings_restored
from hornbook.train.replay import choose_replay
from hornbook.train.sharding import Sharing
from hornbook.train.start import calibrate, choose_machine, place, stop_for_memory
from hornbook.train.state import Outcome, Reason, RunState
from hornbook.train.step import Moment, NotFinite, Stepper, StepReport
from hornbook.train.stop import is_relative, unlike_guessing
from hornbook.train.supply import Supply
from hornbook.train.trial import Trial

COLLECT_EVERY = 1000
"""Steps between garbage collections."""

WARNINGS = ("loss_spike", "initial_loss", "machine", "overflow", "feed_slow", "feed_lost")
"""Events that the user should read."""


class Trainer:
    """Trains a model.

    Args:
        model: updated in place; on `meta`, its weights are drawn from `config.seed`.
        source: gives any rows of the run; step s (from 0) takes rows [s * G, (s + 1) * G). The
            state of one that has any (`Resumable`) is part of each checkpoint.
        objective: the loss.
        config: the `pretrain` section.
        optimizer_config: the `optimizer` section.
        folder: of the stage; what an earlier start left there is gone on from.
        evaluate: validation numbers of the model, `validation_loss` among them.
        sample: texts from the model after a number of steps, each with `prompt` and `text`.
        attachments: files that each checkpoint holds besides, by name (tokenizer.json).
        prefetch: batches prepared ahead.
        world: this process among those that train the model, each with a `Trainer` of its own;
            process 0 writes the files.
    """

    def __init__(
        self,
        model: Decoder,
        source: BatchSource,
        objective: Objective,
        config: PretrainConfig,
        optimizer_config: OptimizerConfig,
        folder: Path,
        *,
        evaluate: Evaluate | None = None,
        sample: Sample | None = None,
        attachments: Mapping[str, bytes | Path] | None = None,
        prefetch: int = 4,
        world: World = ALONE,
    ):
        check_training(config, optimizer_config)
        self._model, self._objective = model, objective
        self._rows = horizon.rows_per_step(config, source.sequence_length)
        self._supply, self._world = Supply(source, self._rows, world), world
        self._sharing = Sharing(world, config, optimizer_config)
        self._config, self._optimizer_config, self._folder = config, optimizer_config, folder
        self._evaluate, self._sample, self._prefetch = evaluate, sample, prefetch
        self._store = CheckpointStore(
            folder / "checkpoints", config.keep, config.mirror, attachments, world,
            told=self._supply.whole,
        )  # fmt: skip
        self._tokens_per_step = self._rows * source.sequence_length
        self._submitted: Submitted | None = None

    def fit(self) -> Outcome:
        """Train up to the horizon, or until the target loss or a signal.

        Raises:
            NotFinite: the loss or gradient of a step is not finite.
            HornbookError: not enough memory; the folder is of another architecture; the disk is
                full.
        """
        self._began = time.perf_counter()
        config, world = self._config, self._world
        with contextlib.ExitStack() as stack:
            interrupt = stack.enter_context(Interrupt(self._supply.close))
            stack.enter_context(settings_restored())
            stack.enter_context(reproducible(config.deterministic))
            checkpoint = self._store.latest()
            stored = checkpoint.state() if checkpoint else {}
            self._take_up(stored)
            self._log = stack.enter_context(
                open_log(self._folder, self._state, config.tensorboard, world.is_main)
            )
            epoch = config.epoch_steps or max(1, self._supply.source.rows_per_epoch // self._rows)
            self._show: Show | None = None
            if config.log_style == "lines" and world.is_main:
                self._show = stack.enter_context(step_lines(self._folder, epoch))
            self._set_up(stored)
            if checkpoint:
                self._store.load(checkpoint, self._model, self._optimizer)
                self._event("resumed", f"goes on from step {self._state.step}")
            stack.enter_context(collection_paused())
            try:
                reason = self._train(interrupt)
            except NotFinite as error:
                self._log.event(error.step, "nan", str(error))
                raise
            if reason != "interrupted":
                self._supply.release()
        state = self._state
        return Outcome(
            reason, state.step, self._total_steps, self._tokens, state.seconds,
            loss=state.watch.mean() if state.step else None,
            validation=state.validation, checkpoint=checkpoint_name(state.step),
        )  # fmt: skip

    @property
    def micro_batch(self) -> int:
        """Rows of a forward pass, once `fit` has chosen them."""
        return self._machine.micro_batch(max(1, self._state.step))

    # ----------------------------------------------------------------------- before the first step

    def _take_up(self, stored: dict[str, Any]) -> None:
        """Go on from a checkpoint's state, or from nothing."""
        self._state = RunState.from_json(stored) if stored else RunState()
        self._supply.take_up(stored, self._store.oldest(), self._folder)
        self._saved_step = self._state.step if stored else -1
        self._saved_time = time.perf_counter()
        self._earlier_seconds = self._state.seconds

    def _set_up(self, stored: dict[str, Any]) -> None:
        """Make what trains: optimizer, precision, step, length."""
        device = pick_device(self._config.device)
        if device.type == "cuda":
            # Products left in float32 (all, in fp32 runs) use TF32: 8x as fast, 10-bit mantissas.
            torch.set_float32_matmul_precision("high")
        place(self._model, self._config, self._sharing, device)
        self._optimizer = build_optimizer(self._model, self._optimizer_config, device)
        forward = self._choose_machine(device, stored)
        self._total_steps = self._choose_length(forward)
        self._stepper = self._make_stepper(forward)  # calibrating may have cost its graph
        self._stepper.precision.load_state(self._state.scaler)
        peak = self._machine.peak_flops()
        flops = flops_per_token(self._model.config, self._supply.source.sequence_length)
        self._mfu_per_speed = flops / peak if peak else None
        if stored and stored["total_steps"] != self._total_steps:
            self._event("horizon", f"{self._total_steps} steps instead of {stored['total_steps']}")

    def _choose_machine(self, device: torch.device, stored: dict[str, Any]) -> Forward:
        """The choices that this start trains with."""
        rows = self._supply.trial_rows(self._state.step, self._model.config.vocabulary)
        batch = rows.to(device)
        trial = Trial(self._model, self._objective, batch, device, self._world)
        self._machine, forward, difference = choose_machine(
            self._config, trial, self._optimizer, self._folder, stored
        )
        self._replay = choose_replay(self._config, self._machine, trial, self._optimizer, forward)
        self._write_machine()
        say(self._machine.describe(len(batch)))
        if difference:
            self._event("machine", f"{difference}: goes on, but perhaps not bit for bit")
        return self._sharing.wrap(forward)

    def _make_stepper(self, forward: Forward) -> Stepper:
        return Stepper(
            self._model,
            forward,
            self._optimizer,
            Precision(self._machine.precision, torch.device(self._machine.device)),
            gradient_clip=self._optimizer_config.gradient_clip,
            seed=self._config.seed + self._world.rank,
            total=self._world.mean,
            synchronise=self._sharing.synchronise,
            replay=self._replay,
        )

    def _choose_length(self, forward: Forward) -> int:
        """The horizon in steps; minutes are turned into steps once, and that is remembered."""
        minutes = self._config.minutes
        if minutes and self._machine.steps_per_minute is None:
            seconds = self._calibrate(self._make_stepper(forward))
            spent = time.perf_counter() - self._began
            steps = horizon.calibrated_steps(self._config, self._tokens_per_step, seconds, spent)
            self._machine.steps_per_minute = self._world.smallest(steps)[0] / minutes
            self._write_machine()
            say(f"a step takes {seconds:.3g} s here: {minutes:g} minutes are {steps} steps")
        return horizon.total_steps(
            self._config, self._tokens_per_step, self._machine.steps_per_minute
        )

    def _calibrate(self, stepper: Stepper) -> float:
        """Seconds of a step."""
        batch = self._supply.trial_rows(self._state.step, self._model.config.vocabulary)
        weight = self._share_of_weight(self._objective.weight(batch))
        set_learning_rate(self._optimizer, 0.0)
        step = self._state.step + 1
        # With no time to spare, all processes rehearse as many steps.
        minutes = self._config.minutes if self._world.size == 1 else 0.0
        return calibrate(
            stepper, self._optimizer, batch.to(self._machine.device), weight,
            lambda: self._machine.micro_batch(step), self._shrink, step=step, minutes=minutes,
        )  # fmt: skip

    def _share_of_weight(self, weight: float) -> float:
        """What to divide a loss sum by, from the weight of this process's rows (sharding.py)."""
        return self._world.sum(weight)[0] / self._world.size

    # -------------------------------------------------------------------------------- the main loop

    def _train(self, interrupt: Interrupt) -> Reason:
        """Step after step, until there is a reason to end; the last state is saved then."""
        first, last = self._state.step, self._total_steps
        device, weigh = self._machine.device, self._objective.weight
        hidden = self._config.log_style == "lines"
        with (
            self._supply.batches(first, last, device, self._prefetch, weigh) as batches,
            bar("training", last, hidden=hidden) as shown,
        ):
            shown.restart(first, last)
            while True:
                minutes = (time.perf_counter() - self._saved_time) / 60
                late = 0 < self._config.checkpoint_minutes <= minutes
                stop, late = self._world.any(interrupt.requested, late)
                reason = None if stop else self._between_steps(shown, late)
                if reason:
                    return reason
                batch = None if stop else self._next_batch(batches, shown)
                if batch is None:
                    self._drain(shown)
                    self._event("stopped", f"asked to stop after step {self._state.step}")
                    self._save(wait=True)
                    return "interrupted"
                self._one_step(batch, batches, shown)

    def _between_steps(self, shown: Bar, late: bool) -> Reason | None:
        """Evaluate, sample, save where due; a reason to end, if there is one.

        This comes before the next step and not after the last one, so that a run that was stopped
        right after a step makes up for it.
        """
        state, config = self._state, self._config
        self._store.check()
        for gap in self._supply.gaps():
            self._event("feed_lost", gap)
        if state.step % COLLECT_EVERY == 0:
            gc.collect()
        unknown = state.step == 0 and state.watch.initial_validation is None
        if self._evaluate and unknown and is_relative(config.stop_at_loss):
            self._run_evaluation(self._evaluate, shown)
        target = self._target_reached()
        last = state.step >= self._total_steps or target is not None
        intervals = (
            (config.evaluate_every, state.evaluated),
            (config.sample_every, state.sampled),
            (config.checkpoint_every, self._saved_step),
        )
        if not (last or late or any(self._due(*interval, last) for interval in intervals)):
            return None
        self._drain(shown)
        if self._evaluate and self._due(config.evaluate_every, state.evaluated, last):
            self._run_evaluation(self._evaluate, shown)
            target = target or self._target_reached()
            last = last or target is not None
        if self._sample and self._due(config.sample_every, state.sampled, last):
            self._take_samples(self._sample, shown)
        if target and state.step != self._saved_step:
            self._event("target", target)
        if last or late or self._due(config.checkpoint_every, self._saved_step, last):
            self._save(wait=last)
        if not last:
            return None
        return "target" if target else "finished"

    def _target_reached(self) -> str | None:
        """In words, that the loss to stop at is reached; None: it is not."""
        validation = self._state.validation.get("validation_loss")
        return self._state.watch.reached(self._config.stop_at_loss, validation)

    def _next_batch(self, batches: Prefetcher, shown: Bar) -> Batch | None:
        """The batch of the next step; None where asked to stop while waiting for it.

        Where a feed gives no more, all that was trained is saved before that is an error.
        """
        if self._submitted is None:
            # What came between two steps (an evaluation, a checkpoint) is no step's time.
            self._end = Moment(self._stepper.precision.device)
        try:
            return self._supply.next_batch(batches)
        except FeedGone as error:
            self._drain(shown)
            self._event("feed", error.what)
            self._save(wait=True)
            raise

    def _one_step(self, batch: Batch, batches: Prefetcher, shown: Bar) -> None:
        """Hand a batch to the device; write down how a step went.

        On CUDA that is the step before, whose numbers are read while this one runs.
        """
        state = self._state
        rate = learning_rate(self._optimizer_config, state.step, self._total_steps)
        set_learning_rate(self._optimizer, rate)
        rows = (state.step * self._rows, (state.step + 1) * self._rows)
        step = state.step + 1
        weight = self._share_of_weight(batches.weight)
        pending = self._stepper.step(
            step, batch, self._machine.micro_batch(step), weight, rows=rows, smaller=self._shrink
        )
        state.step = step
        before = self._submitted
        self._submitted = Submitted(step, pending, rate, batches.wait_seconds)
        if before is not None:
            self._read(before, shown)
        if not self._stepper.pipelined:
            self._drain(shown)

    def _drain(self, shown: Bar) -> None:
        """Wait for the step in flight, if there is one."""
        if self._submitted is not None:
            self._read(self._submitted, shown)
            self._submitted = None

    def _read(self, submitted: Submitted, shown: Bar) -> None:
        """Wait for the numbers of a step and write them down."""
        report, step = submitted.pending.result(), submitted.step
        seconds = submitted.pending.end.since(self._end)
        speed = self._tokens_per_step / seconds
        self._end = submitted.pending.end
        self._count_seconds()
        if step % self._config.log_every == 0 or step == self._total_steps:
            numbers = submitted.record(report, speed, self._mfu_per_speed, self._machine)
            self._log.numbers({**self._position(step), **numbers})
            if self._show:
                self._show(step, report.loss)
        self._watch_loss(step, report)
        slow = self._supply.waited(step, submitted.waited, seconds)
        if slow:
            self._event("feed_slow", slow, step)
        note = f"loss {report.loss:.3f}  {speed:,.0f} tokens/s{self._supply.note}"
        shown.advance(1, note)

    def _watch_loss(self, step: int, report: StepReport) -> None:
        """Say what is odd about a step."""
        spike = self._state.watch.add(step, report.loss, self._config.spike_factor)
        if spike:
            self._event("loss_spike", spike, step)
        if step == 1:
            self._check_initial(report.loss, step)
        if not report.updated:
            self._event(
                "overflow", "fp16 gradients overflowed: not updated, loss scale halved", step
            )
        rows = self._machine.micro_batch(step)
        if step > 1 and rows != self._machine.micro_batch(step - 1):
            self._event("micro_batch", f"{rows} rows from this step on: memory had run out", step)

    def _check_initial(self, loss: float, step: int) -> None:
        """Random weights know nothing: their loss is that of guessing."""
        odd = unlike_guessing(loss, self._model.config.vocabulary)
        if odd and self._config.init is None:
            self._event("initial_loss", odd, step)

    # ------------------------------------------------------------------------------ between steps

    def _run_evaluation(self, evaluate: Evaluate, shown: Bar) -> None:
        state = self._state
        with self._evaluating():
            state.validation = evaluate(self._model)
        state.evaluated = state.step
        self._count_seconds()
        self._log.numbers({**self._position(state.step), **state.validation})
        numbers = "  ".join(f"{name} {value:.4f}" for name, value in state.validation.items())
        shown.say(f"step {state.step}: {numbers}")
        if state.step == 0:  # what a target is relative to
            state.watch.initial_validation = state.validation["validation_loss"]
            self._check_initial(state.watch.initial_validation, 0)

    def _take_samples(self, sample: Sample, shown: Bar) -> None:
        with self._evaluating():
            samples = sample(self._model, self._state.step)
        self._state.sampled = self._state.step
        for record in samples:
            self._log.sample(self._state.step, record)
        if samples:
            shown.say(f"step {self._state.step}: {first_sample(samples)}")

    def _evaluating(self) -> contextlib.AbstractContextManager[None]:
        precision, step = self._stepper.precision, self._state.step
        return evaluating(self._model, self._config, precision, step, self._sharing.settle)

    def _save(self, *, wait: bool) -> None:
        """Save a checkpoint, unless this step's is there already."""
        state = self._state
        if state.step != self._saved_step:
            # First the lines that lead up to it: a checkpoint never knows more than metrics.jsonl.
            self._log.sync()
            state.scaler = self._stepper.precision.state()
            values = {
                **dataclasses.asdict(state),
                **self._supply.values(state.step),
                "tokens": self._tokens,
                "total_steps": self._total_steps,
                "machine": dataclasses.asdict(self._machine),
            }
            # No random state: that of each step is a function of its number (step.step_seed).
            self._store.save(state.step, self._model, self._optimizer, values)
            self._saved_step, self._saved_time = state.step, time.perf_counter()
        if wait:
            self._store.wait()

    def _shrink(self, step: int, rows: int) -> None:
        """Memory ran out in `step`: from there on `rows` at a time, also when it is replayed."""
        self._machine.change_micro_batch(step, rows)
        self._replay = None
        if self._world.size > 1:
            stop_for_memory(self._machine, self._folder, self._world, step)
        self._write_machine()
        warn(f"step {step}: out of memory; done again with a micro-batch of {rows} rows")

    def _write_machine(self) -> None:
        if self._world.is_main:
            self._machine.write(self._folder)

    def _event(self, kind: str, message: str, step: int | None = None) -> None:
        """Write an event of a step, the last one unless said otherwise, down and say it aloud."""
        step = self._state.step if step is None else step
        self._log.event(step, kind, message)
        (warn if kind in WARNINGS else say)(f"step {step}: {message}")

    def _count_seconds(self) -> None:
        """Bring the run's wall-clock time up to now."""
        self._state.seconds = self._earlier_seconds + time.perf_counter() - self._began

    def _position(self, step: int) -> dict[str, Any]:
        """Where the run is after a step."""
        seconds = round(self._state.seconds, 3)
        return {"step": step, "tokens": step * self._tokens_per_step, "seconds": seconds}

    @property
    def _tokens(self) -> int:
        return self._state.step * self._tokens_per_step

    def _due(self, every: int, done: int, last: bool) -> bool:
        """Whether something done every so many steps, and at the end, is to be done now."""
        step = self._state.step
        return step != done and (last or (every > 0 and step > 0 and step % every == 0))
