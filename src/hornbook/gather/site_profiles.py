"""Where the articles of a web site are: built-in profiles, and a user's own as YAML.

In: a profile's name or file. Out: a `Profile`.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from hornbook.errors import HornbookError, nearest


@dataclass(frozen=True)
class Profile:
    """How to find the articles of a site.

    Args:
        name: source of the documents.
        site: its address, as in `https://www.example.org`.
        search: path of its search pages, with `{query}` and, where there are several, `{page}`
            (from 1).
        article: regular expression that the path of an article's address matches from its start.
        queries: what is searched for when the user names nothing.
        selector: CSS selector of an article's text; empty: the main text is found.
        licence: of the texts, where the pages name none.
        seconds_between: seconds between two requests; robots.txt may ask for more.
        search_pages: most search pages a query.
        terms: what the site's terms say against robots; empty: it allows them.
    """

    name: str
    site: str
    search: str
    article: str
    queries: tuple[str, ...] = ()
    selector: str = ""
    licence: str = ""
    seconds_between: float = 5
    search_pages: int = 3
    terms: str = ""


PROFILES = {
    "britannica": Profile(
        name="britannica",
        site="https://www.britannica.com",
        search="/search?query={query}&page={page}",
        article=r"/(topic|place|biography|science|technology|event|animal|plant|art|story)/[^/]+$",
        queries=(
            *("algebra", "anatomy", "architecture", "astronomy", "biology", "chemistry"),
            *("climate", "democracy", "economics", "electricity", "evolution", "geography"),
            *("geology", "grammar", "history of Europe", "law", "literature", "medicine"),
            *("music", "painting", "philosophy", "physics", "psychology", "religion"),
            *("Shakespeare", "statistics", "trade", "writing"),
        ),
        licence="all rights reserved; used with permission",
        terms="Britannica's terms of use forbid robots and scraping without its written "
        "permission; archives of web sites hold back from it for that reason",
    )
}


_KINDS: dict[str, tuple[Any, str]] = {
    "queries": (list, "a list"),
    "seconds_between": ((int, float), "a number"),
    "search_pages": (int, "a whole number"),
}
"""What the values of a profile are that are no text."""


def find_profile(name: str, file: str | None = None) -> Profile:
    """The profile in `file`, or the built-in one called `name`.

    Raises:
        HornbookError: there is none, or it is not one.
    """
    if file is not None:
        return _read(Path(file).expanduser())
    if name not in PROFILES:
        raise HornbookError(
            f"there is no profile {name!r}",
            where="--profile",
            hint=nearest(name, PROFILES) or "Write your own: --profile-file FILE.yaml",
        )
    return PROFILES[name]


def _read(path: Path) -> Profile:
    fields = [field.name for field in dataclasses.fields(Profile)]
    try:
        given = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        what = str(error).splitlines()[0]
        raise HornbookError(f"is not a readable profile ({what})", where=path) from None
    if not isinstance(given, dict):
        raise HornbookError("is not a profile", where=path, hint=f"Its keys: {', '.join(fields)}")
    for key, value in given.items():
        if key not in fields:
            raise HornbookError(
                f"has an unknown key {key!r}", where=path, hint=nearest(str(key), fields)
            )
        kind, meant = _KINDS.get(key, (str, "text; put it in quotes"))
        if not isinstance(value, kind):
            raise HornbookError(f"{key} has to be {meant}", where=path)
    missing = [each for each in ("name", "site", "search", "article") if not given.get(each)]
    if missing:
        raise HornbookError(f"lacks {', '.join(missing)}", where=path)
    given["queries"] = tuple(map(str, given.get("queries", ())))
    try:
        profile = Profile(**given)
        re.compile(profile.article)
        profile.search.format(query="", page=1)
        if not 0 < profile.seconds_between < 3600 or profile.search_pages < 1:
            raise ValueError("seconds_between and search_pages have to be more than 0")
    except (ValueError, KeyError, IndexError, AttributeError, re.error) as error:
        raise HornbookError(f"is not a profile that works ({error})", where=path) from None
    return profile
