"""Which characters of a tokenizer.json stand for which bytes.

In: a token as tokenizer.json spells it. Out: the bytes it stands for, and back. Byte-level BPE
(GPT-2's way) writes each byte as one printable character; SentencePiece's way (Llama-2) writes a
space as `▁` and a byte it has no character for as `<0x0A>`.
"""

from __future__ import annotations

import functools
import re

WORD_MARK = "▁"
"""SentencePiece's sign for a space (U+2581)."""

_BYTE_PIECE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


@functools.cache
def byte_characters() -> tuple[str, ...]:
    """The printable character of each byte 0..255 (`bytes_to_unicode` of GPT-2's encoder.py).

    Bytes that print in Latin-1 stand for themselves; the other 68 take U+0100 and up, in order.
    """
    printable = {*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)}
    characters = []
    shifted = 0
    for byte in range(256):
        if byte in printable:
            characters.append(chr(byte))
        else:
            characters.append(chr(256 + shifted))
            shifted += 1
    return tuple(characters)


@functools.cache
def _character_bytes() -> dict[str, int]:
    return {character: byte for byte, character in enumerate(byte_characters())}


def spell(token: bytes) -> str:
    """The byte-level spelling of `token`: one character a byte."""
    characters = byte_characters()
    return "".join(characters[byte] for byte in token)


def byte_level_bytes(piece: str) -> bytes:
    """The bytes of a byte-level spelling; a piece with any other character is plain text.

    This is the rule of the `tokenizers` ByteLevel decoder, and what makes Phi-2's runs of spaces
    (which are spelt as spaces) come out right.
    """
    table = _character_bytes()
    if all(character in table for character in piece):
        return bytes(table[character] for character in piece)
    return piece.encode("utf-8")


def sentencepiece_bytes(piece: str) -> bytes:
    """The bytes of a SentencePiece spelling: `▁` is a space, `<0x0A>` a byte."""
    byte = _BYTE_PIECE.fullmatch(piece)
    if byte:
        return bytes([int(byte[1], 16)])
    return piece.replace(WORD_MARK, " ").encode("utf-8")
