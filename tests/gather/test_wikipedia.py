"""The source `wikipedia` against a stand-in for the Action API, which can be as difficult as real
ones: busy, limiting, answering in parts, forbidding. `test_wikipedia_real.py` asks a real one."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from pytest_httpserver import HTTPServer
from tests.gather.hostile_server import FakeClock
from tests.gather.kill_source import gather_in_child, shards
from werkzeug import Request, Response

from hornbook.documents import Document, read_documents
from hornbook.errors import HornbookError
from hornbook.gather.collect import GatherReport, collect
from hornbook.gather.config import GatherConfig, NetworkConfig, WikipediaConfig
from hornbook.gather.page_text import Batch, read_batch
from hornbook.gather.source import StopGathering
from hornbook.gather.wikipedia import WikipediaSource
from hornbook.gather.wikipedia_topics import TOPICS
from hornbook.gather.wikitext import Text, fast_text

LONG = "Some words of an article. " * 20


@dataclass
class FakeWiki:
    """An Action API.

    Args:
        pages: wikitext by title; a title that leads on begins with `#REDIRECT`.
        hits: titles by search.
        replies: what to answer first: (body, status, headers).
        per_answer: links in one answer; then `continue`.
    """

    pages: dict[str, str] = field(default_factory=dict)
    hits: dict[str, list[str]] = field(default_factory=dict)
    disambiguations: set[str] = field(default_factory=set)
    links: dict[str, list[str]] = field(default_factory=dict)
    replies: list[tuple[Any, int, dict[str, str]]] = field(default_factory=list)
    per_answer: int = 3
    rights: dict[str, str] = field(default_factory=lambda: {"text": "CC BY-SA 4.0"})
    asked: list[dict[str, str]] = field(default_factory=list)
    agents: set[str] = field(default_factory=set)

    def answer(self, request: Request) -> Response:
        asked = dict(request.args)
        self.asked.append(asked)
        self.agents.add(request.headers["User-Agent"])
        if self.replies:
            body, status, headers = self.replies.pop(0)
            return Response(json.dumps(body), status, headers)
        assert asked["action"] == "query" and asked["maxlag"] == "5"
        assert asked["formatversion"] == "2" and asked["format"] == "json"
        if asked.get("list") == "search":
            return self._search(asked)
        if asked.get("meta") == "siteinfo":
            query = {
                "general": {"lang": "xx"},
                "rightsinfo": self.rights,
                "namespaces": {"6": {"name": "Bildo"}, "14": {"name": "Kategorio"}},
            }
            return Response(json.dumps({"batchcomplete": True, "query": query}))
        return self._pages(asked)

    def _search(self, asked: dict[str, str]) -> Response:
        hits = self.hits.get(asked["srsearch"], [])
        begin = int(asked.get("sroffset", 0))
        end = begin + int(asked["srlimit"])
        body: dict[str, Any] = {"query": {"search": [{"title": each} for each in hits[begin:end]]}}
        if end < len(hits):
            body["continue"] = {"sroffset": end, "continue": "-||"}
        return Response(json.dumps(body))

    def _pages(self, asked: dict[str, str]) -> Response:
        titles = asked["titles"].split("|")
        assert len(titles) <= 50
        query: dict[str, Any] = {"normalized": [], "redirects": [], "pages": []}
        ends = []
        for title in titles:
            normal = title[0].upper() + title[1:]
            if normal != title:
                query["normalized"].append({"from": title, "to": normal})
            if self.pages.get(normal, "").startswith("#REDIRECT"):
                target = self.pages[normal].partition(" ")[2]
                query["redirects"].append({"from": normal, "to": target})
                normal = target
            ends.append(normal)
        begin = int(asked.get("plcontinue", 0))
        more = False
        for title in sorted(set(ends)):  # not in the order asked for, as real ones
            page: dict[str, Any] = {"ns": 0, "title": title}
            if title not in self.pages:
                page["missing"] = True
            else:
                number = list(self.pages).index(title) + 1
                page |= {"pageid": number, "canonicalurl": f"https://wiki.test/{title}"}
                if begin == 0:
                    page["revisions"] = [self._revision(number, self.pages[title])]
                if title in self.disambiguations:
                    page["pageprops"] = {"disambiguation": ""}
                links = self.links.get(title, []) if "links" in asked["prop"] else []
                page["links"] = [{"title": t} for t in links[begin : begin + self.per_answer]]
                more |= len(links) > begin + self.per_answer
            query["pages"].append(page)
        body: dict[str, Any] = {"query": query}
        if more:
            body["continue"] = {"plcontinue": begin + self.per_answer, "continue": "||info"}
        return Response(json.dumps(body))

    @staticmethod
    def _revision(number: int, wikitext: str) -> dict[str, Any]:
        slot = {"contentmodel": "wikitext", "content": wikitext}
        timestamp = "2026-01-02T03:04:05Z"
        return {"revid": 1000 + number, "timestamp": timestamp, "slots": {"main": slot}}


@pytest.fixture
def wiki(httpserver: HTTPServer) -> Iterator[FakeWiki]:
    wiki = FakeWiki()
    httpserver.expect_request("/api.php").respond_with_handler(wiki.answer)
    yield wiki
    httpserver.check_assertions()


@pytest.fixture
def gather(httpserver: HTTPServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr("hornbook.gather.client.SystemClock", FakeClock)

    def gather(contact: str = "me@example.org", **settings: Any) -> GatherReport:
        config = WikipediaConfig(**{"api_url": httpserver.url_for("/api.php"), **settings})
        network = NetworkConfig(allow_private=True, contact=contact, requests_per_minute=60_000)
        return collect(WikipediaSource(config), GatherConfig(network=network), tmp_path / "out")

    gather.documents = lambda: list(read_documents(tmp_path / "out"))  # type: ignore[attr-defined]
    return gather


def titles(documents: list[Document]) -> list[str]:
    return [document.title for document in documents]


def test_documents(wiki: FakeWiki, gather: Any) -> None:
    wiki.pages = {"Tree": f"'''Tree'''s [[Bildo:A.jpg|thumb|x]]grow.\n{LONG}\n[[Kategorio:Plants]]"}
    gather(titles=["tree"])
    (document,) = gather.documents()
    assert document.text.startswith("Trees grow.") and "Kategorio" not in document.text
    assert document.source == "wikipedia" and document.title == "Tree"
    assert document.url == "https://wiki.test/Tree" and document.licence == "CC BY-SA 4.0"
    assert document.language == "xx" and document.created == "2026-01-02T03:04:05Z"
    assert document.meta == {"page": 1, "revision": 1001}
    (agent,) = wiki.agents
    assert "(me@example.org)" in agent


@pytest.mark.parametrize("contact", ["", "nobody", "example.org"])
def test_no_contact_no_request(wiki: FakeWiki, gather: Any, contact: str) -> None:
    with pytest.raises(HornbookError, match=r"--contact: wikis want to know.*you@example\.org"):
        gather(contact, titles=["Tree"])
    assert wiki.asked == []


def test_what_is_left_out(wiki: FakeWiki, gather: Any) -> None:
    wiki.pages = {
        "A": LONG,
        "B": "#REDIRECT A",
        "C": "{{Disambig}}\n" + LONG,
        "D": LONG,
        "E": "short",
        "F": "#REDIRECT D",
        "G": "#REDIRECT Nowhere",
        "H": LONG,
    }
    wiki.disambiguations = {"H"}
    report = gather(titles=["A", "B", "b", "C", "E", "F", "D", "Z", "G", "H"])
    assert titles(gather.documents()) == ["A", "D"]
    assert report.counts == {
        "pages met again": 3,
        "disambiguation pages": 2,
        "short pages": 1,
        "redirects": 1,
        "missing pages": 2,
    }


def test_searches_share_the_budget(wiki: FakeWiki, gather: Any) -> None:
    """First the best hits of each, then the others, then links; never more than asked for."""
    names = [f"{word} {n}" for word in "XYZ" for n in range(8)]
    wiki.pages = dict.fromkeys(names, LONG)
    wiki.hits = {word: [name for name in names if name[0] == word] for word in "XYZ"}
    wiki.hits["Y"].insert(0, "X 0")
    gather(topics=["X", "Y", "Z", "Q"], pages=12, per_topic=6)
    found = titles(gather.documents())
    assert len(found) == 12 and len(set(found)) == 12
    assert found[:9] == ["X 0", "X 1", "X 2", "Y 0", "Y 1", "Z 0", "Z 1", "Z 2", "X 3"]


def test_many_hits_come_in_parts(wiki: FakeWiki, gather: Any) -> None:
    wiki.hits = {"all": [f"P{n}" for n in range(130)]}
    wiki.pages = dict.fromkeys(wiki.hits["all"], LONG)
    gather(topics=["all"], per_topic=120, pages=200)
    assert titles(gather.documents()) == [f"P{n}" for n in range(120)]
    assert len([asked for asked in wiki.asked if "titles" in asked]) == 3
    assert [a.get("sroffset") for a in wiki.asked if "srsearch" in a] == [None, "50", "100"]


def test_links_to_a_depth(wiki: FakeWiki, gather: Any, tmp_path: Path) -> None:
    wiki.pages = dict.fromkeys("ABCDEFGH", LONG)
    wiki.links = {"A": list("BCDEF"), "B": ["G"], "G": ["H"]}
    gather(titles=["A"], depth=2)
    assert titles(gather.documents()) == list("ABCDEFG")


def test_long_titles_make_small_batches(wiki: FakeWiki, gather: Any) -> None:
    names = [f"{n:03}" + "ż" * 200 for n in range(40)]
    wiki.pages = dict.fromkeys(names, LONG)
    gather(titles=names)
    assert titles(gather.documents()) == names
    assert all(len(json.dumps(asked)) < 7000 for asked in wiki.asked)


def test_a_busy_wiki_gets_its_time(wiki: FakeWiki, gather: Any) -> None:
    wiki.pages = {"A": LONG}
    error = {"error": {"code": "maxlag", "info": "Waiting for a server: 7 seconds lagged"}}
    limited = {"error": {"code": "ratelimited", "info": "too many"}}
    wiki.replies = [
        (error, 200, {"Retry-After": "5"}),
        (error, 503, {"Retry-After": "5"}),
        (limited, 200, {}),
        ({}, 429, {"Retry-After": "2"}),
    ]
    report = gather(titles=["A"])
    assert titles(gather.documents()) == ["A"]
    assert report.counts["waits for the wiki (maxlag)"] == 1
    assert report.counts["waits for the wiki (ratelimited)"] == 1


def test_stopped_and_gone_on_with(wiki: FakeWiki, gather: Any) -> None:
    """The wiki stays busy in the middle; later all is there once, in the same order."""
    names = [f"P{n}" for n in range(120)]
    wiki.pages = dict.fromkeys(names, LONG)
    pages = wiki._pages
    error = {"error": {"code": "readonly", "info": "The wiki is currently read-only"}}

    def breaks_down(asked: dict[str, str]) -> Response:
        if "P70" in asked["titles"]:
            return Response(json.dumps(error))
        return pages(asked)

    wiki._pages = breaks_down  # type: ignore[method-assign]
    with pytest.raises(StopGathering, match=r"is busy \(readonly.*goes on from here"):
        gather(titles=names)
    wiki._pages = pages  # type: ignore[method-assign]
    before = len(wiki.asked)
    gather(titles=names)
    assert titles(gather.documents()) == names
    assert len(wiki.asked) - before == 3  # about the wiki, and two batches: none again


def test_killed(wiki: FakeWiki, httpserver: HTTPServer, tmp_path: Path) -> None:
    """Killed in searches, in batches, among links: the same shards, and no page twice."""
    names = [f"P{n}" for n in range(200)]
    wiki.pages = {name: f"{name} {LONG}" for name in names}
    wiki.links = {
        name: [f"P{n * 7 % 200}" for n in range(n, n + 4)] for n, name in enumerate(names)
    }
    wiki.hits = {"x": names[10:70], "y": names[50:120], "z": names[5:20]}
    settings = {
        "api_url": httpserver.url_for("/api.php"),
        "topics": ["x", "y", "z"],
        "pages": 150,
        "depth": 2,
    }
    assert gather_in_child("wikipedia", settings, tmp_path / "whole") == 0
    for kill_at in (2, 20, 61, 33):
        assert gather_in_child("wikipedia", settings, tmp_path / "killed", kill_at) == -9
    assert gather_in_child("wikipedia", settings, tmp_path / "killed") == 0
    assert shards(tmp_path / "whole") == shards(tmp_path / "killed") != {}
    found = titles(list(read_documents(tmp_path / "killed")))
    assert len(found) == len(set(found)) == 150


@pytest.mark.parametrize(
    ("reply", "kind", "message"),
    [
        (({"error": {"code": "badvalue", "info": "Bad"}}, 200, {}), HornbookError, "refuses: Bad"),
        (({"hello": 1}, 200, {}), HornbookError, "does not answer as a MediaWiki"),
        (([], 200, {}), HornbookError, "does not answer as a MediaWiki"),
        (({"error": "not found"}, 200, {}), HornbookError, "does not answer as a MediaWiki"),
        (({"query": {"namespaces": []}}, 200, {}), HornbookError, "does not answer as a MediaWiki"),
        (({}, 404, {}), HornbookError, r"HTTP 404.*address of its api\.php"),
        (({}, 403, {}), StopGathering, r"forbids \(HTTP 403\).*--contact"),
    ],
)
def test_wikis_that_are_none(
    wiki: FakeWiki, gather: Any, reply: Any, kind: type[Exception], message: str
) -> None:
    wiki.replies = [reply]
    with pytest.raises(kind, match=message):
        gather(titles=["A"])


@pytest.mark.parametrize(
    "pages", [[{"title": "A", "revisions": [{}]}], [{"ns": 0}], "A", [["A"]], {"1": {"title": "A"}}]
)
def test_pages_that_are_none(wiki: FakeWiki, gather: Any, pages: Any) -> None:
    about = {"general": {}, "namespaces": {}}
    wiki.replies = [({"query": about}, 200, {}), ({"query": {"pages": pages}}, 200, {})]
    with pytest.raises(HornbookError, match="does not answer as a MediaWiki"):
        gather(titles=["A"])


def test_a_page_that_breaks_the_reader_is_put_aside(monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(wikitext: str, **_: Any) -> Text:
        if "bad" in wikitext:
            raise IndexError
        return fast_text(wikitext)

    monkeypatch.setattr("hornbook.gather.wikitext.fast_text", breaks)
    task = Batch([("A", "good"), ("B", "bad"), ("C", "slow"), ("D", "{{{")], frozenset())
    read = read_batch(task, frozenset({2}), lambda number: contextlib.nullcontext())
    assert [each if isinstance(each, str) else each.text for each in read] == [
        "good",
        "cannot be read (IndexError)",
        "took too long, or its process died",
        "{{{",
    ]


def test_without_mwparserfromhell_no_request(
    wiki: FakeWiki, gather: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mwparserfromhell", None)
    with pytest.raises(HornbookError, match=r"needs mwparserfromhell.*hornbook\[gather\]"):
        gather(titles=["A"])
    assert wiki.asked == []


def test_nothing_found(wiki: FakeWiki, gather: Any) -> None:
    with pytest.raises(HornbookError, match="no article was found"):
        gather(topics=["nothing"])


def test_no_licence(wiki: FakeWiki, gather: Any, capsys: pytest.CaptureFixture[str]) -> None:
    wiki.pages, wiki.rights = {"A": LONG}, {"text": "", "url": ""}
    gather(titles=["A"])
    assert gather.documents()[0].licence == "" and "names no licence" in capsys.readouterr().err


def test_settings(tmp_path: Path) -> None:
    assert len(TOPICS) >= 40 and len(set(TOPICS)) == len(TOPICS)
    assert WikipediaSource(WikipediaConfig()).fingerprint()["topics"] == list(TOPICS)
    (tmp_path / "topics.txt").write_text("# mine\nrivers\n\n lakes \n", encoding="utf-8")
    source = WikipediaSource(
        WikipediaConfig(topics=["seas"], topics_file=str(tmp_path / "topics.txt"))
    )
    assert source.fingerprint()["topics"] == ["seas", "rivers", "lakes"]
    for settings, where in (
        ({"language": "en/../x"}, "--language"),
        ({"api_url": "file:///etc/passwd"}, "--api-url"),
        ({"titles": ["a|b"]}, "--titles"),
        ({"pages": 0}, "--pages"),
        ({"per_topic": 0}, "--per-topic"),
        ({"topics_file": str(tmp_path / "none")}, "none"),
    ):
        with pytest.raises(HornbookError, match=where):
            WikipediaSource(WikipediaConfig(**settings))  # type: ignore[arg-type]
