"""Held-out bits per byte: our quickstart against nanoGPT's own CPU configuration.

Same text (the run's own split), same cores, same training minutes, one after the other:

    git clone https://github.com/karpathy/nanoGPT
    hornbook quickstart
    python benchmarks/quickstart_vs_nanogpt.py --nanogpt nanoGPT --run runs/quickstart

nanoGPT trains as its README says for a CPU (config/train_shakespeare_char.py with --device=cpu
--compile=False --block_size=64 --batch_size=12 --n_layer=4 --n_head=4 --n_embd=128 --dropout=0.0),
for as many iterations as fit into the seconds that our pretrain stage took, its learning rate
decayed over exactly those. Both models are then measured on all held-out documents with the same
sliding window code: half a context is context, half is predicted.

Writes benchmarks/results/quickstart_vs_nanogpt.json. nanoGPT keeps its vocabulary and its
checkpoint as pickles; they are written and read here only, for the peer.
"""

from __future__ import annotations

import json
import math
import os
import pickle
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from common import parser_for, write_result

from hornbook.documents import read_documents
from hornbook.files import read_json

README_FLAGS = [
    "--device=cpu", "--compile=False", "--eval_iters=20", "--log_interval=10", "--block_size=64",
    "--batch_size=12", "--n_layer=4", "--n_head=4", "--n_embd=128", "--dropout=0.0",
]  # fmt: skip


def write_characters(run: Path, nanogpt: Path) -> dict[str, int]:
    """The run's split as nanoGPT's character data set, without characters unseen in training."""
    folder = nanogpt / "data" / "hornbook_char"
    folder.mkdir(parents=True, exist_ok=True)
    train = "\n".join(d.text for d in read_documents(run / "prepare" / "train"))
    ids = {character: number for number, character in enumerate(sorted(set(train)))}
    validation = "\n".join(d.text for d in read_documents(run / "prepare" / "validation"))
    for name, text in (("train", train), ("val", validation)):
        np.array([ids[c] for c in text if c in ids], dtype=np.uint16).tofile(folder / f"{name}.bin")
    names = {number: character for character, number in ids.items()}
    meta = {"vocab_size": len(ids), "itos": names, "stoi": ids}
    (folder / "meta.pkl").write_bytes(pickle.dumps(meta))
    return ids


def train_peer(nanogpt: Path, iterations: int, environment: dict[str, str]) -> tuple[float, str]:
    """Run nanoGPT's train.py; returns its wall-clock seconds and what it printed."""
    command = [
        sys.executable, "train.py", "config/train_shakespeare_char.py", *README_FLAGS,
        "--dataset=hornbook_char", "--out_dir=out-hornbook", f"--max_iters={iterations}",
        f"--lr_decay_iters={iterations}", f"--eval_interval={iterations}",
        "--always_save_checkpoint=True",
    ]  # fmt: skip
    started = time.perf_counter()
    done = subprocess.run(
        command, cwd=nanogpt, env=environment, capture_output=True, text=True, check=True
    )
    return time.perf_counter() - started, done.stdout


@torch.inference_mode()
def peer_bits_per_byte(nanogpt: Path, run: Path, ids: dict[str, int]) -> float:
    """nanoGPT's checkpoint on every held-out document, each byte's character predicted once."""
    sys.path.insert(0, str(nanogpt))
    from model import GPT, GPTConfig  # type: ignore[import-not-found]

    saved = torch.load(nanogpt / "out-hornbook" / "ckpt.pt", weights_only=False)
    model = GPT(GPTConfig(**saved["model_args"]))
    model.load_state_dict(saved["model"])
    model.eval()
    block = saved["model_args"]["block_size"]
    nats, byte_count = 0.0, 0
    for document in read_documents(run / "prepare" / "validation"):
        byte_count += len(document.text.encode())
        tokens = [ids["\n"], *(ids[c] for c in document.text if c in ids)]
        nats += _document_nats(model, torch.tensor(tokens), block)
    return nats / math.log(2) / byte_count


def _document_nats(model: torch.nn.Module, tokens: torch.Tensor, block: int) -> float:
    """Sum of -ln p over all tokens but the first; windows of `block` that move by half of it."""
    windows: dict[tuple[int, int], list[torch.Tensor]] = {}
    scored = 1
    while scored < len(tokens):
        end = min(scored + (block if scored == 1 else block // 2), len(tokens))
        window = tokens[max(0, end - 1 - block) : end]
        windows.setdefault((len(window), end - scored), []).append(window)
        scored = end
    nats = 0.0
    for (_, fresh), alike in windows.items():
        for batch in torch.stack(alike).split(128):
            targets = batch[:, 1:].contiguous()
            logits, _ = model(batch[:, :-1].contiguous(), targets=targets)
            losses = torch.nn.functional.cross_entropy(
                logits.transpose(1, 2), targets, reduction="none"
            )
            nats += losses[:, -fresh:].sum().item()
    return nats


def main() -> None:
    parser = parser_for(__doc__, tiny=False)
    parser.add_argument("--nanogpt", type=Path, required=True, help="a checkout of nanoGPT")
    parser.add_argument("--run", type=Path, default=Path("runs/quickstart"))
    options = parser.parse_args()
    nanogpt = options.nanogpt.resolve()

    record = read_json(options.run / "pretrain" / "stage.json")
    seconds = record["summary"]["seconds"]
    ours = json.loads((options.run / "evaluate" / "evals.jsonl").read_text().splitlines()[-1])
    threads = str(os.cpu_count())
    environment = {**os.environ, "OMP_NUM_THREADS": threads}
    ids = write_characters(options.run, nanogpt)

    _, output = train_peer(nanogpt, 300, environment)
    per_iteration = float(np.median([float(ms) for ms in re.findall(r"time ([\d.]+)ms", output)]))
    iterations = int(seconds / (per_iteration / 1000))
    print(f"nanoGPT: {per_iteration:.1f} ms an iteration, {iterations} fit into {seconds:.0f} s")
    peer_seconds, output = train_peer(nanogpt, iterations, environment)
    peer = peer_bits_per_byte(nanogpt, options.run, ids)

    result = {
        "what": "held-out bits per byte after the same training seconds on the same cores",
        "seconds": seconds,
        "hornbook": {"bits_per_byte": ours["bits_per_byte"], "tokens": record["summary"]["tokens"]},
        "nanogpt": {
            "bits_per_byte": peer, "iterations": iterations, "seconds": peer_seconds,
            "last_line": output.strip().splitlines()[-1],
        },
        "ratio": ours["bits_per_byte"] / peer,
    }  # fmt: skip
    write_result(options.out, "quickstart_vs_nanogpt", result)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
