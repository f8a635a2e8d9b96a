"""A prediction for people (tables of at most 80 columns) and for scripts (JSON).

In: a `Prediction`. Out: what `rich` prints, or plain values. Every row says `measured` (an exact
count, or from measurements of this family and optimizer on this kind of device) or `extrapolated`
(from those of others, by the data sheets, or from a published law).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hornbook.plan.fit import memory_limit
from hornbook.plan.gpus import PRICE_DATE
from hornbook.plan.predict import Prediction

if TYPE_CHECKING:
    from rich.console import RenderableType

WIDTH = 80
"""Columns."""


@dataclass(frozen=True)
class Row:
    """One line: what, its value, and whether that is `measured` or `extrapolated`."""

    section: str
    name: str
    value: str
    measured: bool

    @property
    def source(self) -> str:
        """The word for it."""
        return "measured" if self.measured else "extrapolated"


def rows(prediction: Prediction) -> list[Row]:
    """All lines, in order."""
    return [
        *_model_rows(prediction),
        *_setting_rows(prediction),
        *_memory_rows(prediction),
        *_speed_rows(prediction),
        *_outcome_rows(prediction),
    ]


def tables(prediction: Prediction, note: str = "") -> Iterator[RenderableType]:
    """What a terminal shows."""
    from rich.table import Table
    from rich.text import Text

    gpus = prediction.choice.setup.gpus
    title = f"{prediction.name} on {f'{gpus} x ' if gpus > 1 else ''}{prediction.device.name}"
    table = Table(
        title=title, title_justify="left", width=WIDTH, box=None, pad_edge=False,
        show_header=False,
    )  # fmt: skip
    table.add_column("", style="bold", width=8)
    table.add_column("", width=15)
    table.add_column("", ratio=1)
    table.add_column("", style="dim", width=12)
    section = ""
    for row in rows(prediction):
        table.add_row(
            "" if row.section == section else row.section, row.name, row.value, row.source
        )
        section = row.section
    yield table
    if not prediction.fits:
        yield _remedies(prediction)
    if note:
        yield Text(note)
    yield Text(
        "measured: counted exactly, or from measurements of this family, optimizer and device; "
        "extrapolated: from others, by data sheets, or from a published law",
        style="dim",
    )


def as_json(prediction: Prediction) -> dict[str, Any]:
    """Plain numbers: bytes, seconds, nats, dollars; and the rows as they are shown."""
    choice, loss = prediction.choice, prediction.loss
    return {
        "name": prediction.name,
        "device": prediction.device.name,
        "fits": prediction.fits,
        "parameters": prediction.count.total,
        "parameters_blocks": prediction.count.blocks,
        "flops_per_token": prediction.flops_per_token,
        "setup": dataclasses.asdict(choice.setup),
        "memory": dataclasses.asdict(choice.memory),
        "peak_bytes": prediction.peak,
        "step_seconds": dataclasses.asdict(choice.step),
        "tokens_per_second": prediction.tokens_per_second,
        "mfu": prediction.utilisation,
        "tokens": prediction.tokens,
        "hours": prediction.hours,
        "loss": dataclasses.asdict(loss) if loss else None,
        "price_per_hour": prediction.price,
        "cost": prediction.cost,
        "remedies": [dataclasses.asdict(remedy) for remedy in prediction.remedies],
        "rows": [{**dataclasses.asdict(row), "source": row.source} for row in rows(prediction)],
    }


def _model_rows(prediction: Prediction) -> Iterator[Row]:
    config, count = prediction.config, prediction.count
    shape = f"{config.family}, {config.layers} layers, width {config.width}, {config.heads} heads"
    parts = f"{number(count.blocks)} in blocks, {number(count.embedding)} in embeddings"
    length = prediction.choice.setup.sequence_length
    yield Row("model", "shape", shape, True)
    yield Row("", "parameters", f"{number(count.total)}: {parts}", True)
    each = f"{number(prediction.flops_per_token)}, forward and backward, in rows of {length:,}"
    yield Row("", "FLOPs a token", each, True)


def _setting_rows(prediction: Prediction) -> Iterator[Row]:
    setup, tried = prediction.choice.setup, prediction.probe is not None
    engine, measured = setup.engine, tried or prediction.memory_measured
    each = f"{setup.rows} rows ({number(setup.step_tokens)} tokens)"
    batch = f"{each} in micro-batches of {setup.micro_batch}"
    if setup.micro_batch < prediction.wishes.micro_batch:
        batch += f", as {prediction.wishes.micro_batch} {_why_fewer(prediction)}"
    yield Row("settings", "step", batch, measured)
    numbers = f"{setup.precision}, weights {setup.weights}, residual stream {engine.residual}"
    if setup.device == "cpu" and prediction.wishes.precision == "auto" and not tried:
        numbers += " (or bf16 where that is faster: --probe tries)"
    yield Row("", "precision", numbers + (", float8" if engine.float8 else ""), measured)
    kept = {
        "none": "none: all activations are kept",
        "selective": "selective: recompute activations that are cheap",
        "full": "full: recompute all activations",
        "budget": f"budget: keep {100 * engine.budget:.0f} % of the activations",
    }[engine.checkpointing]
    yield Row("", "checkpointing", f"{kept}; loss {engine.cross_entropy}", measured)
    offload = ", state on the CPU" if setup.optimizer.offload else ""
    computed = f"compile {engine.compile}; mlp {engine.mlp}"
    computed += "; CUDA graph" if setup.cuda_graph else ""
    yield Row("", "optimizer", f"{setup.optimizer.kind}{offload}; {computed}", measured)
    if setup.gpus > 1:
        yield Row("", "GPUs", f"{setup.gpus}, {setup.sharding}", measured)


def _memory_rows(prediction: Prediction) -> Iterator[Row]:
    memory, setup = prediction.choice.memory, prediction.choice.setup
    measured = prediction.calibrated
    moment = "update" if memory.moment == "update" else f"{memory.moment} pass"
    each = "each GPU, " if setup.gpus > 1 else ""
    on_cpu = setup.device == "cpu"
    parts = {
        "weights": memory.weights,
        "gradients": memory.gradients,
        "optimizer": memory.optimizer,
        "activations": memory.activations,
        "logits, loss": memory.logits,
        "Python, PyTorch" if on_cpu else "workspace": memory.workspace,
    }
    notes = {}
    if memory.copies:
        notes["weights"] = f" ({gigabytes(memory.copies)} of it narrow copies)"
    if memory.gradients < memory.all_gradients:
        notes["gradients"] = f" yet; {gigabytes(memory.all_gradients)} after the backward pass"
    for name, size in parts.items():
        section = "memory" if name == "weights" else ""
        yield Row(
            section, name, (gigabytes(size) if size else "none") + notes.get(name, ""), measured
        )
    peak = f"{gigabytes(memory.peak)}, the sum: {each}in the {moment}"
    yield Row("", "peak", peak, measured)
    if prediction.probe and prediction.probe.peak:
        yield Row("", "peak, real", gigabytes(prediction.probe.peak), True)
    verdict = "fits into" if prediction.fits else "DOES NOT FIT into"
    over = prediction.peak + memory.reserved - memory.peak
    needs = (
        gigabytes(over) if on_cpu else f"{gigabytes(over)} with what CUDA and its allocator hold"
    )
    limit = gigabytes(memory_limit(prediction.device, setup))
    yield Row("", "needs", f"{needs}; {verdict} {limit}", prediction.memory_measured)


def _why_fewer(prediction: Prediction) -> str:
    """Why a micro-batch is smaller than what was asked for."""
    setup = prediction.choice.setup
    if prediction.wishes.micro_batch * setup.gpus > setup.rows:
        return "are more than a step has" + (" for each GPU" if setup.gpus > 1 else "")
    return "do not fit, or not evenly into the step"


def _speed_rows(prediction: Prediction) -> Iterator[Row]:
    step, measured = prediction.choice.step, prediction.speed_measured
    shares = {
        "matrix products": step.matmuls,
        "attention": step.attention,
        "elementwise": step.elementwise,
        "loss": step.loss,
        "update": step.optimizer,
        "between GPUs": step.communication,
        "waiting": step.waiting,
    }
    took = ", ".join(
        f"{name} {100 * seconds / step.seconds:.0f} %"
        for name, seconds in shares.items()
        if seconds >= 0.005 * step.seconds
    )
    rate = f"{prediction.tokens_per_second:,.0f} tokens/s"
    if prediction.device.kind == "cuda":
        rate += f", MFU {100 * prediction.utilisation:.0f} %"
    yield Row("speed", "rate", rate, measured)
    seconds = step.tokens / prediction.tokens_per_second
    yield Row("", "a step", f"{seconds:,.{3 if seconds < 10 else 0}f} s", measured)
    yield Row("", "of it", took, prediction.calibrated)


def _outcome_rows(prediction: Prediction) -> Iterator[Row]:
    loss, measured = prediction.loss, prediction.speed_measured
    if loss is None:
        yield Row("run", "length", "not said: give --hours or --tokens", measured)
        return
    steps = prediction.tokens / prediction.choice.setup.step_tokens
    length = f"{number(prediction.tokens)} tokens, {steps:,.0f} steps"
    if loss.epochs > 1.01:
        length += f", each text {loss.epochs:.1f} times"
    yield Row("run", "length", length, measured)
    yield Row("", "time", duration(prediction.hours), measured)
    expected = f"{loss.nats:.2f} nats a token ({loss.low:.2f} to {loss.high:.2f})"
    yield Row("", "expected loss", f"{expected}, {loss.bits_per_byte:.2f} bits a byte", False)
    law = f"{loss.law}, on other text, with {loss.law_bytes_per_token} bytes a token; here "
    yield Row("", "by the law of", f"{law}{loss.bytes_per_token:.1f}", False)
    if loss.outside:
        yield Row("", "", f"OUTSIDE THE LAW'S RANGE, which begins at {loss.outside}", False)
    if prediction.price:
        price = f"${prediction.cost:,.2f} at ${prediction.price:.2f} a GPU and hour"
        yield Row("", "cost", f"{price} ({PRICE_DATE})" if prediction.listed else price, measured)


def _remedies(prediction: Prediction) -> RenderableType:
    from rich.table import Table

    table = Table(
        title="What would fit, GB of a GPU", title_justify="left", width=WIDTH, box=None,
        pad_edge=False, show_header=False,
    )  # fmt: skip
    table.add_column("", ratio=1)
    table.add_column("", justify="right", width=10)
    table.add_column("", width=8)
    table.add_column("", style="dim", width=12)
    for remedy in prediction.remedies:
        fits = "fits" if remedy.fits else "too much"
        table.add_row(remedy.change, gigabytes(remedy.reserved), fits, "extrapolated")
    return table


def number(value: float) -> str:
    """1,024, 16.4k, 124.4M, 2.78B, 859M."""
    for size, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= max(size, 1e4):
            digits = 2 if value < 10 * size else 1 if value < 200 * size else 0
            return f"{value / size:.{digits}f}{unit}"
    return f"{value:,.0f}"


def gigabytes(size: float) -> str:
    """In 10^9 bytes (PyTorch's own reports are in bytes), or 10^6."""
    if size < 0.1e9:
        return f"{size / 1e6:.1f} MB"
    return f"{size / 1e9:.2f} GB" if size < 10e9 else f"{size / 1e9:.1f} GB"


def duration(hours: float) -> str:
    """45 s, 12 min, 3.4 hours, 5.1 days."""
    if hours < 1 / 60:
        return f"{3600 * hours:.0f} s" if 3600 * hours >= 1 else "under 1 s"
    if hours < 1:
        return f"{60 * hours:.0f} min"
    return f"{hours:.1f} hours" if hours < 48 else f"{hours / 24:.1f} days"
