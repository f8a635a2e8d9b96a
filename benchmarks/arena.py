"""Contestants side by side on one GPU: each in its own process, training by turns.

In: a line-up, that is for each name one or more `Settings` to try. Out: for each name the settings
that were fastest, with step times and peak memory.

Every contestant is a process of its own, with its own compiled code and its own memory, which it
keeps for the whole comparison; between its turns it gives cached memory back, so that the others
measure as if alone. Where there are several settings for a name, each is tried for five steps and
the fastest stays. Then those that stayed take turns, A B C A B C, so that a GPU that clocks down
meets all of them. A turn is some steps to settle, then timed ones; a step's time is that between
its end and the end of the one before, on the GPU's clock. Batches are random token ids in
page-locked host memory; each step copies its own.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import select
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import IO, Any

import torch
from common import best_device, peak
from contestants import VOCABULARY, Contestant, Settings, build

from hornbook.model.count import flops_per_token
from hornbook.tokens.batch import Batch

BATCHES = 4
"""Different batches, taken in turn."""

TRIAL_ROWS = 64
"""Rows of a step at most while settings are tried and caches settle, so that this stays short."""

SETTLE = 3
"""Steps before the timed ones of a turn."""

# ------------------------------------------------------------------------------------ the process


class Turn:
    """What a contestant's process does when it is asked to."""

    def __init__(self, settings: Settings, device: torch.device, contestant: Contestant):
        self._settings, self._device, self._contestant = settings, device, contestant
        self._number = 0
        self._batches: dict[int, list[Batch]] = {}

    def steps(self, rows: int, count: int, settle: int) -> dict[str, Any]:
        """Train `count` timed steps of `rows` rows, after `settle` shorter ones."""
        cuda = self._device.type == "cuda"
        if cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        for _ in range(settle):
            self._step(min(rows, max(self._settings.micro_batch, TRIAL_ROWS)))
        loss = self._contestant.loss()
        ends: list[Any] = [self._mark()]
        for _ in range(count):
            self._step(rows)
            ends.append(self._mark())
        final_loss = self._contestant.loss()
        if cuda:
            torch.cuda.synchronize()
            seconds = [a.elapsed_time(b) / 1e3 for a, b in pairwise(ends)]
        else:
            seconds = [b - a for a, b in pairwise(ends)]
        result = {"seconds": seconds, "first_loss": loss, "loss": final_loss}
        if cuda:
            result["peak_allocated_gb"] = torch.cuda.max_memory_allocated() / 1e9
            result["peak_reserved_gb"] = torch.cuda.max_memory_reserved() / 1e9
            torch.cuda.empty_cache()
        return result

    def _step(self, rows: int) -> None:
        self._number += 1
        batches = self._batches.setdefault(rows, [])
        if len(batches) < BATCHES:
            batches.append(self._random_batch(rows))
        self._contestant.step(self._number, batches[self._number % len(batches)])

    def _random_batch(self, rows: int) -> Batch:
        vocabulary = self._settings.model().vocabulary
        ids = torch.randint(min(VOCABULARY, vocabulary), (rows, self._settings.tokens + 1))
        batch = Batch(ids[:, :-1].contiguous(), ids[:, 1:].contiguous())
        return batch.pin_memory() if self._device.type == "cuda" else batch

    def _mark(self) -> Any:
        if self._device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


def serve(settings: Settings, nanogpt: Path | None, replies: IO[str]) -> None:
    """Build the contestant, then take turns as told on standard input until it ends."""
    device = best_device()
    turn: Turn | None = None
    for line in sys.stdin:
        try:
            if turn is None:
                if settings.memory_gb and device.type == "cuda":
                    share = settings.memory_gb * 1e9 / torch.cuda.mem_get_info()[1]
                    torch.cuda.set_per_process_memory_fraction(min(1.0, share))
                turn = Turn(settings, device, build(settings, device, nanogpt))
            reply = turn.steps(**json.loads(line))
        except torch.OutOfMemoryError as error:
            reply = {"error": f"out of memory: {str(error).splitlines()[0][:160]}"}
        except Exception as error:  # one contestant's failure is a line in the results
            import traceback

            traceback.print_exc()
            first = (str(error).splitlines() or [""])[0]
            reply = {"error": f"{type(error).__name__}: {first[:200]}"}
        print(json.dumps(reply), file=replies, flush=True)


def main() -> None:
    """The process: settings as JSON, perhaps nanoGPT's model.py, on the command line."""
    # Replies have a stream of their own; whatever libraries print goes to the log.
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    settings = Settings(**json.loads(sys.argv[1]))
    serve(settings, Path(sys.argv[2]) if len(sys.argv) > 2 else None, replies)


# ---------------------------------------------------------------------------------- the comparison


@dataclass
class Options:
    """Of a comparison.

    Attributes:
        count: timed steps a turn.
        rounds: turns of each contestant.
        nanogpt: nanoGPT's model.py.
        logs: folder for what the contestants' processes print.
        start_seconds: longest time for building, compiling and the trial steps.
        turn_seconds: longest time of a turn.
    """

    count: int = 20
    rounds: int = 2
    nanogpt: Path | None = None
    logs: Path = Path(__file__).parent.parent / "build" / "benchmark-logs"
    start_seconds: float = 300.0
    turn_seconds: float = 240.0


class Process:
    """A contestant's process, from the outside."""

    def __init__(self, name: str, settings: Settings, options: Options):
        self.settings = settings
        command = [sys.executable, __file__, json.dumps(dataclasses.asdict(settings))]
        if options.nanogpt is not None:
            command.append(str(options.nanogpt))
        environment = dict(os.environ)
        if settings.expandable_segments:
            environment["PYTORCH_ALLOC_CONF"] = "expandable_segments:True"
        options.logs.mkdir(parents=True, exist_ok=True)
        with open(options.logs / f"{name}.log", "a", encoding="utf-8") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
                env=environment,
            )  # fmt: skip

    def turn(self, rows: int, count: int, settle: int, limit: float) -> dict[str, Any]:
        """Have it train; the reply has `error` where that failed or took longer than `limit`."""
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            request = {"rows": rows, "count": count, "settle": settle}
            print(json.dumps(request), file=self._process.stdin, flush=True)
        except BrokenPipeError:
            return {"error": "its process ended"}
        ready, _, _ = select.select([self._process.stdout], [], [], limit)
        if not ready:
            self._process.kill()
            return {"error": f"took longer than {limit:.0f} s"}
        line = self._process.stdout.readline()
        return json.loads(line) if line else {"error": "its process ended"}

    def end(self) -> None:
        """End it and wait until its memory is free."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()  # where it reads that there is no further turn
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def compare(lineup: dict[str, list[Settings]], options: Options) -> dict[str, Any]:
    """Try each name's settings, then let the fastest of each take turns.

    Returns:
        `contestants`: name -> settings, tokens a second (of the median step), MFU, peak memory in
        10^9 bytes, seconds from start to the first numbers; `trials`: all that was tried.
    """
    trials: list[dict[str, Any]] = []
    stayed: dict[str, Process] = {}
    started: dict[str, float] = {}
    turns: dict[str, list[dict[str, Any]]] = {}
    try:
        for name, candidates in lineup.items():
            best = 0.0
            for settings in candidates:
                began = time.perf_counter()
                process = Process(name, settings, options)
                rows = min(settings.rows, max(TRIAL_ROWS, settings.micro_batch))
                count = 5 if len(candidates) > 1 else 1
                reply = process.turn(rows, count, SETTLE, options.start_seconds)
                seconds = time.perf_counter() - began
                trial = {"name": name, "settings": settings.differs(), "start_seconds": seconds}
                trials.append(trial | summary([reply], settings, rows))
                say(trials[-1])
                speed = trials[-1].get("tokens_per_second", 0.0)
                if speed <= best:
                    process.end()
                    continue
                if name in stayed:
                    stayed[name].end()
                best, stayed[name], started[name] = speed, process, seconds
        for _ in range(options.rounds):
            for name, process in stayed.items():
                rows = process.settings.rows
                reply = process.turn(rows, options.count, SETTLE, options.turn_seconds)
                turns.setdefault(name, []).append(reply)
    finally:
        for process in stayed.values():
            process.end()
    contestants = {}
    for name, process in stayed.items():
        settings = process.settings
        contestants[name] = {
            "settings": dataclasses.asdict(settings),
            "differs": settings.differs(),
            "start_seconds": started[name],
            **summary(turns[name], settings, settings.rows),
        }
        say({"name": name, **contestants[name]})
    return {"contestants": contestants, "trials": trials}


def summary(turns: list[dict[str, Any]], settings: Settings, rows: int) -> dict[str, Any]:
    """Numbers of one contestant, from the replies of its turns; `error` where one failed."""
    error = next((turn["error"] for turn in turns if "error" in turn), None)
    good = [turn for turn in turns if "error" not in turn]
    if not good:
        return {"error": error}
    tokens = rows * settings.tokens
    medians = [statistics.median(turn["seconds"]) for turn in good]
    speed = tokens / statistics.median([s for turn in good for s in turn["seconds"]])
    result: dict[str, Any] = {
        "tokens_per_second": speed,
        "mfu": speed * flops_per_token(settings.model(), settings.tokens) / peak(),
        "rounds_tokens_per_second": [tokens / median for median in medians],
        "loss": good[-1]["loss"],
    }
    for key in ("peak_allocated_gb", "peak_reserved_gb"):
        if key in good[-1]:
            result[key] = max(turn[key] for turn in good)
    if error is not None:
        result["error"] = error
    return result


def say(numbers: dict[str, Any]) -> None:
    """One line about a contestant."""
    what = f"{numbers['name']}: {numbers.get('differs', numbers['settings'])}"
    if "tokens_per_second" not in numbers:
        print(f"{what}: {numbers['error']}", flush=True)
        return
    memory = numbers.get("peak_allocated_gb", 0.0), numbers.get("peak_reserved_gb", 0.0)
    print(
        f"{what}: {numbers['tokens_per_second']:,.0f} tokens/s, MFU {numbers['mfu']:.1%}, "
        f"{memory[0]:.2f} GB ({memory[1]:.2f} reserved), loss {numbers['loss']:.2f}, "
        f"started in {numbers['start_seconds']:.0f} s",
        flush=True,
    )


if __name__ == "__main__":
    main()
