"""The Action API of a MediaWiki: searching, and reading pages in batches.

In: searches and titles. Out: titles, and pages with their wikitext, revision and links. `continue`
is merged as the API's manual says, without looking at what is in it; a wiki that is behind
(`maxlag`) or asks for patience gets it.

Manual: https://www.mediawiki.org/wiki/API:Main_page, API:Etiquette, API:Continue.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from hornbook.errors import HornbookError
from hornbook.gather.answers import retry_after
from hornbook.gather.client import FetchError, PoliteClient
from hornbook.gather.source import StopGathering

MAXLAG_S = 5
"""What API:Etiquette advises for work that nobody waits for."""

TITLES_AT_ONCE = 50
LONGEST_TITLES = 5000
"""Characters of titles in one request as they stand in its URL; servers refuse URLs of 8 kB."""

DEEPEST_SEARCH = 10_000
"""The search gives no hits beyond."""

_PATIENCE = 7
_FIRST_WAIT_S = 5.0
_MOST_ROUNDS = 1000
_DISAMBIGUATION = re.compile(
    r"\{\{\s*(disambig(uation)?( page| cleanup)?|dab|hndis|geodis)\s*[|}]", re.IGNORECASE
)
"""For wikis without the extension that marks such pages."""

_ANSWERS = {"query", "batchcomplete", "continue", "error"}
_NO_WIKI = "does not answer as a MediaWiki does"
_WAITING = ("maxlag", "ratelimited", "readonly")


@dataclass(frozen=True)
class About:
    """What a wiki says of itself: its language, the licence of its texts, and in lower case the
    names of the namespaces of media, files and categories."""

    language: str
    licence: str
    hidden: frozenset[str]


@dataclass(frozen=True)
class WikiPage:
    """A page in its latest revision.

    Args:
        number: of the page.
        url: its canonical address.
        model: of its content; "wikitext" for articles.
        links: titles of the articles that it links to, where they were asked for.
    """

    title: str
    number: int
    namespace: int
    url: str
    revision: int
    timestamp: str
    model: str
    wikitext: str
    is_disambiguation: bool
    links: tuple[str, ...]


class Wiki:
    """A wiki by the address of its api.php.

    Args:
        client: with a contact.
        api_url: of the wiki.
        count: told of waits for the wiki.
    """

    def __init__(self, client: PoliteClient, api_url: str, count: Callable[[str], None]):
        self._client, self._api_url, self._count = client, api_url, count

    def about(self) -> About:
        """Ask the wiki who it is."""
        asked = {"meta": "siteinfo", "siprop": "general|rightsinfo|namespaces"}
        with self._understanding():
            (answer,) = self._query(asked)
            rights = answer.get("rightsinfo", {})
            spaces = answer.get("namespaces", {})
            names = [spaces.get(number, {}) for number in ("-2", "6", "14")]
            hidden = {str(each.get(key, "")) for each in names for key in ("name", "canonical")}
            return About(
                language=str(answer.get("general", {}).get("lang", "")),
                licence=str(rights.get("text") or rights.get("url") or ""),
                hidden=frozenset(name.lower() for name in hidden if name),
            )

    def search(self, words: str, limit: int) -> list[str]:
        """Titles of articles, the best hit first; at most `limit`."""
        limit = min(limit, DEEPEST_SEARCH)
        asked = {
            "list": "search",
            "srwhat": "text",  # without CirrusSearch, titles are searched otherwise
            "srsearch": words,
            "srnamespace": "0",
            "srlimit": str(min(limit, TITLES_AT_ONCE)),
            "srprop": "",
        }
        titles: list[str] = []
        with self._understanding():
            for answer in self._query(asked):
                titles += [hit["title"] for hit in answer.get("search", [])]
                if len(titles) >= limit:
                    break
        return titles[:limit]

    def pages(self, titles: Sequence[str], *, links: bool) -> dict[str, WikiPage | None]:
        """The page behind each title, redirects followed; None where there is none.

        Args:
            titles: at most `TITLES_AT_ONCE`.
            links: whether the pages' links are asked for.
        """
        asked = {
            "prop": "revisions|info|pageprops" + ("|links" if links else ""),
            "titles": "|".join(titles),
            "redirects": "1",
            "rvprop": "ids|timestamp|content",
            "rvslots": "main",
            "inprop": "url",
            "ppprop": "disambiguation",
        }
        if links:
            asked |= {"plnamespace": "0", "pllimit": "max"}
        leads: dict[str, str] = {}
        found: dict[str, dict[str, Any]] = {}
        with self._understanding():
            for answer in self._query(asked):
                for kind in ("normalized", "redirects"):
                    leads |= {each["from"]: each["to"] for each in answer.get(kind, [])}
                for page in answer.get("pages", []):
                    _merge(found.setdefault(page["title"], {}), page)
            pages = {title: _page(each) for title, each in found.items()}
        return {title: pages.get(_end(title, leads)) for title in titles}

    @contextlib.contextmanager
    def _understanding(self) -> Iterator[None]:
        """What an answer lacks shows when it is read; answers are not checked before."""
        try:
            yield
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise self._problem(_NO_WIKI) from error

    def _query(self, parameters: dict[str, str]) -> Iterator[dict[str, Any]]:
        """The answers to a query, until there is no `continue`."""
        fixed = {"action": "query", "format": "json", "formatversion": "2", **parameters}
        going_on: dict[str, str] = {}
        for _ in range(_MOST_ROUNDS):
            answer = self._ask({**fixed, "maxlag": str(MAXLAG_S), **going_on})
            yield answer.get("query", {})
            if "continue" not in answer:
                return
            going_on = {key: str(value) for key, value in answer["continue"].items()}
        raise self._problem(f"its answer goes on for more than {_MOST_ROUNDS:,} requests")

    def _ask(self, parameters: dict[str, str]) -> dict[str, Any]:
        """One answer; waits as often as is patient when the wiki is busy."""
        for attempt in range(_PATIENCE):
            try:
                page = self._client.get(self._api_url, params=parameters, accept="application/json")
                answer = self._client.parsed(page)
            except FetchError as error:
                raise self._fetch_problem(error) from error
            if not isinstance(answer, dict) or not _ANSWERS & answer.keys():
                raise self._problem(_NO_WIKI)
            if "error" not in answer:
                return answer
            code, info = answer["error"].get("code", ""), answer["error"].get("info", "")
            if code not in _WAITING and not code.startswith("internal_api_error"):
                raise self._problem(f"the wiki refuses: {info or code}")
            if attempt == _PATIENCE - 1:
                break
            self._count(f"waits for the wiki ({code})")
            backoff = _FIRST_WAIT_S * 2**attempt
            asked = retry_after(page.headers)
            self._client.pause(self._api_url, backoff if asked is None else asked)
        raise StopGathering(
            f"the wiki is busy ({code}: {info})",
            where=self._api_url,
            hint="Run the same command again later: it goes on from here",
        )

    def _fetch_problem(self, error: FetchError) -> HornbookError:
        if error.retryable:
            hint = "Run the same command again later: it goes on from here"
            return StopGathering(str(error), where=self._api_url, hint=hint)
        if error.status == 403:
            hint = "Is --contact a real address, by which you can be reached?"
            return StopGathering("the wiki forbids (HTTP 403)", where=self._api_url, hint=hint)
        return self._problem(str(error))

    def _problem(self, what: str) -> HornbookError:
        hint = "Is that the address of its api.php?"
        return HornbookError(what, where=self._api_url, hint=hint)


def _merge(page: dict[str, Any], more: dict[str, Any]) -> None:
    """Add what another answer says of the same page: lists grow, other values are the same."""
    for key, value in more.items():
        if isinstance(value, list):
            page[key] = [*page.get(key, []), *value]
        else:
            page.setdefault(key, value)


def _page(found: dict[str, Any]) -> WikiPage | None:
    revisions = found.get("revisions")
    if not revisions or found.get("missing") or found.get("invalid"):
        return None
    latest = revisions[0]
    content = latest.get("slots", {}).get("main", {})
    return WikiPage(
        title=found["title"],
        number=found["pageid"],
        namespace=found["ns"],
        url=found.get("canonicalurl", ""),
        revision=latest["revid"],
        timestamp=latest["timestamp"],
        model=content.get("contentmodel", ""),
        wikitext=content.get("content", ""),
        is_disambiguation="disambiguation" in found.get("pageprops", {})
        or bool(_DISAMBIGUATION.search(content.get("content", ""))),
        links=tuple(link["title"] for link in found.get("links", [])),
    )


def _end(title: str, leads: dict[str, str]) -> str:
    """Where a title leads: to its normal form, and on by redirects (a circle ends somewhere)."""
    for _ in range(len(leads)):
        title = leads.get(title, title)
    return title
