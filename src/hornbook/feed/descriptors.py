"""Room for a feed's connections: each is an open file of the process, of which there is a limit.

In: how many connections may be open. Out: a process that may have as many open files; where it may
not, a connection too many would cost the log and the readers' places theirs.
"""

from __future__ import annotations

import contextlib
import sys

from hornbook.errors import HornbookError

ACCEPTED_AT_ONCE = 8
"""Connections taken from a listening socket before those above the limit are closed."""
OTHER_FILES = 250
"""Open files that are no connections of readers: 20 of the log and the readers' places, up to 64 of
the archive, those of teachers; and connections that are accepted and not closed yet, of which there
are four rounds a socket."""


def make_room(connections: int) -> None:
    """Raise the process's limit of open files, as far as that many connections need it.

    Above the number they are answered 503, above twice the number closed (`guard.py`): so there are
    twice as many. Windows has no such limit.

    Raises:
        HornbookError: the system does not allow so many.
    """
    if sys.platform == "win32":
        return
    import resource

    needed = 2 * connections + OTHER_FILES
    soft, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    if soft == unlimited or soft >= needed:
        return
    if most == unlimited or most >= needed:
        # macOS refuses what is above a limit of its own, and says unlimited.
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (needed, most))
            return
        most = soft
    fits = (most - OTHER_FILES) // 2
    raise HornbookError(
        f"{connections} connections need {needed} open files; this process may have {most}",
        where="feed.max_connections",
        hint=f"Raise the limit (`ulimit -n {needed}`)"
        + (f", or take --feed.max_connections {fits} at most" if fits > 0 else ""),
    )
