"""Stop strings in text that comes piece by piece.

In: pieces of a text. Out: the text before the first stop string, given out as early as it is sure
that no stop string begins in it.
"""

from __future__ import annotations

from collections.abc import Sequence


class StopFilter:
    """Lets text through up to the first stop string; `stopped` tells that one was met.

    The result does not depend on how the text is cut into pieces: of several stop strings, the one
    that is complete first ends the text.
    """

    def __init__(self, stops: Sequence[str]):
        self._stops = [stop for stop in stops if stop]
        self._held = ""
        self.stopped = False

    def feed(self, piece: str) -> str:
        """Take the next piece; returns the text that is now sure."""
        if self.stopped:
            return ""
        text = self._held + piece
        ends = [
            (start + len(stop), start) for stop in self._stops if (start := text.find(stop)) >= 0
        ]
        if ends:
            self.stopped = True
            self._held = ""
            return text[: min(ends)[1]]
        sure = len(text) - max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[sure:]
        return text[:sure]

    def finish(self) -> str:
        """What was held back, when the text ends without the stop string it seemed to begin."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Length of the longest beginning of `stop` (not all of it) that ends `text`."""
    for length in range(min(len(stop) - 1, len(text)), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
