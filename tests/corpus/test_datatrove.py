"""The quality rules decide as datatrove's filters do, when both get the same words.

Its own words come from spaCy, its sentences too; here its splitters are replaced by ours, so that
what is compared is the rules. Skipped where datatrove is not installed (extra `scale`).
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hornbook.corpus.batch import Batch, Step
from hornbook.corpus.config import C4Config, FinewebConfig, GopherConfig, RepetitionConfig
from hornbook.corpus.pii import EMAILS, IPS, PiiStep
from hornbook.corpus.quality import GopherStep
from hornbook.corpus.quality_lines import C4Step, FinewebStep, count_sentences
from hornbook.corpus.repetition import RepetitionStep
from hornbook.corpus.words import PUNCTUATION, SENTENCE_TERMINALS
from hornbook.documents import Document

pytest.importorskip("datatrove", reason="datatrove is not installed (extra `scale`)")

from datatrove.pipeline.filters import (
    C4QualityFilter,
    FineWebQualityFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
)
from datatrove.utils.text import PUNCTUATION_SET, TERMINAL_PUNCTUATION

RULES = {
    "gopher_short_doc": "gopher.min_words",
    "gopher_long_doc": "gopher.max_words",
    "gopher_below_avg_threshold": "gopher.min_mean_word_length",
    "gopher_above_avg_threshold": "gopher.max_mean_word_length",
    "gopher_too_many_hashes": "gopher.max_symbol_word_ratio",
    "gopher_too_many_ellipsis": "gopher.max_symbol_word_ratio",
    "gopher_too_many_bullets": "gopher.max_bullet_lines",
    "gopher_too_many_end_ellipsis": "gopher.max_ellipsis_lines",
    "gopher_below_alpha_threshold": "gopher.min_alphabetic_words",
    "gopher_enough_stop_words": "gopher.min_stop_words",
    "dup_para_frac": "repetition.max_duplicate_paragraphs",
    "dup_para_char_frac": "repetition.max_duplicate_paragraph_characters",
    "dup_line_frac": "repetition.max_duplicate_lines",
    "dup_line_char_frac": "repetition.max_duplicate_line_characters",
    **{f"top_{n}_gram": "repetition.max_top_ngram" for n in range(1, 5)},
    **{f"duplicated_{n}_n_grams": "repetition.max_duplicate_ngrams" for n in range(1, 11)},
    "lorem_ipsum": "c4.lorem_ipsum",
    "curly_bracket": "c4.curly_bracket",
    "too_few_sentences": "c4.min_sentences",
    "line_punct_ratio": "fineweb.min_punctuated_lines",
    "short_line_ratio": "fineweb.max_short_lines",
    "char_dup_ratio": "fineweb.max_duplicate_line_characters",
    "list_ratio": "fineweb.max_newlines_per_word",
}


Filter = Callable[[], Any]
PAIRS: dict[str, tuple[Filter, Step]] = {
    "gopher": (lambda: GopherQualityFilter(), GopherStep(GopherConfig())),
    "gopher, short texts": (
        lambda: GopherQualityFilter(min_doc_words=3, min_avg_word_length=2, min_stop_words=1),
        GopherStep(GopherConfig(min_words=3, min_mean_word_length=2, min_stop_words=1)),
    ),
    "repetition": (lambda: GopherRepetitionFilter(), RepetitionStep(RepetitionConfig())),
    "repetition, n-grams": (
        lambda: GopherRepetitionFilter(
            0.9, 0.9, 0.9, 0.9, ((2, 0.6), (3, 0.5)), ((2, 0.4), (3, 0.3))
        ),
        RepetitionStep(
            RepetitionConfig(None, 0.9, 0.9, 0.9, 0.9, {2: 0.6, 3: 0.5}, {2: 0.4, 3: 0.3})
        ),
    ),
    "c4": (lambda: C4QualityFilter(), C4Step(C4Config(terminal_punctuation=True))),
    "c4 as in FineWeb": (
        lambda: C4QualityFilter(filter_no_terminal_punct=False, min_num_sentences=2),
        C4Step(C4Config(min_sentences=2)),
    ),
    "fineweb": (lambda: FineWebQualityFilter(), FinewebStep(FinewebConfig())),
    "fineweb, few rules": (
        lambda: FineWebQualityFilter(
            line_punct_thr=0.05, short_line_thr=1.0, char_duplicates_ratio=0.2
        ),
        FinewebStep(FinewebConfig(None, 0.05, 1.0, 30, 0.2)),
    ),
}

_WORDS = (
    "the of and that be The house was a ab b aab walking # ## ... … wait... • - -- 12 3.14 ' \" ( "
    "over. again! why? done。 “quoted” word1 [1] [edit] JavaScript javascript {x} Lorem ipsum "
    "terms use privacy policy uses cookies １ ½ é naïve 中文字。"
)
WORDS = st.sampled_from(_WORDS.split(" "))
SPACES = st.sampled_from([" "] * 12 + ["\n"] * 4 + ["\n\n", "  ", "\t", "\n \n", ". ", "\u00a0"])
LINES = st.sampled_from(
    [
        "This is a line of prose that ends as it should.",
        "the privacy policy and the terms of use",
        "- a bullet point of a list",
        "It is over...",
        "Home",
    ]
)
TEXTS = st.one_of(
    st.lists(st.tuples(WORDS, SPACES), min_size=1, max_size=80).map(
        lambda parts: "".join(word + space for word, space in parts)
    ),
    st.lists(st.tuples(LINES, st.sampled_from(["\n", "\n\n", " "])), min_size=1, max_size=12).map(
        lambda parts: "".join(line + end for line, end in parts)
    ),
    # Few words that run together in several ways: where n-grams that come again are many.
    st.lists(st.sampled_from(["a", "ab", "b", "ba", "aa"]), min_size=1, max_size=60).map(" ".join),
)


@pytest.fixture(autouse=True, scope="module")
def our_splitters() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        filters = "datatrove.pipeline.filters"
        for module in (
            "gopher_quality_filter",
            "gopher_repetition_filter",
            "fineweb_quality_filter",
        ):
            patch.setattr(f"{filters}.{module}.split_into_words", lambda text, _: text.split())
        patch.setattr(
            f"{filters}.c4_filters.split_into_sentences",
            lambda line, _: [""] * count_sentences(line),
        )
        yield


def ours(step: Step, text: str) -> tuple[str | None, str]:
    outcome = step(Batch([Document(text)]))
    return outcome.dropped[0], outcome.documents[0].text


def theirs(filter: Any, text: str) -> tuple[str | None, str]:
    from datatrove.data import Document as Theirs

    document = Theirs(text=text, id="")
    answer = filter.filter(document)
    reason = None if answer is True else RULES[answer[1]]
    return reason, document.text


@pytest.mark.parametrize("name", PAIRS)
@settings(max_examples=300, deadline=None)
@given(text=TEXTS)
def test_the_same_texts_are_dropped_by_the_same_rule(name: str, text: str) -> None:
    make, step = PAIRS[name]
    assert ours(step, text) == theirs(make(), text)


@pytest.mark.long
@pytest.mark.shared
@pytest.mark.parametrize("name", PAIRS)
def test_a_sample_of_wikipedia_is_judged_the_same(name: str, shared_data: Path) -> None:
    make, step = PAIRS[name]
    filter = make()
    with pa.CompressedInputStream(
        pa.OSFile(str(shared_data / "wikipedia-en-sample.jsonl.zst")), "zstd"
    ) as stream:
        texts = [json.loads(line)["text"] for line in io.TextIOWrapper(stream, "utf-8")]
    assert len(texts) == 6696
    dropped = 0
    for text in texts:
        mine = ours(step, text)
        assert mine == theirs(filter, text)
        dropped += mine[0] is not None
    assert dropped


def test_the_same_characters_are_punctuation() -> None:
    assert PUNCTUATION == PUNCTUATION_SET
    assert SENTENCE_TERMINALS == TERMINAL_PUNCTUATION


def test_personal_data_is_replaced_by_the_same_addresses() -> None:
    from datatrove.pipeline.formatters import PIIFormatter

    text = (
        "Write to bob.smith+list@mail.example.de, or (o'neil@x.co.uk). <a_b-c@host-name.org>!\n"
        "From 8.8.8.8 and 10.0.0.1, 192.168.1.1, 300.1.1.1, 127.0.0.1; then 1.1.1.1."
    )
    step = PiiStep(True, True)
    assert ours(step, text)[1] == PIIFormatter().format(text)
    formatter = PIIFormatter()
    assert formatter.emails_replacer.replacements == EMAILS
    assert formatter.ip_replacer.replacements == IPS
