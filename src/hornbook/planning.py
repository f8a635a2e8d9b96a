"""The `plan` verb: from a recipe, or from hours alone, to a prediction; and the recipe it writes.

In: the verb's words. Out: tables or JSON on stdout. What is predicted is `plan`'s; this file reads
the recipe and the text for it, and lets `train` rehearse real steps.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hornbook.errors import HornbookError, check_limits, nearest
from hornbook.recipe import (
    Recipe,
    build_recipe,
    built_in_recipes,
    check_keys,
    load_recipe,
    merge,
)

if TYPE_CHECKING:
    from jsonargparse import Namespace

    from hornbook.model.config import ModelConfig
    from hornbook.plan.device import Device
    from hornbook.plan.predict import Horizon, Prediction
    from hornbook.plan.setup import Wishes

KNOWN_VOCABULARIES = {"gpt2": 50257, "p50k_base": 50281, "cl100k_base": 100277, "phi2": 50295}
"""Token ids of the known tokenizers, without the sixteen special ones."""

SPECIAL_TOKENS = 16

CHARACTERS = 128
"""Of an English text, and the special ones."""

BUILT_IN_TEXTS = {"shakespeare": 5.06e6}
"""Bytes of the texts that `prepare` can fetch."""

PACKED = (".gz", ".zst", ".zip", ".parquet")
"""Ends of names of files that hold about three times their size in text."""


def plan(arguments: Namespace, overrides: dict[str, Any]) -> int:
    """Predict a run, or with `--write` design one; exit code 2 when it does not fit."""
    from hornbook.plan.device import find_device
    from hornbook.plan.predict import predict
    from hornbook.plan.show import as_json, tables

    _check_words(arguments)
    gpu = arguments.gpu
    recipe = None if arguments.write else _recipe(arguments.recipe, overrides)
    if recipe is not None and gpu == "this" and recipe.pretrain.device == "cpu":
        gpu = "cpu"
    device = find_device(gpu)
    gpus = recipe.pretrain.gpus if recipe else overrides.get("pretrain", {}).get("gpus") or 0
    if device.kind == "cpu" and gpus > 1:
        raise HornbookError(
            f"a processor counts once, not {gpus} times", where="--gpus",
            hint="Give --gpus 1, or name a --gpu",
        )  # fmt: skip
    note = ""
    if recipe is None:
        prediction, note, recipe = _design(arguments, overrides, device)
    else:
        horizon = _horizon(arguments, recipe)
        config, wishes = _wishes(arguments, recipe)
        _check_device(config, wishes, device)
        prediction = predict(
            recipe.name, config, wishes, device, horizon, arguments.price, _others(recipe, config)
        )
    if arguments.probe:
        if prediction.choice.setup.gpus > 1:
            raise HornbookError("--probe tries one GPU, not several", hint="Leave --gpus out")
        prediction = _rehearsed(prediction, recipe)
    if arguments.json:
        sys.stdout.write(json.dumps(as_json(prediction)) + "\n")
    else:
        from rich.console import Console

        console = Console(highlight=False, emoji=False)
        for part in tables(prediction, note):
            console.print(part)
    return 0 if prediction.fits else 2


def _check_words(arguments: Namespace) -> None:
    for name in ("hours", "tokens", "price"):
        value = getattr(arguments, name)
        if value is not None and not 0 <= value < math.inf:
            raise HornbookError(f"must be 0 or more, not {value:g}", where=f"--{name}")
    if arguments.hours and arguments.tokens:
        raise HornbookError("--hours and --tokens say the same thing twice", hint="Give one")
    if arguments.write and not arguments.hours:
        raise HornbookError("--write needs to know how long: give --hours")
    if arguments.write and arguments.recipe:
        raise HornbookError(
            "--write chooses the model itself, so it takes no recipe", where=arguments.recipe,
            hint="Leave the recipe out; to plan for it, leave --write out",
        )  # fmt: skip
    if not arguments.write and not arguments.recipe:
        raise HornbookError(
            "which recipe?", hint="`hornbook recipes` lists them; or --write FILE --hours H"
        )
    if arguments.probe and arguments.gpu not in ("this", "cpu"):
        raise HornbookError("--probe runs on this machine", where=f"--gpu {arguments.gpu}")


def _check_device(config: ModelConfig, wishes: Wishes, device: Device) -> None:
    """Refuse what the device cannot compute, as training would."""
    from hornbook.plan.fit import fuses_mlp

    if wishes.mlp == "fused" and not fuses_mlp(config, wishes, device):
        raise HornbookError(
            "fused is for 16 bits, families with GELU and NVIDIA GPUs that have bf16",
            where="pretrain.mlp", hint="Set it to auto",
        )  # fmt: skip
    problems = {
        "weights": "bf16" if wishes.weights == "bf16" and not device.bf16 else "",
        "precision": "bf16" if wishes.precision == "bf16" and not device.bf16 else "",
        "float8": "8-bit products" if wishes.float8 and not device.float8_flops else "",
    }
    for name, missing in problems.items():
        if missing and device.kind == "cuda":
            raise HornbookError(
                f"{device.name} has no {missing}", where=f"pretrain.{name}",
                hint="Leave that setting out, or take another --gpu",
            )  # fmt: skip


def _recipe(name: str, overrides: dict[str, Any]) -> Recipe:
    """The recipe of that name, file or run; or the defaults around a model size of that name."""
    from hornbook.model.presets import PRESETS

    if name in PRESETS and name not in built_in_recipes() and not Path(name).exists():
        check_keys(overrides, Recipe, "command line")
        tokenizer = {"gpt2": "gpt2", "phi": "phi2"}.get(PRESETS[name].family, "bpe")
        values = {"name": name, "tokenize": {"kind": tokenizer}, "model": {"preset": name}}
        return build_recipe(merge(values, overrides), name)
    if not Path(name).exists() and name not in built_in_recipes():
        raise HornbookError(
            "is neither a recipe, nor a file, nor a model size", where=name,
            hint=nearest(name, {*built_in_recipes(), *PRESETS}),
        )  # fmt: skip
    return load_recipe(name, overrides)


def _wishes(arguments: Namespace, recipe: Recipe) -> tuple[ModelConfig, Wishes]:
    """The architecture that the recipe means, and what it asks of the step."""
    from hornbook.model.presets import resolve

    config = resolve(recipe.model, _vocabulary(arguments, recipe))
    return config, wishes_of(recipe, config)


def wishes_of(recipe: Recipe, config: ModelConfig) -> Wishes:
    """What a recipe asks of the step of a model."""
    from hornbook.plan.setup import Wishes

    pretrain = recipe.pretrain
    length = recipe.data.sequence_length or config.context
    limits = [
        ("global_batch_tokens", pretrain.global_batch_tokens >= 1, "at least 1"),
        ("micro_batch", pretrain.micro_batch >= 0, "0 (chosen) or more"),
        ("gpus", pretrain.gpus >= 0, "0 (one) or more"),
        ("activation_budget", 0 <= pretrain.activation_budget <= 1, "between 0 and 1"),
        ("steps", pretrain.steps >= 0, "0 or more"),
        ("tokens", pretrain.tokens >= 0, "0 or more"),
        ("minutes", 0 <= pretrain.minutes < math.inf, "0 or more"),
    ]
    check_limits(pretrain, "pretrain", limits)
    names = {field.name for field in dataclasses.fields(Wishes)}
    given = {name: value for name, value in vars(pretrain).items() if name in names}
    given |= {
        "sequence_length": length,
        "optimizer": recipe.optimizer,
        "gpus": max(1, pretrain.gpus),
        "sharding": "fsdp" if pretrain.sharding == "hsdp" else pretrain.sharding,
    }
    return Wishes(**given)


def _others(recipe: Recipe, config: ModelConfig) -> dict[str, ModelConfig]:
    """The other presets as this recipe would have them, with its tokenizer and rows as long, by how
    to ask for each."""
    from hornbook.model.presets import PRESETS, resolve

    found = {}
    for name, preset in PRESETS.items():
        if config.family not in (preset.family, "phi"):
            continue  # Phi-2 is alone in its family
        settings, words = dataclasses.replace(recipe.model, preset=name), f"--model.preset {name}"
        if settings.context is None and preset.context != config.context:
            settings = dataclasses.replace(settings, context=config.context)
            words += f" --model.context {config.context}"
        with contextlib.suppress(HornbookError):  # it does not go with what the recipe sets besides
            found[words] = resolve(settings, config.vocabulary)
    return found


def _vocabulary(arguments: Namespace, recipe: Recipe) -> int:
    """Token ids of the tokenizer that the recipe will have."""
    from hornbook.plan.write import VOCABULARY

    tokenize = recipe.tokenize
    made = _run_folder(arguments) / "tokenize" / "tokenizer" / "tokenizer.json"
    if made.is_file() or (tokenize.kind == "file" and tokenize.file):
        from hornbook.tokenizer.tokenizer import Tokenizer

        return Tokenizer.load(made if made.is_file() else Path(str(tokenize.file))).size
    if tokenize.kind in KNOWN_VOCABULARIES:
        special = SPECIAL_TOKENS if tokenize.special_tokens else 0
        return KNOWN_VOCABULARIES[tokenize.kind] + special
    if tokenize.kind == "characters":
        return CHARACTERS
    if tokenize.vocabulary:
        return tokenize.vocabulary
    size = _text_bytes(arguments, recipe)
    if not size:
        return VOCABULARY
    from hornbook.tokenizer.build import fitting_vocabulary

    return fitting_vocabulary(int(size))


def _horizon(arguments: Namespace, recipe: Recipe) -> Horizon:
    """How long: what is said here, else what the recipe says; and how much text there is."""
    from hornbook.plan.loss import bytes_per_token
    from hornbook.plan.predict import Horizon

    unique, size = 0.0, bytes_per_token(_vocabulary(arguments, recipe))
    if recipe.tokenize.kind == "characters":
        size = 1.0
    manifest = _run_folder(arguments) / "tokenize" / "manifest.json"
    if manifest.is_file() and not arguments.text:
        from hornbook.tokens.manifest import Manifest

        totals = Manifest.read(manifest.parent).totals("train")
        unique, size = float(totals.tokens), totals.bytes / max(1, totals.tokens)
    elif text := _text_bytes(arguments, recipe):
        unique = text / size
    if arguments.tokens or arguments.hours:
        return Horizon(arguments.tokens, arguments.hours, unique, size)
    config = recipe.pretrain
    lengths = [config.tokens, config.steps * config.global_batch_tokens]
    tokens = min((length for length in lengths if length), default=0)
    return Horizon(float(tokens), config.minutes / 60, unique, size)


def _run_folder(arguments: Namespace) -> Path:
    """The run directory that was named, where one was."""
    named = Path(arguments.recipe)
    is_run = arguments.recipe not in ("", *built_in_recipes()) and (named / "recipe.yaml").is_file()
    return named if is_run else Path("no run directory")


def _text_bytes(arguments: Namespace, recipe: Recipe | None) -> float:
    """Bytes of text in what `--text` or the recipe names, where that is here; 0: not known."""
    from hornbook.gather.inputs import find_inputs

    named = [arguments.text] if arguments.text else recipe.prepare.inputs if recipe else []
    total = sum(BUILT_IN_TEXTS.get(name, 0.0) for name in named)
    if recipe and recipe.gather.sources and not arguments.text:
        total += recipe.gather.megabytes * 1e6
    here = [name for name in named if name not in BUILT_IN_TEXTS]
    if not arguments.text:
        here = [name for name in here if Path(name).exists()]  # a recipe may be from elsewhere
    for each in find_inputs(here) if here else ():
        total += sum(f.bytes * (3 if f.path.suffix in PACKED else 1) for f in each.files)
    return total


def _design(
    arguments: Namespace, overrides: dict[str, Any], device: Device
) -> tuple[Prediction, str, Recipe]:
    """Choose the model for the hours, and write its recipe."""
    import yaml

    from hornbook.files import write_text
    from hornbook.plan.predict import predict
    from hornbook.plan.write import design

    out = Path(arguments.write)
    gpus = max(1, overrides.get("pretrain", {}).get("gpus") or 1)
    made = design(
        arguments.hours, device, gpus=gpus, price=arguments.price, text=arguments.text,
        text_bytes=_text_bytes(arguments, None), name=out.stem,
    )  # fmt: skip
    check_keys(overrides, Recipe, "command line")
    values = merge(made.values, overrides)
    recipe = build_recipe(values, str(out))
    prediction = made.prediction
    beyond = merge(overrides, {"pretrain": {"gpus": 0}}) != {"pretrain": {"gpus": 0}}
    if beyond:  # what was chosen is not all that the recipe says
        plain = arguments.clone()
        plain.hours = 0.0
        horizon = _horizon(plain, recipe)
        config, wishes = _wishes(plain, recipe)
        _check_device(config, wishes, device)
        prediction = predict(recipe.name, config, wishes, device, horizon, arguments.price)
    words = ["--write", out.name, "--hours", f"{arguments.hours:g}", "--gpu", arguments.gpu]
    words += ["--gpus", str(gpus)] if gpus > 1 else []
    words += ["--text", arguments.text] if arguments.text else []
    header = f"# hornbook plan {shlex.join(words)}: {made.note}.\n"
    write_text(out, header + yaml.safe_dump(values, sort_keys=False, allow_unicode=True))
    hint = f"written to {out}: hornbook run {out}"
    if not arguments.text:
        hint += " --prepare.inputs YOUR-TEXT"
    return prediction, f"{made.note[0].upper()}{made.note[1:]}.\n{hint}", recipe


def _rehearsed(prediction: Prediction, recipe: Recipe) -> Prediction:
    """The prediction corrected by real steps, with the settings that they chose."""
    from hornbook.plan.predict import Probe, correct
    from hornbook.train.rehearsal import rehearse

    setup = prediction.choice.setup
    config = recipe.pretrain
    if prediction.device.kind == "cpu":
        config = dataclasses.replace(config, device="cpu")
    done = rehearse(prediction.config, setup.optimizer, config, setup.sequence_length)
    machine = done.machine
    chosen = dataclasses.replace(
        setup,
        micro_batch=machine.micro_batches[-1][1],
        precision=machine.precision,
        engine=machine.engine(),
        cuda_graph=machine.cuda_graph,
    )
    # Of a very large step only a part was rehearsed.
    probe = Probe(done.seconds * setup.rows / done.rows, float(done.peak))
    return correct(prediction, chosen, probe)
