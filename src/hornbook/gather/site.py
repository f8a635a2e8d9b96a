"""The source `britannica`, and any web site by a profile: search pages, then their articles.

In: searches and a profile. Out: the main text of each article found. Robots.txt is obeyed always;
a site that refuses (403, a page that asks whether one is a robot) ends the gathering and is never
worked around. Pages and what became of them are in the journal.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote_plus, urlsplit

from hornbook.documents import Document
from hornbook.errors import HornbookError, check_limits
from hornbook.gather.client import FetchError, PoliteClient, Politeness, RobotsForbid
from hornbook.gather.config import SiteConfig
from hornbook.gather.html import canonical_url, decode_page, links, read_page
from hornbook.gather.site_profiles import find_profile
from hornbook.gather.source import Cursor, Gathered, Gathering, Item, Size, StopGathering

MOST_FAILURES = 3
"""Pages in a row that fail in spite of all tries: the site is down, or does not want us."""

_CHALLENGE = re.compile(
    r"<title>\s*(just a moment|attention required|access denied|are you a robot)|g-recaptcha|"
    r"cf-challenge|hcaptcha",
    re.IGNORECASE,
)


LONGEST_CHALLENGE = 20_000
"""Characters of a page that asks whether one is a robot. A guess: those of the large providers are
below 10,000, while an article may have a captcha beside its form for comments."""


class SiteSource:
    """Articles of a web site."""

    replayable = False

    def __init__(self, config: SiteConfig):
        profile = find_profile(config.profile, config.profile_file)
        site = (config.site or profile.site).rstrip("/")
        self._profile = dataclasses.replace(profile, site=site)
        self._config = config
        self._queries = list(config.queries or profile.queries)
        self.name = profile.name
        if profile.terms and not config.i_have_permission:
            raise HornbookError(
                profile.terms,
                where=site,
                hint="If you have its permission, say so with --i-have-permission (in a recipe "
                "`i_have_permission: true` in the source's settings; without it, take the source "
                "out); Wikipedia allows robots: hornbook gather wikipedia",
            )
        if not self._queries:
            raise HornbookError("nothing to search for was named", where="--queries")
        if urlsplit(site).scheme not in ("http", "https"):
            raise HornbookError(f"{site!r} is not an http or https address", where="--site")
        check_limits(config, "britannica", [("pages", config.pages >= 1, "1 or more")])

    def fingerprint(self) -> dict[str, Any]:
        """The settings and the profile."""
        settings = dataclasses.asdict(self._config)
        del settings["i_have_permission"], settings["profile_file"]
        return {**settings, "profile": dataclasses.asdict(self._profile)}

    def size(self, gathering: Gathering) -> Size:
        """At most so many articles."""
        return Size(documents=self._config.pages)

    def documents(self, cursor: Cursor, gathering: Gathering) -> Iterator[Gathered]:
        """What the first page of each search finds, then of the second, until there are enough."""
        client = gathering.client(
            Politeness(
                requests_per_minute=60 / self._profile.seconds_between,
                concurrency=1,
                obey_robots=True,
            )
        )
        client.check_named(self._profile.site)
        items = gathering.items
        for query in self._queries:
            items.add([f"{query}\n1"], "search")
        taken, failures, problem = cursor.get("articles", 0), 0, ""
        while taken < self._config.pages:
            item = next(iter(items.next(1) or items.next(1, "search")), None)
            if item is None:
                break
            document = None
            try:
                if item.state == "search":
                    self._search(item, client, gathering)
                else:
                    document = self._article(item, client, gathering)
            except FetchError as error:
                state = self._final_state(item, error)
                if state == "failed":
                    failures, problem = failures + 1, str(error)
                if failures == MOST_FAILURES:
                    break
                items.set(item.key, state, str(error))
                gathering.count(f"pages {state}")
                if state == "failed":
                    continue  # kept as failed only once a later page works; else it is tried again
            failures = 0
            taken += document is not None
            yield Gathered(document, {"articles": taken})
        if failures == MOST_FAILURES or (failures and not taken):
            raise StopGathering(
                f"{failures} pages could not be had: {problem}",
                where=self._profile.site,
                hint="Run the same command again later: it goes on from here",
            )
        if failures:
            yield Gathered(None, {"articles": taken})
        if not taken:
            raise HornbookError(
                "no article was found",
                where=self._profile.site,
                hint="Try other searches, or look at the profile's search and article",
            )

    def _search(self, item: Item, client: PoliteClient, gathering: Gathering) -> None:
        query, number = item.key.rsplit("\n", 1)
        path = self._profile.search.format(query=quote_plus(query), page=number)
        html, url = self._get(client, self._profile.site + path)
        found = [link for link in links(html, url) if self._is_article(link)]
        new = gathering.items.add(found)
        gathering.items.set(item.key, "done")
        gathering.count("search pages")
        if new and "{page}" in self._profile.search and int(number) < self._profile.search_pages:
            gathering.items.add([f"{query}\n{int(number) + 1}"], "search")

    def _is_article(self, url: str) -> bool:
        site, parts = urlsplit(self._profile.site), urlsplit(url)
        path = parts.path.removeprefix(site.path) if site.path else parts.path
        return (parts.scheme, parts.netloc) == (site.scheme, site.netloc) and bool(
            re.match(self._profile.article, path)
        )

    def _article(self, item: Item, client: PoliteClient, gathering: Gathering) -> Document | None:
        html, url = self._get(client, item.key)
        address = next(filter(self._is_article, (canonical_url(html, url), url)), "")
        known = gathering.items.get(address)
        if not address or (address != item.key and known and known.state == "done"):
            why = "the same as another page" if address else "pages that lead to no article"
            gathering.items.set(item.key, why)
            gathering.count(why)
            return None
        gathering.items.add([address])
        gathering.items.set(address, "done")
        gathering.items.set(item.key, "done")
        profile = self._profile
        page = read_page(html, extractor=self._config.extractor, selector=profile.selector)
        if not page.text:
            gathering.count("pages without text")
            return None
        return Document(
            page.text,
            source=profile.name,
            url=address,
            title=page.title,
            licence=page.licence or profile.licence,
            language=page.language,
            created=page.created,
        )

    def _get(self, client: PoliteClient, url: str) -> tuple[str, str]:
        """A page and the address where it was found. Raises `FetchError`, `StopGathering`."""
        try:
            page = client.get(url, accept="text/html,application/xhtml+xml")
        except FetchError as error:
            body = error.body.decode("utf-8", "replace")
            if error.status in (401, 403) or _CHALLENGE.search(body):
                raise self._refused(f"refuses us ({error})") from error
            raise
        html = decode_page(page.content, page.encoding)
        if len(html) < LONGEST_CHALLENGE and _CHALLENGE.search(html):
            raise self._refused("asks whether we are a robot")
        return html, page.url

    def _final_state(self, item: Item, error: FetchError) -> str:
        """What becomes of a page that cannot be had; "failed" where it may work later."""
        if isinstance(error, RobotsForbid):
            if item.state == "search":
                raise self._refused(f"forbids robots its search pages ({error})") from error
            return "forbidden by robots.txt"
        return "gone" if error.status in (404, 410) else "failed"

    def _refused(self, what: str) -> StopGathering:
        return StopGathering(
            what,
            where=self._profile.site,
            hint="This is not worked around. Ask the site's owner; what was gathered is kept",
        )
