"""robots.txt: what it allows, what its absence means, how it slows us down."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from pytest_httpserver import HTTPServer
from tests.gather.hostile_server import FakeClock

from hornbook.gather.client import FetchError, PoliteClient, Politeness, RobotsForbid
from hornbook.gather.source import StopGathering


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def client(clock: FakeClock) -> Iterator[PoliteClient]:
    manners = Politeness(obey_robots=True, allow_private=True, attempts=3)
    with PoliteClient(manners, clock=clock) as client:
        yield client


def serve(httpserver: HTTPServer, rules: str | bytes, status: int = 200) -> None:
    httpserver.expect_request("/robots.txt").respond_with_data(rules, status=status)
    for path in ("/a", "/b/c", "/private/x", "/private/"):
        httpserver.expect_request(path).respond_with_data("page")


RULES = """
User-agent: *
Disallow: /

User-agent: hornbook
Disallow: /*?utm=
Disallow: /private/$
Allow: /private/x
"""


def test_rules(httpserver: HTTPServer, client: PoliteClient) -> None:
    serve(httpserver, b"\xef\xbb\xbf" + RULES.encode())
    for path in ("/a", "/b/c", "/private/x"):
        assert client.get(httpserver.url_for(path)).content == b"page"
    for path in ("/a?utm=1", "/private/"):
        with pytest.raises(RobotsForbid, match=r"robots\.txt forbids this page"):
            client.get(httpserver.url_for(path))
    asked = [request.path for request, _ in httpserver.log]
    assert asked.count("/robots.txt") == 1 and asked.count("/private/") == 0


def test_asked_again_after_a_day(
    httpserver: HTTPServer, client: PoliteClient, clock: FakeClock
) -> None:
    serve(httpserver, "")
    for hours in (0, 23, 2):
        clock.time += hours * 3600
        client.get(httpserver.url_for("/a"))
    assert [request.path for request, _ in httpserver.log].count("/robots.txt") == 2


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_without_rules_all_is_allowed(
    httpserver: HTTPServer, client: PoliteClient, status: int
) -> None:
    serve(httpserver, "User-agent: *\nDisallow: /", status)
    assert client.get(httpserver.url_for("/a")).content == b"page"


@pytest.mark.parametrize("status", [429, 500, 501, 503])
def test_a_server_in_trouble_forbids_all(
    httpserver: HTTPServer, client: PoliteClient, status: int
) -> None:
    serve(httpserver, "", status)
    with pytest.raises(StopGathering, match=f"answers HTTP {status} when asked for robots"):
        client.get(httpserver.url_for("/a"))
    assert "/a" not in [request.path for request, _ in httpserver.log]


def test_a_server_that_does_not_answer_forbids_all(client: PoliteClient) -> None:
    with pytest.raises(StopGathering, match="does not answer when asked for robots"):
        client.get("http://127.0.0.1:1/a")


def test_a_private_address_is_named_as_such() -> None:
    with (
        PoliteClient(Politeness(obey_robots=True), clock=FakeClock()) as client,
        pytest.raises(FetchError, match="--allow-private"),
    ):
        client.get("http://127.0.0.1:1/a")


def test_crawl_delay(httpserver: HTTPServer, client: PoliteClient, clock: FakeClock) -> None:
    serve(httpserver, "User-agent: *\nCrawl-delay: 25")
    for _ in range(3):
        client.get(httpserver.url_for("/a"))
    assert clock.time >= 50


def test_a_senseless_delay_is_bounded(
    httpserver: HTTPServer, client: PoliteClient, clock: FakeClock
) -> None:
    serve(httpserver, "User-agent: *\nCrawl-delay: 86400")
    client.get(httpserver.url_for("/a"))
    client.get(httpserver.url_for("/a"))
    assert clock.time <= 120


def test_a_huge_file_is_read_to_its_limit(httpserver: HTTPServer, client: PoliteClient) -> None:
    rules = "User-agent: *\nDisallow: /b\n" + "# filler\n" * 100_000 + "Disallow: /a\n"
    serve(httpserver, rules)
    assert client.get(httpserver.url_for("/a")).content == b"page"
    with pytest.raises(RobotsForbid):
        client.get(httpserver.url_for("/b/c"))


def test_a_redirect_is_checked_where_it_leads(httpserver: HTTPServer, client: PoliteClient) -> None:
    serve(httpserver, "User-agent: *\nDisallow: /private")
    httpserver.expect_request("/go").respond_with_data(
        status=302, headers={"Location": "/private/x"}
    )
    with pytest.raises(RobotsForbid):
        client.get(httpserver.url_for("/go"))
