"""A small encyclopaedia of our own in the shape of the britannica profile, and its YAML profile."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from urllib.parse import parse_qs

from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

ARTICLES = {
    "/topic/tide": ("Tide", "The water rises twice a day, since the moon and the sun pull at it."),
    "/topic/harbour": ("Harbour", "A harbour gives ships shelter from the waves, and men work."),
    "/biography/mary-smith": ("Mary Smith", "She measured tides for forty years by candlelight."),
    "/science/moon": ("Moon", "The moon goes round the earth in a month, and shows one side."),
    "/place/northport": ("Northport", "A town of ships where the tide is higher than a house."),
    "/topic/net": ("Net", "Nets are made of knots; each knot is tied as it was in old days."),
}
"""Path: title, text."""

HITS = {
    ("tide", "1"): ["/topic/tide", "/science/moon", "/topic/tide#parts", "/list/of-tides"],
    ("tide", "2"): ["/place/northport"],
    ("ship", "1"): ["/topic/harbour", "/topic/tide", "/biography/mary-smith", "/topic/net"],
}
"""Query, search page: what it finds."""


def page(path: str) -> str:
    """An article with what surrounds it on such sites."""
    title, text = ARTICLES[path]
    return f"""<!DOCTYPE html><html lang="en"><head><title>{title} | Our Encyclopaedia</title>
<link rel="canonical" href="{path}"><script type="application/ld+json">
{{"@type": "Article", "headline": "{title}", "dateModified": "2026-01-02"}}</script></head>
<body><nav><ul><li><a href="/">Home</a></li><li><a href="/topic/net">Net</a></li></ul></nav>
<main><article><h1>{title}</h1><p>{text}</p><p>{text} It has been so for as long as anyone
remembers, and it is written down in this book for those who come later.</p></article></main>
<footer>Imprint, terms, and a newsletter nobody reads</footer></body></html>"""


def search(request: Request) -> Response:
    """A page of hits."""
    asked = parse_qs(request.query_string.decode())
    hits = HITS.get((asked["query"][0], asked["page"][0]), [])
    links = "".join(f'<li><a href="{path}">a hit</a></li>' for path in hits)
    outside = '<a href="https://elsewhere.example/topic/tide">elsewhere</a>'
    return Response(f"<html><body><ul>{links}</ul>{outside}</body></html>", mimetype="text/html")


def serve(
    server: HTTPServer,
    robots: str = "User-agent: *\nDisallow: /private/\n",
    answer: Callable[[str], Response | None] = lambda path: None,
) -> str:
    """Serve the encyclopaedia; returns its address.

    Args:
        server: the server.
        robots: its robots.txt.
        answer: asked for each article first; None: the article.
    """

    def article(request: Request) -> Response:
        other = answer(request.path)
        return other if other is not None else Response(page(request.path), mimetype="text/html")

    server.expect_request("/robots.txt").respond_with_data(robots, content_type="text/plain")
    server.expect_request("/search").respond_with_handler(search)
    for path in ARTICLES:
        server.expect_request(path).respond_with_handler(article)
    return server.url_for("").rstrip("/")


def write_profile(path: Path, site: str) -> Path:
    """A profile for a site that allows robots."""
    path.write_text(
        f"name: ours\nsite: {site}\nsearch: /search?query={{query}}&page={{page}}\n"
        "article: /(topic|place|biography|science)/[^/]+$\nqueries: [tide, ship]\n"
        "licence: CC0\nseconds_between: 1\n"
    )
    return path
