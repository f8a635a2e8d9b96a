"""Batches prepared ahead, so that the training step does not wait for them.

In: a `BatchSource` and the ranges of rows that will be asked for. Out: the batches in that order,
on the device, and how long each was waited for.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Iterable

import torch

from hornbook.tokens.batch import Batch, BatchSource


class Prefetcher:
    """Reads `source.rows(start, count)` for each request in a background thread.

    For CUDA the thread puts batches into page-locked memory and `next` starts their copy, which
    then runs beside the CPU's work. At most `depth` batches wait. An error in the thread is raised
    by the `next` that would have given that batch. Use it as a context manager, or call `close`.

    Attributes:
        wait_seconds: how long the last `next` waited.
    """

    def __init__(
        self,
        source: BatchSource,
        requests: Iterable[tuple[int, int]],
        *,
        device: torch.device | str = "cpu",
        depth: int = 4,
    ):
        """
        Args:
            source: where rows come from.
            requests: (start, count) in the order of use; may be endless, is read as needed.
            device: where batches go.
            depth: batches prepared ahead, at least 1.
        """
        self.wait_seconds = 0.0
        self._source, self._requests = source, requests
        self._device = torch.device(device)
        self._ready: queue.Queue[Batch | BaseException | None] = queue.Queue(max(1, depth))
        self._closing = threading.Event()
        self._ended = False
        self._thread = threading.Thread(target=self._work, name="prefetch", daemon=True)
        self._thread.start()

    def __iter__(self) -> Prefetcher:
        return self

    def __next__(self) -> Batch:
        """The batch of the next request. StopIteration after the last one, an error, or `close`."""
        if self._ended:
            raise StopIteration
        begin = time.perf_counter()
        item = self._ready.get()
        self.wait_seconds = time.perf_counter() - begin
        if isinstance(item, Batch):
            return item.to(self._device)
        self._ended = True
        if item is None:
            raise StopIteration
        raise item

    def close(self) -> None:
        """End the thread and drop what it prepared. May be called again."""
        self._ended = True
        self._closing.set()
        with contextlib.suppress(queue.Empty):
            while True:
                self._ready.get_nowait()
        self._thread.join()

    def __enter__(self) -> Prefetcher:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _work(self) -> None:
        last: BaseException | None = None
        try:
            for start, count in self._requests:
                batch = self._source.rows(start, count)
                if self._device.type == "cuda":
                    batch = batch.pin_memory()
                # After close() drained the queue there is room for one more: this never blocks on.
                self._ready.put(batch)
                if self._closing.is_set():
                    return
        except BaseException as error:  # handed to the consumer, whatever it is
            last = error
        self._ready.put(last)
