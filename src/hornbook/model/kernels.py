"""Whether Triton kernels run on a device, and how many programs it runs at once.

In: a device. Out: an answer that is found once and kept. Triton comes with torch's CUDA wheels for
Linux and with no other, and needs a C compiler besides; where it does not work, each kernel of ours
has a plain form that computes the same, more slowly.
"""

from __future__ import annotations

import functools

import torch

from hornbook.progress import warn


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def kernels_work(device: torch.device) -> bool:
    """Whether Triton kernels can be compiled and run on this device; a warning says why not."""
    return device.type == "cuda" and _tried(device)


@functools.cache
def _tried(device: torch.device) -> bool:
    """By running one."""
    try:
        from hornbook.model.decode_kernels import likeliest

        likeliest(torch.zeros(1, 8, device=device))
    except Exception as error:  # a missing compiler, driver or header comes as any of many types
        warn(f"going on without Triton kernels, more slowly: {error}".splitlines()[0])
        return False
    return True


@functools.cache
def multiprocessors(device: torch.device) -> int:
    """Of a GPU; 1 for the CPU, on which kernels are interpreted."""
    if device.type != "cuda":
        return 1
    count: int = torch.cuda.get_device_properties(device).multi_processor_count
    return count
