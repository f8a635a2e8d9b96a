"""The `feed` verb: serve a feed, read from one, check one.

In: parsed words and the `feed` section of a recipe. Out: an exit code.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hornbook.errors import HornbookError
from hornbook.gather.feed_log import FeedLog, Gone, Unreadable
from hornbook.progress import warn
from hornbook.recipe import build_recipe, load_recipe

if TYPE_CHECKING:
    from jsonargparse import Namespace

DAMAGED = 2
"""Exit code of `feed check` where texts are lost, or cannot be read."""

_AT_A_TIME = 64
_MOST_BYTES = 16 * 2**20

Records = list[dict[str, Any]]


def main(arguments: Namespace, overrides: dict[str, Any]) -> int:
    """Do what `arguments.action` says."""
    if arguments.action == "serve":
        return _serve(arguments.target, overrides)
    if not arguments.target:
        hint = "Name its folder" + (" or address" if arguments.action == "read" else "")
        raise HornbookError("which feed?", where=f"hornbook feed {arguments.action}", hint=hint)
    if arguments.action == "check":
        if _is_address(arguments.target):
            hint = (
                "`feed check` reads the files: run it on the feed's machine, with the feed's folder"
            )
            raise HornbookError("is an address", where=arguments.target, hint=hint)
        return _check(Path(arguments.target))
    _read(arguments.target, arguments.cursor, arguments.n, overrides)
    return 0


def _serve(target: str, overrides: dict[str, Any]) -> int:
    recipe = load_recipe(target, overrides) if target else build_recipe(overrides, "command line")
    try:
        from hornbook.feed.serve import serve
    except ModuleNotFoundError as error:
        if error.name not in ("fastapi", "uvicorn", "starlette", "pydantic", "h11"):
            raise
        raise HornbookError(
            f"needs {error.name}", where="hornbook feed serve", hint="pip install hornbook[feed]"
        ) from error
    serve(recipe.feed)
    return 0


def _read(target: str, cursor: int, n: int, overrides: dict[str, Any]) -> None:
    """Print texts as JSON lines: number, text, and what else is known; `n`, or those there are."""
    if cursor < 0 or n < 1:
        raise HornbookError("--cursor is at least 0, --n at least 1", where="hornbook feed read")
    ask = _server(target, overrides) if _is_address(target) else _folder(Path(target))
    head = cursor + 1
    while n > 0 and cursor < head:
        records, head = ask(cursor, min(n, _AT_A_TIME))
        for record in records:
            sys.stdout.write(json.dumps(record, ensure_ascii=False) + "\n")
        cursor, n = cursor + len(records), n - len(records)


def _is_address(target: str) -> bool:
    return target.startswith(("http://", "https://"))


def _folder(folder: Path) -> Callable[[int, int], tuple[Records, int]]:
    """Gives texts from a number on, and the number after the last there is."""
    log = FeedLog.open(folder)
    return lambda cursor, n: (log.records(cursor, n, _MOST_BYTES), log.head)


def _server(url: str, overrides: dict[str, Any]) -> Callable[[int, int], tuple[Records, int]]:
    """The same by HTTP."""
    import httpx2

    from hornbook.feed.auth import server_token
    from hornbook.tokens.feed_protocol import PROTOCOL, PROTOCOL_HEADER, other_protocol

    token = server_token(build_recipe(overrides, "command line").feed)
    headers = {PROTOCOL_HEADER: str(PROTOCOL)}
    if token:
        headers["Authorization"] = f"Bearer {token}"

    def ask(cursor: int, n: int) -> tuple[Records, int]:
        parameters: dict[str, str | int] = {"cursor": cursor, "n": n, "format": "object"}
        address = url.rstrip("/") + "/generate"
        try:
            answer = httpx2.get(address, params=parameters, headers=headers, timeout=60)
            known = answer.headers.get(PROTOCOL_HEADER, str(PROTOCOL))
            if known != str(PROTOCOL):
                raise other_protocol(url, known)
            content = answer.json()
            if answer.status_code != 200:
                where, hint = f"{url}: {answer.status_code}", content.get("hint")
                raise HornbookError(content["error"], where=where, hint=hint)
            return list(content["texts"]), int(content["head"])
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            hint = "Does `hornbook feed serve` run there?"
            raise HornbookError(f"does not answer ({error})", where=url, hint=hint) from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            hint = "Is it the address of a feed?"
            raise HornbookError("this is no feed's answer", where=url, hint=hint) from error

    return ask


def _check(folder: Path) -> int:
    """Read every block of a log, and say what is lost."""
    given = _given(folder)  # before the log, which may grow meanwhile
    log = FeedLog.open(folder)
    cursor, texts, size = log.first, 0, 0
    unread: list[Unreadable] = []
    while cursor < log.head:
        try:
            count, array = log.texts(cursor, _AT_A_TIME, _MOST_BYTES)
        except Gone as gone:
            cursor = gone.first
            continue
        except Unreadable as error:
            unread.append(error)
            cursor = error.next
            continue
        texts, size = texts + count, size + len(array)
        cursor += count
    ranges = [(each.path.name, each.first, each.next) for each in log.damaged]
    if given > log.head:
        ranges.append(("the end", log.head, given))
    lost = sum(following - first for _, first, following in ranges)
    unknown = sum(each.next - each.first for each in unread)
    numbers = f"{log.first:,} to {log.head - 1:,}" if log.head > log.first else "none"
    lines = [
        f"log        {log.id}",
        f"numbers    {numbers}",
        f"texts      {texts:,}, {size:,} bytes as JSON, {log.stored_bytes:,} on disk",
        f"lost       {lost:,}",
        *(f"  {name}: {first:,} to {following - 1:,}" for name, first, following in ranges),
        *([f"unreadable {unknown:,}"] if unread else []),
        *(f"  {e.path.name}: {e.first:,} to {e.next - 1:,} ({e.reason})" for e in unread),
    ]
    sys.stdout.write("\n".join(lines) + "\n")
    return DAMAGED if lost or unread else 0


def _given(folder: Path) -> int:
    """A number below which readers were given everything, as far as they are known."""
    from hornbook.feed.cursors import STATE, Cursors

    if not (folder / STATE).exists():
        return 0
    try:
        with Cursors(folder) as cursors:
            return cursors.delivered()
    except HornbookError as error:  # damaged, or on a disk that is read only
        warn(str(error))
        return 0
