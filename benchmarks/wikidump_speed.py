"""MB of XML a second from a dump to text: `gather wikidump` and WikiExtractor, side by side.

In: the XML sample, and the program `wikiextractor` (3.1.0, in an environment of its own). Out:
OUT/wikidump_speed.json. The dump is the sample's pages 20 times over, with numbers of their own
(122 MB); each program runs with the same number of worker processes, in turns, and the whole of it
is timed, from its start to its end. The best run of each counts, since others only disturb.

    python benchmarks/wikidump_speed.py SAMPLE.xml.bz2 --wikiextractor PROGRAM
"""

from __future__ import annotations

import bz2
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import parser_for, write_result


def main() -> None:
    """Measure, and write the results."""
    parser = parser_for(__doc__, tiny=False)
    parser.add_argument("sample", type=Path)
    parser.add_argument("--wikiextractor", default="wikiextractor", help="the program")
    parser.add_argument("--copies", type=int, default=20)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder, workers = Path(name), str(options.workers)
        dump, out = folder / "dump.xml", folder / "out"
        dump.write_bytes(copies(bz2.decompress(options.sample.read_bytes()), options.copies))
        megabytes = dump.stat().st_size / 1e6
        hornbook = [sys.executable, "-m", "hornbook", "gather", "wikidump", dump, "--out", out]
        programs = {
            "hornbook": [*hornbook, "--workers", workers],
            "WikiExtractor 3.1.0": [
                options.wikiextractor, "--processes", workers, "-q", "-o", out, dump,
            ],
        }  # fmt: skip
        runs: dict[str, list[dict[str, float]]] = {program: [] for program in programs}
        for _ in range(options.runs):
            for program, command in programs.items():
                runs[program].append(timed([str(word) for word in command]))
                shutil.rmtree(out)
                print(program, runs[program][-1])
    result: dict[str, Any] = {"megabytes": megabytes, "workers": options.workers, "runs": runs}
    best = {program: megabytes / min(run["seconds"] for run in runs[program]) for program in runs}
    result["megabytes_per_second"] = best
    result["ratio"] = best["hornbook"] / best["WikiExtractor 3.1.0"]
    result["load_of_the_machine"] = os.getloadavg()
    print(best, result["ratio"])
    write_result(options.out, "wikidump_speed", result)


def copies(xml: bytes, count: int) -> bytes:
    """The dump with its pages `count` times, each with numbers of its own."""
    head, _, rest = xml.partition(b"  <page>")
    pages = b"  <page>" + rest.rpartition(b"</mediawiki>")[0]

    def numbered(copy: int) -> bytes:
        return re.sub(rb"<id>(\d+)<", lambda found: b"<id>%d%b<" % (copy + 1, found[1]), pages)

    return head + b"".join(map(numbered, range(count))) + b"</mediawiki>\n"


def timed(command: list[str]) -> dict[str, float]:
    """Seconds of the clock, and of all its processes' work."""
    before, start = os.times(), time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    seconds, after = time.perf_counter() - start, os.times()
    work = after.children_user + after.children_system
    return {"seconds": seconds, "cpu": work - before.children_user - before.children_system}


if __name__ == "__main__":
    main()
