"""A model as a stock Hugging Face directory.

In: a run, a checkpoint or a Hugging Face directory. Out: a folder that `transformers`, and whatever
else reads its format, loads without knowing of us: config.json, safetensors, tokenizer.json,
tokenizer_config.json, generation_config.json, README.md (the model card), and `hornbook.json`,
which marks the folder as an export and says where it came from.

The folder appears whole or not at all: it is written beside its place and renamed.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hornbook import __version__
from hornbook.errors import HornbookError
from hornbook.files import TEMPORARY, disk_errors, read_json, sync_folder, write_json, write_text
from hornbook.model.huggingface import export_weights, exported_rows, stock_config
from hornbook.publish.card import model_card
from hornbook.publish.weights import write_weights
from hornbook.tokenizer.special import PAD
from hornbook.tokenizer.tokenizer import Tokenizer
from hornbook.train.load import LoadedModel, load_model

MARKER = "hornbook.json"
"""A folder with this file is an export, and may be replaced by another."""

KEPT = "stage.json"
"""The record of the stage that writes the folder; it is not the export's and stays."""

FROM_STOCK = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "generation_config.json",
)
"""Files that a Hugging Face source decides itself."""


def export(source: Path, out: Path) -> Path:
    """Write the model in `source` to the folder `out`; returns `out`.

    Args:
        source: a run directory (its newest good checkpoint), a checkpoint, or a Hugging Face
            directory of a known family.
        out: the folder to make. A previous export there is replaced; any other folder that has
            something in it is refused.

    Raises:
        HornbookError: `source` holds no model, or `out` is something else already.
    """
    _refuse_foreign(out)
    loaded = load_model(source)
    tokenizer = Tokenizer.load(loaded.tokenizer_file)
    temporary = out.with_name(out.name + TEMPORARY)
    with disk_errors(out):
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        try:
            _write(loaded, tokenizer, source, temporary)
            _sync(temporary)
            _put_in_place(temporary, out)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
    return out


def _write(loaded: LoadedModel, tokenizer: Tokenizer, source: Path, folder: Path) -> None:
    """Write every file of the export into `folder`."""
    config = loaded.decoder.config
    if tokenizer.size > exported_rows(config):
        raise HornbookError(
            f"has {tokenizer.size:,} ids, the model only {exported_rows(config):,}",
            where=loaded.tokenizer_file, hint="Is it the model's own tokenizer?",
        )  # fmt: skip
    stock = source if loaded.kind == "huggingface" else None
    ids = _special_ids(tokenizer, stock)
    stock_json = {**stock_config(config), **ids}
    write_weights(export_weights(loaded.decoder), folder)
    write_json(folder / "config.json", stock_json)
    shutil.copyfile(loaded.tokenizer_file, folder / "tokenizer.json")
    write_json(folder / "tokenizer_config.json", _tokenizer_config(tokenizer, config.context))
    write_json(folder / "generation_config.json", ids)
    if stock is not None:
        for file in FROM_STOCK:
            if (stock / file).is_file():
                shutil.copyfile(stock / file, folder / file)
    write_text(folder / "README.md", model_card(loaded, tokenizer, source))
    write_json(
        folder / MARKER,
        {"hornbook": __version__, "model": loaded.name, "step": loaded.step, "kind": loaded.kind},
    )


def _special_ids(tokenizer: Tokenizer, stock: Path | None) -> dict[str, Any]:
    """bos, eos and pad ids for config.json: as the stock source has them, else end-of-text."""
    names = ("bos_token_id", "eos_token_id", "pad_token_id")
    if stock is not None:
        source = read_json(stock / "config.json")
        return {name: source[name] for name in names if source.get(name) is not None}
    pad = tokenizer.special_ids.get(PAD, tokenizer.end_of_text)
    return dict(zip(names, (tokenizer.end_of_text, tokenizer.end_of_text, pad), strict=True))


def _tokenizer_config(tokenizer: Tokenizer, context: int) -> dict[str, Any]:
    """What AutoTokenizer needs beside tokenizer.json."""
    names = {id: name for name, id in tokenizer.special_ids.items()}
    end = names[tokenizer.end_of_text]
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": context,
        "bos_token": end,
        "eos_token": end,
        "pad_token": PAD if PAD in tokenizer.special_ids else end,
        "clean_up_tokenization_spaces": False,
    }


def _refuse_foreign(out: Path) -> None:
    """Refuse to replace what is no export of ours."""
    if not out.exists():
        return
    contents = {path.name for path in out.iterdir()} if out.is_dir() else {"a file"}
    if contents - {KEPT} and MARKER not in contents:
        raise HornbookError(
            "exists and is not an earlier export, so it is not replaced", where=out,
            hint="Give another folder with --out",
        )  # fmt: skip


def _sync(folder: Path) -> None:
    """Flush every file to the disk, so that the rename brings them whole."""
    for path in _files(folder):
        with open(path, "rb") as handle:
            os.fsync(handle.fileno())
    sync_folder(folder)


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())


def _put_in_place(temporary: Path, out: Path) -> None:
    """Rename `temporary` to `out`, an earlier export out of the way; its stage record stays."""
    old = out.with_name(out.name + ".old" + TEMPORARY)
    shutil.rmtree(old, ignore_errors=True)
    if out.exists():
        if (out / KEPT).exists():
            shutil.copyfile(out / KEPT, temporary / KEPT)
        os.replace(out, old)
    os.replace(temporary, out)
    sync_folder(out.resolve().parent)
    shutil.rmtree(old, ignore_errors=True)
