"""The `feed` verb: serve a feed, read from one, check one.

In: parsed words and the `feed` section of a recipe. Out: an exit code.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hornbook.errors import HornbookError
from hornbook.gather.feed_log import FeedLog, Gone
from hornbook.recipe import build_recipe, load_recipe

if TYPE_CHECKING:
    from jsonargparse import Namespace

DAMAGED = 2
"""Exit code of `feed check` where texts are lost."""

_AT_A_TIME = 256
_MOST_BYTES = 16 * 2**20


def main(arguments: Namespace, overrides: dict[str, Any]) -> int:
    """Do what `arguments.action` says."""
    if arguments.action == "serve":
        return _serve(arguments.target, overrides)
    if not arguments.target:
        raise HornbookError(
            "which feed?", where=f"hornbook feed {arguments.action}", hint="Name its folder"
        )
    if arguments.action == "check":
        return _check(FeedLog.open(Path(arguments.target)))
    _read(arguments.target, arguments.cursor, arguments.n)
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


def _read(target: str, cursor: int, n: int) -> None:
    """Print texts as JSON lines: number, text, and what else is known."""
    if target.startswith(("http://", "https://")):
        records = _records_of_server(target, cursor, n)
    else:
        records = FeedLog.open(Path(target)).records(cursor, n, _MOST_BYTES)[1]
    for record in records:
        sys.stdout.write(json.dumps(record, ensure_ascii=False) + "\n")


def _records_of_server(url: str, cursor: int, n: int) -> list[dict[str, Any]]:
    import httpx2

    from hornbook.tokens.feed_protocol import feed_token

    token = feed_token()
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    parameters: dict[str, str | int] = {"cursor": cursor, "n": n, "format": "object"}
    try:
        answer = httpx2.get(
            url.rstrip("/") + "/generate", params=parameters, headers=headers, timeout=60
        )
        content = answer.json()
        if answer.status_code != 200:
            raise HornbookError(
                content["error"], where=f"{url}: {answer.status_code}", hint=content.get("hint")
            )
        return list(content["texts"])
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        raise HornbookError(f"does not answer ({error})", where=url) from error
    except (ValueError, KeyError, TypeError) as error:
        raise HornbookError(
            "this is no feed's answer", where=url, hint="Is it the address of a feed?"
        ) from error


def _check(log: FeedLog) -> int:
    """Read every block of a log, and say what is lost."""
    cursor, texts, size = log.first, 0, 0
    while cursor < log.head:
        try:
            found = log.texts(cursor, _AT_A_TIME, _MOST_BYTES)
        except Gone as gone:
            cursor = gone.first
            continue
        texts, size = texts + found.count, size + len(found.json)
        cursor += found.count
    lost = sum(each.next - each.first for each in log.damaged)
    lines = [
        f"log        {log.id}",
        f"numbers    {log.first:,} to {log.head:,}",
        f"texts      {texts:,}, {size:,} bytes as JSON, {log.stored_bytes:,} on disk",
        f"lost       {lost:,}",
        *(f"  {each.path.name}: {each.first:,} to {each.next - 1:,}" for each in log.damaged),
    ]
    sys.stdout.write("\n".join(lines) + "\n")
    return DAMAGED if lost else 0
