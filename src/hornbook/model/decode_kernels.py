"""Triton kernels for one token of each row: attention over the cache, and the choice of an id.

In and out: CUDA tensors whose shapes never change, so that a CUDA graph can replay the launches;
how far a row has come is read on the device. Imported only where they run: Triton comes with
torch's CUDA wheels for Linux and with no other.

The plain forms are `LayerCache.update` with `attention`, and `sampling.next_tokens`.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from hornbook.model.kernels import multiprocessors

SLOTS_AT_ONCE, ATTEND_WARPS = 128, 4
"""Cache slots that a program reads in one go, and its warps. Reckoned, not measured yet."""

NUMBERS_ALONE, ALONE_WARPS = 32768, 16
"""With fewer programs than the GPU has processors: numbers of the cache (slots times head size) in
one go, and warps. Then what counts is how often one program waits for memory. Likewise."""

TOKENS_AT_ONCE, DRAW_WARPS = 8192, 16
"""Columns of the vocabulary that a program reads in one go, and its warps. Likewise; 16384 and 32
spill registers on an H100."""


@triton.jit  # type: ignore[untyped-decorator]
def _rotated(x, pointer, d, cosine, sine, half: tl.constexpr):  # type: ignore[no-untyped-def]
    """Turn the head `x`, read from `pointer`; dimension i is paired with i + half."""
    partner = tl.where(d < half, d + half, d - half)
    other = tl.load(pointer + partner, mask=d < 2 * half, other=0.0).to(tl.float32)
    return x * cosine + tl.where(d < half, -sine, sine) * other


@triton.jit  # type: ignore[untyped-decorator]
def _attend(  # type: ignore[no-untyped-def]
    query, key, value, keys, values, positions, cosines, sines, out,
    query_row, query_head, key_row, key_head, value_row, value_head,
    cache_row, cache_slot, groups, scale,
    head_dim: tl.constexpr, half: tl.constexpr, padded: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """One program a row and head; heads that share keys read them each, from the cache."""
    row, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    source = head // groups
    d = tl.arange(0, padded)
    inside = d < head_dim
    query += row * query_row + head * query_head
    key += row * key_row + source * key_head
    value += row * value_row + source * value_head
    q = tl.load(query + d, mask=inside, other=0.0).to(tl.float32)
    k = tl.load(key + d, mask=inside, other=0.0).to(tl.float32)
    v = tl.load(value + d, mask=inside, other=0.0)
    if half > 0:
        angle = row * half + d % half
        cosine = tl.load(cosines + angle, mask=d < 2 * half, other=1.0).to(tl.float32)
        sine = tl.load(sines + angle, mask=d < 2 * half, other=0.0).to(tl.float32)
        q = _rotated(q, query, d, cosine, sine, half).to(query.dtype.element_ty).to(tl.float32)
        k = _rotated(k, key, d, cosine, sine, half).to(key.dtype.element_ty).to(tl.float32)

    position = tl.load(positions + row)
    start_of_row = row * cache_row + source * head_dim
    keys += start_of_row
    values += start_of_row
    if head % groups == 0:
        tl.store(keys + position * cache_slot + d, k.to(keys.dtype.element_ty), mask=inside)
        tl.store(values + position * cache_slot + d, v.to(values.dtype.element_ty), mask=inside)

    # Online softmax (arXiv:1805.02867), begun with the new token, which is in registers.
    q *= scale
    top = tl.sum(q * k, 0)
    total = tl.full((), 1.0, tl.float32)
    mixed = v.to(tl.float32)
    for first in range(0, position, block):
        slots = first + tl.arange(0, block)
        held = slots < position
        offsets = slots[:, None] * cache_slot + d[None, :]
        mask = held[:, None] & inside[None, :]
        past_keys = tl.load(keys + offsets, mask=mask, other=0.0).to(tl.float32)
        past_values = tl.load(values + offsets, mask=mask, other=0.0).to(tl.float32)
        scores = tl.where(held, tl.sum(q[None, :] * past_keys, 1), float("-inf"))
        new_top = tl.maximum(top, tl.max(scores, 0))
        weights = tl.exp(scores - new_top)
        shrink = tl.exp(top - new_top)
        total = total * shrink + tl.sum(weights, 0)
        mixed = mixed * shrink + tl.sum(weights[:, None] * past_values, 0)
        top = new_top
    out += (row * tl.num_programs(1) + head) * head_dim
    tl.store(out + d, (mixed / total).to(out.dtype.element_ty), mask=inside)


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    keys: Tensor,
    values: Tensor,
    positions: Tensor,
    rotation: tuple[Tensor, Tensor] | None,
) -> Tensor:
    """Rotate, write key and value into the cache, and attend to slots 0..position of each row.

    Args:
        query: [rows, 1, heads, head_dim], not rotated yet; the last dimension contiguous.
        key: [rows, 1, kv_heads, head_dim], likewise.
        value: like key.
        keys: [rows, slots, kv_heads, head_dim], the cache; written at `positions`.
        values: like keys.
        positions: int64 [rows, 1].
        rotation: cosines and sines of the positions [rows, 1, 1, rotated / 2]; None: no rotation.

    Returns:
        [rows, 1, heads, head_dim], of the query's dtype.
    """
    rows, _, heads, head_dim = query.shape
    assert query.stride(3) == key.stride(3) == value.stride(3) == 1
    out = torch.empty(query.shape, dtype=query.dtype, device=query.device)
    cosines, sines = (positions, positions) if rotation is None else rotation
    padded = triton.next_power_of_2(head_dim)
    block, warps = SLOTS_AT_ONCE, ATTEND_WARPS
    if rows * heads < multiprocessors(query.device):
        block, warps = max(1, NUMBERS_ALONE // padded), ALONE_WARPS
    _attend[(rows, heads)](
        query, key, value, keys, values, positions, cosines, sines, out,
        query.stride(0), query.stride(2), key.stride(0), key.stride(2),
        value.stride(0), value.stride(2), keys.stride(0), keys.stride(1),
        heads // key.shape[2], head_dim**-0.5,
        head_dim=head_dim, half=0 if rotation is None else cosines.shape[-1],
        padded=padded, block=block, num_warps=warps,
    )  # fmt: skip
    return out


@triton.jit  # type: ignore[untyped-decorator]
def _likeliest(logits, ids, vocabulary, logits_row, block: tl.constexpr):  # type: ignore[no-untyped-def]
    """One program a row."""
    row = tl.program_id(0).to(tl.int64)
    logits += row * logits_row
    lane = tl.arange(0, block)
    largest = tl.full((block,), float("-inf"), tl.float32)
    where = lane
    missing = tl.zeros((block,), tl.int32)
    for first in range(0, vocabulary, block):
        x = tl.load(logits + first + lane, mask=first + lane < vocabulary, other=float("-inf"))
        where = tl.where(x > largest, first + lane, where)
        largest = tl.maximum(largest, x)
        missing |= (x != x).to(tl.int32)
    id = tl.min(tl.where(largest == tl.max(largest, 0), where, vocabulary), 0)
    tl.store(ids + row, tl.where(tl.max(missing, 0) > 0, -1, id).to(tl.int64))


def likeliest(logits: Tensor) -> Tensor:
    """The id of the largest logit of each row, the first of equals; -1 where there is NaN.

    `logits`: float32 [rows, vocabulary], the last dimension contiguous. Returns int64 [rows].
    """
    rows, vocabulary = logits.shape
    assert logits.dtype == torch.float32 and logits.stride(1) == 1
    ids = torch.empty(rows, dtype=torch.int64, device=logits.device)
    # (With as many columns in one go as in the draw, the ids of the largest spilled registers.)
    _likeliest[(rows,)](
        logits, ids, vocabulary, logits.stride(0), block=TOKENS_AT_ONCE // 2, num_warps=DRAW_WARPS
    )
    return ids


@triton.jit  # type: ignore[untyped-decorator]
def _draw(  # type: ignore[no-untyped-def]
    logits, numbers, probabilities, ids, vocabulary, logits_row, temperature, top_p, min_p,
    block: tl.constexpr,
):  # fmt: skip
    """One program a row."""
    row = tl.program_id(0).to(tl.int64)
    logits += row * logits_row
    probabilities += row * vocabulary
    lane = tl.arange(0, block)

    largest = tl.full((block,), float("-inf"), tl.float32)
    for first in range(0, vocabulary, block):
        x = tl.load(logits + first + lane, mask=first + lane < vocabulary, other=float("-inf"))
        largest = tl.maximum(largest, x)
    top = tl.max(largest, 0)
    sums = tl.zeros((block,), tl.float32)
    for first in range(0, vocabulary, block):
        x = tl.load(logits + first + lane, mask=first + lane < vocabulary, other=float("-inf"))
        sums += tl.exp((x - top) / temperature)
    total = tl.sum(sums, 0)
    for first in range(0, vocabulary, block):
        there = first + lane < vocabulary
        x = tl.load(logits + first + lane, mask=there, other=float("-inf"))
        tl.store(probabilities + first + lane, tl.exp((x - top) / temperature) / total, mask=there)
    tl.debug_barrier()  # what one thread wrote is now read by others

    # Top-p: the largest threshold whose tokens together have top_p. Halving the bit patterns of
    # positive floats, which are ordered as the floats are, meets it exactly in 30 passes.
    low, high = tl.full((), 0, tl.int32), tl.full((), 0x3F800001, tl.int32)
    if top_p < 1:
        while high - low > 1:
            middle = low + (high - low) // 2
            threshold = middle.to(tl.float32, bitcast=True)
            sums = tl.zeros((block,), tl.float32)
            for first in range(0, vocabulary, block):
                there = first + lane < vocabulary
                p = tl.load(probabilities + first + lane, mask=there, other=0.0)
                sums += tl.where(p >= threshold, p, 0.0)
            enough = tl.sum(sums, 0) >= top_p
            low = tl.where(enough, middle, low)
            high = tl.where(enough, high, middle)
    # The likeliest token has probability 1 / total.
    least = tl.maximum(low.to(tl.float32, bitcast=True), min_p / total)

    # The draw, in whole numbers as in `sampling.draw`.
    wholes = tl.zeros((block,), tl.int64)
    for first in range(0, vocabulary, block):
        there = first + lane < vocabulary
        p = tl.load(probabilities + first + lane, mask=there, other=0.0)
        wholes += tl.where(p >= least, (p * 1099511627776.0).to(tl.int64), 0)
    kept = tl.sum(wholes, 0)
    number = tl.load(numbers + row)
    point = ((number >> 20) * kept + ((number & 1048575) * kept >> 20)) >> 20
    before = tl.zeros((block,), tl.int32)
    running = tl.full((), 0, tl.int64)
    for first in range(0, vocabulary, block):
        there = first + lane < vocabulary
        p = tl.load(probabilities + first + lane, mask=there, other=0.0)
        whole = tl.where(p >= least, (p * 1099511627776.0).to(tl.int64), 0)
        before += (running + tl.cumsum(whole, 0) <= point).to(tl.int32)
        running += tl.sum(whole, 0)
    # One NaN makes the total NaN.
    tl.store(ids + row, tl.where(total == total, tl.sum(before, 0), -1).to(tl.int64))


def draw(
    logits: Tensor, numbers: Tensor, *, temperature: float, top_p: float, min_p: float
) -> Tensor:
    """One id a row from the filtered distribution, in one launch and without sorting.

    What `sampling` does by temperature, top-p, min-p and draw, but that all tokens as likely as
    the last one of the nucleus stay in it. One program a row, since each row's many passes are over
    numbers that fit into its processor's cache.

    Args:
        logits: float32 [rows, vocabulary], the last dimension contiguous.
        numbers: int64 [rows], uniform below 2**40.
        temperature: above 0.
        top_p: 1 keeps all.
        min_p: 0 keeps all.

    Returns:
        int64 [rows]; -1 where there is NaN.
    """
    rows, vocabulary = logits.shape
    assert logits.dtype == torch.float32 and logits.stride(1) == 1
    ids = torch.empty(rows, dtype=torch.int64, device=logits.device)
    probabilities = torch.empty(rows, vocabulary, device=logits.device)
    _draw[(rows,)](
        logits, numbers, probabilities, ids, vocabulary, logits.stride(0),
        temperature, top_p, min_p, block=TOKENS_AT_ONCE, num_warps=DRAW_WARPS,
    )  # fmt: skip
    return ids
