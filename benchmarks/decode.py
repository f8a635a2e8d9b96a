"""Decoding speed of GPT-2 124M with a key/value cache, against stock transformers, on one GPU.

    python benchmarks/decode.py

Prompts of 128 tokens are continued by 512, for 1 and 64 prompts at once, by

- `ours`: a `Generator` that is called again, text included; `ours, first call` is the one before
  it, in which the weights are copied to bfloat16 and the step is captured (kernels are compiled);
- `stock`: `model.generate(ids, max_new_tokens=512, do_sample=...)`, bfloat16;
- `stock static`: the same with `cache_implementation="static"`, for which transformers compiles the
  model (mode reduce-overhead, that is CUDA graphs) by itself. Both after a whole run for each
  number of prompts: later calls, as ours are;

greedily, and by sampling with temperature 0.8 and top-p 0.95. All have the same random weights; no
token ends a text. The median of what time allows counts, which for stock may be one run.

Also written down: the time of one step by itself, on the GPU's clock, and its kernels.

Writes benchmarks/results/decode.json, anew after each part, so that what is done is not lost.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from common import best_device, parser_for, synchronize, write_result
from torch import Tensor
from transformers import CompileConfig, GPT2Config, GPT2LMHeadModel

from hornbook.model.cache import KeyValueCache
from hornbook.model.config import GenerateConfig
from hornbook.model.decode import DecodeStep, decoded, narrowed
from hornbook.model.decoder import Decoder
from hornbook.model.generate import Generator
from hornbook.model.huggingface import import_directory

MODES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "greedy": ({"temperature": 0}, {"do_sample": False}),
    "top-p 0.95": (
        {"temperature": 0.8, "top_p": 0.95},
        {"do_sample": True, "temperature": 0.8, "top_p": 0.95, "top_k": 0},
    ),
}
"""Our settings and stock's. Stock's top_k is 50 where none is given."""

CASES = ((1, "greedy"), (64, "greedy"), (1, "top-p 0.95"), (64, "top-p 0.95"))
"""Numbers of prompts, and modes, what matters most first."""

TARGETS = {"stock": {1: 10.0, 64: 5.0}, "stock static": {1: 1.5, 64: 1.5}}
"""How many times faster ours is to be, by number of prompts."""

RUNS = {"ours": 5, "stock": 2, "stock static": 3}
"""How often each is timed, while there is time."""

STEPS_PROFILED = 20

Contestant = Callable[[Tensor, int, str], int]
"""Continues the prompts [rows, T] by a number of tokens in a mode; returns how many it wrote."""


class Words:
    """A tokenizer whose tokens are all one word, and whose texts never end."""

    end_of_text = -1
    special_ids: dict[str, int] = {}  # noqa: RUF012

    def __init__(self, size: int):
        self.size = size

    def token_bytes(self, id: int) -> bytes:
        return b" word"


def same_models(config: GPT2Config, device: str) -> tuple[Decoder, GPT2LMHeadModel]:
    """Our decoder in float32, as it is loaded, and stock's model in bfloat16 (float32 on a CPU)."""
    torch.manual_seed(0)
    stock = GPT2LMHeadModel(config).eval()
    with tempfile.TemporaryDirectory() as folder:
        stock.save_pretrained(folder)
        ours = import_directory(Path(folder)).eval()
    stock.generation_config.eos_token_id = None
    stock.generation_config.pad_token_id = 0
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    return ours.to(device), stock.to(device, dtype)


def contestants(ours: Decoder, stock: GPT2LMHeadModel) -> dict[str, Contestant]:
    generator = Generator(ours, Words(ours.config.vocabulary))  # type: ignore[arg-type]

    def by_us(prompts: Tensor, count: int, mode: str) -> int:
        settings = GenerateConfig(max_tokens=count, **MODES[mode][0])
        return sum(len(result.ids) for result in generator(prompts.tolist(), settings))

    def by_stock(prompts: Tensor, count: int, mode: str, **settings: Any) -> int:
        continued = stock.generate(
            prompts, attention_mask=torch.ones_like(prompts), max_new_tokens=count,
            **MODES[mode][1], **settings,
        )  # fmt: skip
        return (continued.shape[1] - prompts.shape[1]) * len(prompts)

    # Else what it compiles for a second number of prompts is for any number, and slower.
    own_shapes = CompileConfig(dynamic=False)

    def by_stock_static(prompts: Tensor, count: int, mode: str) -> int:
        return by_stock(
            prompts, count, mode, cache_implementation="static", compile_config=own_shapes
        )

    return {"ours": by_us, "stock": by_stock, "stock static": by_stock_static}


def seconds(player: Contestant, prompts: Tensor, count: int, mode: str) -> float:
    synchronize()
    started = time.perf_counter()
    written = player(prompts, count, mode)
    synchronize()
    assert written == len(prompts) * count, (written, len(prompts), count)
    return time.perf_counter() - started


class Results:
    """Cases by number of prompts and mode, kept in a file."""

    def __init__(self, out: Path, what: str):
        self._out, self._what = out, what
        self.cases: dict[str, dict[str, Any]] = {}

    def add(self, rows: int, mode: str, name: str, value: Any) -> None:
        """Note a value, print it and write all."""
        case = self.cases.setdefault(f"{rows} rows, {mode}", {})
        case[name] = value
        shown = f"{value['milliseconds']:.3f} ms" if name == "step" else value
        print(f"{rows:>3} rows, {mode:<11} {name}: {shown}", flush=True)
        result = {"what": self._what, "cases": self.cases, "table": table(self.cases)}
        write_result(self._out, "decode", result)

    def add_speed(self, rows: int, mode: str, name: str, tokens: int, runs: list[float]) -> None:
        """Note tokens a second and, for stock, how many times as fast ours was."""
        speed = tokens / statistics.median(runs)
        value: dict[str, Any] = {"tokens_per_second": round(speed, 1), "seconds": runs}
        ours = self.cases.get(f"{rows} rows, {mode}", {}).get("ours")
        if name in TARGETS and ours is not None:
            value["ours_is_faster"] = round(ours["tokens_per_second"] / speed, 2)
            value["target"] = TARGETS[name][rows]
        self.add(rows, mode, name, value)


def table(cases: dict[str, dict[str, Any]]) -> list[dict[str, str]]:
    """Rows for docs/performance.md."""
    rows = []
    for name, case in cases.items():
        row = {"prompts": name}
        for player in ("ours", "stock", "stock static"):
            if player in case:
                row[f"{player}, tokens/s"] = f"{case[player]['tokens_per_second']:,.0f}"
            if "ours_is_faster" in case.get(player, {}):
                asked = f"{case[player]['ours_is_faster']:.1f} x ({case[player]['target']:g} x)"
                row[f"over {player} (asked for)"] = asked
        rows.append(row)
    return rows


def contest(
    name: str, player: Contestant, prompts: Tensor, count: int, mode: str, results: Results,
    warm: set[tuple[str, int]], deadline: float,
) -> None:  # fmt: skip
    """Warm a contestant up if this number of prompts is new to it, and time it."""
    rows = len(prompts)
    tokens = rows * count
    if name == "ours":
        # The first call for these prompts and this mode: a step is captured.
        first = seconds(player, prompts, count, mode)
        results.add_speed(rows, mode, "ours, first call", tokens, [first])
    elif (name, rows) not in warm:
        # The whole length: the static cache is compiled for its number of slots, and without it
        # each new length costs once (20 to 29 s on an H200 instead of 3.3).
        results.add(
            rows, mode, f"{name}, first call, seconds", seconds(player, prompts, count, mode)
        )
        warm.add((name, rows))
    runs = [seconds(player, prompts, count, mode)]
    while len(runs) < RUNS[name] and time.monotonic() < deadline:
        runs.append(seconds(player, prompts, count, mode))
    results.add_speed(rows, mode, name, tokens, runs)


@torch.inference_mode()
def steps_alone(model: Decoder, prompts: Tensor, mode: str) -> dict[str, Any]:
    """Milliseconds of a replayed step on the GPU's clock, and the kernels of which it is made."""
    narrow = narrowed(model, torch.bfloat16)
    config = GenerateConfig(**MODES[mode][0])
    steps = 3 * STEPS_PROFILED
    cache = KeyValueCache(
        model.config, len(prompts), prompts.shape[1] + steps, "cuda", torch.bfloat16
    )
    step = DecodeStep(narrow, cache, config, vocabulary=model.config.vocabulary)
    step.prefill(prompts.tolist())
    tokens = decoded(step, steps)
    for _ in range(STEPS_PROFILED):
        next(tokens)
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(STEPS_PROFILED):
        next(tokens)
    end.record()
    torch.cuda.synchronize()
    milliseconds = start.elapsed_time(end) / STEPS_PROFILED
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        for _ in range(STEPS_PROFILED - 5):
            next(tokens)
        torch.cuda.synchronize()
    kernels = sorted(profile.key_averages(), key=lambda event: -event.self_device_time_total)
    count = STEPS_PROFILED - 5
    return {
        "milliseconds": milliseconds,
        "kernels": [
            {
                "name": event.key[:160],
                "launches": round(event.count / count, 2),
                "microseconds": round(event.self_device_time_total / count, 2),
            }
            for event in kernels[:40]
        ],
    }


def main() -> None:
    parser = parser_for(__doc__)
    parser.add_argument(
        "--seconds", type=float, default=100, help="then no further runs than one of each"
    )
    options = parser.parse_args()
    deadline = time.monotonic() + options.seconds

    device = best_device().type
    config, length, count = GPT2Config(), 128, 512
    if options.tiny:
        config = GPT2Config(vocab_size=500, n_positions=64, n_embd=32, n_layer=2, n_head=2)
        length, count = 8, 16
    ours, stock = same_models(config, device)
    players = contestants(ours, stock)
    what = f"prompts of {length} tokens continued by {count}, tokens a second, median"
    results = Results(options.out, what)
    generator = torch.Generator().manual_seed(0)
    warm: set[tuple[str, int]] = set()
    for rows, mode in CASES:
        prompts = torch.randint(0, config.vocab_size, (rows, length), generator=generator)
        prompts = prompts.to(device)
        for name, player in players.items():
            try:
                contest(name, player, prompts, count, mode, results, warm, deadline)
                if name == "ours" and device == "cuda":
                    results.add(rows, mode, "step", steps_alone(ours, prompts, mode))
            except Exception as error:  # one that fails is not to cost the others' numbers
                results.add(rows, mode, f"{name}, failed", f"{type(error).__name__}: {error}"[:500])


if __name__ == "__main__":
    main()
