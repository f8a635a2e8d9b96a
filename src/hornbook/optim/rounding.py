"""Stochastic rounding to bfloat16, with random bits that need no generator.

In: float32 values, and where they lie (parameter, element, step). Out: bfloat16 values whose mean
is the float32 value. An update of less than half a bfloat16 step (1/256 of the weight), lost by
rounding to nearest, is so kept in the mean (arXiv:2010.06192, section 4).

The random bits are a hash of (parameter, element, step): nothing is to be saved for a resumed run
to draw the same, any number of processes draws the same, and it fuses into the update's one pass.
"""

from __future__ import annotations

import torch
from torch import Tensor

LOW_16 = 0xFFFF


def mix(bits: Tensor) -> Tensor:
    """A bijective hash of int32 numbers: Wellons' `lowbias32` (github.com/skeeto/hash-prospector).

    int32 and not uint32, which PyTorch hardly computes with; products wrap around alike, and the
    masks make up for shifts that copy the sign.
    """
    bits = bits ^ ((bits >> 16) & 0xFFFF)
    bits = bits * 0x7FEB352D
    bits = bits ^ ((bits >> 15) & 0x1FFFF)
    bits = bits * (0x846CA68B - 2**32)
    return bits ^ ((bits >> 16) & 0xFFFF)


def random_bits(like: Tensor, step: Tensor, number: int, offset: int) -> Tensor:
    """Uniform int32 numbers, one for each element of `like`.

    Args:
        like: gives shape and device.
        step: no dimensions: the number of the step.
        number: the parameter's number.
        offset: the number of the first element, within int32.
    """
    index = torch.arange(like.numel(), dtype=torch.int32, device=like.device).view(like.shape)
    seed = mix(mix(step.to(torch.int32)) ^ number)
    return mix((index + offset) ^ seed)


def round_stochastically(value: Tensor, bits: Tensor) -> Tensor:
    """float32 -> bfloat16: up or down, with the chance that keeps the mean.

    Args:
        value: float32.
        bits: int32; the lowest 16 bits are used.
    """
    # Adding a uniform number below the kept bits carries over exactly as often as it should.
    noisy = value.view(torch.int32) + (bits & LOW_16)
    rounded = (noisy & ~LOW_16).view(torch.float32)
    return torch.where(torch.isfinite(value), rounded, value).bfloat16()


def new_weight(weight: Tensor, value: Tensor, step: Tensor, number: int, offset: int) -> Tensor:
    """`value` (float32) in the dtype of `weight`, rounded stochastically if that is bfloat16.

    The other arguments are those of `random_bits`.
    """
    if weight.dtype is not torch.bfloat16:
        return value
    return round_stochastically(value, random_bits(weight, step, number, offset))
