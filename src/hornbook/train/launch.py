"""Several processes for one run: started here or by torchrun, told what to do, ended together.

In: a run directory whose recipe is written. Out: what process 0 makes of it, or the first error of
any process, once. The processes talk through a key-value store that whoever started them keeps:

    run      the run directory to train in; set by who starts it, read by all; empty: nothing to do
    error    why the first process ended that failed by itself
    result   the outcome, from process 0
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Any

from torch.distributed import (  # type: ignore[attr-defined]
    DistError,
    DistStoreError,
    PrefixStore,
    Store,
    TCPStore,
)

from hornbook.errors import HornbookError
from hornbook.processes import usable_cores
from hornbook.train.parallel import STARTS, connect

WORKER = "hornbook.worker"
"""The module that each process runs."""

GRACE_SECONDS = 15.0
"""After one process has failed, the others have this long to end: time to finish the checkpoint
that is being written. What waits for the dead one inside a GPU's library never ends by itself."""

POLL_SECONDS = 0.1

RUN, ERROR, RESULT = "hornbook/run", "hornbook/error", "hornbook/result"

LOST = ("connection closed by peer", "connection reset by peer", "broken pipe", "gloo", "nccl")
"""Parts of messages that only say that another process is gone."""


# --------------------------------------------------------------------- who starts the processes


def launch(run: Path, processes: int) -> Any:
    """Train in a run directory with so many processes of this host.

    Ctrl-C and SIGTERM are handed on to all of them: they save, and their outcome says so.

    Returns:
        What process 0 handed to `finish`.

    Raises:
        HornbookError: the first error of any process, or that one was killed.
        RuntimeError: a process failed, and it is not the user's to mend.
    """
    server = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    store = PrefixStore("start 0", server)  # as the processes' own `connect` has it
    store.set(RUN, str(run))
    workers = [_start(rank, processes, server.port) for rank in range(processes)]
    try:
        with _signals_handed_on(workers):
            failed = _first_failure(workers)
    finally:
        _end(workers)
    if store.check([ERROR]):
        raise _as_exception(json.loads(store.get(ERROR)))
    if failed is not None and not store.check([RESULT]):  # else it died while leaving
        raise _death(failed, workers[failed].returncode, processes)
    return json.loads(store.get(RESULT))


def _start(rank: int, processes: int, port: int) -> subprocess.Popen[bytes]:
    environment = {
        "OMP_NUM_THREADS": str(max(1, usable_cores() // processes)),
        **os.environ,
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        STARTS: "0",
        "TORCHELASTIC_USE_AGENT_STORE": "True",  # the store is ours, as torchrun's is torchrun's
    }
    return subprocess.Popen(
        [sys.executable, "-m", WORKER],
        env=environment,
        stdin=subprocess.PIPE,  # closed when we die, however that happens
        start_new_session=True,  # a terminal's Ctrl-C reaches us alone, and we hand it on
    )


def _first_failure(workers: list[subprocess.Popen[bytes]]) -> int | None:
    """Wait until all have ended well, or one has not: its rank, killed ones first."""
    while True:
        codes = [worker.poll() for worker in workers]
        if any(codes):
            codes = [worker.poll() for worker in workers]
            return min(range(len(codes)), key=lambda rank: (codes[rank] or 0) or 1000)
        if all(code == 0 for code in codes):
            return None
        time.sleep(POLL_SECONDS)


def _end(workers: list[subprocess.Popen[bytes]]) -> None:
    """Have all processes end, within a while; at once where they do not."""
    for worker in workers:
        if worker.poll() is None:
            worker.terminate()
    deadline = time.monotonic() + GRACE_SECONDS
    for worker in workers:
        try:
            worker.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            worker.kill()
            worker.wait()
        assert worker.stdin is not None
        worker.stdin.close()


@contextlib.contextmanager
def _signals_handed_on(workers: list[subprocess.Popen[bytes]]) -> Iterator[None]:
    def hand_on(number: int, frame: FrameType | None) -> None:
        for worker in workers:
            if worker.poll() is None:
                worker.send_signal(number)

    if threading.current_thread() is not threading.main_thread():
        yield  # Python delivers signals to the main thread only
        return
    before = {number: signal.signal(number, hand_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _death(rank: int, code: int, processes: int) -> BaseException:
    """What to raise for a process that ended without a word."""
    if code == 128 + signal.SIGINT:
        return KeyboardInterrupt()
    ended = f"with exit code {code}"
    if code < 0:
        ended = f"by {signal.Signals(-code).name}"
    hint = "The same command goes on from the last checkpoint"
    if code == -signal.SIGKILL:
        hint += "; the system kills processes when memory runs out"
    return HornbookError(f"process {rank} of {processes} was ended {ended}", hint=hint)


# -------------------------------------------------------------------------------- each process


def wait_for_run(store: Store) -> Path | None:
    """The run directory to train in, once there is one; None when there is nothing to do."""
    while True:
        with contextlib.suppress(DistStoreError):  # preparing text may take hours
            store.wait([RUN], timedelta(minutes=1))
            name = store.get(RUN).decode()
            return Path(name) if name else None


def send_home(store: Store) -> None:
    """Tell processes that wait for a run directory that there is none."""
    with contextlib.suppress(DistError):
        store.compare_set(RUN, "", "")


@contextlib.contextmanager
def leading(run: Path) -> Iterator[None]:
    """Process 0 under torchrun trains, and the others with it; their errors are its own.

    Raises `HornbookError` where another process failed first, marked as said where that one has
    shown it.
    """
    store = connect()
    store.set(RUN, str(run))
    try:
        yield
    except Exception as error:
        if not report(store, error):
            raise _of_another(store) from error
        raise


def _of_another(store: Store) -> HornbookError:
    with contextlib.suppress(DistError):
        if store.check([ERROR]):
            error = HornbookError("another process failed first")
            error.said = True
            return error
    return HornbookError(
        "another process of this run has ended, or does not answer",
        hint="The same command goes on from the last checkpoint",
    )


def finish(store: Store, result: Any) -> None:
    """Hand a result (JSON) to who started this process."""
    store.set(RESULT, json.dumps(result))


def report(store: Store, error: BaseException) -> bool:
    """Write down why this process fails; whether it is the first to fail, and so to be shown.

    That another process is gone is no reason of its own.
    """
    if lost_another(error):
        return False
    values = {
        "rank": os.environ["RANK"],
        "internal": None,
        "what": str(error),
        "where": None,
        "hint": None,
    }
    if isinstance(error, HornbookError):
        where = None if error.where is None else str(error.where)
        values |= {"what": error.what, "where": where, "hint": error.hint}
    else:
        values["internal"] = "".join(traceback.format_exception(error))
        values["what"] = f"{type(error).__name__}: {error}"
    text = json.dumps(values)
    try:
        return store.compare_set(ERROR, "", text).decode() == text
    except DistError:  # the store is gone, and with it who would show an error
        return True


def lost_another(error: BaseException) -> bool:
    """Whether an error only says that another process has ended, or does not answer."""
    if isinstance(error, HornbookError) or not isinstance(error, RuntimeError):
        return False
    message = str(error).lower()
    return isinstance(error, DistError) or any(words in message for words in LOST)


def _as_exception(values: dict[str, Any]) -> Exception:
    """An error as `report` wrote it down."""
    if values["internal"] is None:
        return HornbookError(values["what"], where=values["where"], hint=values["hint"])
    error = RuntimeError(f"process {values['rank']}: {values['what']}")
    error.add_note(values["internal"])
    return error
