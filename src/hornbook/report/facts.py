"""What the report says of a run in sentences and single numbers.

In: a `Run`. Out: the summary sentence, how far the run is, the key numbers, the notes that a
person who knows training would make. A number that is not known is not mentioned.
"""

from __future__ import annotations

import dataclasses
import datetime
import math
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from hornbook.model.config import ModelConfig
from hornbook.model.count import parameters
from hornbook.report.data import Run, mapping, number, sequence
from hornbook.report.words import count, duration, plain, share, size

RECENT = 180.0
"""Seconds after the last logged step during which a run counts as going on."""

OVERFIT = 1.01
"""Held-out loss this much above its lowest is called rising."""


@dataclass
class Fact:
    """One number with its name and, where it helps, a few words on it."""

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Quality:
    """How good the model is on held-out text; NaN where it was not measured."""

    bits_per_byte: float
    loss: float
    perplexity: float
    origin: str


def section(run: Run, name: str) -> dict[str, Any]:
    """A section of the recipe; empty where there is none."""
    return mapping(run.recipe.get(name))


def split_totals(run: Run, split: str) -> dict[str, Any]:
    """tokens, documents, bytes, sources and licences of a split, from the token manifests.

    Training text is the mixture's where there is one, else the run's own. How much a feed has given
    is not in any manifest.
    """
    if split == "train" and section(run, "data").get("feed"):
        return {}
    mixed = run.mixture if split == "train" else []
    manifests = [source.manifest for source in mixed] or [run.manifest]
    totals: dict[str, Any] = {}
    for manifest in manifests:
        for key, value in mapping(mapping(manifest.get("totals")).get(split)).items():
            if isinstance(value, dict):
                counts = totals.setdefault(key, {})
                for name, part in value.items():
                    counts[name] = counts.get(name, 0) + number(part)
            else:
                totals[key] = totals.get(key, 0) + number(value)
    return totals


def parameters_of(run: Run) -> float:
    """Weights of the model; NaN before there is a checkpoint."""
    known = {f.name for f in dataclasses.fields(ModelConfig)}
    try:
        config = ModelConfig(**{k: v for k, v in run.architecture.items() if k in known})
        return float(parameters(config).total)
    except (TypeError, KeyError):  # none yet, or of a family that this version does not know
        return math.nan


def quality(run: Run) -> Quality:
    """Held-out quality: of the evaluate stage unless training has gone on, else the last logged."""
    for line in reversed(run.evaluations):
        bits, loss, perplexity = (
            number(line.get(key)) for key in ("bits_per_byte", "loss", "perplexity")
        )
        if line.get("split") == "validation" and _is_newest(line, run) and math.isfinite(loss):
            return Quality(bits, loss, perplexity, origin="all held-out text")
    loss = run.curves.last("validation_loss")
    perplexity = math.exp(loss) if loss < 700 else math.nan
    bits = run.curves.last("validation_bits_per_byte")
    return Quality(bits, loss, perplexity, origin="the fixed validation set")


def _is_newest(line: dict[str, Any], run: Run) -> bool:
    """Whether an evaluation is of the model that the curves end with."""
    if not run.curves.last_step:
        return True
    unlogged = number(section(run, "pretrain").get("log_every", 1))
    return run.curves.last_step <= number(line.get("step")) < run.curves.last_step + unlogged


def summary(run: Run) -> str:
    """What was trained on what, for how long and how well it came out."""
    data = _data_words(run)
    steps = run.curves.last_step
    if not steps:
        aim = f"is to be trained on {data}" if data else "is to be trained"
        return f"{_model_words(run)} {aim}. No training step has been logged yet."
    start = section(run, "pretrain").get("init")
    origin = f"from the weights of {start}" if start else "from random weights"
    tokens, seconds = run.curves.last("tokens"), run.curves.last("seconds")
    length = f"{steps:,} step{'s' if steps > 1 else ''}"
    if math.isfinite(tokens):
        length += f" ({count(tokens)} tokens)"
    if math.isfinite(seconds):
        length += f" in {duration(seconds)}"
    on = f" on {data}" if data else ""
    trained = f"{_model_words(run)}, trained {origin}{on} for {length}."
    return f"{trained} {_quality_words(quality(run))}".strip()


def state(run: Run, now: float | None = None) -> str:
    """How far a run is that has not come to its end; empty for a finished one."""
    for name, record in run.stages.items():
        if record.get("outcome") == "failed":
            error = str(mapping(record.get("summary")).get("error", "no error was noted"))
            error = error.removeprefix("hornbook.errors.HornbookError: ")[:1000]
            return f"The {name} stage failed: {error}"
    record = run.stages.get("pretrain", {})
    outcome, steps = record.get("outcome"), run.curves.last_step
    if outcome == "done" or (not record and not steps):
        return ""
    far = f"{steps:,} steps{_progress_words(run)}"
    if outcome == "stopped":
        return f"Training was stopped after {far}; running the same command again goes on there."
    if run.metrics_written is None:
        return "Training has begun; no step is finished yet."
    age = max(0.0, (time.time() if now is None else now) - run.metrics_written)
    ago = f"the last numbers were written {duration(age)} before this page was made"
    if age < RECENT:
        return f"The run is going on: {far}; {ago}."
    return f"The run is not finished: {far}; {ago}. It is slow, or it was killed."


def key_numbers(run: Run) -> list[Fact]:
    """The numbers to look at first."""
    good, curves = quality(run), run.curves
    train = split_totals(run, "train")
    tokens, data_tokens = curves.last("tokens"), number(train.get("tokens"))
    speeds = curves.training["tokens_per_second"]
    speeds = speeds[np.isfinite(speeds)]
    facts = [
        Fact("Held-out bits per byte", plain(good.bits_per_byte), f"on {good.origin}"),
        Fact("Held-out loss", plain(good.loss), "nats per token"),
        Fact("Held-out perplexity", plain(good.perplexity)),
        Fact("Parameters", count(parameters_of(run)), _family_words(run)),
        Fact("Steps", f"{curves.last_step:,}", _batch_words(run)),
        Fact("Tokens trained on", count(tokens), _epoch_words(tokens, data_tokens)),
        Fact("Training time", duration(curves.last("seconds"))),
        Fact("Speed", count(float(np.median(speeds))) if len(speeds) else "–",
             "tokens per second (median)"),
        Fact("Training text", size(number(train.get("bytes"))), f"{count(data_tokens)} tokens"),
    ]  # fmt: skip
    return [fact for fact in facts if fact.value not in ("–", "0")]


def remarks(run: Run) -> list[str]:
    """What the curves should make one think of."""
    validation = run.curves.validation
    losses, steps = validation["validation_loss"], validation["step"]
    known = np.isfinite(losses)
    if known.sum() < 3:
        return []
    losses, steps = losses[known], steps[known]
    best = int(np.argmin(losses))
    if losses[-1] > losses[best] * OVERFIT:
        return [
            f"The held-out loss was lowest at step {steps[best]:,.0f}"
            f" ({plain(float(losses[best]))}) and has risen to {plain(float(losses[-1]))} since:"
            " the model has begun to learn its training text by heart. More text, fewer steps or"
            " dropout would help."
        ]
    return []


def stamp(seconds: float) -> str:
    """Seconds since the epoch as a date and time in UTC."""
    moment = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return moment.strftime("%Y-%m-%d %H:%M UTC")


def _model_words(run: Run) -> str:
    parameters, family = parameters_of(run), str(run.architecture.get("family", ""))
    if math.isfinite(parameters):
        article = "An" if family[:1] in "aeio" and family else "A"
        return f"{article} {family} model of {count(parameters)} parameters".replace("  ", " ")
    preset = section(run, "model").get("preset")
    return f"A model ({preset})" if preset else "A model"


def _family_words(run: Run) -> str:
    family = run.architecture.get("family")
    return f"{family} architecture" if family else ""


def _data_words(run: Run) -> str:
    if section(run, "data").get("feed"):
        return "the texts of a live feed"
    train = split_totals(run, "train")
    size_words = size(number(train.get("bytes"))) if train else ""
    sources = [name for name in _ranked(train.get("sources")) if name]
    if not sources:
        sources = [str(name) for name in sequence(section(run, "prepare").get("inputs"))]
    if not size_words and not sources:
        return ""
    more = f" and {len(sources) - 3} more" if len(sources) > 3 else ""
    names = f" from {', '.join(sources[:3])}{more}" if sources else ""
    return f"{size_words} of text{names}" if size_words else f"text{names}"


def _ranked(sources: Any) -> list[str]:
    counts = {str(name): number(value) for name, value in mapping(sources).items()}
    return sorted(counts, key=lambda name: -counts[name])


def _quality_words(good: Quality) -> str:
    if math.isfinite(good.bits_per_byte):
        loss = f", a loss of {plain(good.loss)} nats per token" if math.isfinite(good.loss) else ""
        return (
            f"It predicts text that it never saw with {plain(good.bits_per_byte)} bits per byte"
            f" (lower is better){loss}."
        )
    if math.isfinite(good.loss):
        return f"Its loss on text that it never saw is {plain(good.loss)} nats per token."
    return "It has not been measured on held-out text yet."


def _progress_words(run: Run) -> str:
    settings = section(run, "pretrain")
    done = {
        "steps": float(run.curves.last_step),
        "tokens": run.curves.last("tokens"),
        "minutes": run.curves.last("seconds") / 60,
    }
    shares = {
        unit: value / number(settings.get(unit))
        for unit, value in done.items()
        if math.isfinite(value) and number(settings.get(unit)) > 0
    }
    if not shares:
        return ""
    unit = max(shares, key=lambda name: shares[name])  # the limit that is reached first
    aim = number(settings[unit])
    return f" ({share(min(1.0, shares[unit]))} of the {count(aim)} {unit} asked for)"


def _batch_words(run: Run) -> str:
    steps, tokens = run.curves.last_step, run.curves.last("tokens")
    return f"of {count(tokens / steps)} tokens" if steps and math.isfinite(tokens) else ""


def _epoch_words(tokens: float, data_tokens: float) -> str:
    if not math.isfinite(tokens) or not data_tokens > 0:
        return ""
    return f"{tokens / data_tokens:.3g} times through the text"
