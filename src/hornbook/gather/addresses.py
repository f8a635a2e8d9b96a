"""Which addresses may be connected to: only public ones, unless private ones were asked for.

In: requests. Out: connections to addresses that were checked. A host's name is resolved once, all
of its addresses are checked, and the connection goes to a checked address, so a name server that
answers differently the second time (DNS rebinding) gains nothing. Behind a proxy (HTTP_PROXY,
HTTPS_PROXY, ALL_PROXY) the proxy resolves names: there only literal addresses and `localhost`
are checked.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import ssl
import threading
import urllib.request

import httpx2

from hornbook.errors import HornbookError
from hornbook.gather.download import DownloadError

MOST_POOLS = 64
"""Hosts whose connections are kept open: a list of a thousand hosts must not use up the files that
a process may have open (often 1,024)."""

_NAT64 = ipaddress.ip_network("64:ff9b::/96")

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class AddressRefused(DownloadError):
    """The address belongs to this machine or to a local network."""


def is_public(address: str) -> bool:
    """True for an address of the public internet, also one that is written inside another one
    (IPv4 mapped into IPv6, 6to4, Teredo, NAT64)."""
    ip = ipaddress.ip_address(address)
    return all(each.is_global and not each.is_multicast for each in (ip, *_inner(ip)))


def _inner(ip: _Address) -> list[_Address]:
    if isinstance(ip, ipaddress.IPv4Address):
        return []
    inner: list[_Address | None] = [ip.ipv4_mapped, ip.sixtofour, *(ip.teredo or ())]
    if ip in _NAT64:
        inner.append(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF))
    return [each for each in inner if each is not None]


def resolve(host: str, port: int, *, allow_private: bool) -> list[str]:
    """The addresses of `host`, in the order in which they should be tried.

    Raises:
        httpx2.ConnectError: the name is not known, or no name server answers.
        AddressRefused: one of them is not public.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise httpx2.ConnectError(f"the name {host} is not found ({error})") from error
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    if not allow_private:
        for address in addresses:
            _check(host, address)
    return addresses


def _check(host: str, address: str) -> None:
    if not is_public(address):
        name = host if host == address else f"{host} ({address})"
        raise AddressRefused(
            f"{name} is an address of this machine or of a local network; --allow-private "
            "allows those"
        )


def check_literal(host: str) -> None:
    """Behind a proxy: what can be seen without resolving (`127.1` and 0x7f000001 are literal)."""
    if f".{host.rstrip('.').lower()}".endswith(".localhost"):
        _check(host, "127.0.0.1")
    with contextlib.suppress(OSError, UnicodeError):
        for found in socket.getaddrinfo(host, None, flags=socket.AI_NUMERICHOST):
            _check(host, str(found[4][0]))


class CheckedTransport(httpx2.BaseTransport):
    """Sends requests to addresses that were checked.

    Args:
        context: for https.
        allow_private: whether any address is right.
    """

    def __init__(self, context: ssl.SSLContext, *, allow_private: bool):
        self._context, self._allow_private = context, allow_private
        self._proxies = urllib.request.getproxies()
        # One pool a host: connections are pooled by address, and two hosts of one address (a
        # content network) must not share one, since its certificate was checked for a name.
        self._pools: dict[tuple[str, str | None], httpx2.HTTPTransport] = {}
        self._lock = threading.Lock()

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """Connect to the first address that answers."""
        url = request.url
        proxy = self._proxy(url)
        pool = self._pool(url.host, proxy)
        if proxy is not None:
            if not self._allow_private:
                check_literal(url.host)
            return pool.handle_request(request)
        port = url.port or (443 if url.scheme == "https" else 80)
        addresses = resolve(url.host, port, allow_private=self._allow_private)
        for address in addresses[:-1]:
            try:
                return pool.handle_request(_to(request, address))
            except (httpx2.ConnectError, httpx2.ConnectTimeout):
                continue  # nothing was sent yet; often IPv6 without a route
        return pool.handle_request(_to(request, addresses[-1]))

    def close(self) -> None:
        """Close all connections."""
        for pool in self._pools.values():
            pool.close()

    def _proxy(self, url: httpx2.URL) -> str | None:
        if urllib.request.proxy_bypass(url.host):
            return None
        proxy = self._proxies.get(url.scheme) or self._proxies.get("all")
        return proxy if proxy is None or "://" in proxy else f"http://{proxy}"

    def _pool(self, host: str, proxy: str | None) -> httpx2.HTTPTransport:
        with self._lock:
            pool = self._pools.pop((host, proxy), None)
            if pool is None:
                try:
                    pool = httpx2.HTTPTransport(verify=self._context, proxy=proxy)
                except (ImportError, ValueError) as error:  # SOCKS needs a package; another scheme
                    raise HornbookError(
                        "the proxy cannot be used: only http and https ones are known",
                        where="HTTP_PROXY, HTTPS_PROXY, ALL_PROXY",
                    ) from error
            self._pools[host, proxy] = pool  # the last used at the end
            if len(self._pools) > MOST_POOLS:  # one so old that no request to it is under way
                self._pools.pop(next(iter(self._pools))).close()
            return pool


def _to(request: httpx2.Request, address: str) -> httpx2.Request:
    """The same request to an address; the `Host` header and the certificate's name stay."""
    sni = {"sni_hostname": request.url.host}
    return httpx2.Request(
        request.method,
        request.url.copy_with(host=address),
        headers=request.headers,
        stream=request.stream,
        extensions={**request.extensions, **sni},
    )
