"""A writer that is killed at any moment: what it gave a number to is there, under that number."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hornbook.documents import Document
from hornbook.feed.log import LogWriter
from hornbook.gather.feed_log import FeedLog

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs fork and SIGKILL")


def write_for_ever(folder: Path, name: int, out: int) -> None:
    """Append as fast as it goes; a line `NUMBER NAME` to `out` for each text once it is durable."""
    log = LogWriter.create_or_open(folder, segment_bytes=5000)
    waiting = []
    made = 0
    while True:
        count = 1 + made % 7
        texts = [
            f"{name}/{made + i} " + random.randbytes(37 * made % 500).hex() for i in range(count)
        ]
        made += count
        waiting.append((texts, log.append([Document(text) for text in texts], {"last": texts[-1]})))
        if len(waiting) > 8:
            texts, number = waiting.pop(0)
            first = number.result(30)
            lines = [f"{first + i} {text.split()[0]}\n" for i, text in enumerate(texts)]
            os.write(out, "".join(lines).encode())


def acknowledged(folder: Path, name: int, seconds: float) -> Iterator[tuple[int, str]]:
    """What a writer said was durable before it was killed, some time after its first word."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reading)
            write_for_ever(folder, name, writing)
        finally:
            os._exit(1)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        said = pipe.read1(65536)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            said += pipe.read1(65536)
        os.kill(child, signal.SIGKILL)
        said += pipe.read()
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
    for line in said.decode().split("\n")[:-1]:
        number, text = line.split()
        yield int(number), text


@pytest.mark.parametrize("kills", [10, pytest.param(200, marks=pytest.mark.long)])
def test_nothing_that_was_given_a_number_is_lost_or_renumbered(tmp_path: Path, kills: int) -> None:
    moments = random.Random(kills)
    known: dict[int, str] = {}
    for name in range(kills):
        for number, text in acknowledged(tmp_path, name, moments.uniform(0, 0.05)):
            assert number not in known
            known[number] = text
        log = FeedLog.open(tmp_path)
        found = {number: document.text.split()[0] for number, document in log.documents()}
        assert list(found) == list(range(log.head))
        assert known.items() <= found.items()
        assert log.last_state()["last"].split()[0] == found[log.head - 1]
        assert not log.damaged
        known = found  # what is there now was durable, said or not, and has to stay
    assert len(known) > 20 * kills
    assert len(list((tmp_path / "log").glob("*.idx"))) > kills
