"""Weights as stock safetensors.

In: tensors by stock name. Out: `model.safetensors`, or shards of about 5 GB with an index, named as
`transformers` names them.
"""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from hornbook.files import write_json
from hornbook.progress import bar

SHARD_BYTES = 5 * 10**9
"""Largest shard; a larger tensor gets a shard of its own."""

METADATA = {"format": "pt"}
"""`transformers` refuses safetensors without it."""


def write_weights(
    tensors: dict[str, Tensor], folder: Path, *, shard_bytes: int = SHARD_BYTES
) -> list[Path]:
    """Write `tensors` into `folder`, and the index where there is more than one shard."""
    shards = _shards(tensors, shard_bytes)
    paths = []
    location: dict[str, str] = {}
    with bar("writing weights", len(shards)) as progress:
        for number, names in enumerate(shards, start=1):
            path = folder / _name(number, len(shards))
            held = {name: tensors[name].detach().cpu().contiguous() for name in names}
            save_file(held, path, metadata=METADATA)
            location |= dict.fromkeys(names, path.name)
            paths.append(path)
            progress.advance()
    if len(shards) > 1:
        total = sum(tensor.nbytes for tensor in tensors.values())
        index = {"metadata": {"total_size": total}, "weight_map": location}
        write_json(folder / "model.safetensors.index.json", index)
    return paths


def _name(number: int, count: int) -> str:
    return "model.safetensors" if count == 1 else f"model-{number:05d}-of-{count:05d}.safetensors"


def _shards(tensors: dict[str, Tensor], shard_bytes: int) -> list[list[str]]:
    """Names in order, cut where a shard would grow beyond `shard_bytes`."""
    shards: list[list[str]] = [[]]
    size = 0
    for name, tensor in tensors.items():
        if shards[-1] and size + tensor.nbytes > shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += tensor.nbytes
    return shards
