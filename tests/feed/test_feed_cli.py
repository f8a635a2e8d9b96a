"""`hornbook feed`: real processes, ended gently and not; reading and checking."""

from __future__ import annotations

import contextlib
import errno
import http.server
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from tests.feed.feed_process import free_port

from hornbook import feeding
from hornbook.cli import main
from hornbook.documents import Document
from hornbook.feed.cursors import Cursors
from hornbook.feed.log import LogWriter
from hornbook.feed.serve import RETAIN_SECONDS
from hornbook.gather.feed_log import FeedLog

ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "HORNBOOK_FEED_TOKEN"}


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Two thousand texts, from which a feed draws without end."""
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": f"text {k} " * 50}) + "\n" for k in range(2000)))
    return path


@contextlib.contextmanager
def running(folder: Path, port: int, *options: str) -> Iterator[subprocess.Popen[str]]:
    """`hornbook feed serve` as a process, once it answers."""
    words = [f"--feed.folder={folder}", f"--feed.port={port}", *options]
    command = [sys.executable, "-m", "hornbook", "feed", "serve", *words]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT) as process:
        try:
            while process.poll() is None:
                with contextlib.suppress(httpx2.TransportError):
                    if httpx2.get(f"http://127.0.0.1:{port}/readyz").status_code == 200:
                        break
                time.sleep(0.05)
            yield process
        finally:
            process.kill()


def read_to(port: int, cursor: int, stop: int, found: list[str]) -> int:
    """Read texts from `cursor` on, to number `stop` or until the feed is gone."""
    with (
        contextlib.suppress(httpx2.TransportError),
        httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client,
    ):
        while cursor < stop:
            answer = client.get("/generate", params={"cursor": cursor, "n": 64})
            if answer.status_code == 200:
                found += answer.json()
                cursor = int(answer.headers["X-Feed-Next"])
    return cursor


def test_sigterm_lets_an_answer_leave_and_closes_the_log(tmp_path: Path, archive: Path) -> None:
    folder, port = tmp_path / "feed", free_port()
    options = (f"--feed.archive={archive}", "--feed.ahead_texts=6000", "--feed.max_n=10000")
    with running(folder, port, *options) as process:
        while httpx2.get(f"http://127.0.0.1:{port}/stats").json()["head"] < 6000:
            time.sleep(0.05)
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.settimeout(30)
            client.sendall(b"GET /generate?cursor=0&n=6000 HTTP/1.1\r\nHost: x\r\n\r\n")
            head = client.recv(100).decode()
            process.send_signal(signal.SIGTERM)
            time.sleep(0.5)
            body = head.encode()
            while got := client.recv(1_000_000):
                body += got
        assert head.startswith("HTTP/1.1 200")
        assert len(json.loads(body.partition(b"\r\n\r\n")[2])) == 6000
        assert process.wait(30) == 0
        assert process.stderr is not None and "stopped" in process.stderr.read()
    LogWriter.create_or_open(folder).close()  # it is nobody's now


@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.long)])
def test_kill_in_the_middle_and_go_on(tmp_path: Path, archive: Path, kills: int) -> None:
    chance, port = random.Random(kills), free_port()
    options = (f"--feed.archive={archive}", "--feed.ahead_texts=1000")
    found: list[str] = []
    cursor, folder = 0, tmp_path / "feed"
    for _ in range(kills):
        with running(folder, port, *options) as process:
            cursor = read_to(port, cursor, cursor + chance.randrange(2000), found)
            process.send_signal(signal.SIGKILL)
            process.wait()
    with running(folder, port, *options) as process:
        cursor = read_to(port, cursor, cursor + 100, found)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    log = FeedLog.open(folder)
    kept = [document.text for _, document in log.documents()]
    assert not log.damaged and kept[: len(found)] == found and len(found) == cursor
    if kills > 2:  # killed or not, an archive gives the same
        again: list[str] = []
        with running(tmp_path / "undisturbed", port, *options):
            read_to(port, 0, cursor, again)
        assert again[: len(found)] == found


def test_keep_drops_what_is_read_and_waits_for_who_is_registered(tmp_path: Path) -> None:
    archive, port = tmp_path / "noise.jsonl", free_port()
    noise = random.Random(1)
    lines = [json.dumps({"text": f"{noise.getrandbits(4000):x}"}) + "\n" for _ in range(500)]
    archive.write_text("".join(lines))
    # Room for 1,000 texts: more than are made ahead, or none that was read would be left to hold.
    options = (f"--feed.archive={archive}", "--feed.ahead_texts=500", "--keep=600KB")
    with running(tmp_path / "feed", port, *options):
        found: list[str] = []
        cursor = read_to(port, 0, 1500, found)
        with httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            while client.get("/stats").json()["first"] == 0:
                time.sleep(0.05)
            answer = client.get("/generate", params={"cursor": 0})
            assert answer.status_code == 410 and answer.json()["first"] > 0
            put = client.put("/cursors/slow-run", json={"next": cursor})
            assert put.status_code == 204
            held = cursor
            while "slow-run" not in client.get("/stats").json()["production"]["paused"]:
                params = {"cursor": cursor, "n": 64, "wait": 0}
                cursor = int(
                    client.get("/generate", params=params).headers.get("X-Feed-Next", cursor)
                )
            assert "slow-run has read to" in client.get("/readyz").json()["problem"]
            assert client.get("/generate", params={"cursor": held}).status_code == 200
            client.delete("/cursors/slow-run")
        assert read_to(port, cursor, cursor + 1000, found) >= cursor + 1000


def test_a_disk_that_fails_ends_the_feed(
    tmp_path: Path,
    archive: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    sync, folder = os.fsync, tmp_path / "feed"

    def failing(file: int) -> None:
        segments = list((folder / "log").glob("*.log"))
        if segments and segments[0].stat().st_size > 100_000:
            raise OSError(errno.EIO, "Input/output error")
        sync(file)

    monkeypatch.setattr(os, "fsync", failing)
    words = [f"--feed.folder={folder}", f"--feed.archive={archive}", "--feed.port=0"]
    assert main(["feed", "serve", *words]) == 2
    assert "the log cannot be written" in capsys.readouterr().err
    monkeypatch.undo()
    assert main(["feed", "check", str(folder)]) == 0  # what had a number is whole


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A feed of thirty texts in three segments."""
    path = tmp_path / "feed"
    log = LogWriter.create_or_open(path, segment_bytes=1)
    for first in range(0, 30, 10):
        log.append([Document(f"text {first + k}", source="s") for k in range(10)], {}).result(30)
    log.close()
    return path


def test_read_and_check(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["feed", "read", str(folder), "--cursor", "28", "--n", "5"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["number"] for line in lines] == [28, 29]
    assert lines[0]["text"] == "text 28" and lines[0]["source"] == "s"
    monkeypatch.setattr(feeding, "_AT_A_TIME", 7)
    assert main(["feed", "read", str(folder), "--n", "25"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["number"] for line in lines] == list(range(25))
    assert main(["feed", "check", str(folder)]) == 0
    out = capsys.readouterr().out
    assert "texts      30" in out and "numbers    0 to 29" in out and "lost       0" in out
    middle = folder / "log" / f"segment-{10:012d}.log"
    middle.write_bytes(middle.read_bytes()[:-1] + b"\0")
    assert main(["feed", "check", str(folder)]) == 2
    captured = capsys.readouterr()
    assert "lost       10" in captured.out and f"{middle.name}: 10 to 19" in captured.out


def test_an_end_that_readers_had_and_is_gone_is_named(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Cursors(folder) as cursors:
        cursors.set("run", 30)
    assert main(["feed", "check", str(folder)]) == 0
    os.truncate(folder / "log" / f"segment-{20:012d}.log", 100)
    assert main(["feed", "check", str(folder)]) == 2
    assert "the end: 20 to 29" in capsys.readouterr().out


@pytest.mark.parametrize(
    "end", [pytest.param(signal.SIGTERM, marks=pytest.mark.long), signal.SIGKILL]
)
def test_numbers_that_were_read_are_not_given_again(
    tmp_path: Path, archive: Path, end: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, port = tmp_path / "feed", free_port()
    options = (f"--feed.archive={archive}", "--feed.ahead_texts=500")
    found: list[str] = []
    with running(folder, port, *options) as process:
        read_to(port, 0, 500, found)  # by number, and registered nowhere
        time.sleep(3 * RETAIN_SECONDS)  # it is noted once a second
        process.send_signal(end)
        process.wait(30)
    assert main(["feed", "check", str(folder)]) == 0
    head = FeedLog.open(folder).head
    path = folder / "log" / f"segment-{0:012d}.log"
    os.truncate(path, path.stat().st_size // 2)
    left = FeedLog.open(folder).head
    assert left < 500 <= len(found) <= head
    capsys.readouterr()
    assert main(["feed", "check", str(folder)]) == 2
    assert f"the end: {left:,} to {head - 1:,}" in capsys.readouterr().out
    with running(folder, port, *options):
        answer = httpx2.get(f"http://127.0.0.1:{port}/generate?cursor={left}")
        assert answer.status_code == 410 and answer.json()["first"] == head
        assert read_to(port, head, head + 100, []) >= head + 100
    assert main(["feed", "check", str(folder)]) == 2
    assert f"{path.name}: {left:,} to {head - 1:,}" in capsys.readouterr().out


def test_read_from_a_server(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}/"
    assert main(["feed", "read", url]) == 2
    assert "does not answer" in capsys.readouterr().err
    with running(folder, port):  # a log alone, without anything that makes texts
        assert main(["feed", "read", url, "--cursor", "3", "--n", "2"]) == 0
        lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert [line["text"] for line in lines] == ["text 3", "text 4"]
        assert main(["feed", "read", url, "--cursor", "99"]) == 2
        assert "there is no number 99" in capsys.readouterr().err
        assert main(["feed", "serve", f"--feed.folder={folder}", "--feed.port=0"]) == 2
        assert "another hornbook process" in capsys.readouterr().err


def test_read_from_a_server_of_another_version(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    token = tmp_path / "token"
    token.write_text("a-token-from-a-file\n")

    class Later(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            assert self.headers["X-Feed-Protocol"] == "1"
            assert self.headers["Authorization"] == "Bearer a-token-from-a-file"
            self.send_response(400)
            self.send_header("X-Feed-Protocol", "2")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Later) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        assert main(["feed", "read", address, "--feed.token-file", str(token)]) == 2
        server.shutdown()
    assert "speaks version 2 of the protocol, and this hornbook 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["read"], "which feed?"),
        (["check"], "which feed?"),
        (["check", "nowhere"], "nowhere"),
        (["check", "http://127.0.0.1:8765"], "is an address. `feed check` reads the files"),
        (["read", "nowhere", "--cursor", "-1"], "--cursor is at least 0"),
        (["serve"], "has no texts, and nothing that makes any is named"),
        (["serve", "--feed.host", "0.0.0.0"], "without a token"),
        (["serve", "--feed.keep", "much"], "is no size"),
        (["serve", "--feed.archive", "nowhere.zip"], "nowhere.zip"),
        (["serve", "--feed.prot", "1"], "Did you mean --feed.port?"),
        (["serve", "--feed.max_connections", "0"], "max_connections: must be at least 1"),
        (["serve", "--feed.ahead_bytes", "0"], "ahead_bytes: must be at least 1, not 0"),
        (["serve", "--feed.ahead_bytes", "0.0001KB"], "ahead_bytes: must be at least 1"),
        (["serve", "--feed.ahead_texts", "0"], "ahead_texts: must be at least 1"),
        (
            ["serve", "--feed.teachers", "[{kind: openai, url: http://x}, {kind: hornbook}]"],
            "feed.teachers[1].model: a teacher of the kind hornbook has no model",
        ),
        (
            ["serve", "--feed.teachers", "[{kind: transformers, model: m, batch: 0}]"],
            "feed.teachers[0].batch: must be at least 1",
        ),
        (["serve", "--feed.languages", "[xx]"], "--feed.languages: the model knows no language"),
        (["serve", "--feed.port", "99999"], "port: must be between 0 and 65535"),
        (["serve", "quickstrat"], "Did you mean 'quickstart'?"),
    ],
)
def test_mistakes_are_one_line(
    words: list[str],
    problem: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HORNBOOK_FEED_TOKEN", raising=False)
    port = ["--feed.port=0"] if words[0] == "serve" and "--feed.port" not in words else []
    assert main(["feed", *words, *port]) == 2
    captured = capsys.readouterr()
    assert problem in captured.err and captured.err.startswith("error: ")
    assert len(captured.err.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())  # nothing is begun that is refused


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="there is no /proc")
def test_a_folder_that_cannot_be_made(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--feed.folder=/proc/feed", "--feed.archive=/dev/null", "--feed.port=0"]
    assert main(["feed", "serve", *words]) == 2
    said = capsys.readouterr().err
    assert "/proc/feed: cannot be made (No such file or directory)" in said
    assert "another feed with --feed.folder DIR" in said and "--run" not in said
