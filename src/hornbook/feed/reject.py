"""Texts of teachers that do not go into the log: empty, loops, refusals, another language, seen
before. A clean archive's are only asked for their language.

In: texts in order. Out: the reason why one is rejected, or None; a text that is kept is remembered.
What is remembered is bounded, so a duplicate from further back passes: `prepare` on the log finds
those.
"""

from __future__ import annotations

import hashlib
import re
import threading
import zlib
from collections import OrderedDict
from collections.abc import Sequence
from functools import partial
from typing import Any

from hornbook.corpus.config import NearConfig
from hornbook.corpus.language import check_languages, detect
from hornbook.corpus.signatures import shingles
from hornbook.corpus.words import plain_hashes
from hornbook.progress import warn

LONGEST = 2**20
"""Characters of a text. An archive's longer ones are cut, a teacher's rejected."""

SHORTEST = 20
"""Characters of a teacher's text."""

EXACT_WINDOW, NEAR_WINDOW = 200_000, 20_000
"""Texts of teachers that are remembered: 25 MB of digests, 56 MB of signatures and bands."""

LOOP_RATIO = 5.0
"""Bytes of a text's last third, by bytes of it through zlib. Of 6,696 Wikipedia articles 99.9 % are
below 3.2 and two above 5; a sentence over and over gives 20 and more."""

_LANGUAGE_CHARACTERS = 2_000
_REFUSAL = re.compile(
    r"\bas an? (ai|artificial intelligence|(large )?language model)\b"
    r"|\bi('m| am) (just |only )?an? (ai|(large )?language model)\b"
    r"|\b(i('m| am) )?(sorry|afraid|apologi[sz]e)\b.{0,40}\b(can('|no)?t|unable|not able|won't)\b"
    r"|\bi (can('|no)?t|won't|will not|am unable to|am not able to) "
    r"(help|assist|provide|write|create|generate|comply|fulfil|continue|do that)",
    re.IGNORECASE | re.DOTALL,
)


class Languages:
    """Tells texts in other languages than some; with none named, all are welcome."""

    def __init__(self, codes: Sequence[str]):
        if codes:
            check_languages(codes, "--feed.languages")
        self._codes = frozenset(codes)

    def reason(self, text: str) -> str | None:
        """Why the text is rejected; None: it is not."""
        if not self._codes or detect(text[:_LANGUAGE_CHARACTERS])[0] in self._codes:
            return None
        return "language"


class Rejects:
    """Decides which texts of all teachers are kept. Threads may share it.

    Args:
        languages: codes of those that are kept; none: all.
    """

    def __init__(self, languages: Sequence[str] = ()):
        self._languages = Languages(languages)
        self._lock = threading.Lock()
        self._exact: OrderedDict[bytes, None] = OrderedDict()
        self._near = _open_near()

    def reason(self, text: str) -> str | None:
        """Why the text is rejected; None: it is kept, and remembered."""
        if len(text.strip()) < SHORTEST:
            return "empty"
        if len(text) > LONGEST:
            return "too_long"
        if _REFUSAL.search(text[:200].replace("’", "'")):
            return "refusal"
        if is_loop(text):
            return "loop"
        return self._languages.reason(text) or self._seen(text)

    def remember(self, text: str, *, near: bool) -> None:
        """Take a text as kept, such as those of the log after a restart.

        Args:
            text: which.
            near: whether those that are near to it will be rejected too, which takes longer.
        """
        self._exact[_digest(text)] = None
        if near and self._near is not None:
            self._near.seen(text)

    def _seen(self, text: str) -> str | None:
        digest = _digest(text)
        with self._lock:
            if digest in self._exact:
                return "duplicate"
            if self._near is not None and self._near.seen(text):
                return "near_duplicate"
            self._exact[digest] = None
            if len(self._exact) > EXACT_WINDOW:
                self._exact.popitem(last=False)
        return None


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).digest()


def is_loop(text: str) -> bool:
    """Whether the end of a text says the same again and again, as small models do."""
    end = text[-(len(text) // 3) :].encode("utf-8", "replace")
    return len(end) / len(zlib.compress(end)) > LOOP_RATIO


class _Near:
    """The last texts, of which one may be near to a text (compared as `corpus.near` does).

    Args:
        rensa: the library.
    """

    def __init__(self, rensa: Any):
        config = self._config = NearConfig()
        self._signature = partial(rensa.RMinHash, config.permutations, config.seed)
        self._last = rensa.RMinHashDeduplicator(
            config.threshold, config.permutations, True, config.bands, config.seed
        )
        self._count = 0

    def seen(self, text: str) -> bool:
        """Whether one of the last texts is near; if not, this one is the newest of them."""
        runs = shingles([plain_hashes(text)], self._config.shingle)[0]
        if not len(runs):
            return False  # fewer words than a shingle has: near to none
        signature = self._signature()
        signature.update([run.tobytes() for run in runs])
        if not self._last.add(str(self._count), signature):
            return True
        self._last.remove(str(self._count - NEAR_WINDOW))
        self._count += 1
        return False


def _open_near() -> _Near | None:
    try:
        import rensa
    except ImportError:
        warn('near duplicates of teachers are not looked for: `pip install "hornbook[clean]"`')
        return None
    return _Near(rensa)
