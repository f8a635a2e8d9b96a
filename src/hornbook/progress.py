"""What is shown while something runs: lines, warnings, and a bar with ETA.

Everything goes to stderr, so that what a command prints as its result can be piped.
"""

from __future__ import annotations

import contextlib
import datetime
import time
from collections.abc import Iterator

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


def console() -> Console:
    """The console for messages (stderr)."""
    return Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)


def say(message: str) -> None:
    """Print one line for the user."""
    console().print(message, markup=False)


def warn(message: str) -> None:
    """Print one warning that the user should read."""
    console().print(f"warning: {message}", style="yellow", markup=False)


class Bar:
    """A progress bar; where the screen is no terminal, a plain line every `every` seconds."""

    def __init__(
        self, label: str, total: float | None, *, every: float = 10.0, hidden: bool = False
    ):
        self._label, self._total, self._every = label, total, every
        self._console = console()
        self._plain = not self._console.is_terminal and not hidden
        self._done = 0.0
        self._start = self._last = time.monotonic()
        self._start_done = 0.0
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            TextColumn("eta"),
            TimeRemainingColumn(),
            console=self._console,
            transient=False,
            disable=self._plain or hidden,
        )
        self._task = self._progress.add_task(label, total=total, note="")

    def advance(self, amount: float = 1.0, note: str = "") -> None:
        """Move by `amount`, and show `note` (loss, tokens/s ...) beside the bar."""
        self._done += amount
        self._progress.update(self._task, advance=amount, note=note)
        if self._plain and time.monotonic() - self._last >= self._every:
            self._last = time.monotonic()
            of = f"/{self._total:,.0f}" if self._total else ""
            say(f"{self._label} {self._done:,.0f}{of} {note}{self._remaining()}".rstrip())

    def restart(self, done: float, total: float | None) -> None:
        """Set the position and the total anew (a resumed run, or a horizon that became known)."""
        self._done, self._total = done, total
        self._start, self._start_done = time.monotonic(), done
        self._progress.update(self._task, completed=done, total=total)

    def _remaining(self) -> str:
        """`  eta 1:05`, at the mean speed since the start; nothing where the total is unknown."""
        speed = (self._done - self._start_done) / max(time.monotonic() - self._start, 1e-9)
        if not self._total or speed <= 0:
            return ""
        seconds = round(max(self._total - self._done, 0) / speed)
        return f"  eta {datetime.timedelta(seconds=seconds)}"

    def say(self, message: str) -> None:
        """Print a line above the bar."""
        self._progress.console.print(message, markup=False)


@contextlib.contextmanager
def bar(label: str, total: float | None, *, hidden: bool = False) -> Iterator[Bar]:
    """`with bar("tokenizing", bytes) as progress: progress.advance(n)`; `hidden`: for its `say`."""
    shown = Bar(label, total, hidden=hidden)
    with shown._progress:
        yield shown
