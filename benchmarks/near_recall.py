"""Near duplicates planted in real text: how many are found, and how many that are found are near.

    python benchmarks/near_recall.py wikipedia.jsonl.zst

Of each of 4,000 real texts a copy is made in which so many words are replaced by words from other
texts that the Jaccard similarity of the two sets of 5-word shingles is 0.8, and one at 0.5. Recall:
the share of copies at 0.8 that are put into one set with their original. Precision: of the pairs
(document, first of its set) the share whose true similarity is at least the threshold of 0.7.
"""

from __future__ import annotations

import random
import tempfile
import time
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from common import parser_for, write_result

from hornbook.corpus.batch import Batch
from hornbook.corpus.near import Signed, SignedRows, near_duplicates
from hornbook.corpus.signatures import shingles, signatures
from hornbook.documents import Document
from hornbook.gather.readers import read_inputs

SHINGLE, PERMUTATIONS, SEED, THRESHOLD = 5, 112, 42, 0.7
SETTINGS = [(14, 8), (16, 7), (18, 6)]
WORDS = (200, 2_000)
"""Length of the texts: pieces of articles."""

Hashes = npt.NDArray[np.uint64]


def main() -> None:
    parser = parser_for(__doc__)
    parser.add_argument("text", help="a file of documents")
    arguments = parser.parse_args()
    pairs = 200 if arguments.tiny else 4_000
    draw = random.Random(0)
    originals = pieces(arguments.text, pairs, draw)
    pool = np.concatenate(originals)
    planted = [with_similarity(words, 0.8, pool, draw) for words in originals]
    negatives = [with_similarity(words, 0.5, pool, draw) for words in originals]
    documents = [*originals, *planted, *negatives]
    start = time.perf_counter()
    signed = signatures(documents, SHINGLE, PERMUTATIONS, SEED)
    seconds = time.perf_counter() - start
    true = np.mean([similarity(a, b) for a, b in zip(originals, planted, strict=True)])
    rows = []
    for bands, rows_of_band in SETTINGS:
        recall, precision, found = measured(documents, signed, bands, rows_of_band, pairs)
        expected = 1 - (1 - true**rows_of_band) ** bands
        rows.append(
            {
                "bands x rows": f"{bands} x {rows_of_band}",
                "recall at 0.8": f"{recall:.3f}",
                "compared in theory": f"{expected:.3f}",
                "precision": f"{precision:.4f}",
                "pairs found": f"{found:,}",
            }
        )
        print(rows[-1])
    tokens = sum(map(len, documents))
    result: dict[str, Any] = {
        "pairs": pairs,
        "mean_similarity": float(true),
        "signed_words_per_second": tokens / seconds,
        "table": rows,
    }
    write_result(arguments.out, "near_recall", result)


def pieces(path: str, count: int, draw: random.Random) -> list[Hashes]:
    """The hashed words of pieces of real documents, no two of the same one."""
    found = []
    for document in islice(read_inputs([path], warn=print), 10 * count):
        words = Batch([document]).word_hashes[0]
        if len(words) >= WORDS[0]:
            found.append(words[: draw.randrange(*WORDS)])
        if len(found) == count:
            return found
    # Fewer documents than pairs: further pieces of the same ones, which do not overlap.
    texts = [d for d in read_inputs([path], warn=print) if len(d.text) > 20_000]
    for document in texts:
        words = Batch([Document(document.text)]).word_hashes[0]
        for start in range(WORDS[1], len(words) - WORDS[1], WORDS[1]):
            found.append(words[start : start + draw.randrange(*WORDS)])
            if len(found) == count:
                return found
    raise SystemExit(f"{path}: not enough text for {count:,} pairs")


def with_similarity(words: Hashes, wanted: float, pool: Hashes, draw: random.Random) -> Hashes:
    """A copy in which runs of words were replaced until the similarity is `wanted`, or just above:
    of ten words as long as that is possible, then of three, then single ones."""
    copy = words.copy()
    lengths = [10, 3, 1]
    while lengths:
        at = draw.randrange(len(words) - lengths[0])
        before = copy[at : at + lengths[0]].copy()
        source = draw.randrange(len(pool) - lengths[0])
        copy[at : at + lengths[0]] = pool[source : source + lengths[0]]
        if similarity(words, copy) < wanted:
            copy[at : at + lengths[0]] = before
            del lengths[0]
    return copy


def similarity(one: Hashes, other: Hashes) -> float:
    """The Jaccard similarity of two documents' sets of shingles."""
    a, b = (np.unique(shingles([each], SHINGLE)[0]) for each in (one, other))
    common = len(np.intersect1d(a, b, assume_unique=True))
    return common / (len(a) + len(b) - common)


def measured(
    documents: list[Hashes], signed: npt.NDArray[np.uint32], bands: int, rows: int, pairs: int
) -> tuple[float, float, int]:
    """Recall, precision, and the number of pairs."""
    pieces = [SignedRows(signed, bands, rows)]
    everybody = np.ones(len(signed), np.bool_)
    with tempfile.TemporaryDirectory() as folder:
        sets = near_duplicates(
            Signed(pieces), bands, THRESHOLD, Path(folder), 10**8, everybody, lambda: None
        )
        roots = sets.find(np.arange(len(signed)))
    recall = float((roots[pairs : 2 * pairs] == roots[:pairs]).mean())
    joined = np.flatnonzero(roots != np.arange(len(signed)))
    near = [similarity(documents[number], documents[roots[number]]) >= THRESHOLD
            for number in joined]  # fmt: skip
    return recall, float(np.mean(near)) if near else 1.0, len(near)


if __name__ == "__main__":
    main()
