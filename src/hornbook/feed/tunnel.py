"""A public address for a feed on this machine, by a program of somebody else's.

In: a port. Out: the address, for as long as it is open. ngrok and cloudflared are foreign programs,
fetched when first used and working only with their maker's service: the tests have another `Tunnel`
in their place.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Protocol

from hornbook.errors import HornbookError


class Tunnel(Protocol):
    """Makes 127.0.0.1:`port` public at the address that it gives, until it is left."""

    def __call__(self, port: int, /) -> AbstractContextManager[str]: ...


@contextlib.contextmanager
def ngrok(port: int) -> Iterator[str]:
    """ngrok, through pyngrok; ngrok's own settings have its account's token. A browser sees ngrok's
    own page first, unless it sends the header `ngrok-skip-browser-warning`."""
    from pyngrok import ngrok as program

    address = str(program.connect(f"127.0.0.1:{port}", "http").public_url)
    try:
        yield address
    finally:
        program.kill()


@contextlib.contextmanager
def cloudflared(port: int) -> Iterator[str]:
    """A quick tunnel of Cloudflare's, through pycloudflared; needs no account."""
    from pycloudflared import try_cloudflare

    address = str(try_cloudflare(port=port, verbose=False).tunnel)
    try:
        yield address
    finally:
        try_cloudflare.terminate(port)


TUNNELS: dict[str, Tunnel] = {"ngrok": ngrok, "cloudflared": cloudflared}


@contextlib.contextmanager
def open_tunnel(name: str, port: int) -> Iterator[str]:
    """The tunnel of that name; what goes wrong in it is said with its name."""
    where = f"feed.tunnel: {name}"
    with contextlib.ExitStack() as held:
        try:
            address = held.enter_context(TUNNELS[name](port))
        except ImportError as error:
            hint = "pip install hornbook[tunnel]"
            raise HornbookError(f"needs {error.name}", where=where, hint=hint) from error
        except Exception as error:  # of a library of somebody else's, and its program
            raise HornbookError(
                f"the tunnel did not start ({type(error).__name__}: {error})",
                where=where,
                hint="Is its service reachable from here, and its account set up?",
            ) from error
        yield address
