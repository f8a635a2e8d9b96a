"""Documents that hold a piece of an evaluation set, dropped.

In: documents, and evaluation files (text, JSON lines, Parquet; gzip or zstd around them). Out: for
each document whether it shares a run of 13 words with one (the length of GPT-3's and Gopher's
decontamination); words in lower case and without punctuation. An evaluation text of fewer than 13
words finds nothing.

Memory: 8 bytes a run of 13 words of the evaluation files in each process; HellaSwag's validation
set needs 6 MB.
"""

from __future__ import annotations

import contextlib
import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hornbook.corpus.batch import Batch, Outcome
from hornbook.corpus.words import BASE, Hashes, plain_hashes
from hornbook.errors import HornbookError
from hornbook.gather.cache import user_cache
from hornbook.gather.streams import Expansion, decompress, kind_of, unwrapped

NGRAM = 13
"""Words: Brown et al. 2020, appendix C; Rae et al. 2021, appendix A1.3."""

HELLASWAG = "hellaswag"
"""The name that stands for HellaSwag's validation set, fetched once."""
HELLASWAG_URL = "https://raw.githubusercontent.com/rowanz/hellaswag/master/data/hellaswag_val.jsonl"
HELLASWAG_SHA256 = "0aa3b88843990f3f10a97b9575c94d7b71fb2205240ba04ae4884d9e9c992588"
_LARGEST_DOWNLOAD = 64 * 2**20  # it has 12 MB

_OPTION = "--prepare.decontaminate"


@dataclass(frozen=True)
class DecontaminateStep:
    """Drops documents that share a run of 13 words with an evaluation file.

    Args:
        files: evaluation files (`evaluation_file` finds them).
    """

    files: tuple[Path, ...]
    name = "decontaminate"
    rules = ("decontaminate.overlap",)

    def __call__(self, batch: Batch) -> Outcome:
        counts: Counter[str] = Counter()
        dropped: list[str | None] = []
        known = [(path.name, evaluation_ngrams(path)) for path in self.files]
        for words in batch.word_hashes:
            ngrams = ngram_hashes(words)
            rule = None
            for name, known_ngrams in known:
                if found := _count_shared(ngrams, known_ngrams):
                    counts[f"decontaminate.{name}.documents"] += 1
                    counts[f"decontaminate.{name}.ngrams"] += found
                    rule = "decontaminate.overlap"
            dropped.append(rule)
        return Outcome(batch.documents, dropped, dict(counts))


def evaluation_file(name: str) -> Path:
    """The file of this name, or of a known evaluation set, which is fetched where needed.

    Raises:
        HornbookError: there is none, or it has nothing to compare.
    """
    path = Path(name).expanduser()
    if name == HELLASWAG and not path.exists():
        path = user_cache() / HELLASWAG / "hellaswag_val.jsonl"
        if not path.exists():
            _fetch(HELLASWAG_URL, path, HELLASWAG_SHA256)
    if not path.is_file():
        raise HornbookError(
            "is no file",
            where=f"{_OPTION} {name}",
            hint=f"Name evaluation files, or `{HELLASWAG}`",
        )
    if not len(evaluation_ngrams(path)):
        raise HornbookError(
            f"has no text of {NGRAM} words, so there is nothing to compare with",
            where=path,
            hint=f"Leave it out of {_OPTION}",
        )
    return path


def evaluation_ngrams(path: Path) -> Hashes:
    """The sorted hashes of all runs of 13 words in a file's texts."""
    return _evaluation_ngrams(path, path.stat().st_mtime_ns)


@cache  # a file that is written anew has another time
def _evaluation_ngrams(path: Path, changed: int) -> Hashes:
    hashes = [ngram_hashes(plain_hashes(text)) for text in _texts(path)]
    return np.unique(np.concatenate([np.empty(0, np.uint64), *hashes]))


def ngram_hashes(words: Hashes) -> Hashes:
    """uint64 [max(0, words - 12)]: a hash of each run of 13 words."""
    count = max(0, len(words) - NGRAM + 1)
    hashes = np.zeros(count, np.uint64)
    for first in range(NGRAM):
        hashes = hashes * np.uint64(BASE) + words[first : first + count]
    return hashes


def _count_shared(ngrams: Hashes, known: Hashes) -> int:
    places = np.minimum(np.searchsorted(known, ngrams), len(known) - 1)
    return int(np.count_nonzero(known[places] == ngrams))


def _texts(path: Path) -> Iterator[str]:
    """The texts of an evaluation file: rows of a table, or the whole."""
    with contextlib.ExitStack() as stack:
        stream: Any = stack.enter_context(path.open("rb"))
        name = path.name
        kind = kind_of(stream.peek(512), name, "utf-8")
        if kind in ("gzip", "zstd", "bzip2", "xz"):
            where = str(path)
            stream = decompress(stream, kind, Expansion(path.stat().st_size, where), where)
            name = unwrapped(name)
            kind = kind_of(stream.peek(512), name, "utf-8")
        try:
            if kind == "parquet":
                for batch in pq.ParquetFile(path).iter_batches(batch_size=1024):
                    yield from map(_text_of_row, batch.to_pylist())
            elif kind == "jsonl":
                yield from map(_text_of_row, map(json.loads, _lines(stream)))
            else:
                yield io.TextIOWrapper(stream, encoding="utf-8-sig").read()
        except (ValueError, pa.ArrowException) as error:
            raise HornbookError(
                f"is not a readable evaluation file ({error})",
                where=path,
                hint="Text as UTF-8, JSON lines and Parquet are read",
            ) from error


def _lines(stream: Iterable[bytes]) -> Iterator[bytes]:
    return (line for line in stream if line.strip())


def _text_of_row(row: Any) -> str:
    """What a row asks and answers, as one text: all its strings, in their order.

    Of HellaSwag's rows, the context with the right one of four endings.
    """
    if isinstance(row, dict) and {"ctx", "endings", "label"} <= row.keys():
        label = str(row["label"])  # a number, or, on the Hub, its digits; none in the test set
        right = row["endings"][int(label) :][:1] if label.isdigit() else []
        return " ".join([row["ctx"], *right])
    return " ".join(_strings(row))


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _strings(inner)


def _fetch(url: str, path: Path, sha256: str) -> None:
    from hornbook.gather.download import DownloadError, download, open_client  # 0.1 s to import

    try:
        with open_client() as client:
            download(client, url, path, label=path.name, largest=_LARGEST_DOWNLOAD, sha256=sha256)
    except DownloadError as error:
        raise HornbookError(
            f"could not be fetched: {error}",
            where=url,
            hint=f"Get the file another way, and name it: {_OPTION} [PATH]",
        ) from error
