"""Encoding at scale: several libraries behind one protocol, none trusted unchecked.

In: a `Tokenizer` and batches of texts. Out: arrays of ids equal to `Tokenizer.encode`'s. The fast
optional library is used only after it gave the same ids as `tokenizers` on a sample of the real
data; the choice, and why, is said aloud and kept for the manifest.
"""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np

from hornbook.errors import HornbookError
from hornbook.processes import start_worker, usable_cores
from hornbook.progress import say
from hornbook.tokenizer.config import TokenizeConfig
from hornbook.tokenizer.tokenizer import Tokenizer

CHECKED_DOCUMENTS = 64
"""Documents of the real data on which a fast library must give the same ids."""

_CHECKED_CHARACTERS = 5_000
"""Of each such document: 64 of them take `tokenizers` 0.2 s, whatever their size."""

_PART_CHARACTERS = 2**18
"""Text handed to a worker process at a time: much more than a hand-over costs, little enough
that the workers end together."""


class Encoder(Protocol):
    """Turns texts into ids; a context manager, which ends its worker processes on leaving."""

    @property
    def name(self) -> str:
        """The library, for the manifest."""

    @property
    def checked_documents(self) -> int:
        """On how many documents its ids were compared with `tokenizers`' (0 for `tokenizers`)."""

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """int32 ids of each text, no special tokens added and none made out of text."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


class TokenizersEncoder:
    """Hugging Face `tokenizers`, the reference, in several processes where there is much text."""

    name = "tokenizers"
    checked_documents = 0

    def __init__(self, tokenizer: Tokenizer, workers: int = 1):
        """`workers` processes encode; with 1, or little text, it is done in this process."""
        self._tokenizer = tokenizer
        self._workers = workers
        self._pool: ProcessPoolExecutor | None = None

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """int32 ids of each text. Raises `HornbookError` when a worker process died."""
        parts = list(_parts(texts))
        if self._workers == 1 or len(parts) < 2:
            return [self._tokenizer.encode_array(text) for text in texts]
        if self._pool is None:
            # A fresh interpreter for each: forking a process that has threads can hang it.
            self._pool = ProcessPoolExecutor(
                self._workers,
                mp_context=multiprocessing.get_context("spawn"),
                initializer=_start_worker,
                initargs=(self._tokenizer.path,),
            )
        try:
            return [ids for part in self._pool.map(_encode_in_worker, parts) for ids in part]
        except BrokenProcessPool as error:
            raise HornbookError(
                "a process that encodes text died, probably for want of memory",
                where="tokenize.workers",
                hint=f"Set it below {self._workers}; with 1 no further process is started",
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None


class GigatokenEncoder:
    """gigatoken (optional, many times faster); it uses all cores by threads of its own."""

    name = "gigatoken"

    def __init__(self, tokenizer: Tokenizer):
        """Raises `ImportError` where it is not installed, `RuntimeError` where it cannot."""
        import gigatoken

        self.checked_documents = 0
        content = json.loads(tokenizer.content)
        # It has no switch like `encode_special_tokens`: what is not there cannot match in text.
        content["added_tokens"] = [
            token for token in content["added_tokens"] if not token["special"]
        ]
        content["post_processor"] = None  # this may add special tokens
        self._backend: Any = gigatoken.Tokenizer.from_json(json.dumps(content))

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """int32 ids of each text."""
        layout = self._backend.encode_batch(list(texts)).layout
        ids = np.asarray(layout.content.data).astype(np.int32)
        return np.split(ids, np.asarray(layout.offsets.data)[1:-1]) if texts else []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to end: the threads belong to the library."""


def choose_encoder(tokenizer: Tokenizer, config: TokenizeConfig, sample: Sequence[str]) -> Encoder:
    """The encoder that `config.encoder` names, or for `auto` the fastest that is right.

    Args:
        tokenizer: what the ids must equal.
        config: `encoder` and `workers` are read.
        sample: texts of the real data; the first `CHECKED_DOCUMENTS` are compared.

    Raises:
        HornbookError: gigatoken was asked for by name, but is missing or gives other ids.
    """
    reference = TokenizersEncoder(tokenizer, config.workers or usable_cores())
    if config.encoder == "tokenizers":
        return reference
    hint = "Set it to auto"
    try:
        fast = GigatokenEncoder(tokenizer)
        fast.checked_documents = check_encoder(fast, tokenizer, sample)
    except ImportError:
        reason, hint = "gigatoken is not installed", '`pip install "hornbook[fast]"`'
    except RuntimeError as error:
        reason = f"gigatoken cannot use this tokenizer ({str(error).splitlines()[0]})"
    except HornbookError as error:
        reason = str(error)
    else:
        say(
            f"encoding with gigatoken: same ids as tokenizers on {fast.checked_documents} documents"
        )
        return fast
    if config.encoder == "gigatoken":
        raise HornbookError(reason, where="tokenize.encoder", hint=hint)
    say(f"encoding with tokenizers: {reason}")
    return reference


def check_encoder(encoder: Encoder, tokenizer: Tokenizer, sample: Sequence[str]) -> int:
    """Compare an encoder's ids with `tokenizer`'s on texts of `sample` and on nasty strings.

    Returns:
        the number of documents compared.

    Raises:
        HornbookError: they differ; it shows where.
    """
    documents = [text[:_CHECKED_CHARACTERS] for text in sample[:CHECKED_DOCUMENTS]]
    texts = documents + nasty_texts(tokenizer)
    for text, ids in zip(texts, encoder.encode_batch(texts), strict=True):
        expected = tokenizer.encode(text)
        if ids.tolist() != expected:
            excerpt = _excerpt(text, ids.tolist(), expected, tokenizer)
            raise HornbookError(f"{encoder.name} gives other ids than tokenizers for {excerpt}")
    return len(documents)


def nasty_texts(tokenizer: Tokenizer) -> list[str]:
    """Strings on which libraries for tokenizing have been known to differ."""
    special = " ".join(tokenizer.special_ids)
    return [
        "",
        f"{special}{special}",
        *("x" + space * count + "y" for space in " \t\n" for count in (1, 2, 9, 33, 70)),
        " \n \r\n\r\n\t \u00a0\u3000\u2028 \x00\x1b\x7f\x85 end ",
        "I'll I'LL he's 'S 'ſ don’t we'veve ''' ''d",
        "1 12 123 1234567890 3.14 １２３ ٣٤٥ ½ Ⅷ x²",
        "ﬁ é e\u0301 ａ 日本語 한국어 العربية हिन्दी ไทย",
        "👩‍👩‍👧‍👦🏳️‍🌈👍🏽 \U0010ffff\ufffd\ufeff",
        "<|<||>|><|end of text|> {{}}://_-__--==!!??...",
    ]


def _excerpt(text: str, ids: list[int], expected: list[int], tokenizer: Tokenizer) -> str:
    """The text around the first place where two encodings of it differ."""
    pairs = enumerate(zip(ids, expected, strict=False))
    same = next((at for at, (one, other) in pairs if one != other), min(len(ids), len(expected)))
    start = len(tokenizer.decode(expected[:same]))
    return repr(text[max(0, start - 10) : start + 30])


_worker_tokenizer: Tokenizer | None = None
"""In a worker process, and nowhere else: what it encodes with."""


def _start_worker(path: Path) -> None:
    global _worker_tokenizer
    start_worker()
    _worker_tokenizer = Tokenizer(path)


def _encode_in_worker(texts: list[str]) -> list[np.ndarray]:
    assert _worker_tokenizer is not None
    return [_worker_tokenizer.encode_array(text) for text in texts]


def _parts(texts: Sequence[str]) -> Iterator[list[str]]:
    """The texts in groups of about `_PART_CHARACTERS`."""
    part: list[str] = []
    characters = 0
    for text in texts:
        part.append(text)
        characters += len(text)
        if characters >= _PART_CHARACTERS:
            yield part
            part, characters = [], 0
    if part:
        yield part
