"""What each of two processes does in `test_agreement.py`; torchrun runs this.

agreeing.py FOLDER [cuda]: writes FOLDER/process-0.json and FOLDER/process-1.json.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import several
import tiny_run
import torch
from tiny_run import LENGTH, MODEL, PRETRAIN, CountingRows
from torch.profiler import ProfilerActivity, profile

from hornbook.model import decoder
from hornbook.model.config import GenerateConfig
from hornbook.model.decoder import Decoder
from hornbook.optim.config import OptimizerConfig
from hornbook.tokenizer.assemble import AddedToken, tokenizer_json
from hornbook.tokenizer.tokenizer import Tokenizer
from hornbook.tokens.batch import Batch
from hornbook.train import compiling, probe
from hornbook.train.objective import NextToken, bind
from hornbook.train.parallel import ALONE, World, joined
from hornbook.train.precision import Precision
from hornbook.train.pretrain import sampler
from hornbook.train.sharding import Sharing
from hornbook.train.start import place
from hornbook.train.step import accumulate
from hornbook.train.trial import Trial

END = 256
MICRO_BATCHES = 3


def compiled(folder: Path, world: World, kind: str) -> tuple[str, list[str]]:
    """Train where compiling works in process 0 alone: what is compiled then, and what is said."""
    said: list[str] = []

    def works(function: Any, **options: Any) -> Any:
        return function

    def fails(function: Any, **options: Any) -> Any:
        def call(*given: Any) -> Any:
            raise RuntimeError("no C compiler here")

        return call

    before = torch.compile, compiling.warn, probe._compile
    torch.compile = works if world.is_main else fails  # type: ignore[assignment]
    compiling.warn = said.append
    probe._compile = lambda config, trial: "regional" if kind == "fsdp" else "on"
    try:
        trainer = tiny_run.build(
            folder, {"steps": 1, "sharding": kind}, evaluate=None, sample=None, world=world
        )
        trainer.fit()
    finally:
        torch.compile, compiling.warn, probe._compile = before
        decoder._compiled_training.cache_clear()
        decoder._compiled_loss.cache_clear()
    return trainer._machine.compile, said


def problem(world: World, kind: str) -> str | None:
    """What is found to be wrong with a pass that fails in process 1 alone, halfway through."""

    class Fails(NextToken):
        def __call__(self, model: Decoder, batch: Batch) -> Any:
            loss = super().__call__(model, batch)
            if not world.is_main:
                raise RuntimeError("no such kernel")
            return loss

    model = Decoder(MODEL, torch.Generator().manual_seed(1)).train()
    settings = replace(PRETRAIN, sharding=kind)
    Sharing(world, settings, OptimizerConfig()).prepare(model)
    model.to(world.device)
    batch = CountingRows().rows(0, 4).to(world.device)
    trial = Trial(model, Fails(), batch, world.device, world)
    return trial.problem(Precision("fp32", world.device))


def sampled(folder: Path, world: World = ALONE, kind: str = "fsdp") -> list[Any]:
    """What is drawn and measured between training steps, in this process."""
    tokens = {bytes([byte]): byte for byte in range(END)}
    path = folder / f"tokenizer-{world.rank}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        tokenizer_json(tokens, [], "gpt2", own_special=[AddedToken(END, "<|endoftext|>")])
    )
    draw = sampler(
        Tokenizer.load(path),
        LENGTH,
        replace(PRETRAIN, sample_prompts=["ab", "c", ""], sample_tokens=9),
        GenerateConfig(),
    )
    found: list[Any] = []

    def sample(model: Decoder, step: int) -> list[dict[str, Any]]:
        found.append(draw(model, step))
        return found[-1]

    def evaluate(model: Decoder) -> dict[str, float]:
        found.append(tiny_run.evaluate(model)["validation_loss"])
        return {"validation_loss": found[-1]}

    tiny_run.fit(
        folder,
        {"steps": 4, "sample_every": 2, "evaluate_every": 2, "sharding": kind},
        model={**several.STILL, "vocabulary": END + 1, "vocabulary_rows": 320},
        sample=sample,
        evaluate=evaluate,
        world=world,
    )
    return found


def same_weights(world: World, weights: str) -> list[str]:
    """Names of the parameters that, drawn in shards, are not what one process draws."""
    config = replace(MODEL, vocabulary_rows=65)  # not to be divided evenly
    settings = replace(PRETRAIN, weights=weights, sharding="fsdp", seed=5)
    with torch.device("meta"):
        model = Decoder(config, initialise=False)
    place(model, settings, Sharing(world, settings, OptimizerConfig()), world.device)
    dtype = torch.bfloat16 if weights == "bf16" else torch.float32
    whole = dict(Decoder(config, torch.Generator().manual_seed(5)).named_parameters())
    return [
        name
        for name, parameter in model.named_parameters()
        if not torch.equal(parameter.full_tensor().cpu(), whole[name].to(dtype))
    ]


def exchanged(world: World, kind: str, keeps: bool) -> dict[str, int]:
    """Collectives of a step of several micro-batches, whose gradient is that of one process."""
    settings = replace(PRETRAIN, sharding=kind)
    world = replace(world, local_size=1 if kind == "hsdp" else world.size)
    sharing = Sharing(world, settings, OptimizerConfig())
    model = Decoder(replace(MODEL, **several.STILL), torch.Generator().manual_seed(1)).train()
    sharing.prepare(model)
    model.to(world.device)
    if kind != "ddp" and not keeps:  # as beyond KEPT_SHARE of a GPU's memory
        sharing._keeps = False
        for block in model.blocks:
            block.set_reshard_after_forward(True)
    forward = sharing.wrap(bind(NextToken(), model))
    batch = world.share_of(CountingRows()).rows(0, 2 * MICRO_BATCHES * world.size)
    batch = batch.to(world.device)

    def step() -> None:
        accumulate(forward, batch, 2, 1.0, Precision("fp32", world.device), sharing.synchronise)

    for _ in range(2):  # these set hooks and buckets up
        step()
    model.zero_grad()
    with profile(activities=[ProfilerActivity.CPU]) as trace:
        step()
    names = [event.name for event in trace.events()]
    count = Counter(name.removeprefix("c10d::") for name in names if name.startswith("c10d::"))
    alone = Decoder(replace(MODEL, **several.STILL), torch.Generator().manual_seed(1)).train()
    alone.to(world.device)
    whole = CountingRows().rows(0, len(batch) * world.size).to(world.device)
    accumulate(bind(NextToken(), alone), whole, 2, world.size, Precision("fp32", world.device))
    for ours, expected in zip(model.parameters(), alone.parameters(), strict=True):
        gradient: Any = ours.grad
        gradient = gradient.full_tensor() if kind != "ddp" else gradient
        torch.testing.assert_close(gradient, expected.grad, rtol=1e-4, atol=1e-5)
    return dict(count)


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    device = sys.argv[2] if len(sys.argv) > 2 else "cpu"
    with joined(device) as world:
        found: dict[str, Any] = {
            "weights": {kind: same_weights(world, kind) for kind in ("fp32", "bf16")},
            "exchanged": {
                f"{kind}{', kept' * keeps}": exchanged(world, kind, keeps)
                for kind, keeps in (
                    ("ddp", False), ("fsdp", True), ("fsdp", False), ("hsdp", True), ("hsdp", False)
                )
            },
            "problem": {kind: problem(world, kind) for kind in ("ddp", "fsdp")},
        }  # fmt: skip
        for kind in ("ddp", "fsdp") if device == "cpu" else ():  # what tiny_run runs on
            for name, function in (("sampled", sampled), ("compiled", compiled)):
                result = function(folder / f"{name}-{kind}", world, kind)
                found.setdefault(name, {})[kind] = result
        (folder / f"process-{world.rank}.json").write_text(json.dumps(found))
