"""Cut a long text only where the tokenizer cuts it in any case.

In: a text of any length. Out: pieces whose ids, one after the other, are exactly the ids of the
whole. `tokenizers` needs over a hundred bytes of memory for each byte of a text it encodes at
once, so one document of 100 MB would need 13 GB; in pieces it needs next to nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from hornbook.tokenizer.assemble import llama3_split

PIECE_CHARACTERS = 2**16

_LETTER = "[A-Za-zÀ-ÖØ-öø-ÿА-яぁ-ゖァ-ヺ一-龥가-힣]"

_SAFE_CUT = re.compile(rf"(?<={_LETTER})(?=[ ,、。，]{_LETTER})|(?<=\S\n)(?=\S)")
"""Places where both patterns always end a word: before a single space or comma between two
letters (it belongs to the right-hand word, or stands alone), and after a single newline between
two characters that are no white space."""


def can_be_cut(tokenizer_json: dict[str, Any]) -> bool:
    """Whether `_SAFE_CUT` holds for this tokenizer: GPT-2's or Llama-3's pattern and no more.

    Added tokens that match in text must not reach over a cut.
    """
    if tokenizer_json.get("normalizer") is not None:
        return False
    matched = [token["content"] for token in tokenizer_json["added_tokens"] if not token["special"]]
    if any(_SAFE_CUT.search(f"a{content}a") for content in matched):
        return False
    pre_tokenizer = tokenizer_json.get("pre_tokenizer") or {}
    *splits, byte_level = pre_tokenizer.get("pretokenizers") or [pre_tokenizer]
    if byte_level.get("type") != "ByteLevel" or byte_level["add_prefix_space"]:
        return False
    if byte_level.get("use_regex", True):  # absent in GPT-2's own file
        return not splits
    return splits == [llama3_split()]


def cut(text: str, size: int = PIECE_CHARACTERS) -> Iterator[str]:
    """Pieces of `text` of about `size` characters (longer where there is no safe place)."""
    start = 0
    while len(text) - start > size:
        place = _SAFE_CUT.search(text, start + size)
        if place is None:
            break
        yield text[start : place.start()]
        start = place.start()
    yield text[start:]
