"""Documents that share 13 words with an evaluation file are dropped, whatever the file's form."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pytest_httpserver import HTTPServer

from hornbook.corpus import decontaminate
from hornbook.corpus.batch import Batch, Outcome
from hornbook.corpus.decontaminate import (
    NGRAM,
    DecontaminateStep,
    evaluation_file,
    evaluation_ngrams,
    ngram_hashes,
)
from hornbook.corpus.words import plain_hashes
from hornbook.documents import Document
from hornbook.errors import HornbookError

QUESTION = "Which of the seven hills of Rome did Romulus choose for"
ANSWER = "his city, as Livy tells the story in his first book?"
PROSE = "Before. which OF the “seven hills” of Rome, did Romulus - choose for his city; after that."
OTHER = "Which of the seven hills of Rome did Romulus like best, when all is said and done?"


def dropped(path: Path, *texts: str) -> Outcome:
    return DecontaminateStep((path,))(Batch(list(map(Document, texts))))


def test_a_document_with_13_equal_words_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "quiz.txt"
    path.write_text(f"{QUESTION} {ANSWER}")
    outcome = dropped(path, PROSE, OTHER, QUESTION)
    assert outcome.dropped == ["decontaminate.overlap", None, None]
    assert outcome.counts == {
        "decontaminate.quiz.txt.documents": 1,
        "decontaminate.quiz.txt.ngrams": 1,
    }


ROWS = [
    {"id": 1, "question": QUESTION, "choices": [ANSWER, "another"]},
    {"id": 2, "question": "short", "choices": ["no"]},
]


def test_rows_are_read_as_one_text_each(tmp_path: Path) -> None:
    jsonl, zipped = tmp_path / "a.jsonl", tmp_path / "b.jsonl.gz"
    parquet = tmp_path / "c.parquet"
    lines = "".join(json.dumps(row) + "\n\n" for row in ROWS)
    jsonl.write_text(lines)
    zipped.write_bytes(gzip.compress(lines.encode()))
    pq.write_table(pa.Table.from_pylist(ROWS), parquet)
    for path in (jsonl, zipped, parquet):
        assert dropped(path, PROSE, OTHER).dropped == ["decontaminate.overlap", None], path


def test_hellaswag_is_read_as_context_and_right_ending(tmp_path: Path) -> None:
    path = tmp_path / "hellaswag.jsonl"
    endings = ["one two three four five six seven", ANSWER]
    path.write_text(json.dumps({"ctx": QUESTION, "endings": endings, "label": 1}))
    wrong = f"{QUESTION} {endings[0]}"
    assert dropped(path, PROSE, wrong).dropped == ["decontaminate.overlap", None]


@pytest.mark.shared
def test_hellaswag_itself_is_found_in_a_text_that_has_it(shared_data: Path) -> None:
    path = evaluation_file(str(shared_data / "hellaswag_val.jsonl.zst"))
    assert evaluation_ngrams(path).nbytes < 8e6
    text = (
        "Filler before it. A lady walks to a barbell. She bends down and grabs the pole. the lady "
        "stands and lifts the weight over her head. Filler behind it."
    )
    assert dropped(
        path, text, text.replace("bends", "bent").replace("lifts", "raises")
    ).dropped == [
        "decontaminate.overlap",
        None,
    ]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from("abcd"), max_size=40), st.integers(0, 20))
def test_hashes_are_equal_just_where_words_are(words: list[str], shift: int) -> None:
    hashes = ngram_hashes(plain_hashes(" ".join(words))).tolist()
    runs = [tuple(words[place : place + NGRAM]) for place in range(len(words) - NGRAM + 1)]
    assert len(hashes) == len(runs)
    assert len(set(zip(runs, hashes, strict=True))) == len(set(runs)) == len(set(hashes))


def test_a_file_that_changes_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "quiz.txt"
    path.write_text(OTHER)
    assert dropped(path, PROSE).dropped == [None]
    path.write_text(f"{QUESTION} {ANSWER}")
    os.utime(path, ns=(1, 1))
    assert dropped(path, PROSE).dropped == ["decontaminate.overlap"]


def test_the_preset_is_fetched_once(
    tmp_path: Path, httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = json.dumps({"ctx": QUESTION, "endings": [ANSWER], "label": 0})
    for _ in range(2):
        httpserver.expect_ordered_request("/val.jsonl").respond_with_data(row)
    monkeypatch.setenv("HORNBOOK_CACHE", str(tmp_path))
    monkeypatch.setattr(decontaminate, "HELLASWAG_URL", httpserver.url_for("/val.jsonl"))
    with pytest.raises(HornbookError, match="could not be fetched: the bytes have sha256"):
        evaluation_file("hellaswag")
    sha256 = hashlib.sha256(row.encode()).hexdigest()
    monkeypatch.setattr(decontaminate, "HELLASWAG_SHA256", sha256)
    path = evaluation_file("hellaswag")
    assert evaluation_file("hellaswag") == path
    assert dropped(path, PROSE).dropped == ["decontaminate.overlap"]


def test_the_preset_without_a_network_says_what_to_do(
    tmp_path: Path, httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    httpserver.expect_request("/val.jsonl").respond_with_data("no", status=404)
    monkeypatch.setenv("HORNBOOK_CACHE", str(tmp_path))
    monkeypatch.setattr(decontaminate, "HELLASWAG_URL", httpserver.url_for("/val.jsonl"))
    with pytest.raises(HornbookError, match=r"could not be fetched.*404") as error:
        evaluation_file("hellaswag")
    assert "--prepare.decontaminate [PATH]" in str(error.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("absent.jsonl", None, "is no file"),
        ("short.txt", b"Too few words to compare.", "no text of 13 words"),
        ("damaged.jsonl", b'{"text": "cut o', "not a readable evaluation file"),
        ("latin.txt", "é".encode("latin-1") * 50, "not a readable evaluation file"),
        ("damaged.parquet", b"PAR1 and no more", "not a readable evaluation file"),
        ("damaged.jsonl.gz", b"\x1f\x8b\x08 no gzip", "does not decompress"),
    ],
)
def test_bad_files_are_named(
    tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(HornbookError, match=message) as error:
        evaluation_file(str(path))
    assert name in str(error.value)
