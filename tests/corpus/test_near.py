"""Near duplicates: signatures against the plain definition, planted pairs through the engine."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hornbook.corpus.batch import Batch
from hornbook.corpus.config import NearConfig, PrepareConfig
from hornbook.corpus.near import Signed, SignedRows, near_duplicates
from hornbook.corpus.prepare import prepare
from hornbook.corpus.signatures import UNSIGNED, band_hashes, shingles, signatures
from hornbook.documents import Document, read_documents
from hornbook.errors import HornbookError

HASHES = st.lists(st.lists(st.integers(0, 50), max_size=12), max_size=8)


def edited(words: list[str], share: float, draw: random.Random) -> list[str]:
    """The words with a run replaced, so that about `share` of the shingles are other ones."""
    count = round(len(words) * share)
    start = draw.randrange(len(words) - count)
    new = [f"new{draw.randrange(10**9)}" for _ in range(count)]
    return words[:start] + new + words[start + count :]


def some_words(draw: random.Random, count: int = 300) -> list[str]:
    return [f"w{draw.randrange(5_000)}" for _ in range(count)]


@settings(max_examples=100, deadline=None)
@given(HASHES, st.integers(1, 5))
def test_shingles_are_the_runs_of_words_inside_each_document(
    documents: list[list[int]], size: int
) -> None:
    arrays = [np.array(words, np.uint64) for words in documents]
    if not arrays:
        return
    hashes, offsets = shingles(arrays, size)
    for number, words in enumerate(documents):
        mine = hashes[int(offsets[number]) : int(offsets[number + 1])]
        runs = [tuple(words[at : at + size]) for at in range(len(words) - size + 1)]
        assert len(mine) == len(runs)
        assert len(set(mine.tolist())) == len(set(runs)), "equal exactly where the runs are"
        alone, _ = shingles([arrays[number]], size)
        assert mine.tolist() == alone.tolist(), "whatever stands beside it"


def test_signatures_estimate_the_similarity_of_shingles() -> None:
    draw = random.Random(0)
    errors = []
    for _ in range(200):
        words = some_words(draw)
        texts = [" ".join(words), " ".join(edited(words, draw.random() / 2, draw))]
        hashes = Batch([Document(text) for text in texts]).word_hashes
        one, other = (set(shingles([each], 5)[0].tolist()) for each in hashes)
        signed = signatures(hashes, 5, 112, 42)
        errors.append((signed[0] == signed[1]).mean() - len(one & other) / len(one | other))
    assert abs(np.mean(errors)) < 0.01 and np.std(errors) < 0.06
    assert signed.dtype == np.uint32 and signed.shape == (2, 112)


def test_a_text_shorter_than_a_shingle_has_no_signature() -> None:
    hashes = Batch(
        [Document(text) for text in ("one two three four", "?!", "1 2 3 4 5")]
    ).word_hashes
    signed = signatures(hashes, 5, 16, 42)
    assert (signed[:2] == UNSIGNED).all() and (signed[2] != UNSIGNED).any()


def test_bands_are_equal_exactly_where_their_rows_are() -> None:
    draw = np.random.default_rng(0)
    signed = draw.integers(0, 3, (200, 12), np.uint32)
    hashed = band_hashes(signed, 3, 4)
    for band in range(3):
        rows = [tuple(row) for row in signed[:, 4 * band : 4 * band + 4].tolist()]
        for a in range(0, 200, 7):
            equal = [row == rows[a] for row in rows]
            assert (hashed[band] == hashed[band][a]).tolist() == equal


@pytest.mark.parametrize("memory", [1, 10**9])
def test_a_set_is_found_across_pieces_and_weak_pairs_are_not_joined(
    tmp_path: Path, memory: int
) -> None:
    draw = np.random.default_rng(0)
    signed = draw.integers(0, 2**32 - 1, (40, 112), np.uint32)
    signed[30] = signed[3]
    signed[30, :20] += np.uint32(1)  # 0.82 alike
    signed[39] = signed[30]
    signed[39, 100:] += np.uint32(1)
    signed[8, :70] = signed[5, :70]  # several bands alike, but only 0.63 of all places
    pieces = [SignedRows(signed[a:b], 16, 7) for a, b in ((0, 10), (10, 10), (10, 40))]
    sets = near_duplicates(
        Signed(pieces), 16, 0.7, tmp_path, memory, np.ones(40, np.bool_), lambda: None
    )
    roots = sets.find(np.arange(40))
    assert roots[30] == roots[39] == 3
    assert [int(r) for r in roots] == [3 if n in (30, 39) else n for n in range(40)]


def write(path: Path, texts: list[str]) -> PrepareConfig:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return PrepareConfig(inputs=[str(path)], near=NearConfig(on=True), workers=1)


def test_planted_pairs_are_dropped_and_the_first_stays(tmp_path: Path) -> None:
    draw = random.Random(1)
    originals = [some_words(draw) for _ in range(300)]
    texts = [" ".join(words) for words in originals]
    texts += [" ".join(edited(words, 0.1, draw)) for words in originals]  # similarity 0.8
    texts += [" ".join(edited(words, 0.33, draw)) for words in originals]  # similarity 0.5
    report = prepare(write(tmp_path / "in.jsonl", texts), tmp_path / "out")
    assert report.dropped["near.duplicate"].documents >= 0.95 * 300
    kept = {
        d.text for name in ("train", "validation") for d in read_documents(tmp_path / "out" / name)
    }
    assert set(texts[:300]) <= kept and len(kept & set(texts[600:])) >= 298
    assert report.kept.documents == len(kept)
    samples = [sample["text"] for sample in report.dropped["near.duplicate"].samples]
    assert len(samples) == 3 and set(samples) <= {text[:120] for text in texts[300:600]}


def test_a_set_is_split_as_one_whichever_comes_first(tmp_path: Path) -> None:
    draw = random.Random(2)
    originals = [some_words(draw) for _ in range(150)]
    pairs = [(" ".join(words), " ".join(edited(words, 0.02, draw))) for words in originals]
    splits = []
    for turn in (0, 1):
        texts = [pair[turn] for pair in pairs] + [pair[1 - turn] for pair in pairs]
        config = write(tmp_path / f"{turn}.jsonl", texts)
        config.validation_share = 0.3
        prepare(config, tmp_path / str(turn))
        held_out = {d.text for d in read_documents(tmp_path / f"{turn}/validation")}
        splits.append([pair[turn] in held_out for pair in pairs])
    assert splits[0] == splits[1] and 20 < sum(splits[0]) < 70


@pytest.mark.parametrize(
    "near", [{"bands": 20}, {"rows": 0}, {"threshold": 1.5}, {"shingle": 0}, {"permutations": 0}]
)
def test_settings_without_a_meaning(tmp_path: Path, near: dict[str, float]) -> None:
    config = PrepareConfig(inputs=["x"], near=NearConfig(**near))  # type: ignore[arg-type]
    with pytest.raises(HornbookError, match=r"prepare\.near\."):
        prepare(config, tmp_path)
