"""Personal data out of texts: e-mail addresses and public IPv4 addresses, as FineWeb does.

In: documents. Out: documents with each such address replaced by one that is nobody's: example.com
and .org are kept for examples, and FineWeb's list of IPs answered no ping. The replacements take
turns within a document, so that its outcome depends on nothing else; doing it again changes
nothing. Unlike datatrove's formatter, an IP address is not found inside a longer run of digits
and dots, and an address of a thousand characters costs no quadratic time.
"""

from __future__ import annotations

import ipaddress
import re
from collections import Counter
from dataclasses import dataclass
from itertools import cycle

from hornbook.corpus.batch import Batch, Outcome, with_text

EMAILS = ("email@example.com", "firstname.lastname@example.org")
IPS = (
    "22.214.171.124",
    "126.96.36.199",
    "188.8.131.52",
    "184.108.40.206",
    "220.127.116.11",
    "18.104.22.168",
)

_BYTE = r"(?:25[0-5]|2[0-4][0-9]|[01]?[0-9][0-9]?)"
_IP = re.compile(rf"(?<![0-9])(?<![0-9]\.)(?:{_BYTE}\.){{3}}{_BYTE}(?!\.?[0-9])")

# What only an address can have; far faster to look for, where there is none.
_DOTTED = re.compile(r"[0-9]\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]")

# Before the @ stands a whole run of the characters that RFC 5322 allows there, less symbols at its
# beginning (quotation marks, slashes); behind it labels with dots between them, and no second @.
# Nothing once matched is given back (++), so the time is linear in the text.
_LETTERS, _SYMBOLS = "A-Za-z0-9_", r"!#$%&'*+/=?^`{|}~.\-"
_LABEL = "[A-Za-z0-9]++(?:-++[A-Za-z0-9]++)*+"
_EMAIL = re.compile(
    rf"(?<![@{_LETTERS}{_SYMBOLS}])([{_SYMBOLS}]*+)[{_LETTERS}][{_LETTERS}{_SYMBOLS}]*+"
    rf"@{_LABEL}(?:\.{_LABEL})++(?!@)"
)


@dataclass(frozen=True)
class PiiStep:
    """Replaces e-mail addresses and public IPv4 addresses."""

    emails: bool
    ips: bool
    name = "pii"
    rules = ()

    def __call__(self, batch: Batch) -> Outcome:
        counts: Counter[str] = Counter()
        documents = []
        for document in batch.documents:
            text = document.text
            if self.emails and "@" in text:
                text, found = _replace_emails(text)
                counts["pii.emails"] += found
            if self.ips and _DOTTED.search(text):
                text, found = _replace_ips(text)
                counts["pii.ips"] += found
            documents.append(with_text(document, text))
        return Outcome(documents, [None] * len(documents), dict(counts))


def _replace_emails(text: str) -> tuple[str, int]:
    turns = cycle(EMAILS)
    return _EMAIL.subn(lambda match: match.group(1) + next(turns), text)


def _replace_ips(text: str) -> tuple[str, int]:
    turns = cycle(IPS)
    replaced = 0

    def replacement(match: re.Match[str]) -> str:
        nonlocal replaced
        if not _is_public(match.group()):
            return match.group()
        replaced += 1
        return next(turns)

    return _IP.sub(replacement, text), replaced


def _is_public(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_global
    except ValueError:  # 010.1.1.1: no one knows whether that is octal
        return False
