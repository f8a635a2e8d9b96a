"""Batches prepared ahead, so that the training step does not wait for them.

In: a `BatchSource` and the ranges of rows that will be asked for. Out: the batches in that order,
on the device, what each weighs, and how long it was waited for.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterable

import torch

from hornbook.tokens.batch import Batch, BatchSource


class Prefetcher:
    """Reads `source.rows(start, count)` for each request in a background thread.

    For CUDA the thread puts batches into page-locked memory and `next` starts their copy on a
    stream of its own, so that it runs while the device is still busy with the step before. At most
    `depth` batches wait. An error in the thread is raised by the `next` that would have given that
    batch. Use it as a context manager, or call `close`.

    Attributes:
        wait_seconds: how long the last `next` waited.
        weight: what `weigh` said of the last batch, while it was in the CPU's memory.
    """

    def __init__(
        self,
        source: BatchSource,
        requests: Iterable[tuple[int, int]],
        *,
        device: torch.device | str = "cpu",
        depth: int = 4,
        weigh: Callable[[Batch], float] = len,
    ):
        """
        Args:
            source: where rows come from.
            requests: (start, count) in the order of use; may be endless, is read as needed.
            device: where batches go.
            depth: batches prepared ahead, at least 1.
            weigh: a number that is wanted with each batch; asking the device for it would take a
                wait.
        """
        self.wait_seconds = 0.0
        self.weight = 0.0
        self._source, self._requests, self._weigh = source, requests, weigh
        self._device = torch.device(device)
        self._copies: torch.cuda.Stream | None = None
        if self._device.type == "cuda":
            self._copies = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        self._ready: queue.Queue[tuple[Batch, float] | BaseException | None] = queue.Queue(
            max(1, depth)
        )
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
        if isinstance(item, tuple):
            batch, self.weight = item
            return self._on_device(batch)
        self._ended = True
        if item is None:
            raise StopIteration
        raise item

    def _on_device(self, batch: Batch) -> Batch:
        if self._copies is None:
            return batch.to(self._device)
        with torch.cuda.stream(self._copies):
            batch = batch.to(self._device)
        current = torch.cuda.current_stream(self._device)
        current.wait_stream(self._copies)
        batch.used_by(current)
        return batch

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
                weight = self._weigh(batch)
                if self._copies is not None:
                    batch = batch.pin_memory()
                # After close() drained the queue there is room for one more: this never blocks on.
                self._ready.put((batch, weight))
                if self._closing.is_set():
                    return
        except BaseException as error:  # handed to the consumer, whatever it is
            last = error
        self._ready.put(last)
