"""Time that the trainer loses to data, logging and checkpoints, against the bare step in a loop.

    python benchmarks/overhead.py
    python benchmarks/overhead.py --steps 400 --checkpoint-every 100

GPT-2 124M, 64 rows of 1,024 tokens a step in one micro-batch, so that 1,000 steps take about 110 s
on an H200. The bare step is the same compiled forward pass on one batch that stays on the device,
backward, clipping and the same optimizer; nothing is read, written or waited for. The trainer reads
token shards, writes every step to metrics.jsonl (and TensorBoard, where it is installed) and saves
checkpoints in the background, the last of which is not counted: nothing runs beside it.

Bare, trainer, bare, in one process: a GPU that clocks down meets both. The first steps of each do
not count. Writes benchmarks/results/overhead.json.
"""

from __future__ import annotations

import hashlib
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import parser_for, step_lines, synchronize, write_result

from hornbook.model.config import ModelConfig, ModelSettings
from hornbook.model.decoder import Decoder
from hornbook.model.presets import resolve
from hornbook.optim.config import OptimizerConfig
from hornbook.optim.groups import build_optimizer
from hornbook.tokens.batch import BatchSource
from hornbook.tokens.config import DataConfig
from hornbook.tokens.loader import open_source
from hornbook.tokens.manifest import Manifest, ShardInfo
from hornbook.tokens.shards import ShardWriter, token_dtype
from hornbook.train.config import PretrainConfig
from hornbook.train.machine import FILE, Machine
from hornbook.train.objective import NextToken, bind
from hornbook.train.precision import Precision
from hornbook.train.trainer import Trainer

VOCABULARY = 50257
SETTLE = 20
"""Steps at the beginning that do not count."""


def model_config(tiny: bool) -> ModelConfig:
    """GPT-2 124M, or something small to rehearse with."""
    small = ModelSettings(preset="gpt2-124m", layers=2, heads=2, width=64, context=64)
    return resolve(small if tiny else ModelSettings(preset="gpt2-124m"), VOCABULARY)


def random_tokens(folder: Path, tokens: int) -> Path:
    """A token folder of random documents of a thousand tokens."""
    generator, dtype = np.random.default_rng(0), token_dtype(VOCABULARY)
    folder.mkdir(parents=True, exist_ok=True)
    with ShardWriter(folder, "train-00000", dtype) as writer:
        for _ in range(tokens // 1000):
            ids = generator.integers(0, VOCABULARY - 1, 1000)
            ids[-1] = VOCABULARY - 1
            writer.append(ids)
    written = writer.written
    assert written is not None
    shard = ShardInfo(
        "train-00000", "train", written.tokens, written.documents, 4 * written.tokens,
        written.bin_sha256, written.idx_sha256, {"random": written.tokens}, {"": written.tokens},
    )  # fmt: skip
    name = hashlib.sha256(b"random").hexdigest()
    Manifest(name, VOCABULARY, dtype, VOCABULARY - 1, "random", 0, [shard]).write(folder)
    return folder


def train(
    source: BatchSource, config: ModelConfig, settings: PretrainConfig, folder: Path
) -> list[dict[str, Any]]:
    """Train in `folder`; the lines of the steps."""
    decoder = Decoder(config, torch.Generator().manual_seed(1))
    Trainer(decoder, source, NextToken(), settings, OptimizerConfig(), folder).fit()
    return step_lines(folder)


class Bare:
    """The bare step in a loop."""

    def __init__(self, source: BatchSource, config: ModelConfig, machine: Machine, rows: int):
        self.device = torch.device(machine.device)
        model = Decoder(config, torch.Generator().manual_seed(1)).to(self.device).train()
        model.engine = machine.engine()
        self.batch = source.rows(0, rows).to(self.device)
        self.weight = NextToken().weight(self.batch)
        self.forward = bind(NextToken(), model)
        self.precision = Precision(machine.precision, self.device)
        self.optimizer = build_optimizer(model, OptimizerConfig(), self.device)
        self.parameters = list(model.parameters())

    def seconds(self, steps: int) -> float:
        """Mean seconds of a step, of so many after those that settle."""
        for number in range(SETTLE + steps):
            if number == SETTLE:
                synchronize()
                begin = time.perf_counter()
            self.optimizer.zero_grad(set_to_none=True)
            with self.precision.autocast():
                loss, _ = self.forward(self.batch)
            (loss / self.weight).backward()
            torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
            self.optimizer.step()
        synchronize()
        return (time.perf_counter() - begin) / steps


def table(result: dict[str, Any]) -> list[dict[str, str]]:
    """The row for docs/performance.md."""
    before, after = result["bare_ms"]
    return [
        {
            "bare step, ms": f"{before:.1f} before, {after:.1f} after",
            f"in the trainer, mean of {result['steps']:,} steps, ms": f"{result['trainer_ms']:.1f}",
            "median": f"{result['step_ms']['median']:.1f}",
            "slowest": f"{result['step_ms']['slowest'][0]:.1f}",
            "checkpoint every": f"{result['checkpoint_every']} steps",
            "overhead": f"{result['overhead']:+.1%}",
        }
    ]


def main() -> None:
    parser = parser_for(__doc__)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--checkpoint-every", type=int, default=250)
    parser.add_argument("--bare-steps", type=int, default=150, help="before, and again after")
    parser.add_argument("--rows", type=int, default=64)
    options = parser.parse_args()
    config = model_config(options.tiny)
    settings = PretrainConfig(
        steps=options.steps,
        global_batch_tokens=options.rows * config.context,
        micro_batch=options.rows,
        checkpoint_every=options.checkpoint_every,
        checkpoint_minutes=0,
        evaluate_every=0,
        sample_every=0,
    )
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        tokens = random_tokens(folder / "tokens", 200_000 if options.tiny else 20_000_000)
        source = open_source(DataConfig(), tokens, config.context, rows_per_step=options.rows)
        # One step for the choices of the machine; it also fills the compiler's cache.
        train(source, config, PretrainConfig(**{**vars(settings), "steps": 1}), folder / "first")
        machine = Machine.read(folder / "first")
        assert machine is not None
        (folder / "run").mkdir()
        shutil.copy(folder / "first" / FILE, folder / "run" / FILE)
        bare = Bare(source, config, machine, options.rows)
        before = bare.seconds(options.bare_steps)
        lines = train(source, config, settings, folder / "run")
        after = bare.seconds(options.bare_steps)
    # The last checkpoint is waited for after the last step.
    trainer = (lines[-1]["seconds"] - lines[SETTLE - 1]["seconds"]) / (len(lines) - SETTLE)
    alone = (before + after) / 2
    tokens_per_step = options.rows * config.context
    steps = [tokens_per_step / line["tokens_per_second"] for line in lines[SETTLE:]]
    result = {
        "what": "time of a training step in the trainer over that of a bare loop, GPT-2 124M",
        "settings": machine.describe(options.rows),
        "bare_ms": [before * 1e3, after * 1e3],
        "trainer_ms": trainer * 1e3,
        "overhead": trainer / alone - 1,
        "steps": options.steps,
        "checkpoint_every": options.checkpoint_every,
        "step_ms": {
            "median": statistics.median(steps) * 1e3,
            "slowest": sorted((s * 1e3 for s in steps), reverse=True)[:10],
        },
        "loader_wait_ms": 1e3 * sum(line["loader_wait"] for line in lines[SETTLE:]) / len(steps),
    }
    result["table"] = table(result)
    write_result(options.out, "overhead", result)
    print(f"bare step: {before * 1e3:.2f} ms before, {after * 1e3:.2f} ms after")
    print(f"trainer: {trainer * 1e3:.2f} ms, median {result['step_ms']['median']:.2f} ms")
    print(f"overhead: {100 * result['overhead']:.2f} %")


if __name__ == "__main__":
    main()
