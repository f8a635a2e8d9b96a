"""Does the learning rate that `hornbook plan --write` chooses carry over from width to width?

    hornbook prepare my-texts/ --run runs/sweep
    hornbook tokenize --run runs/sweep --tokenize.vocabulary 8192
    python benchmarks/learning_rate_sweep.py --tokens runs/sweep/tokenize
    python benchmarks/learning_rate_sweep.py --tokens runs/sweep/tokenize --widths 64 128 256 \
        --steps 600 --batch 4 --length 256 --kinds adamw                # a CPU

Models of 4 layers at each width are trained for the same steps on the same rows, with the rate of
the rule (`plan/write.py`) times each factor, and then measured on the same held-out rows. The rule
holds where the best factor is the same (or as good) at all widths; it is well placed where that is
1.

Writes benchmarks/results/learning_rate_sweep_KIND.json. On one H200 about 2 minutes.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from common import parser_for, write_result

from hornbook.model.decoder import Decoder
from hornbook.optim.config import OptimizerConfig
from hornbook.optim.groups import build_optimizer, set_learning_rate
from hornbook.optim.schedule import learning_rate
from hornbook.plan.write import ADAMW_RATE_TIMES_WIDTH, MUON_RATE, MUON_REST_RATE, shape
from hornbook.tokenizer.tokenizer import Tokenizer
from hornbook.tokens.batch import Batch
from hornbook.tokens.config import DataConfig
from hornbook.tokens.loader import open_source
from hornbook.tokens.validation import validation_rows
from hornbook.train.machine import pick_device
from hornbook.train.objective import NextToken, bind
from hornbook.train.precision import Precision

LAYERS = 4


def rule(kind: str, width: int, factor: float) -> OptimizerConfig:
    """The optimizer that `plan --write` would write, its rates times a factor."""
    if kind == "muon":
        return OptimizerConfig(
            kind="muon",
            learning_rate=factor * MUON_REST_RATE,
            matrix_learning_rate=factor * MUON_RATE,
            final_share=0.0,
        )
    rate = factor * ADAMW_RATE_TIMES_WIDTH / width
    return OptimizerConfig(kind="adamw", learning_rate=rate, final_share=0.0)


class Sweep:
    """The text and the schedule that all runs share."""

    def __init__(self, folder: Path, rows: int, length: int, steps: int, held_out_tokens: int):
        self.device = pick_device("auto")
        self.precision = Precision("fp32" if self.device.type == "cpu" else "bf16", self.device)
        self.vocabulary = Tokenizer.load(folder / "tokenizer").size
        self.rows, self.length, self.steps = rows, length, steps
        data = DataConfig(mode="windows", verify=False)
        self._source = open_source(data, folder, length, rows_per_step=rows)
        held_out = validation_rows(folder, length, max_tokens=held_out_tokens, verify=False)
        count = held_out.rows_per_epoch
        self._held_out = [
            held_out.rows(first, min(rows, count - first)) for first in range(0, count, rows)
        ]

    def loss(self, width: int, optimizer_config: OptimizerConfig) -> float:
        """Held-out nats a token after training; infinite where training diverged."""
        config = replace(shape(LAYERS, width, self.vocabulary), context=self.length)
        model = Decoder(config, torch.Generator().manual_seed(1)).to(self.device).train()
        optimizer = build_optimizer(model, optimizer_config, self.device)
        forward = bind(NextToken(), model)
        parameters = list(model.parameters())
        for step in range(self.steps):
            set_learning_rate(optimizer, learning_rate(optimizer_config, step, self.steps))
            batch = self._source.rows(step * self.rows, self.rows).to(self.device)
            with self.precision.autocast():
                loss, _ = forward(batch)
            (loss / batch.targets.numel()).backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(parameters, optimizer_config.gradient_clip)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        model.eval()
        value = self._measure(model)
        return value if value == value else float("inf")

    @torch.no_grad()
    def _measure(self, model: Decoder) -> float:
        objective, total, weight = NextToken(), 0.0, 0.0
        for batch in self._held_out:
            moved: Batch = batch.to(self.device)
            with self.precision.autocast():
                total += float(objective(model, moved)[0])
            weight += objective.weight(batch)
        return total / weight


def main() -> None:
    parser = parser_for(__doc__, tiny=False)
    parser.add_argument("--tokens", type=Path, required=True, help="a run's tokenize folder")
    parser.add_argument("--widths", type=int, nargs="+", default=[256, 512, 1024])
    parser.add_argument("--factors", type=float, nargs="+", default=[0.25, 0.5, 1, 2, 4])
    parser.add_argument("--kinds", nargs="+", default=["adamw", "muon"])
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--batch", type=int, default=16, help="rows of a step")
    parser.add_argument("--length", type=int, default=512, help="tokens of a row")
    parser.add_argument("--held-out", type=int, default=262144, help="tokens to measure on")
    options = parser.parse_args()
    sweep = Sweep(options.tokens, options.batch, options.length, options.steps, options.held_out)
    for kind in options.kinds:
        found: dict[str, dict[str, float]] = {}
        began = time.perf_counter()
        for width in options.widths:
            losses = {f"{f:g}": sweep.loss(width, rule(kind, width, f)) for f in options.factors}
            found[str(width)] = losses
            shown = "  ".join(f"x{factor} {loss:.3f}" for factor, loss in losses.items())
            print(f"{kind} width {width}: {shown}", flush=True)
        result: dict[str, Any] = {
            "what": f"held-out nats a token of {LAYERS} layers by width and factor of the rule's"
            f" learning rate; {options.steps} steps of {options.batch} rows of {options.length}",
            "seconds": time.perf_counter() - began,
            "best_factor": {
                width: min(found[width], key=found[width].__getitem__) for width in found
            },
            "loss": found,
        }
        write_result(options.out, f"learning_rate_sweep_{kind}", result)


if __name__ == "__main__":
    main()
