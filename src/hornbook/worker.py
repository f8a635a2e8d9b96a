"""One of several processes that train together; what each of them runs.

In: the environment of the process, and the run directory that `train/launch.py` is told. Out: an
exit code as the command line's. `hornbook pretrain --gpus N` starts all its processes here; under
torchrun process 0 is the command line itself, and the others come here.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
import threading
from collections.abc import Iterator

from hornbook.errors import HornbookError
from hornbook.run import RunDirectory
from hornbook.stages import train
from hornbook.train import launch
from hornbook.train.parallel import connect


def main() -> int:
    """Work for the process that started this one, and end when it does."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    code, _ = _work(muted=os.environ["RANK"] != "0")
    return code


def follow() -> int:
    """Work beside process 0, which is the command line; say why when this process fails first."""
    code, message = _work(muted=True)
    if message:
        print(message, file=sys.stderr)
    return code


def _work(*, muted: bool) -> tuple[int, str]:
    """Train; the exit code, and what is to be said of a failure that nobody has said yet."""
    store = connect()
    try:
        with _muted() if muted else contextlib.nullcontext():
            run = launch.wait_for_run(store)
            if run is None:
                return 0, ""
            directory = RunDirectory(run)
            outcome = train(directory.recipe(), directory)
        if os.environ["RANK"] == "0":
            launch.finish(store, dataclasses.asdict(outcome))
        return 0, ""
    except KeyboardInterrupt:
        return 130, ""
    except Exception as error:
        first = launch.report(store, error)
        kind = "error" if isinstance(error, HornbookError) else f"internal error: {type(error)}"
        message = f"{kind}: process {os.environ['RANK']}: {error}" if first else ""
        return (2 if isinstance(error, HornbookError) else 1), message


@contextlib.contextmanager
def _muted() -> Iterator[None]:
    """Nothing is shown: process 0 says all that there is to say."""
    with (
        open(os.devnull, "w", encoding="utf-8") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        yield


def _end_with_parent() -> None:
    """End when the other end of stdin is closed: whoever started this process is dead."""
    while os.read(sys.stdin.fileno(), 1):
        pass
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
