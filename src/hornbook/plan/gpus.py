"""What GPUs can do by their data sheets, and what an hour of one costs.

In: a name (`h100`) or a device's own name ("NVIDIA H100 80GB HBM3"). Out: a `Gpu`. Peak FLOPs are
dense matrix products accumulated in float32, from NVIDIA's data sheets; memory is what CUDA reports
as the device's total, rounded down. Nothing here imports torch.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from hornbook.errors import HornbookError, nearest

PRICE_DATE = "March 2026"
"""When the prices were collected: RunPod's lowest on-demand ones as deploybase.ai listed them; GPUs
that are not in that list have a price of the same kind, remembered rather than looked up."""


Generation = Literal["volta", "turing", "ampere", "ada", "hopper", "blackwell"]


@dataclass(frozen=True)
class Gpu:
    """One kind of GPU.

    Attributes:
        name: as `--gpu` takes it.
        words: regular expression for the name that the device gives itself.
        memory: bytes.
        bandwidth: of the memory, bytes a second.
        flops: a second, bf16 (fp16 where the card has no bf16).
        price: US dollars an hour.
        generation: of its design; says which kernels it has.
        float8_flops: a second in 8 bits; None: the card has no such products.
        link: bytes a second that it sends to its neighbours in the same machine.
    """

    name: str
    words: str
    memory: float
    bandwidth: float
    flops: float
    price: float
    generation: Generation
    float8_flops: float | None = None
    link: float = 25e9

    @property
    def bf16(self) -> bool:
        """Whether its matrix units compute bf16 products."""
        return self.generation not in ("volta", "turing")


GPUS: tuple[Gpu, ...] = (
    Gpu("b200", "B200", 191e9, 8.0e12, 2250e12, 5.98, "blackwell", 4500e12, 900e9),
    Gpu("gh200", "GH200", 101e9, 4.0e12, 989e12, 1.99, "hopper", 1979e12, 450e9),
    Gpu("h200-nvl", "H200 NVL", 150e9, 4.8e12, 836e12, 3.39, "hopper", 1671e12, 450e9),
    Gpu("h200", "H200", 150e9, 4.8e12, 989e12, 3.59, "hopper", 1979e12, 450e9),
    Gpu("h100-pcie", "H100 PCIe", 85e9, 2.0e12, 756e12, 1.99, "hopper", 1513e12),
    Gpu("h100-nvl", "H100 NVL", 100e9, 3.9e12, 835e12, 2.59, "hopper", 1671e12, 300e9),
    Gpu("h100", "H100", 85e9, 3.35e12, 989e12, 2.69, "hopper", 1979e12, 450e9),
    Gpu("h800", "H800", 85e9, 3.35e12, 989e12, 2.69, "hopper", 1979e12, 200e9),
    Gpu("a100-40gb", "A100.*40GB", 42e9, 1.555e12, 312e12, 1.29, "ampere", link=300e9),
    Gpu("a100-80gb", "A100", 85e9, 2.0e12, 312e12, 1.39, "ampere", link=300e9),
    Gpu("a800", "A800", 85e9, 2.0e12, 312e12, 1.39, "ampere", link=200e9),
    Gpu("a6000", "A6000", 51e9, 0.768e12, 155e12, 0.49, "ampere"),
    Gpu("a40", "A40", 47.7e9, 0.696e12, 150e12, 0.40, "ampere"),
    Gpu("a10", "A10", 23.6e9, 0.6e12, 125e12, 0.75, "ampere"),
    Gpu("l40s", "L40S", 47.7e9, 0.864e12, 362e12, 0.79, "ada", 733e12),
    Gpu("l40", "L40", 47.7e9, 0.864e12, 181e12, 0.69, "ada", 362e12),
    Gpu("l4", "L4", 23.6e9, 0.3e12, 121e12, 0.44, "ada", 242e12),
    Gpu("rtx5090", "RTX 5090", 33.6e9, 1.792e12, 209e12, 0.69, "blackwell", 419e12),
    Gpu("rtx4090", "RTX 4090", 25.3e9, 1.008e12, 165e12, 0.34, "ada", 330e12),
    Gpu("rtx4080", "RTX 4080", 16.8e9, 0.717e12, 97e12, 0.25, "ada", 195e12),
    Gpu("rtx3090", "RTX 3090", 25.3e9, 0.936e12, 71e12, 0.22, "ampere"),
    Gpu("v100-32gb", "V100.*32GB", 34e9, 0.9e12, 125e12, 0.55, "volta", link=150e9),
    Gpu("v100", "V100", 16.9e9, 0.9e12, 125e12, 0.40, "volta", link=150e9),
    Gpu("t4", "T4", 15.6e9, 0.32e12, 65e12, 0.35, "turing"),
)
"""The known GPUs; of several whose words a device's name holds, the first counts."""

ALIASES = {"a100": "a100-80gb", "v100-16gb": "v100", "h100-sxm": "h100", "h200-sxm": "h200"}


def find_gpu(name: str) -> Gpu:
    """The GPU of that name, spelt with or without spaces, dashes and capitals."""
    plain = {_plain(gpu.name): gpu for gpu in GPUS}
    plain |= {_plain(alias): plain[_plain(known)] for alias, known in ALIASES.items()}
    gpu = plain.get(_plain(name)) or known_device(name)
    if gpu is None:
        raise HornbookError(
            f"there is no GPU {name!r} in the table",
            where="--gpu",
            hint=nearest(name.lower(), [*(gpu.name for gpu in GPUS), *ALIASES, "this", "cpu"]),
        )
    return gpu


def known_device(device_name: str) -> Gpu | None:
    """The GPU that calls itself `device_name` (torch.cuda.get_device_name()), where it is known."""
    for gpu in GPUS:
        if re.search(rf"\b{gpu.words}\b", device_name):
            return gpu
    return None


def peak_flops(device_name: str) -> float | None:
    """Dense bf16 (V100, T4: fp16) FLOPs a second of the device that calls itself so, if known."""
    gpu = known_device(device_name)
    return None if gpu is None else gpu.flops


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]", "", name.lower())
