"""Processes that work on tasks in order, and are ended when one part of a task takes too long.

In: tasks. Out: their results, in the same order. The work says which part it is at where that may
hang (`with slow(part)`); when it is not done within the limit, its process is killed, and a fresh
one does the task again without that part. Each process belongs to a thread here, which waits.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from multiprocessing.connection import Connection
from typing import Any, Generic, TypeVar

from hornbook.errors import HornbookError
from hornbook.processes import start_worker

Task = TypeVar("Task")
Result = TypeVar("Result")

Slow = Callable[[int], AbstractContextManager[None]]
"""From the number of a part to what puts the limit on it."""

Work = Callable[[Task, frozenset[int], Slow], Result]
"""A function of a module: the task, the parts to leave out, and `slow`."""


class Workers(Generic[Task, Result]):
    """A context manager; leaving it kills what still works.

    Args:
        work: what each process does with a task.
        count: processes.
        part_seconds: limit for a part that was announced as slow.
    """

    def __init__(self, work: Work[Task, Result], count: int, part_seconds: float):
        self._work, self._count, self._part_seconds = work, count, part_seconds
        self._threads = ThreadPoolExecutor(count)
        self._own = threading.local()
        self._processes: set[_Worker] = set()
        self._closed = False

    def __enter__(self) -> Workers[Task, Result]:
        return self

    def __exit__(self, *_: object) -> None:
        self._closed = True
        for worker in list(self._processes):
            worker.end()  # its thread, which waits for it, sees that it is gone
        self._threads.shutdown(cancel_futures=True)
        for worker in list(self._processes):  # one that had just been started
            worker.end()

    def results(self, tasks: Iterable[Task]) -> Iterator[tuple[Task, Result]]:
        """Each task and its result, in order; a few tasks are read ahead."""
        waiting: deque[tuple[Task, Future[Result]]] = deque()
        ahead = self._count + 2  # one for each process, and two that are ready for them
        for task in tasks:
            waiting.append((task, self._threads.submit(self._do, task)))
            if len(waiting) >= ahead:
                first, future = waiting.popleft()
                yield first, future.result()
        for task, future in waiting:
            yield task, future.result()

    def _do(self, task: Task) -> Result:
        """Runs in a thread of the pool: hand the task to the thread's own process."""
        left_out: set[int] = set()
        while True:
            worker: _Worker | None = getattr(self._own, "worker", None)
            if worker is None:
                worker = self._own.worker = _Worker(self._work)
                self._processes.add(worker)
            slow: int | None = None
            try:
                worker.connection.send((task, frozenset(left_out)))
                while worker.connection.poll(None if slow is None else self._part_seconds):
                    done, value = worker.connection.recv()
                    if done:
                        result: Result = value
                        return result
                    slow = value
            except (EOFError, OSError) as error:
                if slow is None or self._closed:
                    raise HornbookError(
                        "a process that reads pages died, probably for want of memory",
                        hint="Set --workers lower",
                    ) from error
            assert slow is not None
            left_out.add(slow)
            worker.end()
            self._processes.discard(worker)
            self._own.worker = None


class _Worker:
    """One process, and the connection to it."""

    def __init__(self, work: Work[Any, Any]):
        # A fresh interpreter: forking a process that has threads can hang it.
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(work, theirs), daemon=True)
        self._process.start()
        theirs.close()

    def end(self) -> None:
        """Kill it. Its connection stays open: another thread may be waiting at it."""
        self._process.kill()
        self._process.join()


def _serve(work: Work[Any, Any], connection: Connection) -> None:
    """What a process does: tasks come in, results go out, until the other side is gone."""
    start_worker()

    @contextlib.contextmanager
    def slow(part: int) -> Iterator[None]:
        connection.send((False, part))
        try:
            yield
        finally:
            connection.send((False, None))

    with contextlib.suppress(EOFError, OSError):
        while True:
            task, left_out = connection.recv()
            connection.send((True, work(task, left_out, slow)))
