"""Seconds from the start of the process to the end of the first training step, GPT-2 124M.

    python benchmarks/startup.py
    python benchmarks/startup.py --profile

Three processes, one after the other, each ended after its first steps:

- cold: nothing compiled yet, nothing known of the machine;
- cached: another run of the same recipe; compiled code comes from PyTorch's cache on disk;
- again: the cached run started again, which finds its choices in machine.json.

The clock starts before the process does and stops when its first step is in metrics.jsonl, which
is when its numbers were read from the device. Writes benchmarks/results/startup.json, which also
has what each process did when, and what the compiler said of its own time. With --profile it is
startup_profiled.json, all of it slower, and beside it a profile of each process's main thread.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import parser_for, write_result
from overhead import random_tokens

from hornbook.files import read_json

LIMIT_SECONDS = 240.0
"""A process that has not got to its first step by then is given up."""

SHOWN_SECONDS = 0.05
"""Calls that took less are not printed."""


def first_step(command: list[str], folder: Path, environment: dict[str, str]) -> dict[str, Any]:
    """Start a process and wait for its first step."""
    timeline = folder / "timeline.json"
    timeline.unlink(missing_ok=True)
    # `again` finds lines of the start before; that run had no checkpoint, so they are cut off.
    (folder / "metrics.jsonl").unlink(missing_ok=True)
    with open(folder.with_suffix(".log"), "a", encoding="utf-8") as log:
        begin = time.time()
        process = subprocess.Popen(
            [*command, "--began", str(begin)], env=environment, stdout=log, stderr=log
        )
        try:
            while not timeline.exists():
                if process.poll() is not None:
                    raise SystemExit(folder.with_suffix(".log").read_text()[-3000:])
                if time.time() - begin > LIMIT_SECONDS:
                    raise SystemExit(f"no step after {LIMIT_SECONDS:.0f} s")
                time.sleep(0.1)
        finally:
            process.kill()
            process.wait()
    report = read_json(timeline)
    last = next(call for call in report["calls"] if call["what"] == "Trainer._read")
    reasons = read_json(folder / "machine.json")["reasons"]
    return {"seconds": last["begin"] + last["seconds"], "reasons": reasons, **report}


def show(name: str, start: dict[str, Any]) -> None:
    """Print what took how long."""
    print(f"{name}: {start['seconds']:.1f} s {start['reasons']}")
    for call in start["calls"]:
        took = call.get("seconds")  # none: it was still running
        if took is None or took >= SHOWN_SECONDS or call["what"] == "interpreter is up":
            length = "..." if took is None else f"{took:.2f}"
            thread = f"  ({call['thread']})" if "thread" in call else ""
            print(f"{call['begin']:8.2f} {length:>7}  {'  ' * call['depth']}{call['what']}{thread}")
    for what, value in start["compiler"]["seconds"].items():
        print(f"{value:16.2f}  compiler: {what}")
    print(f"{start['compiler']['counters']}", flush=True)


def table(starts: dict[str, dict[str, Any]]) -> list[dict[str, str]]:
    """What docs/performance.md shows."""

    def took(start: dict[str, Any], *names: str) -> str:
        calls = [call for call in start["calls"] if call["what"] in names]
        return f"{sum(call.get('seconds', 0.0) for call in calls):.1f}"

    return [
        {
            "start": name,
            "seconds to the first step": f"{start['seconds']:.1f}",
            "imports": took(start, "import torch", "import hornbook"),
            "trying kernels and memory": took(start, "start.probe"),
            "compiling": took(start, "start.start"),
        }
        for name, start in starts.items()
    ]


def main() -> None:
    parser = parser_for(__doc__)
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--profile", action="store_true", help="say which functions took the time")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        tokens = random_tokens(root / "tokens", 2_000_000)
        environment = {
            **os.environ,
            "TORCHINDUCTOR_CACHE_DIR": str(root / "inductor"),
            "TRITON_CACHE_DIR": str(root / "triton"),
        }
        starts = {}
        for name, run in (("cold", "one"), ("cached", "two"), ("again", "two")):
            folder = root / run
            folder.mkdir(exist_ok=True)
            command = [
                sys.executable, str(Path(__file__).with_name("startup_process.py")), str(tokens),
                str(folder), "--rows", str(options.rows),
                *(["--tiny"] if options.tiny else []),
                *(["--profile"] if options.profile else []),
            ]  # fmt: skip
            starts[name] = first_step(command, folder, environment)
            show(name, starts[name])
            if options.profile:
                options.out.mkdir(parents=True, exist_ok=True)
                shutil.copy(folder / "profile.txt", options.out / f"startup_{name}_profile.txt")
        chosen = read_json(root / "two" / "machine.json")
    result = {
        "what": "seconds from process start to the end of the first training step, GPT-2 124M",
        "chosen": chosen,
        "starts": starts,
        "table": table(starts),
    }
    write_result(options.out, "startup_profiled" if options.profile else "startup", result)


if __name__ == "__main__":
    main()
