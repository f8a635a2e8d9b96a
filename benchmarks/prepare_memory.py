"""Peak memory of prepare over corpora of growing size: it should not grow.

    python benchmarks/prepare_memory.py wikipedia.jsonl.zst --megabytes 100 500 2000

Each corpus is real text repeated with other words put in, so that documents are neither equal nor
near, in a file of JSON lines. A fresh process prepares it with quality rules, near duplicates and
two workers; every 0.1 s the private and shared memory of all its processes is added up (PSS of
/proc/PID/smaps_rollup: pages of files that are mapped count with anything they still hold).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from hornbook.documents import Document
from hornbook.files import write_json
from hornbook.gather.readers import read_inputs

PREPARE = """
import sys
from pathlib import Path
from hornbook.corpus.config import *
from hornbook.corpus.prepare import prepare
if __name__ == "__main__":
    prepare(PrepareConfig(
        inputs=[sys.argv[1]], gopher=GopherConfig(on=True), near=NearConfig(on=True), workers=2,
    ), Path(sys.argv[2]))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("text", help="a file of documents")
    parser.add_argument("--megabytes", type=int, nargs="+", default=[100, 500, 2000])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    arguments = parser.parse_args()
    rows = []
    for megabytes in arguments.megabytes:
        with tempfile.TemporaryDirectory() as folder:
            corpus = write_corpus(arguments.text, megabytes, Path(folder, "corpus.jsonl"))
            start = time.perf_counter()
            peak, disk = watched(corpus, Path(folder, "out"))
            seconds = time.perf_counter() - start
        rows.append(
            {
                "text": f"{megabytes:,} MB",
                "peak memory": f"{peak / 1e6:,.0f} MB",
                "work on disk": f"{disk / 1e6:,.0f} MB",
                "MB/s": f"{megabytes / seconds:.1f}",
            }
        )
        print(rows[-1], flush=True)
    command = f"python benchmarks/prepare_memory.py {Path(arguments.text).name}"
    known = {"cores": os.cpu_count(), "python": sys.version.split()[0]}
    result = {"command": command, "machine": known, "table": rows}
    write_json(arguments.out / "prepare_memory.json", result)


def write_corpus(source: str, megabytes: int, path: Path) -> Path:
    """A file of about so many MB of text."""
    written = 0
    with open(path, "w", encoding="utf-8") as file:
        for text in varied(source):
            file.write(json.dumps({"text": text}) + "\n")
            written += len(text)
            if written >= megabytes * 10**6:
                return path
    return path


def varied(source: str) -> Iterator[str]:
    """The documents' texts over and over, each time with every sixth word or so replaced."""
    draw = random.Random(0)
    for turn in range(10**6):
        for document in read_inputs([source], warn=print):
            yield reworded(document, draw) if turn else document.text


def reworded(document: Document, draw: random.Random) -> str:
    words = re.split(r"( )", document.text)
    for at in range(0, len(words), 2):
        if draw.random() < 0.17:
            words[at] = words[draw.randrange(0, len(words), 2)]
    return "".join(words)


def watched(corpus: Path, out: Path) -> tuple[int, int]:
    """Prepare in a process of its own: peak bytes of memory, and of the work folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", PREPARE, str(corpus), str(out)],
        stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    peak = disk = 0
    while process.poll() is None:
        peak = max(peak, sum(map(memory_of, session(process.pid))))
        disk = max(disk, sum(size(file) for file in out.glob("work/**/*")))
        time.sleep(0.1)
    if process.returncode:
        raise SystemExit(f"prepare failed with {process.returncode}")
    return peak, disk


def session(leader: int) -> list[int]:
    """The processes that a process of its own session has started, and itself."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if os.getsid(int(folder.name)) == leader:
                found.append(int(folder.name))
        except ProcessLookupError:
            continue
    return found


def memory_of(process: int) -> int:
    """Its proportional share of resident memory."""
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:  # it has just ended
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def size(path: Path) -> int:
    """Bytes of a file that may be gone by now."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


if __name__ == "__main__":
    main()
