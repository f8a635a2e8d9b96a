"""GPT-2 124M learns tiny Shakespeare by heart: recipe `gpt2-124m-shakespeare` on one GPU.

    curl -O https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt
    python benchmarks/shakespeare_memorising.py input.txt

This is memorising, and says nothing about new text. Two runs of the same recipe:

- `whole`: all 338,025 tokens; it ends when the mean training loss of 50 steps is below 0.0999.
  Seconds of training are counted, without compiling.
- `held out`: the last tenth of the text is held out, and its loss is measured along the way. It
  falls at first, and then rises for the rest of the run: what is learnt by heart does not help
  there.

Writes `shakespeare_memorising.json` into `--out`.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from common import parser_for, write_result
from recipe_run import train

from hornbook.documents import Document, write_documents
from hornbook.tokenizer.config import TokenizeConfig
from hornbook.tokens.tokenize import tokenize

RECIPE = "gpt2-124m-shakespeare"
TARGET = 0.0999


def token_folder(text: str, held_out: str, out: Path, rank_file: str | None) -> Path:
    """GPT-2 tokens of `text` to train on, and of `held_out` to measure on."""
    for split, part in (("train", text), ("validation", held_out)):
        (out / "prepare" / split).mkdir(parents=True)
        write_documents([Document(text=part, source="tiny shakespeare")], out / "prepare" / split)
    tokenize(TokenizeConfig(kind="gpt2", file=rank_file), out / "prepare", out / "tokens")
    return out / "tokens"


def summary(points: list[dict[str, Any]]) -> dict[str, Any]:
    """When the training loss was below the target, and how the held-out loss went."""
    training = [point for point in points if "training_loss" in point]
    losses = [point for point in points if "loss" in point]
    below = next((point for point in training if point["training_loss"] < TARGET), None)
    lowest = min(losses, key=lambda point: point["loss"])
    return {
        "seconds_to_target": below and below["seconds"],
        "steps_to_target": below and below["step"],
        "last_training_loss": training[-1]["training_loss"] if training else None,
        "lowest_held_out": lowest["loss"],
        "lowest_held_out_seconds": lowest["seconds"],
        "last_held_out": losses[-1]["loss"],
    }


def table(result: dict[str, Any]) -> list[dict[str, str]]:
    """Rows for docs/performance.md."""
    whole, part = result["whole"], result["held out"]
    seconds, steps = whole["seconds_to_target"], whole["steps_to_target"]
    reached = f"{seconds:.1f} s, {steps:,} steps" if seconds else "not reached"
    return [
        {"run": "all of the text (memorising)", f"training loss below {TARGET}": reached,
         "held-out loss": "nothing held out"},
        {"run": "nine tenths of it", f"training loss below {TARGET}":
         f"{part['seconds_to_target']:.1f} s" if part["seconds_to_target"] else "not reached",
         "held-out loss": f"lowest {part['lowest_held_out']:.2f} after"
         f" {part['lowest_held_out_seconds']:.1f} s, at the end {part['last_held_out']:.2f}"},
    ]  # fmt: skip


def main() -> None:
    parser = parser_for(__doc__)
    parser.add_argument("text", type=Path, help="tiny Shakespeare, input.txt")
    parser.add_argument("--rank-file", help="r50k_base.tiktoken, instead of a download")
    arguments = parser.parse_args()
    text = arguments.text.read_text(encoding="utf-8")
    cut = text.rindex("\n\n", 0, len(text) * 9 // 10) + 2
    folders = {"whole": (text, text[cut:]), "held out": (text[:cut], text[cut:])}
    overrides: dict[str, Any] = {}
    if arguments.tiny:
        overrides["model"] = {"layers": 2, "width": 32, "heads": 2, "mlp_width": 64, "context": 64}
        overrides["pretrain"] = {"steps": 60, "global_batch_tokens": 64, "evaluate_every": 30,
                                 "evaluate_tokens": 640}  # fmt: skip
    result: dict[str, Any] = {"target": TARGET}
    with tempfile.TemporaryDirectory() as scratch:
        for name, (training, held_out) in folders.items():
            tokens = token_folder(training, held_out, Path(scratch) / name, arguments.rank_file)
            settings = {**overrides, "pretrain": {**overrides.get("pretrain", {})}}
            if name == "whole":  # its "held-out" text is part of what it learns
                settings["pretrain"]["evaluate_every"] = 0
            points = train(RECIPE, tokens, Path(scratch) / name / "run", settings)
            result[name] = {**summary(points), "points": points}
            print(name, summary(points), flush=True)
    result["table"] = table(result)
    write_result(arguments.out, "shakespeare_memorising", result)


if __name__ == "__main__":
    main()
