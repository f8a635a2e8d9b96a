"""One way to get a model, wherever it lies.

In: a run directory, a checkpoint folder, or a Hugging Face directory of the four families. Out: a
`Decoder` (float32, in evaluation mode, on the CPU) and where its tokenizer is. No optimizer state
is read.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hornbook.errors import HornbookError
from hornbook.model.config import ModelConfig
from hornbook.model.decoder import Decoder
from hornbook.model.huggingface import import_directory
from hornbook.train.checkpoint import NOT_ARCHITECTURE, check_same_config, load_weights
from hornbook.train.checkpoint_files import (
    MANIFEST,
    MODEL,
    MODEL_CONFIG,
    Checkpoint,
    checkpoint_step,
    list_checkpoints,
    newest_good,
    stored_tensors,
)

Kind = Literal["run", "checkpoint", "huggingface"]

TOKENIZER = "tokenizer.json"
CHECKPOINTS = Path("pretrain") / "checkpoints"
"""Where the checkpoints of a run directory are."""


@dataclass
class LoadedModel:
    """A model to use. `step` is None for a Hugging Face directory."""

    decoder: Decoder
    tokenizer_file: Path
    kind: Kind
    step: int | None
    name: str


def load_model(path: Path, *, step: int | None = None) -> LoadedModel:
    """Load the model at `path`; of a run the newest whole checkpoint, or the one of `step`.

    Raises `HornbookError`: nothing there, nothing trained yet, no such step, unknown family, a
    damaged checkpoint, no tokenizer.
    """
    kind = kind_of(path)
    if kind == "huggingface":
        if step is not None:
            raise HornbookError("has no steps to choose from", where=path, hint="Leave --step out")
        tokenizer = _tokenizer(path)
        return LoadedModel(import_directory(path).eval(), tokenizer, kind, None, _name(path))
    checkpoint = _checkpoint_of_run(path, step) if kind == "run" else _checkpoint(path, step)
    tokenizer = _tokenizer(checkpoint.path)
    return LoadedModel(_decoder(checkpoint), tokenizer, kind, checkpoint.step, _name(path))


def initial_weights(path: Path) -> Decoder:
    """The model to start training from (`--init`), whatever its tokenizer; in training mode."""
    kind = kind_of(path)
    if kind == "huggingface":
        return import_directory(path).train()
    checkpoint = _checkpoint_of_run(path, None) if kind == "run" else _checkpoint(path, None)
    return _decoder(checkpoint).train()


def check_same_architecture(config: ModelConfig, decoder: Decoder, where: str | Path) -> None:
    """Refuse initial weights that are not of the architecture that a recipe asks for.

    `where` names the weights in the error, which lists each differing field. Rows of the embedding
    that only pad may differ.
    """
    ignore = NOT_ARCHITECTURE | {"vocabulary_rows"}
    check_same_config(config, decoder.config, where=where, ignore=ignore)


def kind_of(path: Path) -> Kind:
    """What lies at `path`."""
    if not path.exists():
        raise HornbookError(
            "no such folder", where=path,
            hint="Give a run directory, a checkpoint folder or a Hugging Face directory",
        )  # fmt: skip
    if (path / MODEL_CONFIG).is_file() and (path / MANIFEST).is_file():
        return "checkpoint"
    if (path / "config.json").is_file():
        return "huggingface"
    if (path / "recipe.yaml").is_file() or (path / CHECKPOINTS).is_dir():
        return "run"
    raise HornbookError(
        "is no run directory (recipe.yaml), checkpoint (model.json, manifest.json) or Hugging Face "
        "directory (config.json)",
        where=path,
        hint="Give the folder itself, for example runs/quickstart",
    )


def _checkpoint_of_run(run: Path, step: int | None) -> Checkpoint:
    folder = run / CHECKPOINTS
    if step is None:
        newest = newest_good(folder, optimizer=False)
        if newest is None:
            raise HornbookError(
                "nothing is trained here yet", where=run,
                hint="Train first: hornbook run or hornbook pretrain",
            )  # fmt: skip
        return newest
    kept = {checkpoint.step: checkpoint for checkpoint in list_checkpoints(folder)}
    if step not in kept:
        there = ", ".join(map(str, kept)) or "none"
        raise HornbookError(f"has no checkpoint of step {step}", where=run, hint=f"Kept: {there}")
    return _checked(kept[step])


def _checkpoint(path: Path, step: int | None) -> Checkpoint:
    found = checkpoint_step(path.resolve().name)
    checkpoint = Checkpoint(path, 0)
    if found is None:  # renamed by its owner
        found = int(checkpoint.state()["step"])
    if step not in (None, found):
        raise HornbookError(f"is of step {found}, not {step}", where=path, hint="Leave --step out")
    return _checked(Checkpoint(path, found))


def _checked(checkpoint: Checkpoint) -> Checkpoint:
    problem = checkpoint.problem(optimizer=False)
    if problem is not None:
        raise HornbookError(
            f"this checkpoint is damaged: {problem}", where=checkpoint.path,
            hint="Use another checkpoint of the run",
        )  # fmt: skip
    return checkpoint


def _decoder(checkpoint: Checkpoint) -> Decoder:
    decoder = Decoder(checkpoint.config(), initialise=False)
    stored = stored_tensors(checkpoint.path / MODEL)
    for name, parameter in decoder.named_parameters():
        if name in stored:  # perhaps in bfloat16 (pretrain.weights)
            parameter.data = parameter.data.to(stored[name][1])
    load_weights(checkpoint, decoder)
    return decoder.float().eval()


def _tokenizer(folder: Path) -> Path:
    path = folder / TOKENIZER
    if not path.is_file():
        raise HornbookError(
            f"has no {TOKENIZER}", where=folder,
            hint="Put the tokenizer.json that belongs to the model into the folder",
        )  # fmt: skip
    return path


def _name(path: Path) -> str:
    """A short name for tables: the run's, also for a checkpoint inside it."""
    path = path.resolve()
    if path.parent.name == CHECKPOINTS.name and path.parent.parent.name == CHECKPOINTS.parent.name:
        return path.parents[2].name
    return path.name
