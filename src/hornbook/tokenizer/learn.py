"""Tokenizers made from your own text: byte-level BPE, and one token a character.

In: texts. Out: the text of a tokenizer.json.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator

import tokenizers
from tokenizers import models, pre_tokenizers, trainers

from hornbook.errors import HornbookError
from hornbook.tokenizer.alphabet import byte_characters, byte_level_bytes
from hornbook.tokenizer.assemble import (
    LLAMA3_PATTERN,
    AddedToken,
    SplitPattern,
    named_tokens,
    tokenizer_json,
)
from hornbook.tokenizer.special import END_OF_TEXT, NAMED

MINIMUM_FREQUENCY = 2
"""A pair that occurs once is no pattern: merging it only learns single words by heart."""

_TRAINING_CHARACTERS = 2**20
"""Longer texts go to the trainer in parts, which bounds its memory; a word is cut at most once a
million characters."""


def learn_bpe(
    texts: Iterable[str],
    vocabulary: int,
    split: SplitPattern,
    *,
    special_tokens: bool,
    fewer_will_do: bool = False,
) -> str:
    """Train a byte-level BPE (Sennrich et al. 2016, on bytes as GPT-2) on `texts`.

    Args:
        texts: the training text.
        vocabulary: tokens in all: 256 bytes, merges, end of text and named special tokens.
        split: GPT-2's or Llama-3's way to cut text into words; merges stay within a word.
        special_tokens: reserve the sixteen named special tokens.
        fewer_will_do: end with fewer tokens where the text allows no more.

    Raises:
        HornbookError: the vocabulary is too small for the bytes, or larger than the text allows.
    """
    reserved = _reserved(vocabulary, special_tokens=special_tokens)
    trained = tokenizers.Tokenizer(models.BPE())
    trained.pre_tokenizer = _pre_tokenizer(split)
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - reserved,
        min_frequency=MINIMUM_FREQUENCY,
        initial_alphabet=list(byte_characters()),
        show_progress=False,
    )
    trained.train_from_iterator(_parts(texts), trainer)
    model = json.loads(trained.to_str())["model"]
    reached = len(model["vocab"]) + reserved
    if reached < vocabulary and not fewer_will_do:
        raise HornbookError(
            f"the training text allows a vocabulary of only {reached} tokens, "
            f"{vocabulary} were asked for",
            where="tokenize.vocabulary",
            hint=f"Set tokenize.vocabulary to {reached} or less (fewer is better for little text; "
            "0: after the size of the text), or bring more text",
        )
    tokens = {byte_level_bytes(piece): id for piece, id in model["vocab"].items()}
    merges = [(byte_level_bytes(left), byte_level_bytes(right)) for left, right in model["merges"]]
    return _with_reserved(tokens, merges, split, special_tokens=special_tokens)


def learn_characters(
    texts: Iterable[str], vocabulary: int, *, special_tokens: bool
) -> tuple[str, int]:
    """A tokenizer with one token for each character of `texts`.

    It is a byte-level BPE whose merges put the UTF-8 bytes of a character together and nothing
    else, so a character that was never seen is still spelt by its bytes. Characters of three and
    four bytes need their first bytes as tokens in between, which many of them share.

    Returns:
        the text of the tokenizer.json, and how many characters (the rarest) found no room in
        `vocabulary`.

    Raises:
        HornbookError: the vocabulary is too small for the bytes.
    """
    reserved = _reserved(vocabulary, special_tokens=special_tokens)
    counts = Counter[str]()
    for text in texts:
        counts.update(text)
    # Most frequent first; the code point decides between equals, so the order is always the same.
    characters = sorted(counts, key=lambda character: (-counts[character], character))
    tokens = {bytes([byte]): byte for byte in range(256)}
    merges = []
    left_out = 0
    for character in characters:
        encoded = character.encode()
        new = [encoded[:end] for end in range(2, len(encoded) + 1) if encoded[:end] not in tokens]
        if len(tokens) + len(new) + reserved > vocabulary:
            left_out += 1
            continue
        for token in new:
            tokens[token] = len(tokens)
            merges.append((token[:-1], token[-1:]))
    written = _with_reserved(tokens, merges, "gpt2", special_tokens=special_tokens)
    return written, left_out


def _reserved(vocabulary: int, *, special_tokens: bool) -> int:
    """How many special tokens there will be; refuses a vocabulary with no room beside them."""
    reserved = 1 + (len(NAMED) if special_tokens else 0)
    if vocabulary <= 256 + reserved:
        raise HornbookError(
            f"a vocabulary of {vocabulary} leaves no room beside 256 bytes and {reserved} special "
            f"token{'s' if reserved > 1 else ''}",
            where="tokenize.vocabulary",
            hint=f"Set it to {512 + reserved} or more",
        )
    return reserved


def _with_reserved(
    tokens: dict[bytes, int],
    merges: list[tuple[bytes, bytes]],
    split: SplitPattern,
    *,
    special_tokens: bool,
) -> str:
    """tokenizer.json with end of text, then the named tokens, at the end of the vocabulary."""
    end = AddedToken(len(tokens), END_OF_TEXT)
    named = named_tokens(end.id + 1) if special_tokens else []
    return tokenizer_json(tokens, merges, split, own_special=[end, *named])


def _pre_tokenizer(split: SplitPattern) -> pre_tokenizers.PreTokenizer:
    if split == "gpt2":
        return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(LLAMA3_PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def _parts(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        for start in range(0, len(text), _TRAINING_CHARACTERS):
            yield text[start : start + _TRAINING_CHARACTERS]
