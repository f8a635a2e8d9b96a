"""Run directories with made-up numbers that look like a real run's."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

PROMPTS = ("ROMEO:\n", "")
BABBLE = "qe th;Rn o\nsa tIe, hne wot\nf rs hdeA me y"
VERSE = (
    "My lord, the king is come to speak with you,\nAnd bids you stay until the morning light.\n\n"
    "HAMLET:\nThen let him come; I have a word for him,\nAnd he shall hear it ere the night be "
    "done.\n"
)


def write_lines(path: Path, lines: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def loss_at(step: int, steps: int, floor: float) -> float:
    return floor + (9.0 - floor) * float((1 + 40 * step / steps) ** -0.62)


def training_lines(
    steps: int, logged: int, peak: float, floor: float, seed: int
) -> list[dict[str, Any]]:
    """metrics.jsonl of a run of `steps` steps of which `logged` are finished."""
    noise = np.random.default_rng(seed)
    lines: list[dict[str, Any]] = []
    seconds, every = 0.0, max(1, steps // 10)
    for step in range(1, logged + 1):
        wait = float(noise.exponential(0.002))
        seconds += 0.34 + wait + float(noise.normal(0, 0.01))
        warm = min(1.0, step / 40)
        spike = 1.4 if steps // 2 < step < steps // 2 + 6 else 0.0
        loss = loss_at(step, steps, floor) + float(noise.normal(0, 0.05)) + spike
        cosine = 0.1 + 0.45 * (1 + float(np.cos(np.pi * step / steps)))
        lines.append(
            {
                "step": step, "tokens": step * 8192, "seconds": round(seconds, 3), "loss": loss,
                "learning_rate": peak * warm * cosine,
                "gradient_norm": float(noise.lognormal(-0.4, 0.2)) * (1 + 6 / step + 4 * spike),
                "tokens_per_second": 8192 / (0.34 + wait) * float(noise.normal(1, 0.02)),
                "mfu": None, "memory_gb": 0.81 + 0.02 * (step > 50), "loader_wait": wait,
                "micro_batch": 16,
            }
        )  # fmt: skip
        if step == steps // 2 + 1:
            message = "loss 5.102 is 1.51 times the mean of the last 50 steps"
            lines.append({"step": step, "event": "loss_spike", "message": message})
        if step == steps // 3:
            lines.append({"step": step, "event": "resumed", "message": "from step-00000200"})
        if step % every == 0:
            held = loss_at(step, steps, floor) + 0.12
            lines.append(
                {"step": step, "tokens": step * 8192, "seconds": round(seconds, 3),
                 "validation_loss": held, "validation_bits_per_byte": held / np.log(2) / 3.1}
            )  # fmt: skip
    return lines


def make_run(
    folder: Path, *, steps: int = 600, logged: int | None = None, peak: float = 1e-3,
    floor: float = 2.9, seed: int = 0, outcome: str = "done", evaluated: bool = True,
) -> Path:  # fmt: skip
    """A run directory as the stages write it."""
    logged = steps if logged is None else logged
    recipe = {
        "name": folder.name, "description": "A small model of Shakespeare's plays.",
        "prepare": {"inputs": ["shakespeare"], "normalise": True, "validation_share": 0.05},
        "tokenize": {"kind": "bpe", "vocabulary": 4096},
        "model": {"preset": "llama-5m", "context": 256, "dropout": 0.1},
        "data": {"mode": "chunks", "seed": 1337, "sources": []},
        "optimizer": {"learning_rate": peak, "schedule": "cosine", "warmup_steps": 40},
        "pretrain": {"steps": steps, "global_batch_tokens": 8192, "init": None},
    }  # fmt: skip
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    write_prepare(folder)
    write_manifest(folder)
    pretrain = folder / "pretrain"
    write_lines(pretrain / "metrics.jsonl", training_lines(steps, logged, peak, floor, seed))
    write_lines(pretrain / "samples.jsonl", sample_lines(steps, logged))
    write(pretrain / "machine.json", {
        "device": "cpu", "device_name": "AMD EPYC 7B13", "precision": "fp32", "compile": False,
        "threads": 2, "torch": "2.13.0+cpu", "asked": {"device": "auto", "threads": 0},
        "reasons": {"precision": "bf16 is slower here"}, "micro_batches": [[1, 16], [250, 8]],
        "steps_per_minute": None,
    })  # fmt: skip
    write(pretrain / "checkpoints" / f"step-{logged:08d}" / "model.json", {
        "family": "llama", "vocabulary": 4096, "vocabulary_rows": 4096, "context": 256,
        "layers": 6, "heads": 4, "kv_heads": 4, "head_dim": 64, "width": 256, "mlp_width": 704,
        "tied": True, "dropout": 0.1, "norm_epsilon": 1e-5, "rope_theta": 10000.0,
        "rotary_fraction": 1.0, "initializer_range": 0.02,
    })  # fmt: skip
    write_stage(folder, "pretrain", outcome)
    if evaluated:
        write_lines(folder / "evaluate" / "evals.jsonl", [
            {"model": "pretrain", "step": logged, "split": "validation", "loss": floor + 0.8,
             "perplexity": float(np.exp(floor + 0.8)), "bits_per_byte": (floor + 0.8) / 2.149,
             "tokens": 84_211, "bytes": 261_054, "bytes_per_token": 3.1, "documents": 214,
             "stride": 128, "context": 256},
        ])  # fmt: skip
        write_stage(folder, "evaluate", "done")
    return folder


def write_stage(folder: Path, stage: str, outcome: str) -> None:
    write(folder / stage / "stage.json", {
        "stage": stage, "fingerprint": "0123abcd", "settings": {}, "inputs": {},
        "versions": {"hornbook": "0.1.0", "python": "3.11.2", "torch": "2.13.0",
                     "tokenizers": "0.22.1", "platform": "Linux-6.1-x86_64"},
        "started": "2026-07-31T09:12:44+00:00", "outcome": outcome, "output": "", "summary": None,
        "ended": "2026-07-31T09:16:31+00:00" if outcome != "running" else "",
    })  # fmt: skip


def write_prepare(folder: Path) -> None:
    everything = {"documents": 37, "bytes": 5_197_274}
    write(folder / "prepare" / "prepare.json", {
        "read": {"documents": 40, "bytes": 5_311_020}, "kept": everything,
        "dropped": {
            "empty": {"documents": 1, "bytes": 2,
                      "samples": [{"title": "", "source": "shakespeare", "text": "\n "}]},
            "duplicate": {"documents": 2, "bytes": 113_744, "samples": [
                {"title": "Sonnets", "source": "shakespeare",
                 "text": "From fairest creatures we desire increase, <b>that</b> thereby"}]},
        },
        "splits": {"train": {"documents": 4_061, "bytes": 4_936_220},
                   "validation": {"documents": 214, "bytes": 261_054}},
        "sources": {"shakespeare": everything}, "licences": {"public domain": everything},
        "passages": True, "passage_plan": {"size": 2048, "count": 4275, "held_out": 214},
        "validation_bytes_share": 0.0502,
        "messages": ["dropped as duplicate: 2 documents, 113,744 bytes"],
    })  # fmt: skip
    write_stage(folder, "prepare", "done")


def write_manifest(folder: Path) -> None:
    def split(tokens: int, documents: int, text: int) -> dict[str, Any]:
        return {
            "tokens": tokens, "documents": documents, "bytes": text,
            "sources": {"shakespeare": tokens}, "licences": {"public domain": tokens},
        }  # fmt: skip

    write(folder / "tokenize" / "manifest.json", {
        "format": "hornbook tokens", "version": 1, "tokenizer_sha256": "ab" * 32,
        "vocabulary": 4096, "dtype": "uint16", "end_of_text": 0, "encoder": "tokenizers",
        "shards": [],
        "totals": {"train": split(1_590_112, 4_061, 4_936_220),
                   "validation": split(84_211, 214, 261_054)},
    })  # fmt: skip
    write_stage(folder, "tokenize", "done")


def sample_lines(steps: int, logged: int) -> list[dict[str, Any]]:
    lines, every = [], max(1, steps // 6)
    for step in range(every, logged + 1, every):
        part = step / steps
        text = BABBLE[: int(40 * (1 - part))] + " " + VERSE[: int(60 + 160 * part)]
        lines += [{"step": step, "prompt": prompt, "text": text} for prompt in PROMPTS]
    return lines


@pytest.fixture
def new_run(tmp_path: Path) -> Callable[..., Path]:
    """Makes run directories: `new_run("name", steps=..., logged=..., outcome=...)`."""

    def make(name: str = "shakespeare", **options: Any) -> Path:
        return make_run(tmp_path / "runs" / name, **options)

    return make
