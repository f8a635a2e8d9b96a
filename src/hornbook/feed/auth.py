"""Who may read a feed: the bearer token, and where a feed without one may listen.

In: the settings and the environment. Out: the token; the addresses to listen on, checked: without a
token only those of this machine, and no tunnel.
"""

from __future__ import annotations

import ipaddress
import secrets
import socket
from pathlib import Path

from hornbook.errors import HornbookError
from hornbook.feed.config import FeedConfig
from hornbook.tokens.feed_protocol import MAKE_TOKEN, TOKEN_VARIABLE, check_token, feed_token

LEAST_TOKEN = 16
"""Characters of a token, where others than this machine could try: it is guessed without end."""

Address = tuple[socket.AddressFamily, str]
"""A family (IPv4 or IPv6) and an address of it."""


def server_token(config: FeedConfig) -> str | None:
    """The token of `token_file`, else of the environment; None: there is none.

    Raises:
        HornbookError: the file cannot be read, or what it has is no bearer token. The token itself
            is never shown.
    """
    if config.token_file is None:
        return feed_token()
    try:
        token = Path(config.token_file).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise HornbookError(
            f"the token cannot be read ({error.__class__.__name__})", where=config.token_file
        ) from error
    if not token:
        raise HornbookError("the token file is empty", where=config.token_file)
    return check_token(token, config.token_file)


def listening_addresses(config: FeedConfig, token: str | None) -> list[Address]:
    """The addresses behind `host`; the server listens on exactly these.

    Raises:
        HornbookError: one of them is not this machine's own, or there is a tunnel, and no token or
            a short one; or a tunnel would not find the feed.
    """
    try:
        found = socket.getaddrinfo(config.host or "0.0.0.0", None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise HornbookError(
            f"is no address of this machine ({error})", where=f"feed.host: {config.host}"
        ) from error
    addresses: list[Address] = list(
        dict.fromkeys((family, str(end[0])) for family, _, _, _, end in found)
    )
    outside = [address for _, address in addresses if not is_loopback(address)]
    hint = (
        f"Set the environment variable {TOKEN_VARIABLE}, here (or --feed.token-file) and at the"
        f" trainers, to a token; {MAKE_TOKEN}"
    )
    if token is not None and len(token) < LEAST_TOKEN and (outside or config.tunnel):
        raise HornbookError(
            f"the token has {len(token)} characters, and {LEAST_TOKEN} at least where others than"
            " this machine can ask",
            where=config.token_file or TOKEN_VARIABLE,
            hint=MAKE_TOKEN,
        )
    if token is None:
        if outside:
            raise HornbookError(
                f"without a token a feed listens on this machine's own addresses only, and"
                f" {outside[0]} is not one",
                where=f"feed.host: {config.host}",
                hint=hint,
            )
        if config.tunnel:
            raise HornbookError(
                "without a token there is no tunnel: anyone could read the feed",
                where=f"feed.tunnel: {config.tunnel}",
                hint=hint,
            )
    if config.tunnel and not {"127.0.0.1", "0.0.0.0"} & {address for _, address in addresses}:
        raise HornbookError(
            "a tunnel leads to 127.0.0.1, where the feed would not listen",
            where=f"feed.host: {config.host}",
            hint="Leave feed.host out",
        )
    return addresses


def is_loopback(address: str) -> bool:
    """Whether only this machine reaches the address."""
    return ipaddress.ip_address(address.partition("%")[0]).is_loopback


def is_allowed(authorization: bytes | None, token: str) -> bool:
    """Whether a request's `Authorization` has the token, compared in constant time."""
    scheme, _, given = (authorization or b"").partition(b" ")
    return secrets.compare_digest(given.strip(), token.encode()) and scheme.lower() == b"bearer"
