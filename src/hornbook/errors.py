"""Errors for people: what was wrong, where, and the next thing to try.

`HornbookError` is the user's to mend (exit code 2, one line, no traceback). Anything else that
escapes a command is ours (exit code 1). `assert` is for our own invariants only.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path


class HornbookError(Exception):
    """A mistake or a circumstance that the user can do something about.

    Args:
        what: what was wrong, in one short sentence without a full stop.
        where: the file, key or value it was found in.
        hint: the next thing to try.

    Attributes:
        said: whether another process of the same run has shown it.
    """

    def __init__(self, what: str, *, where: str | Path | None = None, hint: str | None = None):
        self.what, self.where, self.hint = what, where, hint
        self.said = False
        message = what if where is None else f"{where}: {what}"
        stop = "" if what.endswith((".", "?", "!", ":")) else "."
        super().__init__(message if hint is None else f"{message}{stop} {hint}")


def check_limits(settings: object, section: str, limits: Iterable[tuple[str, bool, str]]) -> None:
    """Refuse settings that have no meaning.

    Args:
        settings: the fields of one section of the recipe.
        section: its name.
        limits: of each field its name, whether its value is right, and what it must be.
    """
    for name, right, wanted in limits:
        if not right:
            raise HornbookError(
                f"must be {wanted}, not {getattr(settings, name)}", where=f"{section}.{name}"
            )


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint that names the known word nearest to `name`, or lists them all when none is near."""
    choices = sorted(known)
    close = difflib.get_close_matches(name, choices, n=1, cutoff=0.5)
    return f"Did you mean {close[0]!r}?" if close else f"Known: {', '.join(choices)}"
