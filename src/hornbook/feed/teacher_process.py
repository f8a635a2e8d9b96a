"""The process in which a local teacher's model computes; `local_teacher.py` starts it.

In, on stdin: a line with a teacher's settings, then lines with prompts. Out, on stdout: a line with
the model's vocabulary, then lines with texts; or one with what is wrong. All lines are JSON. Ends
when stdin does.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from hornbook.errors import HornbookError
from hornbook.feed.config import TeacherConfig
from hornbook.tokens.order import derive_key

Write = Callable[[list[dict[str, str]], int], list[str]]
"""Prompts (request, beginning) and a seed to texts."""

NICENESS = 5
"""On a CPU the model would take all of it: who serves and trains comes first."""

TOP_P = 0.95
"""Tokens beyond the likeliest, which together have this probability, are left out: the rare ones
of the tail lead small models astray (Holtzman et al. 2020, arXiv:1904.09751)."""

PADDING = 2
"""Prompts are put into one batch while the longest has at most this many times the tokens of the
shortest."""


def main() -> int:
    """Answer lines until there are no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the feed's, which closes stdin
    os.environ["TQDM_DISABLE"] = "1"  # bars of loading, amid what the feed says
    if hasattr(os, "nice"):  # not on Windows
        os.nice(NICENESS)
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print must not get between the answers
    try:
        for answer in answers(sys.stdin):
            out.write(json.dumps(answer) + "\n")
            out.flush()
    except HornbookError as error:
        where = None if error.where is None else str(error.where)
        out.write(json.dumps({"error": error.what, "where": where, "hint": error.hint}) + "\n")
        out.close()
        return 2
    return 0


def answers(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    """The line that answers each line."""
    import torch

    config = TeacherConfig(**json.loads(next(lines)))
    write, vocabulary = _transformers(config) if config.kind == "transformers" else _ours(config)
    yield {"vocabulary": vocabulary if config.prompts == "vocabulary" else []}
    for line in lines:
        asked = json.loads(line)
        seed = int(derive_key(*asked["seed"])[0] >> 1)  # torch takes 63 bits
        try:
            yield {"texts": write(asked["prompts"], seed)}
        except torch.OutOfMemoryError as error:
            raise HornbookError(
                "so many texts at a time do not fit into the GPU's memory",
                where="feed.teachers.batch",
                hint=f"Try less than {config.batch}",
            ) from error


def _ours(config: TeacherConfig) -> tuple[Write, list[str]]:
    """A run, checkpoint or Hugging Face directory that we compute ourselves; a base model."""
    from hornbook.model.config import GenerateConfig
    from hornbook.model.generate import Generator
    from hornbook.tokenizer.tokenizer import Tokenizer
    from hornbook.train.load import load_model
    from hornbook.train.machine import pick_device

    loaded = load_model(Path(config.model).expanduser())
    tokenizer = Tokenizer.load(loaded.tokenizer_file)
    decoder = loaded.decoder.to(pick_device(config.device))
    generator = Generator(decoder, tokenizer)
    room = max(1, decoder.config.context - config.max_tokens)

    def write(prompts: list[dict[str, str]], seed: int) -> list[str]:
        ids = [tokenizer.encode(prompt["beginning"])[-room:] for prompt in prompts]
        sampling = GenerateConfig(
            max_tokens=config.max_tokens, temperature=config.temperature, top_p=TOP_P, seed=seed
        )
        return [each.text for each in generator(ids, sampling)]

    return write, _words(tokenizer.decode([id]) for id in range(tokenizer.size))


def _transformers(config: TeacherConfig) -> tuple[Write, list[str]]:
    """A Hugging Face directory or GGUF file; one with a chat template is asked in its form."""
    import torch

    from hornbook.train.machine import pick_device

    tokenizer, model = _load(config.model)
    model = model.to(pick_device(config.device)).eval()
    tokenizer.padding_side = tokenizer.truncation_side = "left"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    chats = tokenizer.chat_template is not None
    context = getattr(model.config, "max_position_embeddings", None) or 2**31
    cut = {"truncation": True, "max_length": max(1, context - config.max_tokens)}

    def one_batch(texts: list[str]) -> list[str]:
        batch = tokenizer(
            texts, return_tensors="pt", padding=True, add_special_tokens=not chats, **cut
        )
        batch = {name: batch[name].to(model.device) for name in ("input_ids", "attention_mask")}
        length = batch["input_ids"].shape[1]
        ids = model.generate(
            **batch,
            max_new_tokens=max(1, min(config.max_tokens, context - length)),
            pad_token_id=tokenizer.pad_token_id,
            **_sampling(config.temperature),
        )
        written: list[str] = tokenizer.batch_decode(ids[:, length:], skip_special_tokens=True)
        return written

    def write(prompts: list[dict[str, str]], seed: int) -> list[str]:
        torch.manual_seed(seed)
        texts = [prompt["beginning"] for prompt in prompts]
        if chats:
            turns = [[{"role": "user", "content": prompt["request"]}] for prompt in prompts]
            texts = [
                tokenizer.apply_chat_template(turn, add_generation_prompt=True, tokenize=False)
                for turn in turns
            ]
        lengths = [len(ids) for ids in tokenizer(texts, add_special_tokens=not chats)["input_ids"]]
        written = [""] * len(texts)
        for places in buckets(lengths):
            answers = one_batch([texts[place] for place in places])
            for place, answer in zip(places, answers, strict=True):
                written[place] = answer
        return written

    return write, _words(tokenizer.decode([id]) for id in range(len(tokenizer)))


def _load(model: str) -> tuple[Any, Any]:
    """Tokenizer and model of a directory or GGUF file."""
    try:
        from transformers import AutoModelForCausalLM, AutoTokenizer
    except ImportError:
        raise HornbookError(
            "a teacher of kind transformers needs the library, which is not installed",
            where="feed.teachers", hint='`pip install "hornbook[teacher]"`',
        ) from None  # fmt: skip
    path = Path(model).expanduser()
    if not path.exists():
        raise HornbookError(
            "is no directory or GGUF file with a model", where=model,
            hint="Download the model first, and name its folder",
        )  # fmt: skip
    folder, more = (path.parent, {"gguf_file": path.name}) if path.is_file() else (path, {})
    try:
        loaded = [
            kind.from_pretrained(folder, local_files_only=True, **more)
            for kind in (AutoTokenizer, AutoModelForCausalLM)
        ]
    except (OSError, ValueError, ImportError, KeyError) as error:
        raise HornbookError(
            f"cannot be loaded by transformers ({' '.join(str(error).split())[:300]})", where=model,
            hint="Is it a whole model directory? GGUF files need the package gguf",
        ) from error  # fmt: skip
    return loaded[0], loaded[1]


def _sampling(temperature: float) -> dict[str, Any]:
    if temperature == 0:
        return {"do_sample": False}
    return {"do_sample": True, "temperature": temperature, "top_p": TOP_P, "top_k": 0}


def buckets(lengths: Sequence[int]) -> list[list[int]]:
    """The places of `lengths`, those of similar length together: padding is computed like text."""
    found: list[list[int]] = []
    for place in sorted(range(len(lengths)), key=lambda place: lengths[place]):
        if found and lengths[place] <= PADDING * max(1, lengths[found[-1][0]]):
            found[-1].append(place)
        else:
            found.append([place])
    return found


def _words(pieces: Iterator[str]) -> list[str]:
    """The pieces that are words, or begin words."""
    return [piece for piece in pieces if piece.strip().isalpha()]


if __name__ == "__main__":
    raise SystemExit(main())
