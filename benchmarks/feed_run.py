"""Phi-2 from random weights on a live feed, archive and teacher on the same machine, and a forecast made on the way.

    python benchmarks/feed_run.py --text wikipedia.jsonl.zst --rank-file r50k_base.tiktoken --work work --out out --seconds 560
    python benchmarks/feed_run.py --work work --out out --seconds 560 --resume      # goes on
    python benchmarks/feed_run.py --text wikipedia.jsonl.zst --work work --out out --small --seconds 150   # a CPU

Each call ends by itself within `--seconds`. The first one converts the text to Parquet, the feed's archive;
trains the teacher (`speedrun-stock`, 124M, on some of the same text) for half a minute; serves archive and teacher
(15 % of the bytes of text); and trains the recipe `phi2-feed` from that feed on the same GPU. As soon as the run is
long enough, `hornbook forecast` is made and kept. At the end of its time the trainer is asked to stop, which
saves a checkpoint in `--work`; with `--resume` the same feed is served again and training goes on.

Writes to `--out`: feed_run.json (the summary), metrics.jsonl, train.log, feed_stats.jsonl (the feed's /stats
every 10 s, over all calls), forecast.json (the early one), report.html and output.txt (what the commands said).
"""  # noqa: E501 (a command is one line)

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import math
import os
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from common import machine, parser_for, write_result

from hornbook.errors import HornbookError
from hornbook.evaluate.curve import AVERAGED
from hornbook.files import read_json, write_json, write_text
from hornbook.gather.readers import read_inputs
from hornbook.recipe import load_recipe, write_recipe
from hornbook.train.stop import LossWatch

PORT = 8765
TEACHER_WEIGHT = 0.15
SAMPLE_SECONDS = 10.0
FORECAST_FROM = 260
"""Steps after which a forecast is tried; it needs 200 at the full rate."""

TEACHER_TEXTS, TEACHER_TOKENS = 1500, 8_000_000
"""What the teacher learns from: half a minute of one H200, without compiling."""
STOP_S = 60.0
"""Time kept for the last checkpoint (11 GB) and the summary."""

GPU_RUN = [
    # Farther than it gets: the run does not end there, and the initial validation loss is measured.
    "--pretrain.stop_at_loss", "initial-8", "--pretrain.micro_batch", "16", "--pretrain.keep", "1",
    "--pretrain.sample_every", "0", "--pretrain.checkpoint_minutes", "4",
]  # fmt: skip
SMALL_MODEL = {
    "model": {
        "preset": "llama-1m", "layers": 2, "width": 64, "heads": 2, "kv_heads": 2,
        "head_dim": 32, "mlp_width": 128, "context": 128,
    },
    "tokenize": {"kind": "bpe", "vocabulary": 1024, "workers": 1},
}  # fmt: skip
SMALL_PRETRAIN = {
    "global_batch_tokens": 512, "threads": 1, "minutes": 0.0, "evaluate_tokens": 8192,
    "sample_every": 0, "tensorboard": False,
}  # fmt: skip
SMALL_TEXTS, SMALL_TEACHER_STEPS = 400, 150


class Job:
    """What is run, where, and until when."""

    def __init__(self, given: argparse.Namespace):
        self.began = time.monotonic()
        self.given, self.out, self.work = given, given.out, given.work
        self.run, self.feed_url = given.work / "run", f"http://127.0.0.1:{given.port}"
        self.stop_at = self.began + given.seconds - (20 if given.small else STOP_S)
        self.out.mkdir(parents=True, exist_ok=True)
        self.work.mkdir(parents=True, exist_ok=True)
        self.output = open(given.work / "output.txt", "ab")  # noqa: SIM115

    def say(self, message: str) -> None:
        """To the screen and to output.txt."""
        line = f"[{time.monotonic() - self.began:6.1f} s] {message}\n"
        print(line, end="", flush=True)
        self.output.write(line.encode())
        self.output.flush()

    def start(self, *words: str) -> subprocess.Popen[bytes]:
        """A hornbook command; what it says goes to output.txt."""
        self.say("hornbook " + " ".join(words))
        command = [sys.executable, "-m", "hornbook", *words]
        return subprocess.Popen(command, stdout=self.output, stderr=self.output)

    def do(self, *words: str) -> int:
        """The same, to its end."""
        return self.start(*words).wait()

    def must(self, *words: str) -> None:
        code = self.do(*words)
        if code:
            tail = (self.work / "output.txt").read_text(errors="replace")[-2000:]
            raise SystemExit(f"hornbook {words[0]} ended with {code}:\n{tail}")


def prepare(job: Job) -> None:
    """The archive, the teacher, and what feed and trainer are told."""
    given, some = job.given, job.work / "some.jsonl"
    texts = SMALL_TEXTS if given.small else TEACHER_TEXTS
    first = itertools.islice(read_inputs([given.text]), texts)
    write_text(some, "".join(json.dumps({"text": each.text}) + "\n" for each in first))
    archive = job.work / "archive.parquet"
    text = some if given.small else given.text
    job.must("convert", str(text), "--to", "parquet", "--out", str(archive))
    teacher = job.work / "teacher"
    changed: dict[str, Any] = {"prepare": {"inputs": [str(some)]}}
    if given.small:
        changed |= SMALL_MODEL
        changed["pretrain"] = {**SMALL_PRETRAIN, "steps": SMALL_TEACHER_STEPS}
    else:
        changed["tokenize"] = {"file": str(given.rank_file)}
        changed["pretrain"] = {"tokens": TEACHER_TOKENS, "compile": "off"}
    recipe = load_recipe("quickstart" if given.small else "speedrun-stock", changed)
    write_recipe(recipe, job.work / "teacher.yaml")
    for stage in ("prepare", "tokenize", "pretrain"):
        job.must(stage, "--recipe", str(job.work / "teacher.yaml"), "--run", str(teacher))
    feed = {
        "folder": str(job.work / "feed"), "archive": str(archive), "port": given.port,
        "archive_weight": 1 - TEACHER_WEIGHT, "fill_in": True,
        "ahead_texts": 200 if given.small else 600,
        "validation_texts": 20 if given.small else 500,
        "teachers": [{
            "kind": "hornbook", "model": str(teacher), "weight": TEACHER_WEIGHT,
            "max_tokens": 40 if given.small else 256, "batch": 4 if given.small else 48,
            "device": "cpu" if given.small else "auto",
        }],
    }  # fmt: skip
    changed = {"feed": feed, "data": {"feed": job.feed_url}}
    if given.small:
        changed |= SMALL_MODEL
        changed["pretrain"] = {**SMALL_PRETRAIN, "steps": 100_000, "stop_at_loss": "initial-8"}
        changed["optimizer"] = {"warmup_steps": 20}
    else:
        changed["tokenize"] = {"file": str(given.rank_file)}
    recipe = load_recipe("feed-cpu" if given.small else "phi2-feed", changed)
    write_recipe(recipe, job.work / "run.yaml")


@contextlib.contextmanager
def feed_served(job: Job) -> Iterator[None]:
    """The feed, until its texts are not wanted any more."""
    feed = job.start("feed", "serve", str(job.work / "run.yaml"))
    try:
        while _stats(job) is None:
            if feed.poll() is not None:
                raise SystemExit(f"the feed ended with {feed.returncode}: see output.txt")
            time.sleep(0.5)
        yield
    finally:
        feed.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            feed.wait(20)
        feed.kill()


def _stats(job: Job) -> dict[str, Any] | None:
    try:
        with urllib.request.urlopen(f"{job.feed_url}/stats", timeout=5) as answer:
            found: dict[str, Any] = json.load(answer)
            return found
    except (OSError, ValueError):
        return None


def sample_stats(job: Job, ended: threading.Event) -> None:
    """The feed's own numbers, every ten seconds."""
    with open(job.work / "feed_stats.jsonl", "a", encoding="utf-8") as file:
        while not ended.wait(SAMPLE_SECONDS):
            line = {"at": round(time.time(), 1), "steps": _steps(job), "stats": _stats(job)}
            file.write(json.dumps(line) + "\n")
            file.flush()


def train(job: Job) -> int:
    """Train until the time is up; a forecast on the way, once. The trainer's exit code."""
    options = [] if job.given.small else GPU_RUN
    trainer = job.start("run", str(job.work / "run.yaml"), "--run", str(job.run), *options)
    tried = 0
    while trainer.poll() is None and time.monotonic() < job.stop_at:
        time.sleep(1.0)
        steps = _steps(job)
        if steps >= max(FORECAST_FROM, tried + 40) and not (job.work / "forecast.json").exists():
            tried = steps
            early_forecast(job)
    if trainer.poll() is None:
        job.say("time is up: the trainer is asked to stop")
        trainer.send_signal(signal.SIGTERM)
    return trainer.wait()


def _metrics(job: Job) -> Path:
    return Path(job.run / "pretrain" / "metrics.jsonl")


def _steps(job: Job) -> int:
    path = _metrics(job)
    return path.read_bytes().count(b'"gradient_norm"') if path.exists() else 0


def early_forecast(job: Job) -> None:
    """`hornbook forecast` of what is there, kept."""
    if job.do("forecast", str(job.run), "--target-loss", str(job.given.target_loss)) == 0:
        shutil.copyfile(job.run / "forecast" / "forecast.json", job.work / "forecast.json")


def compare(job: Job, steps: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The early forecast, for where the run is now, against what came."""
    if not (job.work / "forecast.json").exists():
        return None
    made = read_json(job.work / "forecast.json")
    ahead = made["picture"]
    last = steps[-AVERAGED:]
    middle = statistics.fmean(step["tokens"] for step in last)
    came = statistics.fmean(step["loss"] for step in last)
    low, median, high = (
        float(np.interp(math.log(middle), np.log(ahead["ahead_tokens"]), ahead[name]))
        for name in ("low", "middle", "high")
    )
    return {
        "made at tokens": int(made["tokens"]), "loss then": round(made["loss"], 4),
        "for tokens": int(middle), "forecast": round(median, 4), "low": round(low, 4),
        "high": round(high, 4), "came": round(came, 4), "error": round(median / came - 1, 5),
        "inside": low <= came <= high,
    }  # fmt: skip


def goal(steps: list[dict[str, Any]]) -> dict[str, Any]:
    """When the mean of 50 steps was the initial loss less 1."""
    watch = LossWatch()
    for step in steps:
        watch.add(step["step"], step["loss"], math.inf)
        if reached := watch.reached("initial-1", None):
            return {key: step[key] for key in ("step", "tokens", "seconds")} | {"why": reached}
    return {"step": None}


def summary(job: Job, code: int, calls: list[dict[str, Any]]) -> dict[str, Any]:
    """All that the run shows, in numbers."""
    lines = [json.loads(line) for line in _metrics(job).read_text().splitlines()]
    steps = [line for line in lines if "gradient_norm" in line]
    validation = [line for line in lines if "validation_loss" in line]
    per_step = steps[0]["tokens"] // steps[0]["step"]
    # Right after a start kernels are compiled and nothing is read ahead yet.
    starts = [0, *(line["step"] for line in lines if line.get("event") == "resumed")]
    warm = [s for s in steps if not any(first < s["step"] <= first + 5 for first in starts)]
    seconds = [per_step / step["tokens_per_second"] for step in warm]
    reached = goal(steps)
    after = steps[-1]["seconds"] - reached["seconds"] if reached["step"] else 0.0
    vocabulary = read_json(job.run / "tokenize" / "manifest.json")["vocabulary"]
    stats = [json.loads(line)["stats"] for line in (job.work / "feed_stats.jsonl").open()]
    return {
        "exit code of the trainer": code,
        "calls": calls,
        "steps": steps[-1]["step"],
        "tokens": steps[-1]["tokens"],
        "seconds of training": steps[-1]["seconds"],
        "initial loss": steps[0]["loss"],
        "initial validation loss": validation[0]["validation_loss"] if validation else None,
        "ln(vocabulary)": round(math.log(vocabulary), 4),
        "initial - 1 reached": reached,
        "minutes trained after that": round(after / 60, 2),
        "final loss (mean of 50)": round(statistics.fmean(s["loss"] for s in steps[-50:]), 4),
        "validation": [
            {key: line[key] for key in ("step", "validation_loss")} for line in validation
        ],
        "tokens per second (median)": round(
            statistics.median(step["tokens_per_second"] for step in warm), 1
        ),
        "loader wait share": round(sum(s["loader_wait"] for s in warm) / sum(seconds), 6),
        "longest loader wait, s": max(s["loader_wait"] for s in warm),
        "events": [line for line in lines if "event" in line],
        "forecast": compare(job, steps),
        "feed at the end": next((each for each in reversed(stats) if each), None),
        "device": machine(),
    }


def main() -> None:
    parser = parser_for(__doc__, tiny=False)
    parser.add_argument("--text", type=Path, help="the articles, as JSON lines")
    parser.add_argument("--rank-file", type=Path, help="r50k_base.tiktoken, instead of a download")
    parser.add_argument("--work", type=Path, default=Path("feed-run"))
    parser.add_argument("--seconds", type=float, default=560.0, help="of this call, at most")
    parser.add_argument("--resume", action="store_true", help="go on with what is in --work")
    parser.add_argument("--small", action="store_true", help="rehearse with a small model")
    parser.add_argument("--port", type=int, default=PORT, help="of the feed")
    parser.add_argument("--target-loss", type=float, default=4.0, help="of the forecast")
    given = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    job = Job(given)
    calls = []
    if given.resume:
        calls = read_json(job.work / "calls.json")["calls"]
    else:
        prepare(job)
    began, ended, code = _steps(job), threading.Event(), 0
    sampler = threading.Thread(target=sample_stats, args=(job, ended))
    with feed_served(job):
        sampler.start()
        try:
            code = train(job)
        finally:
            ended.set()
            sampler.join()
    job.say(f"the trainer ended with {code}")
    call = {"resumed": given.resume, "steps before": began, "steps after": _steps(job)}
    calls.append({**call, "seconds": round(time.monotonic() - job.began, 1)})
    write_json(job.work / "calls.json", {"calls": calls})
    kept = [
        _metrics(job), job.run / "pretrain" / "train.log", job.work / "feed_stats.jsonl",
        job.work / "forecast.json", job.run / "report.html", job.work / "output.txt",
    ]  # fmt: skip
    for path in kept:
        if path.exists():
            shutil.copyfile(path, job.out / path.name)
    found = summary(job, code, calls)
    write_result(job.out, "feed_run", found)
    shown = {key: value for key, value in found.items() if key not in ("events", "validation")}
    print(json.dumps(shown, indent=1, default=str))
    if code not in (0, 130):
        raise HornbookError(f"the trainer ended with {code}", where=str(job.work / "output.txt"))


if __name__ == "__main__":
    main()
