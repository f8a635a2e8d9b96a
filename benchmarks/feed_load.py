"""How many texts a second a feed serves, with its client on the same machine, and how it holds.

    python benchmarks/feed_load.py wikipedia-en-sample.jsonl.zst
    python benchmarks/feed_load.py wikipedia-en-sample.jsonl.zst --only read append

Texts are pieces of 2,000 characters of real articles (47,000 of them; longer logs repeat them under
other numbers). The server is `hornbook feed serve` as a process of its own; the client reads 64
texts at a time over one connection, undoes the compression and parses the JSON.

    read     from a log on disk that nobody writes to: plain, gzip, zstd
    append   zstd, while a producer appends 5,000 texts a second with fsync; at the head of the log,
             while an archive's texts are appended as fast as they are read; and far behind the
             head, while the archive is appended at full speed
    million  zstd, a million texts at the head: the server's memory all along
    slow50   zstd, beside 50 clients that read a byte a second, send half a request or no HTTP, or
             leave in the middle of an answer

Writes benchmarks/results/feed_load.json.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import multiprocessing
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pyarrow as pa
from common import parser_for, write_result

from hornbook.documents import Document
from hornbook.feed.auth import listening_addresses
from hornbook.feed.config import FeedConfig
from hornbook.feed.cursors import Cursors
from hornbook.feed.log import LogWriter
from hornbook.feed.serve import FeedServer, listen
from hornbook.feed.server import Feed
from hornbook.gather.readers import read_inputs

CHARACTERS = 2000
N = 64
SLOW_CLIENTS = 50
APPENDED = 5000
"""Texts a second of the steady producer: more than teachers write."""
ENCODINGS = ("identity", "zstd", "gzip")


def pieces(path: Path, most: int) -> list[str]:
    """Texts of the size that the targets speak of."""
    found: list[str] = []
    for document in read_inputs([str(path)]):
        text = document.text
        found += [text[at : at + CHARACTERS] for at in range(0, len(text) - CHARACTERS, CHARACTERS)]
        if len(found) >= most:
            break
    return found[:most]


def write_log(folder: Path, texts: list[str]) -> float:
    """A log of the texts; texts a second, with an fsync for every block or two."""
    log = LogWriter.create_or_open(folder)
    begin = time.perf_counter()
    for at in range(0, len(texts), N):
        number = log.append([Document(text) for text in texts[at : at + N]], {})
    number.result()
    seconds = time.perf_counter() - begin
    log.close()
    return len(texts) / seconds


@contextlib.contextmanager
def server(folder: Path, *options: str) -> Iterator[tuple[int, int]]:
    """`hornbook feed serve`; its port and process."""
    port = free_port()
    words = [f"--feed.folder={folder}", f"--feed.port={port}", *options]
    command = [sys.executable, "-m", "hornbook", "feed", "serve", *words]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            wait_for(port)
            yield port, process.pid
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def wait_for(port: int) -> None:
    """Wait until a feed has texts."""
    for _ in range(600):
        with contextlib.suppress(httpx2.TransportError):
            if httpx2.get(f"http://127.0.0.1:{port}/readyz").status_code == 200:
                return
        time.sleep(0.1)


class Reader:
    """The client: reads on and on, from number 0 again where the log ends (or the texts do)."""

    def __init__(self, port: int, process: int, encoding: str, wrap: int = 0):
        self.port, self._process = port, process
        self._client = httpx2.Client(timeout=60, headers={"Accept-Encoding": encoding})
        self._url, self._wrap = f"http://127.0.0.1:{port}/generate", wrap
        self.cursor = self.texts = self.bytes = self.received = 0

    def read(self) -> None:
        """One answer."""
        at = self.cursor % self._wrap if self._wrap else self.cursor
        with self._client.stream("GET", self._url, params={"cursor": at, "n": N}) as answer:
            body = b"".join(answer.iter_raw())
        if answer.status_code == 503:
            return
        assert answer.status_code == 200, body
        content = self._plain(body, answer.headers.get("content-encoding"))
        texts = json.loads(content)
        assert len(texts) == int(answer.headers["x-feed-count"])
        self.cursor += len(texts)
        self.texts += len(texts)
        self.bytes += len(content)
        self.received += len(body)

    def rate(self, seconds: float) -> dict[str, float]:
        """Read for some seconds; what came."""
        begin, texts, size, received = time.perf_counter(), self.texts, self.bytes, self.received
        client, server = time.process_time(), cpu_seconds(self._process)
        while (took := time.perf_counter() - begin) < seconds:
            self.read()
        count = self.texts - texts
        return {
            "texts_per_second": round(count / took),
            "server_cpu_us_per_text": round(1e6 * (cpu_seconds(self._process) - server) / count, 1),
            "client_cpu_us_per_text": round(1e6 * (time.process_time() - client) / count, 1),
            "megabytes_per_second": round((self.bytes - size) / took / 1e6, 1),
            "compressed_to": round((self.received - received) / (self.bytes - size), 3),
        }

    @staticmethod
    def _plain(body: bytes, encoding: str | None) -> bytes:
        if encoding == "zstd":
            return bytes(pa.CompressedInputStream(pa.BufferReader(body), "zstd").read())
        return zlib.decompress(body, 31) if encoding == "gzip" else body


def read(folder: Path, texts: list[str], seconds: float) -> dict[str, Any]:
    """From a log that is there."""
    written = write_log(folder, texts)
    result: dict[str, Any] = {"append_alone_texts_per_second": round(written)}
    with server(folder) as (port, process):
        for encoding in ENCODINGS:
            result[encoding] = Reader(port, process, encoding, wrap=len(texts) // N * N).rate(
                seconds
            )
    return result


def append(folder: Path, archive: Path, texts: list[str], seconds: float) -> dict[str, Any]:
    """While texts are appended: so many a second, and an archive's as fast as they are read."""
    steady = folder.with_name("steady")
    write_log(steady, texts)
    spawned = multiprocessing.get_context("spawn")
    port = free_port()
    producer = spawned.Process(target=serve_and_append, args=(steady, port, texts[:5000]))
    producer.start()
    wait_for(port)
    reader = Reader(port, producer.pid or 0, "zstd", wrap=len(texts) // N * N)
    at_a_rate = _beside_appending(reader, seconds)
    producer.kill()
    source = f"--feed.archive={archive}"
    with server(folder, source, "--feed.ahead_texts=5000") as (port, process):
        at_head = _beside_appending(Reader(port, process, "zstd"), seconds)
        far = _head(port) // N * N
    with server(folder, source, "--feed.ahead_texts=10000000") as (port, process):
        behind = _beside_appending(Reader(port, process, "zstd", wrap=far), seconds)
    return {"at a rate": at_a_rate, "at the head": at_head, "far behind the head": behind}


def serve_and_append(folder: Path, port: int, texts: list[str]) -> None:
    """Serve a log to which a thread appends `APPENDED` texts a second, in groups of 64."""
    log = LogWriter.create_or_open(folder)

    def produce() -> None:
        begin, made = time.perf_counter(), 0
        while True:
            at = made % (len(texts) - N)
            log.append([Document(text) for text in texts[at : at + N]], {"made": made})
            made += N
            time.sleep(max(0.0, made / APPENDED - (time.perf_counter() - begin)))

    threading.Thread(target=produce, daemon=True).start()
    config = FeedConfig(folder=str(folder))
    feed = Feed(log, Cursors(folder), config)
    server = FeedServer(feed, None, listen(listening_addresses(config, None), port))
    asyncio.run(server.run_feed())


def _beside_appending(reader: Reader, seconds: float) -> dict[str, float]:
    before, begin = _head(reader.port), time.perf_counter()
    rate = reader.rate(seconds)
    appended = (_head(reader.port) - before) / (time.perf_counter() - begin)
    return {**rate, "appended_per_second": round(appended)}


def _head(port: int) -> int:
    return int(httpx2.get(f"http://127.0.0.1:{port}/stats").json()["head"])


def million(folder: Path, archive: Path, texts: int) -> dict[str, Any]:
    """The server's memory while a million texts are made and read."""
    sizes = []
    options = (f"--feed.archive={archive}", "--keep=400MB", "--feed.ahead_texts=2000")
    with server(folder, *options) as (port, process):
        reader = Reader(port, process, "zstd")
        while reader.texts < texts:
            reader.read()
            if reader.texts // (texts // 20) > len(sizes) - 1:
                sizes.append(resident(process))
    return {
        "texts": reader.texts,
        "resident_mb": [round(size / 1e6, 1) for size in sizes],
        "growth_mb_after_first_tenth": round((max(sizes[2:]) - sizes[2]) / 1e6, 1),
    }


def cpu_seconds(process: int) -> float:
    """CPU time of a process: what is left of a measurement where other work runs beside it."""
    times = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[11:13]
    return sum(map(int, times)) / os.sysconf("SC_CLK_TCK")


def resident(process: int) -> int:
    """Bytes of memory of a process."""
    pages = Path(f"/proc/{process}/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def slow50(folder: Path, texts: list[str], seconds: float) -> dict[str, Any]:
    """A good client alone, and beside bad ones."""
    write_log(folder, texts)
    with server(folder) as (port, process):
        good = Reader(port, process, "zstd", wrap=len(texts) // N * N)
        alone = good.rate(seconds)
        spawned = multiprocessing.get_context("spawn")
        bad = spawned.Process(target=run_bad_clients, args=(port,), daemon=True)
        bad.start()
        time.sleep(5)
        before = resident(process)
        beside = good.rate(4 * seconds)
        result = {
            "alone": alone,
            "beside": beside,
            "share": round(beside["texts_per_second"] / alone["texts_per_second"], 3),
            "resident_mb": [round(before / 1e6, 1), round(resident(process) / 1e6, 1)],
        }
        bad.kill()
    return result


def run_bad_clients(port: int) -> None:
    """Fifty of them, for ever."""
    asyncio.run(_bad_clients(port))


async def _bad_clients(port: int) -> None:
    await asyncio.gather(*(_bad_client(port, kind % 5) for kind in range(SLOW_CLIENTS)))


async def _bad_client(port: int, kind: int) -> None:
    request = b"GET /generate?cursor=0&n=1024 HTTP/1.1\r\nHost: x\r\n\r\n"
    while True:
        with contextlib.suppress(OSError):
            reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1)
            if kind == 0:  # a byte a second
                writer.write(request)
                while await reader.read(1):
                    await asyncio.sleep(1)
            elif kind == 1:  # half a request
                writer.write(request[:40])
                await reader.read(1)
            elif kind == 2:  # leaves in the middle
                writer.write(request.replace(b"1024", b"256"))
                await reader.read(1)
            elif kind == 3:  # no HTTP
                writer.write(random.randbytes(5000))
                await reader.read(1)
            else:  # a letter a second
                for letter in request:
                    if writer.is_closing():
                        break
                    writer.write(bytes([letter]))
                    await asyncio.sleep(1)
            writer.transport.abort()
        await asyncio.sleep(1)


def table(result: dict[str, Any]) -> list[dict[str, str]]:
    """The rows for docs/performance.md."""
    rates: dict[str, dict[str, Any]] = {
        **{f"log on disk, {name}": result.get("read", {}).get(name) for name in ENCODINGS},
        **{
            f"zstd, while texts are appended, {place}": found
            for place, found in result.get("append", {}).items()
        },
        "zstd, alone": result.get("slow50", {}).get("alone"),
        "zstd, beside 50 slow and broken clients": result.get("slow50", {}).get("beside"),
    }
    rows = [
        {
            "what": name,
            "texts/s": f"{rate['texts_per_second']:,}",
            "appended/s": f"{made:,}" if (made := rate.get("appended_per_second")) else "",
            "MB/s of JSON": f"{rate['megabytes_per_second']:g}",
            "CPU a text, server, µs": f"{rate['server_cpu_us_per_text']:g}",
            "client": f"{rate['client_cpu_us_per_text']:g}",
        }
        for name, rate in rates.items()
        if rate
    ]
    if grown := result.get("million"):
        first, last = grown["resident_mb"][0], grown["resident_mb"][-1]
        memory = f"the server's memory: {first:g} MB at first, {last:g} MB in the end"
        rows.append({"what": f"{grown['texts']:,} texts made and read; {memory}"})
    return rows


def main() -> None:
    parser = parser_for(__doc__)
    parser.add_argument("text", type=Path, help="articles: any file that `prepare` reads")
    modes = ["read", "append", "million", "slow50"]
    parser.add_argument("--only", nargs="+", choices=modes, default=modes)
    parser.add_argument("--beside", default="", help="what else ran on the machine; kept with it")
    options = parser.parse_args()
    seconds, count = (1.0, 2000) if options.tiny else (10.0, 51_200)
    texts = pieces(options.text, count)
    result: dict[str, Any] = {
        "what": "texts of 2,000 characters a second, server and client on one machine",
        "n": N, "distinct_texts": len(texts), "beside": options.beside,
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        archive = folder / "archive.jsonl"
        archive.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        for mode in options.only:
            print(mode, os.getloadavg(), flush=True)
            if mode == "read":
                result[mode] = read(folder / mode, texts, seconds)
            elif mode == "append":
                result[mode] = append(folder / mode, archive, texts, seconds)
            elif mode == "million":
                result[mode] = million(folder / mode, archive, 20 * count)
            else:
                result[mode] = slow50(folder / mode, texts, seconds)
            print(json.dumps(result[mode], indent=1), flush=True)
    result["table"] = table(result)
    write_result(options.out, "feed_load", result)


if __name__ == "__main__":
    main()
