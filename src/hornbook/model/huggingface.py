"""Stock Hugging Face directories in, stock weights and config.json out.

In: a folder with `config.json` and `*.safetensors` of one of the four families, or our decoder.
Out: our decoder in float32, or stock tensors and a stock configuration. Nothing is downloaded, and
no pickle is read.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from hornbook.errors import HornbookError
from hornbook.files import read_json
from hornbook.model.config import ModelConfig
from hornbook.model.decoder import Decoder
from hornbook.model.families import FAMILIES, STOCK, Family, Slice, Weight
from hornbook.model.families.family import StockConfig, require

INDEX = "model.safetensors.index.json"
BUFFERS = (".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq")
"""Ends of stock tensors that are no weights: constants that old releases wrote."""


def config_from_stock(stock: StockConfig) -> ModelConfig:
    """The architecture that a `config.json` describes.

    Raises:
        HornbookError: another family, or a setting that would change the arithmetic.
    """
    kind = stock.get("model_type")
    if kind not in STOCK:
        raise HornbookError(
            f"the model family {kind!r} is not supported",
            where="config.json",
            hint=f"Supported: {', '.join(STOCK)}",
        )
    if stock.get("quantization_config"):
        raise HornbookError(
            "the weights are quantised, which is not supported",
            where="config.json",
            hint="Use the directory of the model before quantisation",
        )
    return FAMILIES[kind].from_stock(stock)


def stock_config(
    config: ModelConfig,
    *,
    bos_token_id: int | None = None,
    eos_token_id: int | None = None,
    dtype: str = "float32",
) -> StockConfig:
    """The complete contents of `config.json` for what `export_weights` gives.

    Args:
        config: the architecture.
        bos_token_id: id that begins a text, if any.
        eos_token_id: id that ends a text, if any.
        dtype: torch's name of the dtype that the weights are written in.
    """
    family = FAMILIES[config.family]
    return {
        "architectures": [family.stock_class],
        "model_type": family.name,
        "vocab_size": exported_rows(config),
        **family.to_stock(config),
        "bos_token_id": bos_token_id,
        "eos_token_id": eos_token_id,
        "use_cache": True,
        "dtype": dtype,
        "torch_dtype": dtype,  # the key's name in transformers 4
    }


def exported_rows(config: ModelConfig) -> int:
    """`vocab_size` of the exported model."""
    return config.vocabulary if config.exported_rows is None else config.exported_rows


@torch.no_grad()
def export_weights(decoder: Decoder) -> dict[str, Tensor]:
    """The weights under their stock names and in their stock shapes.

    Dtype and device are the decoder's. Tensors may be views of the decoder's parameters. A tied
    head is left out, as stock directories do.
    """
    config = decoder.config
    ours = decoder.state_dict()
    stock: dict[str, Tensor] = {}
    for weight in FAMILIES[config.family].weights(config):
        tensor = ours[weight.name]
        if weight.vocabulary:
            stock[weight.stock[0].name] = tensor[: exported_rows(config)]
            continue
        parts = tensor.split([part.rows for part in weight.stock])
        for part, piece in zip(weight.stock, parts, strict=True):
            stock[part.name] = piece.t().contiguous() if weight.transposed else piece
    return stock


def import_directory(folder: Path) -> Decoder:
    """The model of a stock directory, on the CPU in float32, in evaluation mode.

    Args:
        folder: holds config.json and model.safetensors (or its shards and their index).

    Raises:
        HornbookError: an unsupported family or setting; tensors that are missing, misshapen or
            unknown; no safetensors files.
    """
    stock = read_json(folder / "config.json")
    if not isinstance(stock, dict):
        raise HornbookError("is not a JSON object", where=folder / "config.json")
    try:
        config = config_from_stock(stock)
        decoder = Decoder(config, initialise=False)
    except HornbookError as error:
        raise HornbookError(error.what, where=folder / "config.json", hint=error.hint) from None
    with StockTensors(folder, FAMILIES[config.family]) as tensors:
        tensors.fill(decoder)
    return decoder.eval()


class StockTensors(contextlib.ExitStack):
    """The tensors of a stock directory by name, read one at a time."""

    def __init__(self, folder: Path, family: Family):
        super().__init__()
        self._folder, self._family = folder, family
        self._sources: dict[str, Any] = {}
        for path in _weight_files(folder):
            with _readable(path):
                opened = self.enter_context(safe_open(path, framework="pt"))
                self._sources.update(dict.fromkeys(opened.keys(), opened))
        # Directories saved without a head (GPT-2's own, for one) lack the prefix.
        prefixed = any(name.startswith(family.base_prefix) for name in self._sources)
        self._dropped_prefix = "" if prefixed else family.base_prefix

    @torch.no_grad()
    def fill(self, decoder: Decoder) -> None:
        """Copy every weight into `decoder`; complain about what is missing or left over."""
        parameters = dict(decoder.named_parameters())
        wanted: set[str] = set()
        for weight in self._family.weights(decoder.config):
            parameter = parameters[weight.name]
            pieces = [self._piece(weight, part, parameter) for part in weight.stock]
            parameter.copy_(torch.cat(pieces) if len(pieces) > 1 else pieces[0])
            wanted.update(self._name(part.name) for part in weight.stock)
        left = {name for name in set(self._sources) - wanted if not name.endswith(BUFFERS)}
        if decoder.config.tied and "lm_head.weight" in left:
            self._check_tied(decoder.embedding.weight)
            left.remove("lm_head.weight")
        if left:
            raise HornbookError(
                f"holds {len(left)} tensors that a stock {self._family.name} model lacks, "
                f"such as {min(left)!r}",
                where=self._folder,
                hint="Its configuration or architecture is not the stock one",
            )

    def _name(self, stock_name: str) -> str:
        return stock_name.removeprefix(self._dropped_prefix)

    def _piece(self, weight: Weight, part: Slice, parameter: Tensor) -> Tensor:
        """One stock tensor, turned our way and checked: the rows of `parameter` that it fills."""
        name = self._name(part.name)
        tensor = self._read(name)
        piece = tensor.t() if weight.transposed else tensor
        if piece.shape != (part.rows, *parameter.shape[1:]):
            raise HornbookError(
                f"tensor {name!r} has shape {list(tensor.shape)}, which does not fit config.json",
                where=self._folder,
                hint="config.json and the weights are of different models",
            )
        return piece

    def _read(self, name: str) -> Tensor:
        if name not in self._sources:
            raise HornbookError(
                f"the tensor {name!r} is missing",
                where=self._folder,
                hint="Get the directory again, with all of its *.safetensors files",
            )
        tensor: Tensor = self._sources[name].get_tensor(name)
        return tensor

    def _check_tied(self, embedding: Tensor) -> None:
        if not torch.equal(self._read("lm_head.weight").to(embedding.dtype), embedding):
            raise HornbookError(
                "config.json ties head and embedding, but the weights hold two that differ",
                where=self._folder,
                hint="Set tie_word_embeddings to false in config.json if the head is its own",
            )


def _weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a model: those of its index, or all there are."""
    if (folder / INDEX).is_file():
        names = set(require(read_json(folder / INDEX), "weight_map", where=INDEX).values())
        # Only names: an index that points outside its folder is not followed.
        return sorted(folder / Path(name).name for name in names)
    paths = sorted(folder.glob("*.safetensors"))
    if not paths and any(folder.glob("*.bin")):
        raise HornbookError(
            "has weights only as pickle (*.bin), which can run code and is not read",
            where=folder,
            hint="Load it with transformers and save it with save_pretrained(...)",
        )
    if not paths:
        raise HornbookError(
            "has no *.safetensors files",
            where=folder,
            hint="Give the directory of a Hugging Face model",
        )
    return paths


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Say clearly that a weight file is missing or damaged."""
    try:
        yield
    except (SafetensorError, OSError) as error:
        raise HornbookError(
            f"is not a readable safetensors file ({error})",
            where=path,
            hint="Get the file again",
        ) from error
