"""`hornbook feed serve` as a process of its own, which a test can kill and start again."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2


def free_port() -> int:
    with contextlib.closing(socket.socket()) as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


class FeedProcess:
    """`hornbook feed serve` with these words, which can be killed and started again."""

    def __init__(self, *words: str, said: Path):
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        serve = [sys.executable, "-m", "hornbook", "feed", "serve"]
        self._command = [*serve, *words, "--feed.port", str(self.port)]
        self._said = said
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with open(self._said, "ab") as said:
            self.process = subprocess.Popen(self._command, stdout=said, stderr=said)
        for _ in range(600):
            with contextlib.suppress(httpx2.TransportError):
                if httpx2.get(f"{self.url}/readyz").status_code == 200:
                    return
            assert self.process.poll() is None, self._said.read_text()
            time.sleep(0.05)
        raise AssertionError(self._said.read_text())

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()


@contextlib.contextmanager
def feed_process(folder: Path, texts: list[str], *options: str) -> Iterator[FeedProcess]:
    """A feed of these texts, in an order of its own."""
    archive = folder / "archive.jsonl"
    folder.mkdir(parents=True, exist_ok=True)
    archive.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    places = ["--feed.folder", str(folder / "feed"), "--feed.archive", str(archive)]
    feed = FeedProcess(*places, *options, said=folder / "said")
    feed.start()
    try:
        yield feed
    finally:
        feed.kill()
