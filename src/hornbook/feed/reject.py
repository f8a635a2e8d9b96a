"""Texts that do not go into the log: empty, loops, refusals, another language, seen before.

In: texts in order. Out: the reason why one is rejected, or None; a text that is kept is remembered.
What is remembered is bounded, so a duplicate from further back passes: `prepare` on the log finds
those.
"""

from __future__ import annotations

import hashlib
import re
import zlib
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from hornbook.corpus.config import NearConfig
from hornbook.corpus.language import check_languages, detect
from hornbook.corpus.signatures import UNSIGNED, agreement, band_hashes, signatures
from hornbook.corpus.words import plain_hashes
from hornbook.errors import HornbookError
from hornbook.progress import warn

LONGEST = 2**20
"""Characters of a text. An archive's longer ones are cut, a teacher's rejected."""

SHORTEST = 20
"""Characters of a teacher's text."""

EXACT_WINDOW, NEAR_WINDOW = 200_000, 20_000
"""Texts of a teacher that are remembered: 25 MB of digests, 56 MB of signatures and bands."""

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


class Rejects:
    """Decides which texts are kept.

    Args:
        languages: codes of those that are kept; none: all.
        by_model: whether a model wrote the texts; all rules are for those, while a clean archive's
            are only asked for their language.
    """

    def __init__(self, languages: Sequence[str] = (), *, by_model: bool):
        if languages:
            check_languages(languages)
        self._languages, self._by_model = frozenset(languages), by_model
        self._exact: OrderedDict[bytes, None] = OrderedDict()
        self._near = _open_near() if by_model else None

    def reason(self, text: str) -> str | None:
        """Why the text is rejected; None: it is kept, and remembered."""
        if not self._by_model:
            return self._other_language(text)
        if len(text.strip()) < SHORTEST:
            return "empty"
        if len(text) > LONGEST:
            return "too_long"
        if _REFUSAL.search(text[:200].replace("’", "'")):
            return "refusal"
        if is_loop(text):
            return "loop"
        return self._other_language(text) or self._seen(text)

    def remember(self, text: str, *, near: bool) -> None:
        """Take a text as kept, such as those of the log after a restart.

        Args:
            text: which.
            near: whether those that are near to it will be rejected too, which takes longer.
        """
        self._exact[_digest(text)] = None
        if near and self._near is not None:
            self._near.seen(text)

    def _other_language(self, text: str) -> str | None:
        if not self._languages:
            return None
        return None if detect(text[:_LANGUAGE_CHARACTERS])[0] in self._languages else "language"

    def _seen(self, text: str) -> str | None:
        digest = _digest(text)
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
    """The signatures of the last texts, found by equal bands (as `corpus.near` does for all)."""

    def __init__(self) -> None:
        self._config = NearConfig()
        self._signatures = np.zeros((NEAR_WINDOW, self._config.permutations), np.uint32)
        self._bands = np.zeros((NEAR_WINDOW, self._config.bands), np.uint64)
        self._places: dict[tuple[int, int], int] = {}
        self._count = 0
        self._sign("this fails where the library is missing")

    def seen(self, text: str) -> bool:
        """Whether one of the last texts is near; if not, this one is the newest of them. Texts
        with fewer words than a shingle has are near to none."""
        signed = self._sign(text)
        if (signed == UNSIGNED).all():
            return False
        bands = band_hashes(signed, self._config.bands, self._config.rows)[:, 0]
        keys = list(enumerate(bands.tolist()))
        candidates = sorted({self._places[key] for key in keys if key in self._places})
        alike = agreement(self._signatures[candidates], signed)
        if (alike >= self._config.threshold).any():
            return True
        self._put(signed[0], bands, keys)
        return False

    def _put(
        self, signed: npt.NDArray[np.uint32], bands: npt.NDArray[np.uint64],
        keys: list[tuple[int, int]],
    ) -> None:  # fmt: skip
        place = self._count % NEAR_WINDOW
        if self._count >= NEAR_WINDOW:
            for key in enumerate(self._bands[place].tolist()):
                if self._places.get(key) == place:
                    del self._places[key]
        self._signatures[place], self._bands[place] = signed, bands
        self._places.update(dict.fromkeys(keys, place))
        self._count += 1

    def _sign(self, text: str) -> npt.NDArray[np.uint32]:
        config = self._config
        words = [plain_hashes(text)]
        return signatures(words, config.shingle, config.permutations, config.seed)


def _open_near() -> _Near | None:
    try:
        return _Near()
    except HornbookError as error:
        warn(f"near duplicates of teachers' texts are not looked for: {error}")
        return None
