"""Which steps a prepare takes, from its settings.

In: `PrepareConfig`. Out: the steps in their order: characters, language, quality, repetition,
personal data, evaluation sets. Duplicates come after them (`exact.py`, `near.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

from hornbook.corpus.batch import Batch, Outcome, Step, with_text
from hornbook.corpus.config import PrepareConfig
from hornbook.corpus.decontaminate import DecontaminateStep, evaluation_file
from hornbook.corpus.language import LanguageStep, check_languages
from hornbook.corpus.normalise import mend_encoding, normalise
from hornbook.corpus.pii import PiiStep
from hornbook.corpus.quality import GopherStep
from hornbook.corpus.quality_lines import C4Step, FinewebStep
from hornbook.corpus.repetition import RepetitionStep
from hornbook.errors import check_limits


def build_steps(config: PrepareConfig) -> list[Step]:
    """The steps that the settings ask for.

    Raises:
        HornbookError: a setting has no meaning, a package is missing, or an evaluation file cannot
            be read: said here, not in another process an hour later.
    """
    _check(config)
    web = config.preset == "web"
    steps: list[Step] = []
    if config.fix_text:
        mend_encoding("")  # finds out whether the package is there
    if config.normalise or config.fix_text:
        steps.append(NormaliseStep(config.normalise, config.fix_text))
    if config.runs(config.language) or config.language.keep:
        check_languages(config.language.keep, "--prepare.language.keep")
        steps.append(LanguageStep(config.language))
    if config.runs(config.gopher):
        steps.append(GopherStep(config.gopher))
    if config.runs(config.c4):
        steps.append(C4Step(config.c4))
    if config.runs(config.fineweb):
        steps.append(FinewebStep(config.fineweb))
    if config.runs(config.repetition):
        steps.append(RepetitionStep(config.repetition))
    emails = web if config.pii.emails is None else config.pii.emails
    ips = web if config.pii.ips is None else config.pii.ips
    if emails or ips:
        steps.append(PiiStep(emails, ips))
    if config.decontaminate:
        files = tuple(evaluation_file(name) for name in config.decontaminate)
        steps.append(DecontaminateStep(files))
    return steps


def _check(config: PrepareConfig) -> None:
    language, repetition = config.language, config.repetition
    check_limits(
        language,
        "prepare.language",
        [
            ("characters", language.characters > 0, "above 0"),
            ("minimum_score", 0 <= language.minimum_score <= 1, "from 0 to 1"),
        ],
    )
    ngrams = "lengths from 1 on, each with a share from 0 to 1"
    check_limits(
        repetition,
        "prepare.repetition",
        [
            (name, all(n > 0 and 0 <= value <= 1 for n, value in limits.items()), ngrams)
            for name, limits in (
                ("max_top_ngram", repetition.max_top_ngram),
                ("max_duplicate_ngrams", repetition.max_duplicate_ngrams),
            )
        ],
    )


@dataclass(frozen=True)
class NormaliseStep:
    """Changes characters only, and drops nothing.

    Args:
        characters: Unicode form, newlines, invisible characters (`normalise`).
        encoding: mend text that was decoded with the wrong encoding (`mend_encoding`).
    """

    characters: bool
    encoding: bool
    name = "normalise"
    rules = ()

    def __call__(self, batch: Batch) -> Outcome:
        documents = []
        counts = {"normalise.changed": 0}
        for document in batch.documents:
            text = mend_encoding(document.text) if self.encoding else document.text
            text = normalise(text) if self.characters else text
            documents.append(with_text(document, text))
            counts["normalise.changed"] += documents[-1] is not document
        return Outcome(documents, [None] * len(documents), counts)
