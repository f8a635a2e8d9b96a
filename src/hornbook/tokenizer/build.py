"""Make the tokenizer that a recipe asks for.

In: the tokenize settings and the training documents. Out: a folder with tokenizer.json.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

from hornbook.documents import read_documents
from hornbook.errors import HornbookError
from hornbook.files import atomic_path, write_text
from hornbook.progress import bar, say, warn
from hornbook.tokenizer.config import TokenizeConfig
from hornbook.tokenizer.known import KNOWN, known_tokenizer
from hornbook.tokenizer.learn import learn_bpe, learn_characters
from hornbook.tokenizer.sample import Sample, choose_sample
from hornbook.tokenizer.tokenizer import DECLARATIONS, FILE_NAME, Tokenizer

_CHECKED_DOCUMENTS = 64

SMALLEST_FITTING, LARGEST_FITTING = 512, 32768
"""Bounds of a vocabulary that is chosen after the size of the text."""


def build_tokenizer(config: TokenizeConfig, documents: Path, out: Path) -> Tokenizer:
    """Train or import the tokenizer of `config`, write it to `out`, and load it from there.

    Args:
        config: the tokenize settings; `kind` decides what is made.
        documents: a folder of document shards, the training split. Trained kinds learn from it;
            for the others it is only a check that text comes back unchanged.
        out: the folder that gets tokenizer.json.

    Raises:
        HornbookError: a file is missing or is not what it should be, the network is needed and
            absent, or the vocabulary is larger than the documents allow.
    """
    target = out / FILE_NAME
    if config.kind == "file":
        _copy(config, target)
    elif config.kind in KNOWN:
        text = known_tokenizer(config.kind, config.file, special_tokens=config.special_tokens)
        write_text(target, text)
    else:
        write_text(target, _learn(config, documents))
    tokenizer = Tokenizer.load(target)
    if config.kind == "file":
        _check_round_trip(tokenizer, documents)
    return tokenizer


def _learn(config: TokenizeConfig, documents: Path) -> str:
    if config.file is not None:
        raise HornbookError(
            f"is set, but a tokenizer of kind {config.kind} is made from the documents",
            where="tokenize.file",
            hint="Set tokenize.kind to file, or remove tokenize.file",
        )
    sample = choose_sample(documents, config.sample_megabytes * 10**6)
    texts = _shown(sample, config.kind)
    if config.kind == "bpe":
        vocabulary = config.vocabulary or fitting_vocabulary(sample.bytes)
        say(f"training a byte-level BPE of {vocabulary:,} tokens")
        return learn_bpe(
            texts,
            vocabulary,
            config.split_pattern,
            special_tokens=config.special_tokens,
            fewer_will_do=config.vocabulary == 0,
        )
    most = config.vocabulary or LARGEST_FITTING
    text, left_out = learn_characters(texts, most, special_tokens=config.special_tokens)
    if left_out:
        warn(
            f"{left_out:,} rare characters found no room in tokenize.vocabulary "
            f"({most:,}); they are spelt in bytes"
        )
    return text


def fitting_vocabulary(text_bytes: int) -> int:
    """A vocabulary for a text: the power of two nearest to a token for every 1,000 bytes.

    Shakespeare's 4.8 MB give 4,096; 2,048 and 8,192 came within 0.02 bits per byte of it there, and
    1,024 was worse than 2,048 (docs/lab-notes.md).
    """
    wanted = 2 ** round(math.log2(max(text_bytes, 1) / 1000))
    return int(min(max(wanted, SMALLEST_FITTING), LARGEST_FITTING))


def _shown(sample: Sample, kind: str) -> Iterator[str]:
    """The texts of a sample, with a bar that shows how much of them has been taken."""
    with bar(
        f"learning {kind} from {sample.bytes / 1e6:,.1f} MB of text", sample.bytes
    ) as progress:
        for text in sample.texts():
            yield text
            progress.advance(len(text.encode()))


def _copy(config: TokenizeConfig, target: Path) -> None:
    """Copy a tokenizer.json byte for byte, and what declares its end of text, if it is there."""
    if config.file is None:
        raise HornbookError(
            "`kind: file` needs the tokenizer's path",
            where="tokenize.file",
            hint="Set it to a tokenizer.json, or to a folder that has one",
        )
    source = Tokenizer.load(Path(config.file).expanduser()).path
    for name, copy in ((source.name, target), (DECLARATIONS, target.with_name(DECLARATIONS))):
        original = source.with_name(name)
        if original.is_file():
            with atomic_path(copy) as temporary:
                temporary.write_bytes(original.read_bytes())


def _check_round_trip(tokenizer: Tokenizer, documents: Path) -> None:
    """Warn where text does not come back exactly (some normalise it)."""
    for number, document in enumerate(read_documents(documents)):
        if number == _CHECKED_DOCUMENTS:
            return
        if tokenizer.decode(tokenizer.encode(document.text)) != document.text:
            warn(
                f"{tokenizer.path}: this tokenizer changes some texts (document {document.id}); "
                "the model learns what it gives back, not the very text"
            )
            return
