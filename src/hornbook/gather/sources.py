"""The sources by name. In: a name and its settings. Out: the source, imported only then."""

from __future__ import annotations

import importlib
from typing import Any, cast

from hornbook.errors import HornbookError, nearest
from hornbook.gather.config import CONFIGS
from hornbook.gather.source import Source

_CLASSES = {
    "files": ("files", "FilesSource"),
    "wikipedia": ("wikipedia", "WikipediaSource"),
    "wikidump": ("wikidump", "WikidumpSource"),
    "britannica": ("site", "SiteSource"),
    "youtube": ("youtube", "YoutubeSource"),
    "hub": ("hub", "HubSource"),
    "url": ("url", "UrlSource"),
}
"""Module of this room and class in it, made of the source's settings."""


def open_source(name: str, settings: Any) -> Source:
    """The source of a name.

    Args:
        name: a key of `CONFIGS`.
        settings: its dataclass.

    Raises:
        HornbookError: there is no such source, or its settings cannot work.
    """
    if name not in _CLASSES:
        raise HornbookError(f"there is no source {name!r}", hint=nearest(name, CONFIGS))
    module, kind = _CLASSES[name]
    found = getattr(importlib.import_module(f"hornbook.gather.{module}"), kind)
    return cast(Source, found(settings))
