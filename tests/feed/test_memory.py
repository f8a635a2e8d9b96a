"""A feed's memory while many texts are made, kept, dropped and read."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import httpx2
import pytest
from tests.feed.feed_process import feed_process

TEXTS, MOST_GROWTH = 200_000, 40e6
"""Texts that are read; and bytes that the process may grow by over the last seven eighths of them
(benchmarks/feed_load.py: 16 MB over a million)."""


def resident(process: int) -> int:
    """Bytes of memory of a process."""
    for line in Path(f"/proc/{process}/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmRSS:"):
            return 1024 * int(line.split()[1])
    raise AssertionError("no VmRSS")


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_is_flat_over_many_texts(tmp_path: Path) -> None:
    noise = random.Random(1)
    texts = [" ".join(str(noise.getrandbits(20)) for _ in range(280)) for _ in range(500)]
    options = ("--feed.ahead_texts=2000", "--keep=50MB")
    with (
        feed_process(tmp_path, texts, *options) as feed,
        httpx2.Client(base_url=feed.url, timeout=60) as client,
    ):
        assert feed.process is not None
        cursor, sizes = 0, []
        while cursor < TEXTS:
            answer = client.get("/generate", params={"cursor": cursor, "n": 64})
            assert answer.status_code == 200, answer.text
            cursor = int(answer.headers["X-Feed-Next"])
            if cursor > len(sizes) * TEXTS / 8:
                sizes.append(resident(feed.process.pid))
        assert client.get("/stats").json()["first"] > 0  # segments were dropped
        assert max(sizes[1:]) - sizes[1] < MOST_GROWTH, sizes
