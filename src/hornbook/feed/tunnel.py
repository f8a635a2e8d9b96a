"""A public address for a feed on this machine, by a program of somebody else's.

In: a port. Out: the address. ngrok and cloudflared are foreign programs, fetched when first used
and working only with their maker's service: the tests have another `Tunnel` in their place.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from hornbook.errors import HornbookError


class Tunnel(Protocol):
    """What makes a port of this machine public."""

    def start(self, port: int) -> str:
        """Make 127.0.0.1:`port` public; returns the address."""
        ...

    def stop(self) -> None:
        """End it."""
        ...


class NgrokTunnel:
    """ngrok, through pyngrok. ngrok's own settings have its account's token."""

    def __init__(self) -> None:
        try:
            from pyngrok import ngrok
        except ImportError:
            raise _missing("pyngrok") from None
        self._ngrok: Any = ngrok
        self._url: str | None = None

    def start(self, port: int) -> str:
        """Make the port public. A browser sees ngrok's own page first, unless it sends the header
        `ngrok-skip-browser-warning`; other clients do not."""
        self._url = str(self._ngrok.connect(f"127.0.0.1:{port}", "http").public_url)
        return self._url

    def stop(self) -> None:
        """End it, and ngrok's process."""
        if self._url is not None:
            self._ngrok.disconnect(self._url)
            self._ngrok.kill()


class CloudflaredTunnel:
    """A quick tunnel of Cloudflare's, through pycloudflared; needs no account."""

    def __init__(self) -> None:
        try:
            from pycloudflared import try_cloudflare
        except ImportError:
            raise _missing("pycloudflared") from None
        self._cloudflare: Any = try_cloudflare
        self._port: int | None = None

    def start(self, port: int) -> str:
        """Make the port public."""
        url = str(self._cloudflare(port=port, verbose=False).tunnel)
        self._port = port
        return url

    def stop(self) -> None:
        """End its process."""
        if self._port is not None:
            self._cloudflare.terminate(self._port)


TUNNELS: dict[str, Callable[[], Tunnel]] = {"ngrok": NgrokTunnel, "cloudflared": CloudflaredTunnel}


def start_tunnel(name: str, tunnel: Tunnel, port: int) -> str:
    """Start a tunnel; what goes wrong in it is said with its name."""
    try:
        return tunnel.start(port)
    except Exception as error:  # of a library of somebody else's, and its program
        raise HornbookError(
            f"the tunnel did not start ({type(error).__name__}: {error})",
            where=f"feed.tunnel: {name}",
            hint="Is its service reachable from here, and its account set up?",
        ) from error


def _missing(library: str) -> HornbookError:
    return HornbookError(
        f"needs {library}", where="feed.tunnel", hint="pip install hornbook[tunnel]"
    )
