"""robots.txt (RFC 9309), asked for once a day and host.

In: addresses. Out: whether a robot may fetch them, and how long it shall wait in between.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from hornbook.errors import HornbookError
from hornbook.gather.pace import Clock
from hornbook.gather.source import StopGathering

if TYPE_CHECKING:
    from protego import Protego

AGENT = "hornbook"
"""The name under which a robots.txt may speak to us."""

FRESH_S = 24 * 3600
"""RFC 9309, 2.4: a copy should not be used for more than 24 hours."""

LARGEST_BYTES = 512 * 1024
"""RFC 9309, 2.5: at least 500 KiB have to be read; what comes after is not."""

LONGEST_DELAY_S = 60.0


Answer = tuple[int | None, bytes]
"""HTTP status (None: no answer, after several tries), and the first `LARGEST_BYTES`."""


class Robots:
    """The robots.txt of every host that is met; safe to use from several threads."""

    def __init__(self, fetch: Callable[[str], Answer], clock: Clock):
        self._fetch, self._clock = fetch, clock
        self._rules: dict[str, tuple[float, Protego]] = {}
        self._failed: dict[str, StopGathering] = {}
        self._lock = threading.Lock()

    def allows(self, url: str) -> bool:
        """Whether a robot may fetch `url`.

        Raises:
            StopGathering: robots.txt is there, but the server fails to give it (5xx, no answer),
                which counts as forbidding all (RFC 9309, 2.3.1.4).
        """
        return bool(self._of(url).can_fetch(url, AGENT))

    def delay(self, url: str) -> float:
        """Seconds between two requests (Crawl-delay), at most `LONGEST_DELAY_S`; 0: not said."""
        return min(float(self._of(url).crawl_delay(AGENT) or 0), LONGEST_DELAY_S)

    def _of(self, url: str) -> Protego:
        parts = urlsplit(url)
        root = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
        with self._lock:
            if root in self._failed:  # asked several times: each other page would wait as long
                raise self._failed[root]
            fetched, rules = self._rules.get(root, (0.0, None))
            if rules is None or self._clock.now() - fetched > FRESH_S:
                try:
                    rules = _parse(*self._fetch(f"{root}/robots.txt"), root)
                except StopGathering as error:
                    self._failed[root] = error
                    raise
                self._rules[root] = self._clock.now(), rules
            return rules


def _parse(status: int | None, content: bytes, root: str) -> Protego:
    try:
        from protego import Protego
    except ImportError as error:
        raise HornbookError(
            "reading robots.txt needs the package protego",
            hint="pip install 'hornbook[gather]'",
        ) from error
    if status is None or status >= 500 or status == 429:
        said = f"answers HTTP {status}" if status else "does not answer"
        raise StopGathering(
            f"the server {said} when asked for robots.txt, which forbids all until it works",
            where=f"{root}/robots.txt",
            hint="Run the same command again later: it goes on from here",
        )
    rules = content if 200 <= status < 300 else b""  # 4xx: there are no rules
    return Protego.parse(rules.decode("utf-8-sig", "replace"))
