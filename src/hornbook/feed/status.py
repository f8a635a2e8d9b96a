"""What a feed says of itself: the snapshot behind `/stats` and `/metrics`, and the live page.

In: a feed. Out: plain JSON; a page without files of anybody else's, whose policy lets nothing but
its own script and style run.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.resources
import re
import time
from typing import TYPE_CHECKING, Any

from starlette.responses import HTMLResponse

from hornbook import __version__
from hornbook.tokens.feed_protocol import PROTOCOL

if TYPE_CHECKING:
    from hornbook.feed.server import Feed


def snapshot(feed: Feed, readers: dict[str, int]) -> dict[str, Any]:
    """The numbers of this moment; `readers` are names, each with the number that it wants next.

    Keys: `first`, `head` (numbers of texts), `ahead` (texts that no reader has read), `readers`,
    `damaged` (ranges that are lost), `production` (of the producers), `served`, `connections`,
    `in_flight` (bytes), `uptime_seconds`, `problem` (why nothing can be read).
    """
    log, metrics = feed.log, feed.metrics
    return {
        "protocol": PROTOCOL,
        "version": __version__,
        "log": log.id,
        "first": log.first,
        "head": log.head,
        "stored_bytes": log.stored_bytes,
        "ahead": max(0, log.head - max(feed.read_to, log.first)),
        "damaged": [
            {"file": each.path.name, "first": each.first, "next": each.next} for each in log.damaged
        ],
        "damaged_texts": sum(each.next - each.first for each in log.damaged),
        "readers": readers,
        "production": feed.production(),
        "served": {
            "texts": metrics.texts,
            "text_bytes": metrics.text_bytes,
            "sent_bytes": metrics.sent_bytes,
            "requests": metrics.requests.total(),
        },
        "connections": feed.connections(),
        "in_flight": feed.bodies.in_flight,
        "uptime_seconds": round(time.monotonic() - feed.began, 1),
        "problem": feed.problem(),
    }


def status_page() -> HTMLResponse:
    """The page; it asks for the token where there is one, and for `/stats` every two seconds."""
    html = (importlib.resources.files("hornbook") / "feed/assets/status.html").read_text("utf-8")
    policy = [
        "default-src 'none'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        *(f"{tag}-src {_hash(tag, html)}" for tag in ("script", "style")),
    ]
    return HTMLResponse(html, headers={"Content-Security-Policy": "; ".join(policy)})


def _hash(tag: str, html: str) -> str:
    found = re.search(f"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
    assert found is not None
    digest = hashlib.sha256(found[1].encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
