"""Text cleaned of what nobody wrote: one Unicode form, one newline, no invisible characters.

In: any `str`. Out: text that encodes as UTF-8, in Unicode form NFC. Pure and idempotent.
"""

from __future__ import annotations

import re
import unicodedata

from hornbook.documents import mend_surrogates as mend_surrogates
from hornbook.errors import HornbookError

REPLACEMENT = "\ufffd"
"""Stands where a lone surrogate was (half of a UTF-16 pair: no character, and no valid UTF-8)."""

# Every line and page break of Unicode (vertical tab and form feed included: without them, the
# words on both sides of a page break would grow together).
_NEWLINES = re.compile("\r\n|[\r\x0b\x0c\x85\u2028\u2029]")

# Control characters other than tab and newline, and characters that have no width and no meaning
# of their own: soft hyphen, zero-width space, word joiner, byte-order mark. Direction marks
# (U+200E, U+200F, U+202A-U+202E, U+2066-U+2069) stay: Hebrew and Arabic are written with them.
_INVISIBLE = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\u00ad\u200b\u2060\ufeff]")

# The zero-width joiner and non-joiner are spelling in Persian (می‌خواهم), in Indic scripts (where
# they choose between conjunct and half forms) and in emoji (a family is people joined by them), so
# they stay behind a letter, mark or symbol of such scripts. Behind Latin letters, digits,
# punctuation and spaces they do nothing that a reader sees; there they are debris of web pages.
_JOINERS = re.compile("[\u200c\u200d]+")
_LAST_LATIN = "\u02ff"

# All of these in one class: 2 texts of 100 have any, and for the others that is known at once
# (normalising took 37 ms a MB without it, and takes 7).
_ANY = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u200b-\u200d\u2028\u2029\u2060\ufeff]")


def normalise(text: str) -> str:
    """Return `text` in NFC, with newlines as `\\n`, without control and zero-width characters.

    Lone surrogates become U+FFFD. Zero-width joiners stay where the script needs them.
    """
    text = mend_surrogates(text)
    if not _ANY.search(text):
        return unicodedata.normalize("NFC", text)
    text = _NEWLINES.sub("\n", text)
    text = unicodedata.normalize("NFC", _INVISIBLE.sub("", text))
    return _drop_idle_joiners(text)


def mend_encoding(text: str) -> str:
    """Undo what a wrong decoding did (schÃ¶n: schön) and HTML's entities, by ftfy.

    Quotation marks, ligatures, character widths and line ends are left as they are.

    Raises:
        HornbookError: ftfy is not installed.
    """
    try:
        import ftfy
    except ImportError as error:
        raise HornbookError(
            "mending encodings needs the package ftfy",
            where="--prepare.fix_text",
            hint="pip install 'hornbook[clean]'",
        ) from error
    return ftfy.fix_text(
        text,
        explain=False,
        uncurl_quotes=False,
        fix_latin_ligatures=False,
        fix_character_width=False,
        fix_line_breaks=False,
        normalization=None,
    )


def _drop_idle_joiners(text: str) -> str:
    # A joiner that goes may let two characters compose, and the composed one may be Latin; so this
    # repeats until nothing changes. Each round but the last removes a joiner.
    while True:
        dropped = unicodedata.normalize("NFC", _JOINERS.sub(_joiner_that_counts, text))
        if dropped == text:
            return text
        text = dropped


def _joiner_that_counts(match: re.Match[str]) -> str:
    before = match.string[match.start() - 1] if match.start() else " "
    counts = before > _LAST_LATIN and unicodedata.category(before)[0] in "LMS"
    return match.group()[0] if counts else ""
