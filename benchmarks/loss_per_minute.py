"""Validation loss against training time: nanoGPT, nanochat d12 and hornbook's `speedrun`.

    git clone https://github.com/karpathy/nanoGPT && git clone https://github.com/karpathy/nanochat
    python benchmarks/wikipedia.py wikiVisual/text wikipedia
    python benchmarks/loss_per_minute.py --tokens wikipedia/tokens --nanogpt nanoGPT --nanochat nanochat \\
        nanogpt:6e-4 nanogpt:1e-3 nanochat:0.5:65536 hornbook:speedrun:1
    python benchmarks/loss_picture.py

A contestant is `nanogpt:LEARNING_RATE` (300 s), `nanochat:SCALE:BATCH` (`--peer-tokens` tokens;
SCALE multiplies its own learning rates), or `hornbook:RECIPE:SEED`, for another length than the
recipe's with `:TOKENS` or `:SECONDSs`, with settings changed after that
(`hornbook:speedrun:1:35s:model.smear=false,optimizer.weight_decay=0.03`). They are dealt out to
`--gpus` in turn; each GPU has one process, so that a program is compiled once.

The same for all: the training tokens, rows of 1,024 (the peers': at random places), bf16, and a
validation loss in nats a token over the whole held-out split in consecutive rows (float32
cross-entropy). The clock counts training only: not compiling, warming up, or validating.

Adds to `loss_per_minute_peers_GPU.json` or `loss_per_minute_ours_GPU.json` in `--out`, whenever a
curve has grown. `--recheck FILE` trains nanoGPT for 20 s and compares with the stored curves.
"""  # noqa: E501 (a command is one line)

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

import torch
import yaml
from common import best_device, machine, parser_for
from torch import Tensor

from hornbook.files import read_json, write_json
from hornbook.tokens.batch import IGNORE
from hornbook.tokens.loader import open_folder
from hornbook.tokens.validation import validation_rows

T = 1024
NANOGPT_BATCH, NANOGPT_SECONDS = 131072, 300.0
SEED = 1337

SPEED_STEPS = 60
"""Steps of ours that say how many tokens fit into a number of seconds..."""

SHARE_OF_SECONDS = 0.985
"""...of which a run uses so much, as its speed moves by about a per cent."""


class Peer(Protocol):
    """A contestant that this file trains."""

    def reset(self, rate: float, batch_tokens: int) -> None: ...
    def step(self, batches: Iterator[tuple[Tensor, Tensor]], count: int, *, step: int,
             progress: float) -> None: ...  # fmt: skip
    def logits(self, inputs: Tensor) -> Tensor: ...


class Data:
    """The tokens, on the device, for all contestants alike."""

    def __init__(self, folder: Path, device: str, micro_rows: int):
        stream = open_folder(folder, "train", verify=False).stream
        self.tokens = torch.from_numpy(stream.read(0, len(stream)).astype("int32")).to(device)
        rows = validation_rows(folder, T)
        held_out = rows.rows(0, rows.rows_per_epoch)
        self.inputs, self.targets = held_out.inputs.to(device), held_out.targets.to(device)
        self.device, self.micro_rows = device, micro_rows

    def batches(self, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Micro-batches without end: int64 inputs and targets, [rows, T]."""
        generator = torch.Generator(self.device).manual_seed(seed)
        reach = torch.arange(T + 1, device=self.device)
        while True:
            starts = torch.randint(
                len(self.tokens) - T, (self.micro_rows, 1),
                generator=generator, device=self.device,
            )  # fmt: skip
            rows = self.tokens[starts + reach].long()
            yield rows[:, :-1].contiguous(), rows[:, 1:].contiguous()

    @torch.no_grad()
    def loss(self, peer: Peer) -> float:
        """Mean cross-entropy over all held-out tokens, in nats."""
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        for inputs, targets in zip(self.inputs.split(16), self.targets.split(16), strict=True):
            logits = peer.logits(inputs).float().flatten(0, 1)
            total += torch.nn.functional.cross_entropy(
                logits, targets.flatten(), ignore_index=IGNORE, reduction="sum"
            )
        return total.item() / int((self.targets != IGNORE).sum())


def curve(
    peer: Peer, data: Data, batch_tokens: int, *,
    seconds: float = 0, stop: float = 0, tokens: int = 0, every: float = 10.0, seed: int = SEED,
) -> Iterator[dict[str, float]]:  # fmt: skip
    """Train for `seconds` or `tokens`, and yield a point of the curve about `every` seconds.

    The schedule of a run of `seconds` follows the clock; `stop` ends it earlier.
    """
    count = batch_tokens // (data.micro_rows * T)
    steps = tokens // batch_tokens
    batches = data.batches(seed)
    clock, step, done = 0.0, 0, False
    while not done:
        begin = time.perf_counter()
        started, previous = clock, None
        while not done and clock - started < every:
            progress = step / steps if steps else clock / seconds
            peer.step(batches, count, step=step, progress=progress)
            step += 1
            previous = _wait_for_previous(previous, data.device)
            clock = started + time.perf_counter() - begin
            done = step == steps if steps else clock >= (stop or seconds)
        if data.device == "cuda":
            torch.cuda.synchronize()
        clock = started + time.perf_counter() - begin
        loss = data.loss(peer)
        yield {"seconds": round(clock, 3), "step": step, "tokens": step * batch_tokens,
               "loss": round(loss, 5)}  # fmt: skip


def _wait_for_previous(previous: Any, device: str) -> Any:
    """Let the host run one step ahead of the GPU, so that its clock is the GPU's."""
    if device != "cuda":
        return None
    event = torch.cuda.Event()
    event.record()
    if previous is not None:
        previous.synchronize()
    return event


def load_peer(kind: str, arguments: argparse.Namespace, device: str) -> Peer:
    """Build the model of a contestant."""
    if kind == "nanogpt":
        from peer_nanogpt import NanoGPT

        return NanoGPT(arguments.nanogpt, device, tiny=arguments.tiny)
    from peer_nanochat import NanoChat

    return NanoChat(arguments.nanochat, device, tiny=arguments.tiny)


def work(arguments: argparse.Namespace) -> None:
    """One process on one GPU: train the contestants in order, print each point as a JSON line."""
    device = best_device().type
    began = time.perf_counter()
    if arguments.memory_gb and device == "cuda":
        share = arguments.memory_gb * 1e9 / torch.cuda.mem_get_info()[1]
        torch.cuda.set_per_process_memory_fraction(share)
    data = Data(arguments.tokens, device, arguments.micro_rows)
    loaded: dict[str, Peer] = {}
    for name in arguments.contestants:
        if time.perf_counter() - began > arguments.deadline:
            _tell(name, skipped="out of time")
            continue
        kind = name.split(":")[0]
        if kind not in loaded:
            loaded.clear()
        if kind == "hornbook":
            points: Iterable[dict[str, Any]] = our_curve(name, arguments)
        else:
            if kind not in loaded:
                loaded[kind] = load_peer(kind, arguments, device)
            points = peer_curve(name, loaded[kind], data, arguments)
        for point in points:
            _tell(name, point=point)
        if device == "cuda":
            _tell(name, peak_gigabytes=round(torch.cuda.max_memory_allocated() / 1e9, 2))
            torch.cuda.reset_peak_memory_stats()


def peer_curve(
    name: str, peer: Peer, data: Data, arguments: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    """Compile, go back to the start, and train `name`."""
    kind, rate, *rest = name.split(":")
    batch_tokens = int(rest[0]) if rest else NANOGPT_BATCH
    start = time.perf_counter()
    peer.reset(float(rate), batch_tokens)
    count = batch_tokens // (data.micro_rows * T)
    for step in range(3):  # compiles; everything it changes is reset
        peer.step(data.batches(0), count, step=step, progress=0.0)
    data.loss(peer)
    peer.reset(float(rate), batch_tokens)
    _tell(name, warm_up_seconds=round(time.perf_counter() - start, 1))
    budget: dict[str, Any] = {"tokens": arguments.peer_tokens}
    if kind == "nanogpt":
        budget = {"seconds": arguments.nanogpt_seconds, "stop": arguments.stop}
    return curve(peer, data, batch_tokens, every=arguments.every, **budget)


def our_curve(name: str, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Train a recipe as `hornbook pretrain` does, with the whole held-out split."""
    from recipe_run import train

    _, recipe, seed, *length = name.split(":")
    pretrain: dict[str, Any] = {"seed": int(seed), "evaluate_tokens": 0}
    settings: dict[str, Any] = {"pretrain": pretrain, "data": {"seed": int(seed)}}
    for change in length[1].split(",") if len(length) > 1 else ():
        where, _, value = change.partition("=")
        section, _, setting = where.partition(".")
        settings.setdefault(section, {})[setting] = yaml.safe_load(value)
    if arguments.tiny:
        settings["model"] = {"layers": 6, "width": 32, "heads": 2, "kv_heads": 2, "head_dim": 16}
        pretrain |= {"tokens": 10240, "global_batch_tokens": 1024, "evaluate_every": 5}
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        if length and length[0].endswith("s"):
            short = {"steps": SPEED_STEPS, "evaluate_every": 0, "evaluate_tokens": T}
            measured = train(
                recipe, arguments.tokens, out / "speed", {**settings, "pretrain": pretrain | short}
            )[-1]
            speed = measured["tokens"] / measured["seconds"]
            pretrain["tokens"] = int(float(length[0][:-1]) * SHARE_OF_SECONDS * speed)
        elif length and length[0]:
            pretrain["tokens"] = int(length[0])
        return train(recipe, arguments.tokens, out / "run", settings)


def _tell(name: str, **facts: Any) -> None:
    print(json.dumps({"name": name, **facts}), flush=True)


def compete(arguments: argparse.Namespace) -> dict[str, Any]:
    """Start a process for each GPU, gather what they print; returns all curves by name."""
    gpus = arguments.gpus.split(",")
    arguments.out.mkdir(parents=True, exist_ok=True)
    ours = any(name.startswith("hornbook") for name in arguments.contestants)
    path = arguments.out / f"loss_per_minute_{'ours' if ours else 'peers'}_{_gpu_name()}.json"
    result: dict[str, Any] = read_json(path) if path.exists() else {"curves": {}}
    result["machine"] = machine()
    processes = []
    for number, gpu in enumerate(gpus):
        mine = arguments.contestants[number :: len(gpus)]
        if mine:
            log = open(arguments.out / f"worker{number}.jsonl", "w+")  # noqa: SIM115
            processes.append((_start_worker(arguments, mine, gpu, log), log))
    while True:
        running = [process for process, _ in processes if process.poll() is None]
        for _, log in processes:
            _gather(log, result["curves"])
        write_json(path, result)
        if not running:
            break
        time.sleep(2)
    failed = [process.returncode for process, _ in processes if process.returncode]
    if failed:
        print(f"a worker ended with status {failed}", file=sys.stderr)
    return result


def _start_worker(
    arguments: argparse.Namespace, contestants: list[str], gpu: str, log: Any
) -> subprocess.Popen[Any]:
    options = {
        "--tokens": arguments.tokens, "--nanogpt": arguments.nanogpt,
        "--nanochat": arguments.nanochat, "--peer-tokens": arguments.peer_tokens,
        "--nanogpt-seconds": arguments.nanogpt_seconds, "--stop": arguments.stop,
        "--every": arguments.every, "--micro-rows": arguments.micro_rows,
        "--deadline": arguments.deadline, "--memory-gb": arguments.memory_gb,
    }  # fmt: skip
    words = [str(word) for pair in options.items() for word in pair]
    command = [sys.executable, __file__, "--worker", *words, *contestants]
    if arguments.tiny:
        command.append("--tiny")
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": gpu}
    return subprocess.Popen(command, env=environment, stdout=log)


def _gather(log: Any, curves: dict[str, Any]) -> None:
    """Put what a worker has printed so far into `curves`."""
    log.seek(0)
    mine: dict[str, Any] = {}
    for line in log:
        if not line.endswith("\n") or not line.startswith('{"name"'):
            continue
        record = json.loads(line)
        entry = mine.setdefault(record.pop("name"), {"points": []})
        if "point" in record:
            entry["points"].append(record["point"])
        else:
            entry.update(record)
    curves.update(mine)


def _gpu_name() -> str:
    if not torch.cuda.is_available():
        return "cpu"
    return torch.cuda.get_device_name().replace("NVIDIA", "").strip().replace(" ", "-").lower()


def recheck(stored: dict[str, Any], fresh: dict[str, Any]) -> None:
    """Print how a short segment of nanoGPT compares with its stored curve."""
    for name, entry in fresh["curves"].items():
        for point in entry["points"]:
            old = min(
                stored["curves"][name]["points"], key=lambda p: abs(p["seconds"] - point["seconds"])
            )
            speed, was = point["tokens"] / point["seconds"], old["tokens"] / old["seconds"]
            print(f"{name} after {point['seconds']:.0f} s: {point['loss']:.3f}, stored"
                  f" {old['loss']:.3f}; {speed:,.0f} tokens/s, stored {was:,.0f}")  # fmt: skip


def print_table(result: dict[str, Any]) -> None:
    """The last point of each curve."""
    for name, entry in result["curves"].items():
        last = next((p for p in reversed(entry["points"]) if "loss" in p), None)
        print(f"{name:24}", "no point" if last is None else
              f"{last['loss']:.4f} nats, {last['seconds']:.0f} s, {last['tokens'] / 1e6:.1f}M"
              f" tokens ({last['tokens'] / last['seconds']:,.0f}/s)")  # fmt: skip


def main() -> None:
    parser = parser_for(__doc__)
    parser.add_argument("contestants", nargs="*")
    parser.add_argument("--tokens", type=Path, required=True, help="token shards of wikipedia.py")
    parser.add_argument("--nanogpt", type=Path, default=Path("nanoGPT"), help="a checkout")
    parser.add_argument("--nanochat", type=Path, default=Path("nanochat"), help="a checkout")
    parser.add_argument("--gpus", default="0", help="for example 0,1")
    parser.add_argument("--peer-tokens", type=int, default=520 * 131072)
    parser.add_argument("--nanogpt-seconds", type=float, default=NANOGPT_SECONDS)
    parser.add_argument("--every", type=float, default=10.0, help="seconds between points")
    parser.add_argument("--micro-rows", type=int, default=64, help="rows in a forward pass")
    parser.add_argument("--deadline", type=float, default=1e9, help="start no run after this")
    parser.add_argument("--memory-gb", type=float, default=0.0, help="of a GPU, held by PyTorch")
    parser.add_argument("--stop", type=float, default=0.0, help="end nanoGPT's runs earlier")
    parser.add_argument("--recheck", type=Path, help="stored curves to compare a segment with")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        work(arguments)
        return
    if arguments.recheck:
        stored = read_json(arguments.recheck)
        names = [name for name in stored["curves"] if name.startswith("nanogpt")]
        arguments.contestants, arguments.stop = names[:1], 20.0
        with tempfile.TemporaryDirectory() as folder:  # the stored curves stay as they are
            arguments.out = Path(folder)
            recheck(stored, compete(arguments))
        return
    print_table(compete(arguments))


if __name__ == "__main__":
    main()
