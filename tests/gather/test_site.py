"""The site scraper, on an encyclopaedia of our own served on this machine, and nothing else."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pytest_httpserver import HTTPServer
from tests.gather import own_site
from tests.gather.hostile_server import FakeClock
from werkzeug import Response

from hornbook.documents import Document, read_documents
from hornbook.errors import HornbookError
from hornbook.gather import client
from hornbook.gather.collect import collect
from hornbook.gather.config import GatherConfig, NetworkConfig, SiteConfig
from hornbook.gather.site import SiteSource
from hornbook.gather.source import StopGathering

IN_ORDER = ["Tide", "Moon", "Harbour", "Mary Smith", "Net", "Northport"]
"""Of the first page of each search, then of the second ones."""


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "SystemClock", FakeClock)


def config(site: str, **settings: Any) -> SiteConfig:
    given = {"queries": ["tide", "ship"], "i_have_permission": True, **settings}
    return SiteConfig(site=site, **given)


def gather(settings: SiteConfig, out: Path) -> list[Document]:
    collect(SiteSource(settings), GatherConfig(network=NetworkConfig(allow_private=True)), out)
    return list(read_documents(out))


def counts(out: Path) -> dict[str, int]:
    found: dict[str, int] = json.loads((out / "gather.json").read_text())["counts"]
    return found


def titles(documents: list[Document]) -> list[str]:
    return [document.title for document in documents]


def asked_for(server: HTTPServer, path: str) -> int:
    return sum(request.path == path for request, _ in server.log)


def test_every_article_once(httpserver: HTTPServer, tmp_path: Path) -> None:
    site = own_site.serve(httpserver)
    documents = gather(config(site), tmp_path)
    assert titles(documents) == IN_ORDER
    tide = documents[0]
    assert tide.text.startswith("Tide\n\nThe water rises twice a day")
    assert "Home" not in tide.text and "Imprint" not in tide.text
    assert tide.source == "britannica" and tide.url == f"{site}/topic/tide"
    assert (tide.language, tide.created) == ("en", "2026-01-02")
    assert "permission" in tide.licence
    assert (
        asked_for(httpserver, "/topic/tide") == 1 and asked_for(httpserver, "/list/of-tides") == 0
    )
    assert counts(tmp_path)["search pages"] == 5, "no page after one with nothing new"


def test_permission_is_asked_for_with_the_reason() -> None:
    with pytest.raises(HornbookError) as caught:
        SiteSource(SiteConfig())
    message = str(caught.value)
    assert "terms of use forbid robots" in message and "--i-have-permission" in message
    assert "\n" not in message and "https://www.britannica.com" in message


def test_a_profile_of_ones_own(httpserver: HTTPServer, tmp_path: Path) -> None:
    site = own_site.serve(httpserver)
    profile = own_site.write_profile(tmp_path / "ours.yaml", site)
    documents = gather(SiteConfig(profile_file=str(profile), pages=2), tmp_path / "out")
    assert titles(documents) == IN_ORDER[:2], "the budget of pages is kept"
    assert (documents[0].source, documents[0].licence) == ("ours", "CC0")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("nmae: x", "has an unknown key 'nmae'. Did you mean 'name'?"),
        ("article: '('", "is not a profile that works (missing )"),
        ("search: '/search?q={word}'", "is not a profile that works ('word')"),
        ("site: ''", "lacks site"),
        ("seconds_between: 0", "have to be more than 0"),
        ("seconds_between: soon", "seconds_between has to be a number"),
        ("queries: tides", "queries has to be a list"),
        ("search: 5", "search has to be text"),
        ("site: 5", "site has to be text"),
        ("name: 5", "name has to be text"),
        ("search: '/{query.x}'", "is not a profile that works"),
        (": [", "is not a readable profile"),
    ],
)
def test_profiles_that_are_wrong(tmp_path: Path, change: str, message: str) -> None:
    profile = own_site.write_profile(tmp_path / "p.yaml", "http://localhost")
    key = change.split(":")[0]
    lines = [line for line in profile.read_text().splitlines() if line.split(":")[0] != key]
    profile.write_text("\n".join([*lines, change]))
    with pytest.raises(HornbookError) as caught:
        SiteSource(SiteConfig(profile_file=str(profile)))
    assert message in str(caught.value) and str(profile) in str(caught.value)


def test_profile_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(HornbookError, match="there is no profile 'britanica'"):
        SiteSource(SiteConfig(profile="britanica"))
    with pytest.raises(HornbookError, match="not a readable profile"):
        SiteSource(SiteConfig(profile_file=str(tmp_path / "none.yaml")))


def test_robots_txt_is_obeyed(httpserver: HTTPServer, tmp_path: Path) -> None:
    site = own_site.serve(httpserver, robots="User-agent: *\nDisallow: /topic/\n")
    documents = gather(config(site), tmp_path / "some")
    assert titles(documents) == ["Moon", "Mary Smith", "Northport"]
    assert counts(tmp_path / "some")["pages forbidden by robots.txt"] == 3
    assert asked_for(httpserver, "/topic/tide") == 0
    httpserver.clear()
    site = own_site.serve(httpserver, robots="User-agent: *\nDisallow: /\n")
    with pytest.raises(StopGathering, match="forbids robots its search pages"):
        gather(config(site), tmp_path / "all")
    assert {request.path for request, _ in httpserver.log} == {"/robots.txt"}


@pytest.mark.parametrize(
    "refusal",
    [
        Response("go away", 403),
        Response("<html><head><title>Just a moment...</title></head></html>", 503),
        Response("<html><title>Are you a robot?</title></html>", 200),
        Response('<html><div class="g-recaptcha"></div></html>', 200),
    ],
)
def test_a_refusal_stops_and_is_not_worked_around(
    httpserver: HTTPServer, tmp_path: Path, refusal: Response
) -> None:
    refused = {"/topic/harbour"}
    site = own_site.serve(httpserver, answer=lambda p: refusal if p in refused else None)
    with pytest.raises(StopGathering) as caught:
        gather(config(site), tmp_path)
    assert "not worked around" in str(caught.value)
    refused.clear()  # the owner was asked
    assert titles(gather(config(site), tmp_path)) == IN_ORDER
    assert asked_for(httpserver, "/topic/tide") == 1


def test_pages_that_are_gone_or_fail_are_counted(httpserver: HTTPServer, tmp_path: Path) -> None:
    bad = {"/science/moon": 404, "/topic/harbour": 500, "/biography/mary-smith": 410}
    site = own_site.serve(
        httpserver, answer=lambda path: Response("", bad[path]) if path in bad else None
    )
    assert titles(gather(config(site), tmp_path)) == ["Tide", "Net", "Northport"]
    assert counts(tmp_path)["pages gone"] == 2 and counts(tmp_path)["pages failed"] == 1


def test_a_site_that_goes_down_is_gone_on_with(httpserver: HTTPServer, tmp_path: Path) -> None:
    down = {"/topic/harbour", "/biography/mary-smith", "/topic/net", "/place/northport"}
    site = own_site.serve(
        httpserver, answer=lambda path: Response("", 500) if path in down else None
    )
    with pytest.raises(StopGathering, match="3 pages could not be had: HTTP 500"):
        gather(config(site), tmp_path)
    down.clear()
    assert titles(gather(config(site), tmp_path)) == IN_ORDER, "nothing is lost"


def test_a_private_address_is_refused_before_anything_is_counted(
    httpserver: HTTPServer, tmp_path: Path
) -> None:
    site = own_site.serve(httpserver)
    with pytest.raises(HornbookError, match="allow-private"):
        collect(SiteSource(config(site)), GatherConfig(), tmp_path)
    assert titles(gather(config(site), tmp_path)) == IN_ORDER


def test_a_site_that_never_answered_is_asked_again(httpserver: HTTPServer, tmp_path: Path) -> None:
    httpserver.expect_request("/search").respond_with_data("", status=500)
    site = own_site.serve(httpserver)
    with pytest.raises(StopGathering, match="1 pages could not be had"):
        gather(config(site, queries=["tide"]), tmp_path)
    httpserver.clear()
    assert own_site.serve(httpserver) == site
    assert "Tide" in titles(gather(config(site, queries=["tide"]), tmp_path))


def test_the_same_page_under_two_addresses(httpserver: HTTPServer, tmp_path: Path) -> None:
    site = own_site.serve(
        httpserver,
        answer=lambda path: (
            Response(own_site.page("/topic/tide"), mimetype="text/html")
            if path == "/science/moon"
            else None
        ),
    )
    documents = gather(config(site), tmp_path)
    assert titles(documents) == ["Tide", *IN_ORDER[2:]]
    assert counts(tmp_path)["the same as another page"] == 1


def test_a_page_that_leads_elsewhere_is_no_article(httpserver: HTTPServer, tmp_path: Path) -> None:
    """An article that was removed leads to a page to log in, whose text is nobody's article."""
    away = {"/topic/harbour", "/topic/net"}
    site = own_site.serve(
        httpserver,
        answer=lambda path: (
            Response("", 302, headers={"Location": "/login"}) if path in away else None
        ),
    )
    page = "<title>Log in</title><main><p>You have to log in to read this.</p></main>"
    httpserver.expect_request("/login").respond_with_data(page, content_type="text/html")
    wanted = [title for title in IN_ORDER if title not in ("Harbour", "Net")]
    assert titles(gather(config(site), tmp_path)) == wanted
    assert counts(tmp_path)["pages that lead to no article"] == 2


def test_a_captcha_beside_an_article_is_no_refusal(httpserver: HTTPServer, tmp_path: Path) -> None:
    form = f'<div class="g-recaptcha"></div><!-- {"-" * 30_000} --></body>'
    site = own_site.serve(
        httpserver,
        answer=lambda path: Response(
            own_site.page(path).replace("</body>", form), mimetype="text/html"
        ),
    )
    assert titles(gather(config(site), tmp_path)) == IN_ORDER


def test_nothing_found(httpserver: HTTPServer, tmp_path: Path) -> None:
    site = own_site.serve(httpserver)
    with pytest.raises(HornbookError, match="no article was found"):
        gather(config(site, queries=["unicorns"]), tmp_path)


@pytest.mark.parametrize("extractor", ["trafilatura", "longest"])
def test_second_opinion(httpserver: HTTPServer, tmp_path: Path, extractor: str) -> None:
    pytest.importorskip("trafilatura")
    documents = gather(config(own_site.serve(httpserver), extractor=extractor), tmp_path)
    assert titles(documents) == IN_ORDER and "twice a day" in documents[0].text


@pytest.mark.parametrize("kill_at", [["/topic/tide"], ["/place/northport", "/topic/net"]])
def test_killed_at_any_page_it_goes_on(
    httpserver: HTTPServer, tmp_path: Path, kill_at: list[str]
) -> None:
    children: list[subprocess.Popen[bytes]] = []

    def answer(path: str) -> Response | None:
        if path in kill_at:
            kill_at.remove(path)
            os.kill(children[-1].pid, signal.SIGKILL)
        return None

    site = own_site.serve(httpserver, answer=answer)
    out = tmp_path / "killed"
    words = ["gather", "britannica", "tide", "ship", "--site", site, "--out", str(out)]
    words += ["--i-have-permission", "--allow-private", "--requests-per-minute", "60000"]
    codes = []
    while not codes or codes[-1] == -signal.SIGKILL:
        children.append(subprocess.Popen([sys.executable, "-m", "hornbook", *words]))
        codes.append(children[-1].wait(60))
    assert codes[-1] == 0 and len(codes) > 1
    own = config(site)
    assert titles(list(read_documents(out))) == IN_ORDER
    gather(own, tmp_path / "undisturbed")
    for shard in (tmp_path / "undisturbed").glob("documents-*.parquet"):
        assert shard.read_bytes() == (out / shard.name).read_bytes()
