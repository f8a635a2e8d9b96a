"""The source `wikipedia`: articles of any MediaWiki, found by searching, through its Action API.

In: searches and titles. Out: one document an article, as clean text, with its revision and licence.
Which titles are wanted, taken and passed over is in the journal, in the order in which they were
found, so the order of the documents does not depend on when a gathering was killed.

The rules of Wikimedia are kept (API:Etiquette, and the limits of 2026: 200 requests a minute with a
contact in the User-Agent): one request at a time, 50 titles in each, `maxlag`.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from hornbook.documents import Document, document_id
from hornbook.errors import HornbookError
from hornbook.files import read_list
from hornbook.gather.client import Politeness
from hornbook.gather.config import WikipediaConfig
from hornbook.gather.dump_workers import Workers
from hornbook.gather.mediawiki import LONGEST_TITLES, TITLES_AT_ONCE, About, Wiki, WikiPage
from hornbook.gather.page_text import PAGE_SECONDS, Batch, read_batch
from hornbook.gather.source import Cursor, Gathered, Gathering, Item, Size
from hornbook.gather.wikipedia_topics import TOPICS
from hornbook.gather.wikitext import Text
from hornbook.gather.wikitext_nodes import require_mwparserfromhell

REQUESTS_PER_MINUTE = 200
"""What Wikimedia allows those who say who they are."""

DUMP_PAGES = 10_000
"""Beyond, Wikimedia asks to take the dump: https://wikitech.wikimedia.org/wiki/Robot_policy."""

_SEARCH, _PAGE = "[search] ", "[page] "
"""Items that are no titles; a title never has such a bracket."""

_QUEUES = ("found", "spare", "linked")
"""States of titles that wait, in the order in which they are taken: titles that were named and the
best hits of each search; the other hits; links. A queue that is being worked on never grows but at
its own end, so the order is the same after a kill."""


class WikipediaSource:
    """Articles by search, title and link."""

    name = "wikipedia"
    replayable = False

    def __init__(self, config: WikipediaConfig):
        self._config = config
        named = list(config.topics)
        if config.topics_file is not None:
            named += read_list(Path(config.topics_file).expanduser())
        self._topics = named or ([] if config.titles else list(TOPICS))
        self._api_url = config.api_url or f"https://{config.language}.wikipedia.org/w/api.php"
        if not re.fullmatch("[a-z0-9-]+", config.language):
            raise HornbookError("is no language of Wikipedia, as in `en`", where="--language")
        if urlsplit(self._api_url).scheme not in ("http", "https"):
            raise HornbookError(
                "is not an http(s) address", where="--api-url", hint="https://WIKI/w/api.php"
            )
        for name in ("pages", "per_topic"):
            if getattr(config, name) < 1:
                raise HornbookError("must be above 0", where=f"--{name.replace('_', '-')}")
        for title in config.titles:
            if set(title) & set("|\n\x1f"):
                raise HornbookError("is no title of a page", where=f"--titles: {title!r}")

    def fingerprint(self) -> dict[str, Any]:
        """The settings, with the searches that a file gave."""
        return dataclasses.asdict(self._config) | {"topics": self._topics, "topics_file": None}

    def size(self, gathering: Gathering) -> Size:
        """The page budget."""
        return Size(documents=self._config.pages)

    def documents(self, cursor: Cursor, gathering: Gathering) -> Iterator[Gathered]:
        """The articles, until the budget is used up or nothing is left.

        Raises:
            HornbookError: there is no contact, no such wiki, no page at all, or no
                mwparserfromhell.
            StopGathering: the wiki is busy for long, or forbids.
        """
        require_mwparserfromhell()
        wiki = self._open(gathering)
        if not cursor:
            titles = (title.replace("_", " ").strip() for title in self._config.titles)
            gathering.items.add(filter(None, titles), "found", "0")
            gathering.items.add([_SEARCH + topic for topic in self._topics])
            yield Gathered(None, {"pages": 0})
        yield from self._search(wiki, cursor or {"pages": 0}, gathering)
        taken = cursor.get("pages", 0)
        about = wiki.about()
        if not (self._config.licence or about.licence):
            gathering.note(f"{self._api_url} names no licence; --licence puts one in")
        with Workers(read_batch, 1, PAGE_SECONDS) as workers:
            while taken < self._config.pages:
                batch = _next_titles(gathering)
                if not batch:
                    break
                for document in self._take(batch, wiki, about, workers, gathering):
                    taken += document is not None
                    yield Gathered(document, {"pages": taken})
                    if taken == self._config.pages:
                        break
        if not taken:
            raise HornbookError(
                "no article was found", where=self._api_url, hint="Try other topics or titles"
            )

    def _open(self, gathering: Gathering) -> Wiki:
        client = gathering.client(
            Politeness(requests_per_minute=REQUESTS_PER_MINUTE, concurrency=1)
        )
        contact = client.politeness.contact
        if "@" not in contact and not contact.startswith(("http://", "https://")):
            raise HornbookError(
                "wikis want to know whom to write to about these requests"
                + (f"; {contact!r} is no address" if contact else ""),
                where="--contact",
                hint="Give your e-mail address or web page: --contact you@example.org",
            )
        if self._config.pages > DUMP_PAGES:
            gathering.note(
                f"more than {DUMP_PAGES:,} pages: Wikimedia asks to take the dump instead, and it "
                "is faster (hornbook gather wikidump)"
            )
        return Wiki(client, self._api_url, gathering.count)

    def _search(self, wiki: Wiki, cursor: Cursor, gathering: Gathering) -> Iterator[Gathered]:
        """Do the searches that are left. The first hits of each fill the budget together."""
        share = math.ceil(self._config.pages / max(1, len(self._topics)))
        while searches := gathering.items.next(1):
            words = searches[0].key.removeprefix(_SEARCH)
            hits = wiki.search(words, self._config.per_topic)
            gathering.items.add(hits[:share], "found", "0")
            gathering.items.add(hits[share:], "spare", "0")
            gathering.items.set(searches[0].key, "searched", f"{len(hits)} hits")
            if not hits:
                gathering.note(f"nothing is found for {words!r}")
                gathering.count("searches without a hit")
            yield Gathered(None, cursor)

    def _take(
        self,
        batch: list[Item],
        wiki: Wiki,
        about: About,
        workers: Workers[Batch, list[Text | str]],
        gathering: Gathering,
    ) -> Iterator[Document | None]:
        """For each title its document, or None where it gives none."""
        links = any(int(item.value) < self._config.depth for item in batch)
        found = wiki.pages([item.key for item in batch], links=links)
        pages = list(dict.fromkeys(page for page in found.values() if page is not None))
        task = Batch([(page.title, page.wikitext) for page in pages], about.hidden)
        ((_, texts),) = workers.results([task])
        read = {page.number: text for page, text in zip(pages, texts, strict=True)}
        for item in batch:
            page = found[item.key]
            outcome: Document | str
            if page is None:
                outcome = "missing pages"
            elif gathering.items.add([f"{_PAGE}{page.number}"], "taken") == 0:
                outcome = "pages met again"
            else:
                if page.title != item.key[:1].upper() + item.key[1:]:
                    gathering.count("redirects")
                if int(item.value) < self._config.depth and not page.is_disambiguation:
                    gathering.items.add(page.links, "linked", str(int(item.value) + 1))
                outcome = self._document(page, read[page.number], about, gathering)
            document = None if isinstance(outcome, str) else outcome
            why = outcome if isinstance(outcome, str) else ""
            if why:
                gathering.count(why)
            gathering.items.set(item.key, "done", why)
            yield document

    def _document(
        self, page: WikiPage, read: Text | str, about: About, gathering: Gathering
    ) -> Document | str:
        """The document of a page, or why it gives none; "" where the quarantine says why."""
        if page.namespace != 0:
            return "pages of other namespaces"
        if page.is_disambiguation:
            return "disambiguation pages"
        if page.model != "wikitext":
            return "pages that are not wikitext"
        if isinstance(read, str):
            gathering.quarantine(page.url or page.title, read, page.wikitext)
            return ""
        if len(read.text) < self._config.minimum_characters:
            return "short pages"
        return Document(
            text=read.text,
            source=self.name,
            url=page.url,
            title=page.title,
            licence=self._config.licence or about.licence,
            language=about.language,
            created=page.timestamp,
            meta={"page": page.number, "revision": page.revision},
            id=document_id(f"{self.name}\n{page.url or page.title}\n{page.revision}"),
        )


def _next_titles(gathering: Gathering) -> list[Item]:
    """Titles for one request, from the first queue that is not empty."""
    for state in _QUEUES:
        waiting = gathering.items.next(TITLES_AT_ONCE, state)
        ends = itertools.accumulate(len(quote(item.key)) + 3 for item in waiting)
        fitting = sum(end < LONGEST_TITLES for end in ends)
        if waiting:
            return waiting[: max(1, fitting)]
    return []
