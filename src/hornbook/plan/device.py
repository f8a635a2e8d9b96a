"""The device that a plan is for: from the table of GPUs, or the one that is here.

In: what `--gpu` says. Out: a `Device`. PyTorch is imported only to look at this machine: `this`,
`cpu`, and GPUs that the table does not know, whose ceilings are then measured in a second or two.
"""

from __future__ import annotations

import math
import os
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from hornbook.plan.gpus import Gpu, find_gpu, known_device
from hornbook.plan.measured import ALONE, COPY, CPU, HOPPER, RATES, Rates

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch


@dataclass(frozen=True)
class Device:
    """What a device can do.

    Attributes:
        name: for people.
        kind: `cuda` or `cpu`.
        memory: bytes.
        flops: a second, of matrix products in the narrow type.
        bandwidth: of its memory, bytes a second.
        link: bytes a second to another GPU of the machine.
        bf16: whether it computes bf16 well.
        float8_flops: a second in 8 bits; None: not at all.
        price: US dollars an hour; 0: not known.
        rates: shares of the above that real steps reach.
        measured: whether `rates` were measured on this kind of device.
    """

    name: str
    kind: Literal["cuda", "cpu"]
    memory: float
    flops: float
    bandwidth: float
    link: float
    bf16: bool
    float8_flops: float | None
    price: float
    rates: Rates
    measured: bool


def find_device(name: str) -> Device:
    """The device called `name`: a GPU of the table, `cpu`, or `this` (the GPU, else the processor).

    A Mac's GPU is not reckoned with: `this` is its processor.
    """
    if name in ("this", "cpu"):
        import torch

        if name == "this" and torch.cuda.is_available():
            gpu = known_device(torch.cuda.get_device_name())
            if gpu is None:
                return measure_gpu()
            # A part of a card (MIG) and a laptop's have the same name and less memory.
            memory = float(torch.cuda.get_device_properties(0).total_memory)
            return replace(_from_table(gpu), memory=memory)
        return measure_cpu()
    return _from_table(find_gpu(name))


def _from_table(gpu: Gpu) -> Device:
    rates = RATES[gpu.generation]
    return Device(
        name=gpu.name,
        kind="cuda",
        memory=gpu.memory,
        flops=gpu.flops,
        bandwidth=gpu.bandwidth,
        link=gpu.link,
        bf16=gpu.bf16,
        float8_flops=gpu.float8_flops,
        price=gpu.price,
        rates=rates,
        measured=rates.device == gpu.name,
    )


def measure_gpu() -> Device:
    """A GPU that the table does not know: its ceilings, by a large product and a copy."""
    import torch

    device = torch.device("cuda")
    bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    dtype = torch.bfloat16 if bf16 else torch.float16
    flops, bandwidth = _ceilings(device, dtype, 4096, 2**28, torch.cuda.synchronize)
    # Of what a data sheet would say these are shares.
    return Device(
        name=torch.cuda.get_device_name(),
        kind="cuda",
        memory=float(torch.cuda.get_device_properties(device).total_memory),
        flops=flops / ALONE,
        bandwidth=bandwidth / COPY,
        link=25e9,
        bf16=bf16,
        float8_flops=None,
        price=0.0,
        rates=HOPPER,
        measured=False,
    )


def measure_cpu() -> Device:
    """The processor here: a product of a small model's size, and a copy."""
    import torch

    device = torch.device("cpu")
    flops, bandwidth = _ceilings(device, torch.float32, 512, 2**24, lambda: None)
    threads = torch.get_num_threads()
    memory = math.inf  # not known
    if hasattr(os, "sysconf"):
        memory = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    return Device(
        name=f"this processor, {threads} thread{'s' if threads > 1 else ''}",
        kind="cpu",
        memory=memory,
        flops=flops,
        bandwidth=bandwidth,
        link=1e9,
        bf16=False,
        float8_flops=None,
        price=0.0,
        rates=CPU,
        measured=False,
    )


def _ceilings(
    device: torch.device, dtype: torch.dtype, size: int, copied: int, wait: Callable[[], None]
) -> tuple[float, float]:
    """FLOPs a second of a square product of `size`, bytes a second of a copy of `copied` bytes."""
    import torch

    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    source = torch.zeros(copied, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    product = _fastest(lambda: torch.mm(a, b), wait)
    copy = _fastest(lambda: target.copy_(source), wait)
    return 2 * size**3 / product, 2 * copied / copy


def _fastest(work: Callable[[], object], wait: Callable[[], None]) -> float:
    """Seconds of the fastest of ten runs, after one that does not count."""
    seconds = []
    for _ in range(11):
        wait()
        start = time.perf_counter()
        work()
        wait()
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])
