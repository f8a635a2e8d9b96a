"""The source `wikipedia` against a real MediaWiki with the sample's pages; also killed midway."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from tests.gather.kill_source import gather_command, gather_in_child, shards
from tests.mediawiki import MediaWiki, mediawiki  # noqa: F401

from hornbook.documents import Document, read_documents
from hornbook.gather.collect import collect
from hornbook.gather.config import GatherConfig, NetworkConfig, WikipediaConfig
from hornbook.gather.mediawiki import Wiki
from hornbook.gather.wikipedia import WikipediaSource

pytestmark = pytest.mark.long

NETWORK = NetworkConfig(contact="tests@example.org", allow_private=True, requests_per_minute=60_000)
TOPICS = ["Alabama", "Aristotle", "Autism", "nothing has these words"]


def gather(wiki: MediaWiki, out: Path, **settings: object) -> dict[str, Document]:
    config = WikipediaConfig(api_url=wiki.api_url, **settings)  # type: ignore[arg-type]
    collect(WikipediaSource(config), GatherConfig(network=NETWORK), out)
    return {document.title: document for document in read_documents(out)}


def test_search_links_and_licence(mediawiki: MediaWiki, tmp_path: Path) -> None:  # noqa: F811
    """The wiki's own search (SQLite) looks into texts, and ranks them its own way."""
    found = gather(mediawiki, tmp_path / "a", topics=TOPICS, pages=9, depth=1)
    assert 6 <= len(found) <= 9
    for topic in TOPICS[:3]:
        assert any(topic in document.text for document in found.values())
    first = next(iter(found.values()))
    assert first.source == "wikipedia" and first.language == "en" and first.created.endswith("Z")
    assert first.licence == "Creative Commons Attribution-ShareAlike 4.0"
    assert first.url.startswith(mediawiki.url) and first.meta["revision"] > 0
    for document in found.values():
        assert len(document.text) >= 200 and "[[" not in document.text
        assert "{{" not in document.text and "<ref" not in document.text


def test_redirects_and_missing_pages(mediawiki: MediaWiki, tmp_path: Path) -> None:  # noqa: F811
    """Two names of one page are one document; pages that only list others are none."""
    titles = ["ANOVA", "Analysis of Variance", "No such page at all", "anarchism"]
    titles += ["Animal (disambiguation)", "<bad>"]
    config = WikipediaConfig(api_url=mediawiki.api_url, titles=titles, minimum_characters=0)
    report = collect(WikipediaSource(config), GatherConfig(network=NETWORK), tmp_path)
    names = [document.title for document in read_documents(tmp_path)]
    assert names == ["Analysis of variance", "Anarchism"]
    assert report.counts == {
        "redirects": 1,
        "pages met again": 1,
        "missing pages": 2,
        "disambiguation pages": 1,
    }


def test_continue_is_merged(mediawiki: MediaWiki) -> None:  # noqa: F811
    """Links come a few at a time; merged they are all there."""
    from hornbook.gather import mediawiki as api
    from hornbook.gather.client import PoliteClient, Politeness

    manners = Politeness(contact="a@b", allow_private=True, requests_per_minute=60_000)
    with PoliteClient(manners) as client:
        wiki = Wiki(client, mediawiki.api_url, lambda what: None)
        whole = wiki.pages(["Anarchism", "Autism"], links=True)
        before = client.requests
        original = api.Wiki._query
        try:
            api.Wiki._query = lambda self, asked: original(  # type: ignore[method-assign]
                self, asked | {"pllimit": "7"}
            )
            parts = wiki.pages(["Anarchism", "Autism"], links=True)
        finally:
            api.Wiki._query = original  # type: ignore[method-assign]
        assert client.requests > before + 5
    assert parts == whole and whole["Anarchism"] is not None and len(whole["Anarchism"].links) > 50


def test_killed_again_and_again(mediawiki: MediaWiki, tmp_path: Path) -> None:  # noqa: F811
    settings = {"api_url": mediawiki.api_url, "topics": TOPICS, "pages": 40, "depth": 1}
    assert gather_in_child("wikipedia", settings, tmp_path / "whole") == 0
    command = gather_command("wikipedia", settings, tmp_path / "killed")
    killed = 0
    for seconds in (1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0):
        child = subprocess.Popen(command)
        try:
            child.wait(seconds)
            break
        except subprocess.TimeoutExpired:
            os.kill(child.pid, signal.SIGKILL)
            child.wait()
            killed += 1
            time.sleep(0.1)
    else:
        subprocess.run(command, check=True)
    assert killed >= 1
    assert shards(tmp_path / "whole") == shards(tmp_path / "killed") != {}
