"""The elementwise parts of the updates in Triton: one launch for any number of parameters.

In: a table with one row a parameter, of the addresses of its tensors and its numbers (`launch.py`
makes it). Out: the tensors that the addresses point to, updated in place. Each kernel computes
what the PyTorch function of its name does, and takes its numbers in the same order. Imported only
where it runs: Triton comes with torch's CUDA wheels for Linux and with no other.

A launch for each parameter would keep the host busy longer than the device (80 us a parameter
through torch.compile, measured on an H200's host; Phi-2 has 450 of them).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

DTYPES = {
    torch.float32: tl.float32,
    torch.float16: tl.float16,
    torch.bfloat16: tl.bfloat16,
    torch.uint8: tl.uint8,
    torch.int8: tl.int8,
}

TINY = tl.constexpr(1.1754943508222875e-38)
"""The smallest normal float32."""

LARGEST_ROOT = tl.constexpr(1.9375)
"""As in `adamw8bit.py`."""


@triton.jit  # type: ignore[untyped-decorator]
def _row(table, owners, fields: tl.constexpr):  # type: ignore[no-untyped-def]
    """This program's parameter: its row of the table, and the program's number within it."""
    program = tl.program_id(0)
    row = table + tl.load(owners + program).to(tl.int64) * fields
    return row, program - tl.load(row + fields - 3).to(tl.int32)


@triton.jit  # type: ignore[untyped-decorator]
def _tensor(row, field: tl.constexpr, dtype: tl.constexpr, aligned: tl.constexpr):  # type: ignore[no-untyped-def]
    """The address of a tensor; aligned: a multiple of 16, so that whole vectors are loaded."""
    pointer = tl.load(row + field).to(tl.pointer_type(dtype))
    if aligned:
        pointer = tl.multiple_of(pointer, 16)
    return pointer


@triton.jit  # type: ignore[untyped-decorator]
def _elements(row, part, fields: tl.constexpr, block: tl.constexpr, aligned: tl.constexpr):  # type: ignore[no-untyped-def]
    """Numbers of this program's elements in the flat parameter, and which of them exist."""
    count = tl.load(row + fields - 4).to(tl.int32)
    if aligned:
        count = tl.multiple_of(count, 16)
    index = part * block + tl.arange(0, block)
    return index, index < count


@triton.jit
def _mix(bits):  # type: ignore[no-untyped-def]
    """`rounding.mix`, of uint32."""
    bits = bits ^ (bits >> 16)
    bits = bits * 0x7FEB352D
    bits = bits ^ (bits >> 15)
    bits = bits * 0x846CA68B
    return bits ^ (bits >> 16)


@triton.jit  # type: ignore[untyped-decorator]
def _random_bits(index, row, fields: tl.constexpr, step):  # type: ignore[no-untyped-def]
    """`rounding.random_bits`, uint32."""
    number = tl.load(row + fields - 2).to(tl.uint32)
    offset = tl.load(row + fields - 1).to(tl.uint32)
    seed = _mix(_mix(step.to(tl.uint32)) ^ number)
    return _mix((index.to(tl.uint32) + offset) ^ seed)


@triton.jit
def _store_weight(pointer, value, bits, mask):  # type: ignore[no-untyped-def]
    """Store float32 values; into bfloat16 as `rounding.round_stochastically` does."""
    if pointer.dtype.element_ty == tl.bfloat16:
        noisy = value.to(tl.uint32, bitcast=True) + (bits & 0xFFFF)
        rounded = (noisy & 0xFFFF0000).to(tl.float32, bitcast=True)
        value = tl.where(tl.abs(value) < float("inf"), rounded, value)
    tl.store(pointer, value.to(pointer.dtype.element_ty), mask=mask)


@triton.jit
def _skipped(found_inf):  # type: ignore[no-untyped-def]
    """Whether this step is to change nothing."""
    skipped = False
    if found_inf is not None:
        skipped = tl.load(found_inf) != 0.0
    return skipped


@triton.jit
def _adam_direction(first, second, step, beta1, beta2, epsilon):  # type: ignore[no-untyped-def]
    """`adamw.adam_direction`."""
    correction1 = 1.0 - tl.where(beta1 > 0, tl.exp2(step * tl.log2(beta1)), 0.0)
    correction2 = 1.0 - tl.where(beta2 > 0, tl.exp2(step * tl.log2(beta2)), 0.0)
    root = tl.sqrt(second) * (1.0 / tl.sqrt(correction2))
    return first * (1.0 / correction1) / (root + epsilon)


@triton.jit  # type: ignore[untyped-decorator]
def _moved(weight, direction, rate, decay, cautious: tl.constexpr):  # type: ignore[no-untyped-def]
    """The weight after `adamw.decayed` and the update."""
    lost = decay * weight
    if cautious:
        lost = tl.where(direction * weight >= 0, lost, 0.0)
    return weight - lost - rate * direction


@triton.jit  # type: ignore[untyped-decorator]
def adamw_kernel(  # type: ignore[no-untyped-def]
    table, owners, found_inf, rate, decay, beta1, beta2, epsilon,
    cautious: tl.constexpr, dtypes: tl.constexpr, fields: tl.constexpr, aligned: tl.constexpr,
    block: tl.constexpr,
):  # fmt: skip
    """`adamw.adamw_kernel`. Tensors: weight, gradient, exp_avg, exp_avg_sq."""
    if _skipped(found_inf):
        return
    row, part = _row(table, owners, fields)
    index, inside = _elements(row, part, fields, block, aligned)
    weights = _tensor(row, 0, dtypes[0], aligned) + index
    gradients = _tensor(row, 1, dtypes[1], aligned) + index
    firsts = _tensor(row, 2, tl.float32, aligned) + index
    seconds = _tensor(row, 3, tl.float32, aligned) + index
    step = tl.load(_tensor(row, 4, tl.float32, False))
    weight = tl.load(weights, mask=inside).to(tl.float32)
    gradient = tl.load(gradients, mask=inside).to(tl.float32)
    first = tl.load(firsts, mask=inside)
    second = tl.load(seconds, mask=inside)
    first += (1.0 - beta1) * (gradient - first)
    second += (1.0 - beta2) * (gradient * gradient - second)
    direction = _adam_direction(first, second, step, beta1, beta2, epsilon)
    value = _moved(weight, direction, rate, decay, cautious)
    _store_weight(weights, value, _random_bits(index, row, fields, step), inside)
    tl.store(firsts, first, mask=inside)
    tl.store(seconds, second, mask=inside)


@triton.jit  # type: ignore[untyped-decorator]
def adamw8bit_kernel(  # type: ignore[no-untyped-def]
    table, owners, found_inf, rate, decay, beta1, beta2, epsilon,
    cautious: tl.constexpr, dtypes: tl.constexpr, fields: tl.constexpr, aligned: tl.constexpr,
    columns: tl.constexpr, padded: tl.constexpr, blocks: tl.constexpr,
):  # fmt: skip
    """`adamw8bit.adamw8bit_kernel`. Tensors: weight, gradient, root codes, root scales, ratio
    codes, ratio scales; [blocks, columns] of them a program, scales [blocks]."""
    if _skipped(found_inf):
        return
    row, part = _row(table, owners, fields)
    count = tl.load(row + fields - 4).to(tl.int32)  # of blocks
    block = part * blocks + tl.arange(0, blocks)
    column = tl.arange(0, padded)[None, :]
    exists = block < count
    inside = exists[:, None] & (column < columns)
    index = block[:, None] * columns + column
    weights = _tensor(row, 0, dtypes[0], aligned) + index
    gradients = _tensor(row, 1, dtypes[1], aligned) + index
    root_codes = _tensor(row, 2, tl.uint8, aligned) + index
    root_scales = _tensor(row, 3, tl.float32, False) + block
    ratio_codes = _tensor(row, 4, tl.int8, aligned) + index
    ratio_scales = _tensor(row, 5, tl.float32, False) + block
    step = tl.load(_tensor(row, 6, tl.float32, False))

    weight = tl.load(weights, mask=inside).to(tl.float32)
    gradient = tl.load(gradients, mask=inside, other=0.0).to(tl.float32)
    root = _root(tl.load(root_codes, mask=inside, other=0).to(tl.int32))
    root *= tl.load(root_scales, mask=exists, other=0.0)[:, None]
    ratio = tl.load(ratio_codes, mask=inside, other=0).to(tl.float32)
    first = ratio * tl.load(ratio_scales, mask=exists, other=0.0)[:, None] * root
    first += (1.0 - beta1) * (gradient - first)
    second = root * root
    second += (1.0 - beta2) * (gradient * gradient - second)
    direction = _adam_direction(first, second, step, beta1, beta2, epsilon)
    value = _moved(weight, direction, rate, decay, cautious)
    bits = _random_bits(index, row, fields, step)
    _store_weight(weights, value, bits, inside)

    root = tl.where(inside, tl.sqrt(second), 0.0)
    scale = tl.max(root, axis=1) / LARGEST_ROOT
    tl.store(root_scales, scale, mask=exists)
    scaled = root * (1.0 / tl.maximum(scale, TINY))[:, None]
    noisy = scaled.to(tl.uint32, bitcast=True) + (((bits >> 16) & 0xFF) << 11) + (1 << 10)
    code = tl.maximum((noisy >> 19).to(tl.int32) - 1792, 0)
    tl.store(root_codes, code.to(tl.uint8), mask=inside)
    ratio = first / tl.maximum(_root(code) * scale[:, None], TINY)
    ratio = tl.where(inside, ratio, 0.0)
    scale = tl.max(tl.abs(ratio), axis=1) / 127.0
    tl.store(ratio_scales, scale, mask=exists)
    scaled = ratio * (1.0 / tl.maximum(scale, TINY))[:, None]
    # Floats by their bits, as conversions take eight times as long as additions: 1 + bits / 256,
    # and a sum whose low bits are the nearest integer.
    chance = (((bits >> 9) & 0x7F8000) | 0x3F800000).to(tl.float32, bitcast=True)
    nearest = (scaled + (chance - (1.5 - 1 / 512)) + 12582912.0).to(tl.int32, bitcast=True)
    tl.store(ratio_codes, nearest.to(tl.int8), mask=inside)


@triton.jit
def _root(code):  # type: ignore[no-untyped-def]
    """`adamw8bit.decode_root` before the scale; of int32."""
    return ((code + 1792) << 19).to(tl.float32, bitcast=True)


@triton.jit  # type: ignore[untyped-decorator]
def momentum_kernel(  # type: ignore[no-untyped-def]
    table, owners, found_inf, momentum,
    dtypes: tl.constexpr, fields: tl.constexpr, aligned: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """`muon.momentum_kernel`. Tensors: gradient, momentum_buffer, update."""
    if _skipped(found_inf):
        return
    row, part = _row(table, owners, fields)
    index, inside = _elements(row, part, fields, block, aligned)
    gradients = _tensor(row, 0, dtypes[0], aligned) + index
    buffers = _tensor(row, 1, tl.float32, aligned) + index
    updates = _tensor(row, 2, dtypes[2], aligned) + index
    gradient = tl.load(gradients, mask=inside).to(tl.float32)
    buffer = tl.load(buffers, mask=inside)
    buffer += (1.0 - momentum) * (gradient - buffer)
    tl.store(buffers, buffer, mask=inside)
    update = gradient + momentum * (buffer - gradient)
    tl.store(updates, update.to(updates.dtype.element_ty), mask=inside)


@triton.jit  # type: ignore[untyped-decorator]
def apply_kernel(  # type: ignore[no-untyped-def]
    table, owners, found_inf, rate, decay,
    cautious: tl.constexpr, dtypes: tl.constexpr, fields: tl.constexpr, aligned: tl.constexpr,
    block: tl.constexpr,
):  # fmt: skip
    """`muon.apply_kernel`. Tensors: weight, direction."""
    if _skipped(found_inf):
        return
    row, part = _row(table, owners, fields)
    index, inside = _elements(row, part, fields, block, aligned)
    weights = _tensor(row, 0, dtypes[0], aligned) + index
    directions = _tensor(row, 1, dtypes[1], aligned) + index
    step = tl.load(_tensor(row, 2, tl.float32, False))
    direction = tl.load(directions, mask=inside).to(tl.float32)
    weight = tl.load(weights, mask=inside).to(tl.float32)
    value = _moved(weight, direction, rate, decay, cautious)
    _store_weight(weights, value, _random_bits(index, row, fields, step), inside)
