"""A training process that startup.py starts: it notes what it does when, up to its first step.

    python startup_process.py TOKENS FOLDER --rows 64 --began SECONDS [--profile]

Trains in FOLDER until killed. Once the first step is in metrics.jsonl, FOLDER/timeline.json has the
calls below with their times in seconds since BEGAN (of `time.time`), what the compiler says of its
own time, and which graphs it found in its cache; with --profile, FOLDER/profile.txt the functions
of the main thread that took the most time.

Nothing heavy is imported at the top, so that importing shows in the timeline, too.
"""

from __future__ import annotations

import argparse
import contextlib
import cProfile
import functools
import importlib
import io
import pstats
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CALLS = {
    "hornbook.train.trainer": (
        "open_log", "pick_device", "place", "build_optimizer", "choose_machine", "choose_replay",
    ),
    "hornbook.train.start": ("prepare_weights", "start_workers", "probe", "start"),
    "hornbook.train.probe": (
        "choose_precision", "choose_engine", "fastest_attention", "choose_memory",
    ),
    "hornbook.train.probe_memory": ("allocate_state",),
    "hornbook.train.trial": ("free_memory", "bind", "accumulate"),
    "hornbook.train.compiling": ("bind", "_try_compiled"),
    "hornbook.model.kernels": ("_tried",),
    "hornbook.model.decoder:Decoder": ("initialise",),
    "hornbook.train.step:Stepper": ("step", "_gradients", "_clipped_norm", "_update"),
    "hornbook.train.trainer:Trainer": ("_set_up", "_read"),
    "gc": ("collect",),
}  # fmt: skip
"""Module or class -> functions whose calls are noted, where they are there."""

COMPILER_SECONDS = 0.05
"""Phases of the compiler that took less are left out."""


class Timeline:
    """Calls with their begin and end, in seconds."""

    def __init__(self, began: float):
        self.calls: list[dict[str, Any]] = []
        self._began = began
        self._depth = threading.local()

    @contextlib.contextmanager
    def noted(self, what: str) -> Iterator[None]:
        """Note what is done inside."""
        depth = getattr(self._depth, "value", 0)
        thread = threading.current_thread()
        call = {"what": what, "depth": depth, "begin": time.time() - self._began}
        if thread is not threading.main_thread():
            call["thread"] = thread.name
        self.calls.append(call)
        self._depth.value = depth + 1
        try:
            yield
        finally:
            self._depth.value = depth
            call["seconds"] = time.time() - self._began - call["begin"]

    def note_calls(self, owner: Any, name: str) -> None:
        """Note each call of a function from here on."""
        function = getattr(owner, name)

        @functools.wraps(function)
        def wrapper(*arguments: Any, **options: Any) -> Any:
            with self.noted(f"{owner.__name__.rpartition('.')[2]}.{name}"):
                return function(*arguments, **options)

        setattr(owner, name, wrapper)


def compiler_report() -> dict[str, Any]:
    """Seconds of the compiler's phases (one within the other), and what its caches had."""
    from torch._dynamo.utils import compile_times, counters

    names, values = compile_times(repr="csv", aggregate=True)
    seconds = {name: float(value) for name, value in zip(names, values, strict=True)}
    long = {name: value for name, value in seconds.items() if value >= COMPILER_SECONDS}
    return {
        "seconds": dict(sorted(long.items(), key=lambda item: -item[1])),
        "counters": {name: dict(counters[name]) for name in ("aot_autograd", "inductor")},
    }


def profile_report(profiler: cProfile.Profile) -> str:
    """The 40 functions with the most time, with what they call and without."""
    text = io.StringIO()
    for order in ("cumulative", "tottime"):
        pstats.Stats(profiler, stream=text).sort_stats(order).print_stats(40)
    return text.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("tokens", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int)
    parser.add_argument("--began", type=float)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    timeline = Timeline(options.began)
    with timeline.noted("interpreter is up"):
        pass
    profiler = cProfile.Profile()
    if options.profile:
        profiler.enable()
    # As the command line does it.
    from hornbook.cli import rare_collections

    with rare_collections():
        train(options, timeline, profiler)


def train(options: argparse.Namespace, timeline: Timeline, profiler: cProfile.Profile) -> None:
    """Import, open the tokens, train."""
    with timeline.noted("import torch"):
        import torch
    with timeline.noted("import hornbook"):
        from hornbook.files import write_json, write_text
        from hornbook.model.config import ModelSettings
        from hornbook.model.decoder import Decoder
        from hornbook.model.presets import resolve
        from hornbook.optim.config import OptimizerConfig
        from hornbook.tokens.config import DataConfig
        from hornbook.tokens.loader import open_source
        from hornbook.train import pretrain
        from hornbook.train.trainer import Trainer
    with timeline.noted("open tokens"):
        small = {"layers": 2, "heads": 2, "width": 64, "context": 64} if options.tiny else {}
        config = resolve(ModelSettings(preset="gpt2-124m", **small), 50257)
        source = open_source(
            DataConfig(), options.tokens, config.context, rows_per_step=options.rows
        )
    for path, names in CALLS.items():
        module, _, member = path.partition(":")
        owner = importlib.import_module(module)
        owner = getattr(owner, member) if member else owner
        for name in names:
            if hasattr(owner, name):
                timeline.note_calls(owner, name)
    read = Trainer._read

    def first_read(*arguments: Any) -> None:
        read(*arguments)
        Trainer._read = read  # type: ignore[method-assign]
        profiler.disable()
        if options.profile:
            write_text(options.folder / "profile.txt", profile_report(profiler))
        report = {"calls": timeline.calls, "compiler": compiler_report()}
        write_json(options.folder / "timeline.json", report)

    Trainer._read = first_read  # type: ignore[method-assign]
    settings = pretrain.PretrainConfig(
        steps=10_000, global_batch_tokens=options.rows * config.context,
        compile="off" if options.tiny else "auto",
        evaluate_every=0, sample_every=0, checkpoint_every=0,
    )  # fmt: skip
    with torch.device("meta"):  # as `pretrain` does it
        decoder = Decoder(config, initialise=False)
    Trainer(
        decoder, source, pretrain.NextToken(), settings, OptimizerConfig(), options.folder
    ).fit()


if __name__ == "__main__":
    main()
    sys.exit()
