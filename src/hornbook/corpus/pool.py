"""Work in several processes, with the results in the order of the jobs.

In: a function and jobs. Out: results, one by one. How many processes there are changes nothing
but the time.
"""

from __future__ import annotations

import itertools
import multiprocessing
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from hornbook.errors import HornbookError
from hornbook.processes import start_worker, usable_cores

Job = TypeVar("Job")
Result = TypeVar("Result")

FEWEST_JOBS = 4
"""Fewer are done in this process: starting others takes about a second."""


def ordered_map(
    work: Callable[[Job], Result], jobs: Iterable[Job], workers: int
) -> Iterator[Result]:
    """`map(work, jobs)` in `workers` processes, 0 meaning one a processor.

    At most two jobs a worker are under way, so memory does not grow with the number of jobs.

    Raises:
        HornbookError: a process died. What `work` raises comes through.
    """
    workers = workers or usable_cores()
    remaining = iter(jobs)
    first = list(itertools.islice(remaining, FEWEST_JOBS))
    if workers == 1 or len(first) < FEWEST_JOBS:
        yield from map(work, itertools.chain(_drain(first), remaining))
        return
    # A fresh interpreter for each: forking a process that has threads can hang it.
    pool = ProcessPoolExecutor(
        workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start_worker,
        initargs=(work,),
    )
    under_way: deque[Future[Result]] = deque()
    try:
        for job in itertools.chain(_drain(first), remaining):
            under_way.append(pool.submit(_work_in_worker, job))
            if len(under_way) >= 2 * workers:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()
    except BrokenProcessPool as error:
        raise HornbookError(
            "a process that prepares text died, probably for want of memory",
            where="prepare.workers",
            hint=f"Set it below {workers}; with 1 no further process is started",
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _drain(jobs: list[Job]) -> Iterator[Job]:
    """Hand over a list's jobs without keeping them."""
    jobs.reverse()
    while jobs:
        yield jobs.pop()


_worker_function: Callable[[Any], Any] | None = None
"""In a worker process, and nowhere else: what it does with a job."""


def _start_worker(work: Callable[[Any], Any]) -> None:
    global _worker_function
    start_worker()
    _worker_function = work


def _work_in_worker(job: Any) -> Any:
    assert _worker_function is not None
    return _worker_function(job)
