"""Names of the special tokens, and which special token ends a document.

Out: the names that our own tokenizers reserve; for any tokenizer, the name of its end of text.
"""

from __future__ import annotations

from collections.abc import Container

END_OF_TEXT = "<|endoftext|>"
"""Written after each document; the token that separates one text from the next."""

SYSTEM, USER, ASSISTANT, TOOL = "<|system|>", "<|user|>", "<|assistant|>", "<|tool|>"
"""Chat roles: each opens a message of that role."""

END_OF_TURN = "<|end_of_turn|>"
"""Closes a message of any role; generation in a chat stops at it."""

IMAGE, AUDIO = "<|image|>", "<|audio|>"
"""Places where embeddings of an image or of sound are put in place of the token's own."""

PAD = "<|pad|>"
"""Fills up rows of unequal length; never trained on."""

SPARE = tuple(f"<|spare_{number}|>" for number in range(8))
"""Reserved for whatever you need: using one later moves no other id."""

NAMED = (SYSTEM, USER, ASSISTANT, TOOL, END_OF_TURN, IMAGE, AUDIO, PAD, *SPARE)
"""The sixteen names, in the order of their ids, which follow the end-of-text id."""

_KNOWN_ENDS = (
    END_OF_TEXT,  # GPT-2, Phi, Qwen (base), SmolLM, Falcon, GPT-NeoX, ours
    "<|end_of_text|>",  # Llama-3
    "</s>",  # Llama-2, Mistral
    "<eos>",  # Gemma
    "<｜end▁of▁sentence｜>",  # DeepSeek
    "<|eos|>",
    "[EOS]",
)
_KNOWN_ENDS_OF_TURN = ("<|im_end|>", "<|eot_id|>")


def find_end_of_text(names: Container[str], declared: str | None) -> str | None:
    """The name of the token that ends a document, or None.

    Args:
        names: the tokenizer's special tokens.
        declared: the end-of-sequence token that the files beside tokenizer.json name, if any.

    A known end of text is preferred to the declared one, because chat models declare their end of
    turn; an end of turn is taken only where nothing else is known.
    """
    for name in (*_KNOWN_ENDS, declared, *_KNOWN_ENDS_OF_TURN):
        if name is not None and name in names:
            return name
    return None
