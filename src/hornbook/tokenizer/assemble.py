"""The tokenizer.json of a byte-level BPE, put together from its parts.

In: tokens with their ids, merges, a split pattern, added tokens. Out: the text of a tokenizer.json
that `tokenizers`, `transformers` and llama.cpp's converter read.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from hornbook.tokenizer.alphabet import spell
from hornbook.tokenizer.special import NAMED

SplitPattern = Literal["gpt2", "llama3"]

LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How Llama-3 and cl100k_base cut text into words: spelt as Llama-3's own tokenizer.json has it,
because other libraries recognise the pattern by its spelling."""


@dataclass(frozen=True)
class AddedToken:
    """A token that is matched as a whole, beside the merges.

    `special` ones are never matched in text by `Tokenizer.encode`; others are.
    """

    id: int
    content: str
    special: bool = True


def named_tokens(first_id: int) -> list[AddedToken]:
    """The sixteen named special tokens, from `first_id` on."""
    return [AddedToken(first_id + offset, name) for offset, name in enumerate(NAMED)]


def tokenizer_json(
    tokens: Mapping[bytes, int],
    merges: Iterable[tuple[bytes, bytes]],
    split: SplitPattern,
    *,
    own_special: Sequence[AddedToken],
    added: Sequence[AddedToken] = (),
    whole_words: bool = False,
) -> str:
    """The text of a tokenizer.json.

    Args:
        tokens: id of each token by its bytes; all 256 single bytes must be there.
        merges: pairs of tokens, first merge first.
        split: how text is cut into words before merging.
        own_special: special tokens that stand in the vocabulary itself, at any free id.
        added: tokens beside the vocabulary; `tokenizers` numbers these on from the number of
            tokens in the vocabulary, so their ids must be just that (`Tokenizer` checks it).
        whole_words: give a word that is itself a token at once, without merging (needed where
            merging cannot reach some token, as in cl100k_base).
    """
    vocabulary = {spell(token): id for token, id in tokens.items()}
    vocabulary |= {token.content: token.id for token in own_special}
    ordered = dict(sorted(vocabulary.items(), key=lambda item: item[1]))
    value: dict[str, Any] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            _added_token(token)
            for token in sorted([*own_special, *added], key=lambda token: token.id)
        ],
        "normalizer": None,
        "pre_tokenizer": _pre_tokenizer(split),
        "post_processor": _byte_level(use_regex=False),
        "decoder": _byte_level(use_regex=False),
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": whole_words,
            "vocab": {},
            "merges": [],
        },
    }
    # Token by token and merge by merge, a line each: json's own indenting takes 0.5 s for GPT-2's.
    entries = json.dumps(ordered, ensure_ascii=False, separators=(",\n   ", ": "))[1:-1]
    encode = json.JSONEncoder(ensure_ascii=False).encode
    pairs = ",\n   ".join(encode([spell(left), spell(right)]) for left, right in merges)
    text = json.dumps(value, ensure_ascii=False, indent=1)
    text = text.replace('"vocab": {}', f'"vocab": {{\n   {entries}\n  }}')
    return text.replace('"merges": []', f'"merges": [\n   {pairs}\n  ]') + "\n"


def _added_token(token: AddedToken) -> dict[str, Any]:
    return {
        "id": token.id,
        "content": token.content,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        # As transformers declares them: text has no normalizer here, so it makes no difference.
        "normalized": not token.special,
        "special": token.special,
    }


def llama3_split() -> dict[str, Any]:
    """The pre-tokenizer that cuts text by Llama-3's pattern, as tokenizer.json has it."""
    return {
        "type": "Split",
        "pattern": {"Regex": LLAMA3_PATTERN},
        "behavior": "Isolated",
        "invert": False,
    }


def _pre_tokenizer(split: SplitPattern) -> dict[str, Any]:
    if split == "gpt2":
        return _byte_level(use_regex=True)
    return {
        "type": "Sequence",
        "pretokenizers": [llama3_split(), _byte_level(use_regex=False)],
    }


def _byte_level(*, use_regex: bool) -> dict[str, Any]:
    return {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": use_regex,
    }
