"""What both ends of a feed agree on: the protocol's number, names of headers, the token.

In: the environment. Out: constants that `hornbook.feed` (the server) and `feed_client.py` share.
"""

from __future__ import annotations

import os
import re

from hornbook.errors import HornbookError

PROTOCOL = 1
"""Version of the HTTP protocol; each answer names it, and a request may."""

PROTOCOL_HEADER = "X-Feed-Protocol"
LOG_HEADER = "X-Feed-Log"
"""The log's id (32 hex digits): two feeds never have the same."""
FIRST_HEADER = "X-Feed-First"
"""Number of the first text of an answer."""
COUNT_HEADER = "X-Feed-Count"
NEXT_HEADER = "X-Feed-Next"
"""The cursor to ask for next."""
HEAD_HEADER = "X-Feed-Head"
"""The number that the next text to be made will have."""
LEASE_HEADER = "X-Feed-Lease"
LEASE_SECONDS_HEADER = "X-Feed-Lease-Seconds"

TOKEN_VARIABLE = "HORNBOOK_FEED_TOKEN"
MAKE_TOKEN = '`python -c "import secrets; print(secrets.token_urlsafe())"` makes one'
"""A hint; not every machine that has Python has OpenSSL too."""


def other_protocol(url: str, version: str) -> HornbookError:
    """The error for a feed whose answers name another version than ours."""
    return HornbookError(
        f"speaks version {version[:20]} of the protocol, and this hornbook {PROTOCOL}",
        where=url,
        hint="Install the same version of hornbook on both sides",
    )


_TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]+")
"""What RFC 6750 allows in a bearer token."""


def feed_token() -> str | None:
    """The bearer token of the environment variable `HORNBOOK_FEED_TOKEN`; None: there is none."""
    token = os.environ.get(TOKEN_VARIABLE, "").strip()
    return check_token(token, TOKEN_VARIABLE) if token else None


def check_token(token: str, where: str) -> str:
    """The token, if it is one. The error does not show it."""
    if not _TOKEN.fullmatch(token):
        raise HornbookError(
            "this is no bearer token: letters, digits and ._~+/=- only",
            where=where,
            hint=MAKE_TOKEN,
        )
    return token
