"""Seconds from the start of the process to the end of the first training step, GPT-2 124M.

    python benchmarks/startup.py

Three processes, one after the other, each ended after its first steps:

- cold: nothing compiled yet, nothing known of the machine;
- cached: another run of the same recipe; compiled code comes from PyTorch's cache on disk;
- again: the cached run started again, which finds its choices in machine.json.

The clock starts before the process does and stops when its first step is in metrics.jsonl, which
is when its numbers were read from the device. Writes benchmarks/results/startup.json.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import parser_for, write_result

from hornbook.files import read_json

LIMIT_SECONDS = 240.0


def child(tokens: Path, folder: Path, rows: int, tiny: bool) -> None:
    """Train in `folder` until killed."""
    from overhead import model_config, train

    from hornbook.tokens.config import DataConfig
    from hornbook.tokens.loader import open_source
    from hornbook.train.config import PretrainConfig

    config = model_config(tiny)
    source = open_source(DataConfig(), tokens, config.context, rows_per_step=rows)
    settings = PretrainConfig(
        steps=10_000, global_batch_tokens=rows * config.context, compile="off" if tiny else "auto",
        evaluate_every=0, sample_every=0, checkpoint_every=0,
    )  # fmt: skip
    train(source, config, settings, folder)


def first_step(command: list[str], folder: Path, environment: dict[str, str]) -> dict[str, Any]:
    """Start a process and wait for its first step."""
    metrics = folder / "metrics.jsonl"
    # `again` finds lines of the start before; that run had no checkpoint, so they are cut off.
    metrics.unlink(missing_ok=True)
    with open(folder.with_suffix(".log"), "a", encoding="utf-8") as log:
        begin = time.perf_counter()
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            while time.perf_counter() - begin < LIMIT_SECONDS:
                if metrics.exists() and b'"loss"' in metrics.read_bytes():
                    seconds = time.perf_counter() - begin
                    break
                if process.poll() is not None:
                    raise SystemExit(folder.with_suffix(".log").read_text()[-3000:])
                time.sleep(0.02)
            else:
                raise SystemExit(f"no step after {LIMIT_SECONDS:.0f} s")
        finally:
            process.kill()
            process.wait()
    reasons = read_json(folder / "machine.json")["reasons"]
    return {"seconds": seconds, "compile": reasons.get("compile"), "reasons": reasons}


def main() -> None:
    parser = parser_for(__doc__)
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--child", nargs=2, type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(*options.child, options.rows, options.tiny)
        return
    from overhead import random_tokens

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
            command = [
                sys.executable, __file__, "--rows", str(options.rows),
                *(["--tiny"] if options.tiny else []), "--child", str(tokens), str(root / run),
            ]  # fmt: skip
            (root / run).mkdir(exist_ok=True)
            starts[name] = first_step(command, root / run, environment)
            print(f"{name}: {starts[name]['seconds']:.1f} s {starts[name]['reasons']}", flush=True)
        chosen = read_json(root / "two" / "machine.json")
    result = {
        "what": "seconds from process start to the end of the first training step, GPT-2 124M",
        "chosen": chosen,
        "starts": starts,
    }
    write_result(options.out, "startup", result)


if __name__ == "__main__":
    main()
