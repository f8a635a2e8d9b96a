"""One polite HTTP client: timeouts, a name, a size limit, resumed and atomic downloads.

In: addresses. Out: small pages as bytes, files on disk that are whole, and of the hash that was
asked for, or absent.
"""

from __future__ import annotations

import contextlib
import os
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx2

from hornbook import __version__
from hornbook.errors import HornbookError
from hornbook.files import disk_errors, sha256_of, sync_folder
from hornbook.progress import bar

USER_AGENT = f"hornbook/{__version__} (python-httpx2/{httpx2.__version__})"
PARTIAL = ".part"
ATTEMPTS = 3
LARGEST_PAGE = 32 * 2**20
"""Bytes of an index page; the largest simple pages of big projects are a few MB."""


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


def fetch_page(client: httpx2.Client, url: str, accept: str = "*/*") -> httpx2.Response:
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
    client: httpx2.Client,
    url: str,
    path: Path,
    *,
    label: str,
    largest: int,
    sha256: str | None = None,
) -> None:
    """Download `url` to `path`, with a progress bar; `path` appears whole or not at all.

    A broken connection is taken up where it broke, up to `ATTEMPTS` times. Where the hash is
    known, so is what an earlier, killed process left behind.

    Args:
        client: from `open_client`.
        url: what to get, http or https.
        path: where to put it; its folder is made.
        label: name of the progress bar.
        largest: refuse more bytes than this.
        sha256: hash that the bytes must have, in hex.

    Raises:
        DownloadError: the server refused, the connection failed, or the bytes are not the right
            ones (and were removed).
    """
    partial = path.with_name(path.name + PARTIAL)
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if sha256 is None:
            partial.unlink(missing_ok=True)
        for attempt in range(1, ATTEMPTS + 1):
            try:
                _append(client, url, partial, label, largest)
                break
            except DownloadError as error:
                if attempt == ATTEMPTS or not isinstance(error.__cause__, httpx2.TransportError):
                    raise
                time.sleep(attempt)
        if sha256 is not None and (found := sha256_of(partial)) != sha256:
            partial.unlink()
            raise DownloadError(f"the bytes have sha256 {found[:12]}..., not {sha256[:12]}...")
        os.replace(partial, path)
        sync_folder(path.parent)


def _append(client: httpx2.Client, url: str, partial: Path, label: str, largest: int) -> None:
    """Get what `partial` still lacks."""
    have = partial.stat().st_size if partial.exists() else 0
    # Bytes as they are stored: a server that compressed on the way would change the hash.
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    with _network_errors(), client.stream("GET", url, headers=headers) as response:
        if response.status_code == 416:  # nothing is left to get, or the file is another one now
            if _total(response) == have:
                return
            partial.unlink()
            raise DownloadError("the file changed while it was downloaded")
        _check_status(response)
        begins_anew = response.status_code != 206
        have = 0 if begins_anew else have
        length = response.headers.get("Content-Length", "")
        total = have + int(length) if length.isdigit() else None
        if (total or 0) > largest:
            raise DownloadError(f"{total:,} bytes are more than the {largest:,} expected at most")
        with open(partial, "wb" if begins_anew else "ab") as file, bar(label, total) as progress:
            progress.advance(have)
            for block in response.iter_raw():
                have += len(block)
                if have > largest:
                    raise DownloadError(f"more than the {largest:,} bytes expected at most")
                file.write(block)
                progress.advance(len(block))
            file.flush()
            os.fsync(file.fileno())


def _total(response: httpx2.Response) -> int:
    total = response.headers.get("Content-Range", "").rpartition("/")[2]
    return int(total) if total.isdigit() else -1


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
