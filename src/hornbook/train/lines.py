"""A line a step, as plain scripts print it: `pretrain.log_style: lines`.

In: the loss of each step. Out: `Epoch: 0003 Step count: 30 loss = 6.702834` on stdout and in
`train.log`, epochs and the steps in each counted from 1.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path

from hornbook.files import disk_errors, write_text

FILE = "train.log"

Show = Callable[[int, float], None]
"""Takes a step, from 1, and its loss in nats a token."""


@contextlib.contextmanager
def step_lines(folder: Path, epoch_steps: int) -> Iterator[Show]:
    """Shows steps as lines.

    What `train.log` has is made again from metrics.jsonl, which was cut back to the checkpoint: so
    the two agree after a crash, and when the length of an epoch changes.

    Args:
        folder: of the stage.
        epoch_steps: steps that count as an epoch.
    """
    path = folder / FILE
    write_text(path, "".join(line_of(*each, epoch_steps) for each in _losses(folder)))
    with disk_errors(path):
        file = open(path, "a", encoding="utf-8")  # noqa: SIM115

    def show(step: int, loss: float) -> None:
        line = line_of(step, loss, epoch_steps)
        print(line, end="", flush=True)
        with disk_errors(path):
            file.write(line)
            file.flush()

    try:
        yield show
    finally:
        with disk_errors(path):
            file.close()


def line_of(step: int, loss: float, epoch_steps: int) -> str:
    """The line of a step, with its end."""
    epoch, count = divmod(step - 1, epoch_steps)
    return f"Epoch: {epoch + 1:04d} Step count: {count + 1} loss = {loss:.6f}\n"


def _losses(folder: Path) -> Iterator[tuple[int, float]]:
    with open(folder / "metrics.jsonl", encoding="utf-8") as lines:
        for line in lines:
            record = json.loads(line)
            if "loss" in record:
                yield record["step"], math.nan if record["loss"] is None else record["loss"]
