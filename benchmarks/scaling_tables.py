"""The tables of docs/scaling.md, from a handful of measured and assumed numbers.

    python benchmarks/scaling_tables.py            # prints them, as Markdown
    python benchmarks/scaling_tables.py --write    # puts them into docs/scaling.md

The arithmetic is in `step` and `failures`; docs/scaling.md explains it.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "scaling.md"

HOST = 8
"""GPUs of a host."""

LINK = 350e9
"""Assumed: bytes a second of an all-reduce within a host (NVLink 4: 450e9 by the data sheet)."""

NETWORK = 320e9
"""Assumed: the same across hosts with eight 400 Gbit/s adapters each (400e9 by the data sheet). All
adapters of a host carry a part of every exchange, so that it is nearly as fast as within one."""

LATENCY = 30e-6
"""Assumed: seconds of one exchange however small, for each doubling of the number of GPUs."""

STORAGE = 2e9
"""Assumed: bytes a second that a host writes to the storage that all hosts share..."""

STORAGE_MOST = 50e9
"""...and that this takes from all of them together."""

SHORTEST = 300.0
"""Seconds between checkpoints are never fewer than these."""

SNAPSHOT = 50e9
"""Assumed: bytes a second from a GPU to its host's memory."""

PEAK = 989e12
"""Data sheet: dense bf16 FLOPs a second of an H100 or H200."""

FAILURES = 419 / (54 * 16384)
"""Interruptions a GPU and day: Llama 3's 54 days on 16,384 H100 (arXiv:2407.21783, table 5)."""

RESTART = 180.0
"""Assumed: seconds from a death to the first step after it."""

GPUS = (8, 64, 1024)


@dataclass(frozen=True)
class Model:
    """One model.

    Attributes:
        name: for the tables.
        parameters: all of them.
        layers: of blocks, each of which FSDP gathers by itself.
        attention: FLOPs a token beside the 6 a parameter: 12 * layers * width * T.
        speed: tokens a second of one GPU, undisturbed.
        source: whether that was measured.
        batch: tokens of a step.
        sharding: ddp or fsdp, as `pretrain.sharding: auto` chooses on 80 GB.
        least: GPUs that the state needs.
    """

    name: str
    parameters: float
    layers: int
    attention: float
    speed: float
    source: str
    batch: float
    sharding: str
    least: int = 1


def by_share(
    name: str, parameters: float, layers: int, width: int, batch: float, least: int
) -> Model:
    """A model too large for one GPU, at an assumed 45 % of the peak."""
    attention = 12.0 * layers * width * 4096
    speed = 0.45 * PEAK / (6 * parameters + attention)
    return Model(name, parameters, layers, attention, speed, "assumed", batch, "fsdp", least)


MODELS = (
    Model("124M", 124e6, 12, 12 * 12 * 768 * 1024, 605_400, "measured", 2**19, "ddp"),
    Model("712M", 712e6, 32, 12 * 32 * 1296 * 1024, 99_300, "measured", 2**19, "ddp"),
    Model("2.78B", 2.78e9, 32, 12 * 32 * 2560 * 1024, 35_070, "measured", 2**19, "fsdp"),
    by_share("8B", 8e9, 32, 4096, 2**21, 4),
    by_share("70B", 70e9, 80, 8192, 2**22, 32),
)


def exchange(sent: float, gpus: int) -> float:
    """Seconds to gather, or to reduce, `sent` bytes among so many GPUs in a ring."""
    speed = LINK if gpus <= HOST else NETWORK
    return (gpus - 1) / gpus * sent / speed + LATENCY * math.log2(gpus)


def step(model: Model, gpus: int) -> tuple[float, float, float]:
    """Seconds of computing, of communication and of a whole step."""
    computing = model.batch / gpus / model.speed
    if model.sharding == "ddp":
        # Float32 gradients, reduced and gathered after the backward pass, beside nothing.
        talking = 2 * exchange(4 * model.parameters, gpus)
        return computing, talking, computing + talking
    # bf16 weights gathered for the forward and the backward pass, float32 gradients reduced: by
    # the block, beside computing. One pass of at most 16,384 tokens a time.
    passes = max(1.0, model.batch / gpus / 16384)
    block = model.parameters / model.layers
    one = 2 * exchange(2 * block, gpus) + exchange(4 * block, gpus)
    talking = passes * model.layers * one
    return computing, talking, max(computing, talking)


def speeds() -> str:
    """Tokens a second for every model and number of GPUs."""
    rows = [
        "| model | GPUs | tokens a GPU and step | computing | communication | step | tokens/s | "
        "of ideal | speed of one GPU |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for model in MODELS:
        for gpus in GPUS:
            share = f"{model.batch / gpus:,.0f}"
            if gpus < model.least:
                need = f"its state needs {model.least} GPUs of 80 GB"
                rows.append(f"| {model.name} | {gpus:,} | {share} | {need} | | | | | |")
                continue
            computing, talking, whole = step(model, gpus)
            rows.append(
                f"| {model.name} | {gpus:,} | {share} | {computing * 1e3:,.1f} ms |"
                f" {talking * 1e3:,.1f} ms | {whole * 1e3:,.1f} ms | {model.batch / whole:,.0f} |"
                f" {computing / whole:.0%} | {model.source} |"
            )
    return "\n".join(rows)


def storage(writers: int) -> float:
    """Bytes a second that so many processes write."""
    return min(STORAGE_MOST, STORAGE * max(1, writers // HOST))


def checkpoints() -> str:
    """Bytes and seconds of a checkpoint."""
    rows = [
        "| model | bytes | GPUs | copied off the GPUs in | written in the background in |",
        "|---|---|---|---|---|",
    ]
    for model in MODELS:
        for gpus in GPUS:
            if gpus < model.least:
                continue
            size = 12 * model.parameters
            writers = 1 if model.sharding == "ddp" else gpus
            copied = size / writers / SNAPSHOT
            written = size / storage(writers)
            rows.append(
                f"| {model.name} | {size / 1e9:,.1f} GB | {gpus:,} | {copied * 1e3:,.0f} ms |"
                f" {written:,.1f} s |"
            )
    return "\n".join(rows)


def failures() -> str:
    """What breaks, and what it costs at the best interval between checkpoints."""
    rows = [
        "| GPUs | failures a day | days between them | checkpoint every (8B) | time lost (8B) |",
        "|---|---|---|---|---|",
    ]
    model = next(model for model in MODELS if model.name == "8B")
    for gpus in GPUS:
        between = 86400 / (FAILURES * gpus)
        cost = 12 * model.parameters / gpus / SNAPSHOT  # training stands still so long for one
        writing = 12 * model.parameters / storage(gpus)
        interval = max(SHORTEST, writing, math.sqrt(2 * cost * between))
        lost = cost / interval + (interval / 2 + RESTART) / between
        rows.append(
            f"| {gpus:,} | {FAILURES * gpus:.3g} | {between / 86400:,.1f} |"
            f" {interval / 60:,.1f} min | {lost:.2%} |"
        )
    return "\n".join(rows)


def least_tokens() -> str:
    """Tokens a GPU and pass below which FSDP waits for the network."""
    rows = ["| | within a host | across hosts |", "|---|---|---|"]
    tokens = [8 / 6 * 0.45 * PEAK / speed for speed in (LINK, NETWORK)]
    rows.append("| tokens a GPU and pass | " + " | ".join(f"{t:,.0f}" for t in tokens) + " |")
    for batch in (2**19, 2**21, 2**22):
        counts = " | ".join(f"{batch / t:,.0f}" for t in tokens)
        rows.append(f"| most GPUs, {batch / 2**20:g}M tokens a step | {counts} |")
    return "\n".join(rows)


TABLES: dict[str, Callable[[], str]] = {
    "speeds": speeds,
    "least tokens": least_tokens,
    "checkpoints": checkpoints,
    "failures": failures,
}


def filled(page: str) -> str:
    """The page with every table between its marks made anew."""
    for name, table in TABLES.items():
        pattern = rf"(<!-- table: {name} -->\n).*?(<!-- end -->)"
        page = re.sub(pattern, rf"\g<1>{table()}\n\g<2>", page, flags=re.DOTALL)
    return page


if __name__ == "__main__":
    if "--write" in sys.argv:
        PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    else:
        print("\n\n".join(table() for table in TABLES.values()))
