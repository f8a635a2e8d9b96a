"""One polite HTTP client: timeouts, a name, a size limit, resumed and atomic downloads.

In: addresses. Out: small pages as bytes, files on disk that are whole, and of the hash that was
asked for, or absent.
"""

from __future__ import annotations

import contextlib
import json
import os
import ssl
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

import httpx2

from hornbook import __version__
from hornbook.errors import HornbookError
from hornbook.files import disk_errors, sha256_of, sync_folder
from hornbook.progress import bar

USER_AGENT = f"hornbook/{__version__} (python-httpx2/{httpx2.__version__})"
PARTIAL = ".part"
ATTEMPTS = 3
PROGRESS = 2**20
"""Bytes that make a broken connection worth another `ATTEMPTS` attempts."""

LARGEST_PAGE = 32 * 2**20
"""Bytes of an index page; the largest simple pages of big projects are a few MB."""


class Streams(Protocol):
    """What a download needs of a client: `httpx2.Client` and `client.PoliteClient` have it."""

    def stream(
        self, method: str, url: str, *, headers: Mapping[str, str]
    ) -> contextlib.AbstractContextManager[httpx2.Response]: ...


class DownloadError(Exception):
    """A download that did not work, in a few words; the caller knows what else to try."""


def open_client(certificate: Path | None = None, proxy: str | None = None) -> httpx2.Client:
    """A client that follows redirects (to http and https alone; httpx2 knows no other scheme).

    Args:
        certificate: a file or folder of certificate authorities, trusted besides the system's.
        proxy: for all requests; None: as the environment says.
    """
    context = httpx2.create_ssl_context()
    if certificate is not None:
        try:
            is_folder = certificate.is_dir()
            context.load_verify_locations(
                cafile=None if is_folder else certificate, capath=certificate if is_folder else None
            )
        except (OSError, ssl.SSLError) as error:
            raise HornbookError(
                f"is not readable as certificates ({error})",
                where=certificate,
                hint="pip is set to it: look at `pip config list` and PIP_CERT",
            ) from error
    return httpx2.Client(
        verify=context,
        proxy=proxy,
        headers={"User-Agent": USER_AGENT},
        timeout=httpx2.Timeout(60.0, connect=10.0),
        follow_redirects=True,
        max_redirects=10,
    )


def fetch_page(client: Streams, url: str, accept: str = "*/*") -> httpx2.Response:
    """GET a small page and its content. Raises `DownloadError`."""
    with _network_errors(), client.stream("GET", url, headers={"Accept": accept}) as response:
        _check_status(response)
        content = b""
        for block in response.iter_bytes():
            content += block
            if len(content) > LARGEST_PAGE:
                raise DownloadError(f"the page is larger than {LARGEST_PAGE:,} bytes")
        return httpx2.Response(
            response.status_code,
            headers={"Content-Type": response.headers.get("Content-Type", "")},
            content=content,
            request=response.request,
        )


def download(
    client: Streams,
    url: str,
    path: Path,
    *,
    label: str | None,
    largest: int,
    sha256: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> None:
    """Download `url` to `path`; `path` appears whole or not at all.

    A broken connection is taken up where it broke, and so is what an earlier, killed process left
    behind: where the hash is known, or the server says by ETag or Last-Modified that the file is
    still the same. It is given up after `ATTEMPTS` times without `PROGRESS` bytes in between.

    Args:
        client: from `open_client`, or a `PoliteClient`.
        url: what to get, http or https.
        path: where to put it; its folder is made.
        label: name of the progress bar; None: without one.
        largest: refuse more bytes than this.
        sha256: hash that the bytes must have, in hex.
        headers: sent besides our own.

    Raises:
        DownloadError: the server refused, the connection failed, or the bytes are not the right
            ones (and were removed).
    """
    part = _Part(path, sha256)
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        attempt, before = 1, part.size
        while True:
            try:
                _append(client, url, part, headers or {}, label, largest)
                break
            except DownloadError as error:
                if part.size >= before + PROGRESS:
                    attempt, before = 1, part.size
                # What a polite client raises itself (a subclass), it has tried often enough.
                polite = type(error) is not DownloadError
                transport = isinstance(error.__cause__, httpx2.TransportError)
                if attempt == ATTEMPTS or polite or not transport:
                    raise
                time.sleep(attempt)
                attempt += 1
        if sha256 is not None and (found := sha256_of(part.path)) != sha256:
            part.remove()
            raise DownloadError(f"the bytes have sha256 {found[:12]}..., not {sha256[:12]}...")
        os.replace(part.path, path)
        part.remove()
        sync_folder(path.parent)


class _Part:
    """What there is of a file so far, and by what to tell that the rest belongs to it."""

    def __init__(self, path: Path, sha256: str | None):
        self.path = path.with_name(path.name + PARTIAL)
        self._note_path = path.with_name(path.name + PARTIAL + ".json")
        self._has_hash = sha256 is not None

    @property
    def size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    def range_headers(self) -> dict[str, str]:
        """Ask for the rest, where the result can be relied on; else for all."""
        validator = None if self._has_hash else self._validator()
        if not self.size or not (self._has_hash or validator):
            return {}
        return {"Range": f"bytes={self.size}-"} | ({"If-Range": validator} if validator else {})

    def note(self, response: httpx2.Response) -> None:
        """Keep what names the server's version of the file."""
        if self._has_hash:
            return
        tag = response.headers.get("ETag", "")
        # A weak ETag allows other bytes; RFC 9110, 13.1.5.
        validator = response.headers.get("Last-Modified") if tag[:1] != '"' else tag
        self._note_path.write_text(json.dumps(validator), encoding="utf-8")

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)
        self._note_path.unlink(missing_ok=True)

    def _validator(self) -> str | None:
        try:
            kept = json.loads(self._note_path.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return None
        return kept if isinstance(kept, str) else None


def _append(
    client: Streams,
    url: str,
    part: _Part,
    headers: Mapping[str, str],
    label: str | None,
    largest: int,
) -> None:
    """Get what is still lacking."""
    # Bytes as they are stored: a server that compressed on the way would change the hash.
    sent = {**headers, "Accept-Encoding": "identity", **part.range_headers()}
    have = part.size
    with _network_errors(), client.stream("GET", url, headers=sent) as response:
        if response.status_code == 416:  # nothing is left to get, or the file is another one now
            if _total(response) == have:
                return
            part.remove()
            raise DownloadError("the file changed while it was downloaded")
        _check_status(response)
        begins_anew = response.status_code != 206 or "Range" not in sent
        if not begins_anew and _begin(response) not in (None, have):
            raise DownloadError("the server sent another part of the file than was asked for")
        have = 0 if begins_anew else have
        length = response.headers.get("Content-Length", "")
        total = have + int(length) if length.isdigit() else None
        if (total or 0) > largest:
            raise DownloadError(f"{total:,} bytes are more than the {largest:,} expected at most")
        shown = bar(label, total) if label is not None else contextlib.nullcontext()
        with open(part.path, "wb" if begins_anew else "ab") as file, shown as progress:
            if begins_anew:  # only now, as the old bytes are gone
                part.note(response)
            if progress:
                progress.advance(have)
            for block in response.iter_raw():
                have += len(block)
                if have > largest:
                    raise DownloadError(f"more than the {largest:,} bytes expected at most")
                file.write(block)
                if progress:
                    progress.advance(len(block))
            if have < _total(response):  # a server may send less than the rest: ask for more
                raise httpx2.RemoteProtocolError("only a part of the rest was sent")
            file.flush()
            os.fsync(file.fileno())


def _total(response: httpx2.Response) -> int:
    total = response.headers.get("Content-Range", "").rpartition("/")[2]
    return int(total) if total.isdigit() else -1


def _begin(response: httpx2.Response) -> int | None:
    begin = response.headers.get("Content-Range", "").removeprefix("bytes ").partition("-")[0]
    return int(begin) if begin.isdigit() else None


def _check_status(response: httpx2.Response) -> None:
    if not response.is_success:
        raise DownloadError(f"HTTP {response.status_code} {response.reason_phrase}".rstrip())


@contextlib.contextmanager
def _network_errors() -> Iterator[None]:
    try:
        yield
    except httpx2.ConnectTimeout as error:
        raise DownloadError("no connection within 10 seconds") from error
    except httpx2.TimeoutException as error:
        raise DownloadError("no answer within 60 seconds") from error
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        raise DownloadError(str(error) or type(error).__name__) from error


def shown(url: str) -> str:
    """`url` as it may be shown: without a user name and password."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
