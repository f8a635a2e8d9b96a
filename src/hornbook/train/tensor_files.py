"""Safetensors files written without holding up the thread that trains.

In: CPU tensors by name. Out: a file in the stock format (8 bytes with the header's length, the
header as JSON, the raw bytes one after the other), durable, and its sha256. Any safetensors reader
reads it; parts of larger tensors say where they belong as `torch.distributed.checkpoint` has it.

`safetensors.torch.save` keeps Python's lock while it copies and encodes all tensors, so that no
other thread can go on: of 0.8 GB, 1.0 s in stretches of up to 0.25 s. Here only `write` and
`sha256.update` touch the bytes, and both let go of it: 0.02 s.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

CHUNK = 16 * 2**20
"""Bytes hashed and written at a time."""

DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


@dataclass(frozen=True)
class Part:
    """A contiguous CPU tensor, and where it lies in the whole one: the index of its first element
    in each dimension."""

    tensor: Tensor
    offsets: tuple[int, ...]


@dataclass(frozen=True)
class Entry:
    """What a manifest says of a file."""

    bytes: int
    sha256: str


def write_file(path: Path, parts: Mapping[str, Part]) -> Entry:
    """Write a safetensors file; durable when this returns."""
    # The widest types first: every tensor then begins at a multiple of its element size.
    ordered = dict(sorted(parts.items(), key=lambda item: -item[1].tensor.element_size()))
    digest, size = hashlib.sha256(), 0
    with open(path, "wb", buffering=0) as file:
        for data in (_header(ordered), *(_bytes_of(part.tensor) for part in ordered.values())):
            for start in range(0, len(data), CHUNK):
                chunk = data[start : start + CHUNK]
                digest.update(chunk)
                while len(chunk):
                    chunk = chunk[file.write(chunk) :]
            size += len(data)
        os.fsync(file.fileno())
    return Entry(size, digest.hexdigest())


def _header(parts: Mapping[str, Part]) -> memoryview:
    """The header and its length, padded with spaces to a multiple of 8 bytes."""
    entries: dict[str, object] = {
        "__metadata__": {
            "format": "pt",
            "DCP_VERSION": "1.0",
            "DCP_SHARDING_INFO": json.dumps(
                {name: {"saved_offsets": part.offsets} for name, part in parts.items()}
            ),
        }
    }
    begin = 0
    for name, part in parts.items():
        end = begin + part.tensor.nbytes
        entries[name] = {
            "dtype": DTYPES[part.tensor.dtype],
            "shape": list(part.tensor.shape),
            "data_offsets": [begin, end],
        }
        begin = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return memoryview(len(text).to_bytes(8, "little") + text)


def _bytes_of(tensor: Tensor) -> memoryview:
    return memoryview(tensor.reshape(-1).view(torch.uint8).numpy())  # type: ignore[arg-type]
