"""The numbers and the page: Prometheus' text, the policy, and the page in a real browser."""

from __future__ import annotations

import base64
import hashlib
import importlib.resources
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.feed.serving import Served

from hornbook.feed.log import LogWriter

Serve = Callable[..., Served]

SAMPLE = re.compile(
    r"(?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*)"
    r'(?P<labels>\{[a-z_]+="(?:[^"\\\n]|\\[\\"n])*"(?:,[a-z_]+="(?:[^"\\\n]|\\[\\"n])*")*\})?'
    r" (?P<value>[-+.0-9e]+)"
)
PRODUCTION = {
    "produced": {"archive": 7, 'teacher:"a\\b\n"': 2}, "rejected": {"loop": 3}, "filled_in": 1,
    "paused": "far enough ahead", "unavailable": {}, "problem": None,
}  # fmt: skip


def parsed(text: str) -> dict[str, float]:
    """The samples of Prometheus' text format; each has its type and help before it."""
    samples: dict[str, float] = {}
    known = set()
    assert text.endswith("\n")
    for line in text.splitlines():
        if line.startswith("#"):
            mark, name, *rest = line[2:].split(" ")
            assert mark in ("HELP", "TYPE") and rest
            known.add(name)
            continue
        found = SAMPLE.fullmatch(line)
        assert found and found["name"] in known, line
        samples[found["name"] + (found["labels"] or "")] = float(found["value"])
    return samples


def test_metrics_are_what_prometheus_reads(log: LogWriter, served: Serve) -> None:
    feed = served(log, production=lambda: PRODUCTION)
    feed.add(*"abcde")
    feed.get("/generate", cursor=0, n=3)
    feed.get("/generate", cursor=0, n=2)
    feed.get("/generate", consumer="c", n=4)
    feed.get("/nowhere")
    answer = feed.get("/metrics")
    assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    samples = {name.removeprefix("hornbook_feed_"): v for name, v in parsed(answer.text).items()}
    assert samples["head"] == 5 and samples["ahead_texts"] == 1
    assert samples["served_texts_total"] == 9
    assert samples['lag_texts{reader="c"}'] == 5  # nothing is acknowledged
    assert samples['produced_texts_total{producer="archive"}'] == 7
    assert samples[r'produced_texts_total{producer="teacher:\"a\\b\n\""}'] == 2
    assert samples['rejected_texts_total{reason="loop"}'] == 3
    assert samples["paused"] == 1
    assert samples['requests_total{route="/generate",status="200"}'] == 3
    assert samples['requests_total{route="other",status="404"}'] == 1


def test_stats_say_everything(log: LogWriter, served: Serve) -> None:
    feed = served(log, production=lambda: PRODUCTION)
    feed.add(*"abc")
    feed.cursors.set("run", 2)
    stats = feed.get("/stats").json()
    assert (stats["protocol"], stats["log"]) == (1, log.id)
    assert (stats["first"], stats["head"], stats["readers"]) == (0, 3, {"run": 2})
    assert stats["production"] == PRODUCTION
    assert stats["connections"] == 1 and stats["problem"] is None


def test_the_page_runs_nothing_but_its_own(log: LogWriter, served: Serve) -> None:
    feed = served(log)
    answer = feed.get("/")
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy
    for tag in ("script", "style"):
        (content,) = re.findall(f"<{tag}>(.*?)</{tag}>", answer.text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert not re.search(r"(src|href)=|https?://|innerHTML|localStorage", answer.text)


NODE = shutil.which("node")
DISK, GONE = "the disk is full", {"teacher:a": "does not answer"}
FRUITLESS = {"teacher:b": "its last 50 texts were rejected, most as too_long"}
BOTH = GONE | FRUITLESS


def look(
    problem: str | None = None,
    unavailable: dict[str, str] | None = None,
    *,
    paused: str = "",
    making: bool = False,
    reading: str | None = None,
) -> list[Any]:
    """What the page's `describe` takes: `/stats`, and whether texts were added lately."""
    gone = unavailable or {}
    problem = problem or "; ".join(f"{name}: {why}" for name, why in gone.items()) or None
    production = {"problem": problem, "paused": paused, "unavailable": gone}
    return [{"problem": reading, "production": production}, making]


@pytest.mark.skipif(NODE is None, reason="node is not installed, which runs the page's script")
def test_what_the_page_says_of_each_state() -> None:
    asked = {each: f"It is asked again and again: {each}: {BOTH[each]}." for each in BOTH}
    a, b = asked.values()
    rests, fine = "Production rests", "Nothing is wrong: it goes on when texts are read."
    left = "What is in the log can be read"
    mend = f"{DISK}. {left}; production goes on by itself when this is mended."
    none, nothing = "No new texts", "Nothing to read yet"
    only_read = ["good", "Serving what is in the log", "No texts were added lately."]
    table: list[tuple[list[Any], list[str]]] = [
        (look(making=True), ["good", "Making and serving texts", ""]),
        (look(), only_read),
        ([{"problem": None, "production": {}}, False], only_read),  # nothing adds to this log
        (look(paused="far"), ["rest", rests, f"far. {fine}"]),
        (look(paused="far", making=True), ["rest", rests, f"far. {fine}"]),
        (look(None, GONE, paused="far"), ["warn", rests, f"far. {a}"]),
        (look(None, GONE, making=True), ["warn", "A teacher is missing", f"{a} The others go on."]),
        (look(None, GONE), ["bad", none, f"{a} {left}."]),
        (look(None, FRUITLESS), ["bad", none, f"{b} {left}."]),
        (look(None, BOTH), ["bad", none, f"{a} {b} {left}."]),
        (look(DISK, paused=DISK), ["bad", none, mend]),
        (look(DISK, GONE, paused=DISK, making=True), ["bad", none, mend]),
        (look(reading="no text yet"), ["warn", nothing, "no text yet."]),
        (look(DISK, reading=DISK), ["bad", nothing, f"{DISK}."]),
        (look(DISK, GONE, reading=DISK), ["bad", nothing, f"{DISK}."]),
        (look(None, BOTH, reading="teacher:a: ..."), ["bad", nothing, f"{a} {b}"]),
    ]
    page = importlib.resources.files("hornbook") / "feed/assets/status.html"
    [function] = re.findall(r"^function describe\(.*?^}$", page.read_text("utf-8"), re.M | re.S)
    looks = json.dumps([state for state, _ in table])
    script = f"{function}\nconsole.log(JSON.stringify({looks}.map(each => describe(...each))))"
    done = subprocess.run([str(NODE), "-e", script], capture_output=True, timeout=60, check=True)
    for (state, expected), said in zip(table, json.loads(done.stdout), strict=True):
        assert said == expected, state


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.mark.long
@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_the_page_in_a_browser(log: LogWriter, served: Serve, tmp_path: Path) -> None:
    hostile: dict[str, Any] = {**PRODUCTION, "rejected": {"<b id=hacked>": 3}}
    for token in (None, "token"):
        feed = served(log, production=lambda: hostile, token=token)
        feed.add(*"abc")
        command = [
            str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=3000", "--dump-dom",
            f"{feed.url}/",
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        page = done.stdout.partition("<script>")[0]
        assert 'id="hacked"' not in page
        if token is None:
            assert "Production rests" in page and "Far enough ahead." in page
            assert "archive" in page and "&lt;b id=" in page
            assert '<form id="ask" hidden' in page
        else:
            assert "This feed needs its token" in page and '<form id="ask">' in page
