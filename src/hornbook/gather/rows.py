"""Rows of tables (JSON objects, Parquet rows) to documents.

In: a row as a dict, and which column holds the text. Out: a `Document` that keeps where the text
came from.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from typing import Any

from hornbook.documents import Document
from hornbook.errors import HornbookError, nearest

TEXT_COLUMNS = ("text", "content", "document", "body", "article", "raw_content", "markdown")
"""Names under which text is looked for. `text` wins over the others; where there are several of
those, the user has to choose."""

KEPT = ("id", "source", "url", "title", "licence", "license", "language", "created", "meta")
"""Columns that a document keeps, besides its text."""

_DOCUMENT_ID = re.compile("[0-9a-f]{32}")


def find_text_column(
    names: Collection[str],
    wanted: str | None,
    where: str,
    option: str = "--prepare.",
    others: Collection[str] = (),
) -> str:
    """The column that holds the text: `wanted`, `text`, or the only well-known one.

    Args:
        names: columns that may hold text.
        wanted: the one that was asked for.
        where: for errors.
        option: how the name of the setting begins in errors.
        others: columns that hold no text; listed in errors.

    Raises:
        HornbookError: it is missing, or there are several; the columns are listed.
    """
    shown = [" ".join(name.split())[:60] for name in names]
    listed = f"its columns are: {', '.join(shown)}" if shown else "none of its columns holds text"
    if others:
        listed += f"; without text: {', '.join(' '.join(each.split())[:60] for each in others)}"
    if wanted is not None:
        if wanted in names:
            return wanted
        raise HornbookError(
            f"has no column {wanted!r}; {listed}", where=where, hint=nearest(wanted, names)
        )
    if "text" in names:
        return "text"
    if not names:
        raise HornbookError(listed, where=where, hint="Is it the right file?")
    candidates = [name for name in TEXT_COLUMNS if name in names]
    if len(candidates) == 1:
        return candidates[0]
    problem = "several columns may be the text" if candidates else "no column is known to be text"
    best = (candidates or [name for name in shown if name not in KEPT] or ["NAME"])[0]
    raise HornbookError(
        f"{problem}; {listed}", where=where, hint=f"Name it: {_option(option)} {best}"
    )


def document_of(
    row: Mapping[str, Any],
    column: str,
    source: str,
    where: str,
    option: str = "--prepare.",
    *,
    keep_all: bool = False,
) -> Document:
    """Make a document of a row. No text (null, or no such key) makes an empty document.

    An id of our own form is kept as the id, any other one as `meta["id"]`; with `keep_all`, so
    are columns that documents do not have.
    """
    text = row.get(column)
    if text is None:
        text = ""
    if not isinstance(text, str):
        raise HornbookError(
            f"column {column!r} holds {type(text).__name__}, not text",
            where=where,
            hint=f"Name another one with {_option(option)}; there are: {', '.join(row)}",
        )
    fields = {name: str(row[name]) for name in KEPT if row.get(name) is not None}
    meta = _meta(row.get("meta"))
    if keep_all:
        others = {name: row[name] for name in row if name != column and name not in KEPT}
        # JSON has no NaN, which is how tables of numbers often spell that there is none.
        plain = json.dumps(others, default=str)
        meta |= json.loads(plain, parse_constant=lambda constant: None)
    id = fields.get("id", "")
    if id and not _DOCUMENT_ID.fullmatch(id):
        meta["id"], id = id, ""
    return Document(
        text=text,
        source=fields.get("source", source),
        url=fields.get("url", ""),
        title=fields.get("title", ""),
        licence=fields.get("licence", fields.get("license", "")),
        language=fields.get("language", ""),
        created=fields.get("created", ""),
        meta=meta,
        id=id,
    )


def _option(prefix: str) -> str:
    return "--text-column" if prefix == "--" else f"{prefix}text_column"


def _meta(value: Any) -> dict[str, Any]:
    if isinstance(value, str) and value.startswith("{"):
        try:
            value = json.loads(value)
        except ValueError:
            return {"meta": value}
    return dict(value) if isinstance(value, dict) else {}
