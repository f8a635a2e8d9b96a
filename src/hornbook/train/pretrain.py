"""Pretraining put together: tokens, weights, objective, evaluator and sampler for the loop.

In: settings and a folder of token shards. Out: what the trainer writes to its folder, and how it
ended.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from hornbook.errors import HornbookError
from hornbook.model.config import DROPOUTS, GenerateConfig, ModelSettings
from hornbook.model.decoder import Decoder
from hornbook.model.generate import generate
from hornbook.model.presets import resolve
from hornbook.model.sampling import check_settings as check_sampling
from hornbook.optim.config import OptimizerConfig
from hornbook.tokenizer.tokenizer import Tokenizer
from hornbook.tokens.batch import BatchSource
from hornbook.tokens.config import DataConfig
from hornbook.tokens.loader import open_source
from hornbook.train.check import check_training
from hornbook.train.config import PretrainConfig
from hornbook.train.feed import EPOCH_STEPS, open_feed
from hornbook.train.horizon import rows_per_step
from hornbook.train.load import check_same_architecture, initial_weights, kind_of
from hornbook.train.machine import pick_device
from hornbook.train.objective import NextToken
from hornbook.train.parallel import World, check_gpus, in_company, joined
from hornbook.train.state import Outcome
from hornbook.train.trainer import Trainer
from hornbook.train.validation import ValidationLoss


def pretrain(
    model: ModelSettings,
    data: DataConfig,
    optimizer: OptimizerConfig,
    config: PretrainConfig,
    generation: GenerateConfig,
    tokens: Path,
    out: Path,
) -> Outcome:
    """Train a language model on token shards or a feed, going on from what `out` holds.

    Args:
        model: the architecture; left at its defaults, `config.init` decides.
        data: which tokens in what rows.
        optimizer: learning rate and the like.
        config: how long, how precise, how often what is written.
        generation: how samples are drawn.
        tokens: folder with the tokenizer, the validation split and, unless `data.sources` says
            otherwise, the training shards.
        out: the stage's folder.

    Raises:
        HornbookError: whatever the user can mend, from a missing shard to a loss that is NaN.
    """
    with joined(config.device) as world:
        return _pretrain(model, data, optimizer, config, generation, tokens, out, world)


def _pretrain(
    model: ModelSettings,
    data: DataConfig,
    optimizer: OptimizerConfig,
    config: PretrainConfig,
    generation: GenerateConfig,
    tokens: Path,
    out: Path,
    world: World,
) -> Outcome:
    """`pretrain`, as this process among those that train together."""
    tokenizer = Tokenizer.load(tokens / "tokenizer")
    check_settings(model, optimizer, config, generation, tokenizer.size)
    decoder = starting_model(model, config, tokenizer)
    sequence_length = data.sequence_length or decoder.config.context
    if sequence_length > decoder.config.context:
        raise HornbookError(
            f"rows of {sequence_length} tokens do not fit the model's context of"
            f" {decoder.config.context}",
            where="data.sequence_length", hint="Shorten the rows, or raise model.context",
        )  # fmt: skip
    rows = rows_per_step(config, sequence_length)
    source: BatchSource
    if data.feed is None:
        source = open_source(
            data, tokens, sequence_length, rows_per_step=rows, tokenizer_sha256=tokenizer.sha256
        )
    else:
        epoch = rows * EPOCH_STEPS
        source = open_feed(data, tokenizer, sequence_length, epoch, out, world)
    validation = ValidationLoss(
        tokens, sequence_length, config.evaluate_tokens, verify=data.verify, world=world
    )
    # As many as there are: a budget of minutes pays for these.
    config = dataclasses.replace(config, evaluate_tokens=validation.tokens)
    trainer = Trainer(
        decoder, source, NextToken(), config, optimizer, out,
        evaluate=lambda model: validation(model, trainer.micro_batch),
        sample=sampler(tokenizer, decoder.config.context, config, generation),
        attachments=tokenizer_files(tokens / "tokenizer"),
        prefetch=data.prefetch,
        world=world,
    )  # fmt: skip
    return trainer.fit()


def check_settings(
    model: ModelSettings,
    optimizer: OptimizerConfig,
    config: PretrainConfig,
    generation: GenerateConfig,
    vocabulary: int,
) -> None:
    """Refuse settings that cannot work, before an earlier result is moved away for them.

    Args:
        model: the architecture that is asked for.
        optimizer: learning rate and the like.
        config: how long, where, from what weights.
        generation: how samples are drawn.
        vocabulary: token ids of the tokenizer, or a guess where there is none yet.
    """
    check_training(config, optimizer)
    check_sampling(generation)
    if config.gpus > 1 and config.device != "cpu" and not in_company():
        check_gpus(config.gpus)  # counts them only, and so leaves their memory alone
    else:
        pick_device(config.device)
    if config.init is None:
        resolve(model, vocabulary)
    else:
        kind_of(Path(config.init))


def starting_model(
    settings: ModelSettings, config: PretrainConfig, tokenizer: Tokenizer
) -> Decoder:
    """The weights of `config.init`, or a model whose weights are yet to be drawn (on `meta`), for
    this tokenizer.

    With `config.init` the architecture is the one found there, and so is the dropout unless the
    settings name one; settings that ask for another architecture are refused, and so is a model
    that has no rows for some of the tokenizer's ids.
    """
    if config.init is None:
        with torch.device("meta"):  # each process draws its part, on its device (`place`)
            return Decoder(resolve(settings, tokenizer.size), initialise=False)
    decoder = initial_weights(Path(config.init))
    if decoder.config.vocabulary < tokenizer.size:
        raise HornbookError(
            f"this model has {decoder.config.vocabulary:,} token ids, the tokenizer"
            f" {tokenizer.size:,}",
            where=config.init,
            hint="Tokenize with its own tokenizer: --tokenize.kind file --tokenize.file DIR",
        )
    if dataclasses.replace(settings, dropout=None) != ModelSettings():
        wanted = resolve(settings, decoder.config.vocabulary)
        check_same_architecture(wanted, decoder, config.init)
    return decoder if settings.dropout is None else with_dropout(decoder, settings.dropout)


def with_dropout(decoder: Decoder, dropout: float) -> Decoder:
    """A model of the same weights (not copies of them) with another dropout, in training mode."""
    changed: dict[str, Any] = dict.fromkeys(DROPOUTS, dropout)
    other = Decoder(dataclasses.replace(decoder.config, **changed), initialise=False)
    other.load_state_dict(decoder.state_dict(), assign=True)
    return other


def tokenizer_files(folder: Path) -> dict[str, bytes | Path]:
    """The tokenizer, for each checkpoint; some name their end of text in a second file."""
    names = ("tokenizer.json", "tokenizer_config.json")
    return {name: folder / name for name in names if (folder / name).exists()}


def sampler(
    tokenizer: Tokenizer, context: int, config: PretrainConfig, generation: GenerateConfig
) -> Callable[[Decoder, int], list[dict[str, Any]]]:
    """A function of the model and the step that goes on from the fixed prompts.

    Raises `HornbookError` for a prompt longer than the context: now, not at the first sample.
    """
    settings = dataclasses.replace(generation, max_tokens=config.sample_tokens)
    prompts = config.sample_prompts or [""]
    encoded = [tokenizer.encode(prompt) for prompt in prompts]
    for number, ids in enumerate(encoded):
        if len(ids) > context:
            raise HornbookError(
                f"has {len(ids):,} tokens, the model's context holds {context:,}",
                where=f"pretrain.sample_prompts[{number}]", hint="Shorten the prompt",
            )  # fmt: skip

    def sample(model: Decoder, step: int) -> list[dict[str, Any]]:
        made = generate(model, encoded, settings, tokenizer=tokenizer)
        return [
            {"prompt": prompt, "text": generation.text}
            for prompt, generation in zip(prompts, made, strict=True)
        ]

    return sample
