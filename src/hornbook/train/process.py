"""The process while it trains: signals, garbage collection, deterministic kernels.

Context managers that put everything back as it was.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import torch

from hornbook.progress import say

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupt:
    """Ctrl-C and SIGTERM ask to stop after the running step; a second one stops at once.

    Args:
        asked: called once stopping was asked for, in a thread of its own: what a signal interrupts
            may hold any lock.

    Attributes:
        requested: whether stopping was asked for.
    """

    def __init__(self, asked: Callable[[], None] | None = None) -> None:
        self.requested, self._asked = False, asked
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interrupt:
        # Python delivers signals to the main thread only; elsewhere the caller has to stop us.
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._ask) for number in SIGNALS}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        if self._asked is not None:
            threading.Thread(target=self._asked, name="interrupt").start()
        say("stopping after this step, with a checkpoint; once more to stop at once")


@contextlib.contextmanager
def settings_restored() -> Iterator[None]:
    """Puts PyTorch's number of threads and float32 matrix precision back afterwards."""
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(precision)


@contextlib.contextmanager
def collection_paused() -> Iterator[None]:
    """No garbage collection in the middle of a step: with a model's many objects one takes tens
    of milliseconds. The trainer collects between steps, with `gc.collect()`, which does not look at
    what was there before training."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
        if enabled:
            gc.enable()


@contextlib.contextmanager
def reproducible(wanted: bool) -> Iterator[None]:
    """With `wanted`, only kernels that give the same bits each time; others are an error."""
    if not wanted:
        yield
        return
    before = torch.are_deterministic_algorithms_enabled()
    # cuBLAS reads this when it is first used (its manual, "Results reproducibility").
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    from torch._inductor import config as compiler  # large, and few ask for this

    torch.use_deterministic_algorithms(True)
    try:
        with compiler.patch(deterministic=True):  # does not choose kernels by timing them
            yield
    finally:
        torch.use_deterministic_algorithms(before)
