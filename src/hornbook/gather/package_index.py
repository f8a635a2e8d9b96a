"""One known file of one project, out of a Python package index. It is fetched, never run.

In: index addresses and the name and hash of a file. Out: the file, with that hash.
The simple repository API: HTML (PEP 503) and JSON (PEP 691), over http, https and in folders
(file://).
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urldefrag, urljoin, urlsplit
from urllib.request import url2pathname

import httpx2

from hornbook.files import atomic_path, sha256_of
from hornbook.gather.download import DownloadError, download, fetch_page, open_client, shown
from hornbook.gather.pip_settings import PipSettings

ACCEPT = "application/vnd.pypi.simple.v1+json, text/html;q=0.5"


@dataclass(frozen=True)
class Link:
    """A file that an index offers; `sha256` is empty where the index does not say."""

    filename: str
    url: str
    sha256: str


def fetch_file(
    settings: PipSettings, project: str, filename: str, sha256: str, path: Path, *, largest: int
) -> str:
    """Fetch a file from the first index that has it with the right hash; returns its address.

    Args:
        settings: which indexes to ask, in order.
        project: name of the project, in any spelling.
        filename: the file wanted.
        sha256: the hash that it must have, in hex.
        path: where to put it, whole.
        largest: refuse more bytes than this.

    Raises:
        DownloadError: no index gave it; the message names what each one answered.
    """
    tried = []
    with open_client(settings.certificate, settings.proxy) as client:
        for index in settings.indexes:
            try:
                return _fetch_from(client, index, project, filename, sha256, path, largest)
            except DownloadError as error:
                tried.append(f"{shown(index)} ({error})")
    raise DownloadError("; ".join(tried) or "pip is set to use no index")


def _fetch_from(
    client: httpx2.Client,
    index: str,
    project: str,
    filename: str,
    sha256: str,
    path: Path,
    largest: int,
) -> str:
    link = next((link for link in links(client, index, project) if link.filename == filename), None)
    if link is None:
        raise DownloadError(f"has no {filename}")
    if link.sha256 and link.sha256 != sha256:
        raise DownloadError(f"has another {filename}, with sha256 {link.sha256[:12]}...")
    if urlsplit(link.url).scheme == "file":
        _copy(_local_path(link.url), path, sha256)
    else:
        url = _with_credentials(link.url, index)
        download(client, url, path, label=filename, largest=largest, sha256=sha256)
    return shown(link.url)


def links(client: httpx2.Client, index: str, project: str) -> Iterator[Link]:
    """The files that an index offers of a project. Raises `DownloadError`."""
    page = f"{index}/{re.sub(r'[-_.]+', '-', project).lower()}/"
    scheme = urlsplit(index).scheme
    if scheme == "file":
        page += "index.html"
        try:
            content = _local_path(page).read_bytes()
        except OSError as error:
            raise DownloadError(f"has no project {project}") from error
        found = _html_links(content.decode("utf-8", "replace"), page)
    elif scheme in ("http", "https"):
        response = fetch_page(client, page, ACCEPT)
        base = str(response.request.url)
        is_json = "json" in response.headers.get("Content-Type", "")
        found = (_json_links if is_json else _html_links)(response.text, base)
    else:
        raise DownloadError("is no http, https or file address")
    # A page from the net has no business pointing at this machine's files.
    allowed = ("http", "https", "file") if scheme == "file" else ("http", "https")
    return (link for link in found if urlsplit(link.url).scheme in allowed)


def _json_links(text: str, base: str) -> Iterator[Link]:
    try:
        files: Any = json.loads(text)["files"]
        for file in files:
            sha256 = file.get("hashes", {}).get("sha256", "")
            yield Link(file["filename"], urljoin(base, file["url"]), sha256)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DownloadError("its page is no simple index in JSON") from error


def _html_links(text: str, base: str) -> Iterator[Link]:
    page = _AnchorParser()
    page.feed(text)
    for href in page.hrefs:
        url, fragment = urldefrag(urljoin(urljoin(base, page.base), href))
        sha256 = fragment.removeprefix("sha256=") if fragment.startswith("sha256=") else ""
        yield Link(unquote(urlsplit(url).path.rpartition("/")[2]), url, sha256)


class _AnchorParser(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.base = ""
        self.hrefs: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        href = dict(attrs).get("href")
        if href and tag == "a":
            self.hrefs.append(href)
        elif href and tag == "base" and not self.base:
            self.base = href


def _with_credentials(url: str, index: str) -> str:
    """Files on the index's own host need the user name and password that the index needs."""
    ours, parts = urlsplit(index), urlsplit(url)
    credentials, at, host = ours.netloc.rpartition("@")
    if not at or "@" in parts.netloc or (parts.scheme, parts.netloc) != (ours.scheme, host):
        return url
    return parts._replace(netloc=f"{credentials}@{host}").geturl()


def _local_path(url: str) -> Path:
    return Path(url2pathname(urlsplit(url).path))


def _copy(source: Path, path: Path, sha256: str) -> None:
    try:
        with atomic_path(path) as temporary:
            shutil.copyfile(source, temporary)
            if (found := sha256_of(temporary)) != sha256:
                raise DownloadError(f"the bytes have sha256 {found[:12]}..., not {sha256[:12]}...")
    except FileNotFoundError as error:
        raise DownloadError(f"its page names a file that is not there: {source.name}") from error
