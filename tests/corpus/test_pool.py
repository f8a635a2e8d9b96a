"""Jobs in other processes: order, errors, bounded work under way."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest

from hornbook.corpus.pool import FEWEST_JOBS, ordered_map
from hornbook.errors import HornbookError


def slow_first(number: int) -> tuple[int, int]:
    time.sleep(0.3 if number == 0 else 0)
    return number, os.getpid()


def failing(number: int) -> int:
    if number == 5:
        raise HornbookError("five", where="here", hint="Take six")
    return number


def dying(number: int) -> int:
    os._exit(1)


def test_results_come_in_order_from_other_processes() -> None:
    results = list(ordered_map(slow_first, range(20), 2))
    assert [number for number, _ in results] == list(range(20))
    assert {pid for _, pid in results}.isdisjoint({os.getpid()})


@pytest.mark.parametrize(("jobs", "workers"), [(FEWEST_JOBS - 1, 4), (20, 1), (0, 2)])
def test_few_jobs_and_one_worker_start_no_process(jobs: int, workers: int) -> None:
    results = list(ordered_map(slow_first, range(jobs), workers))
    assert results == [(number, os.getpid()) for number in range(jobs)]


def test_jobs_are_taken_as_they_are_needed() -> None:
    taken = 0

    def jobs() -> Iterator[int]:
        nonlocal taken
        for number in range(100):
            taken += 1
            yield number

    results = ordered_map(failing, jobs(), 2)
    assert next(results) == 0 and taken <= FEWEST_JOBS + 4
    with pytest.raises(HornbookError, match=r"^here: five\. Take six$"):
        list(results)
    assert taken < 20


def test_a_process_that_dies_is_an_error_with_advice() -> None:
    with pytest.raises(HornbookError, match=r"prepare\.workers: a process .* died"):
        list(ordered_map(dying, range(10), 2))
