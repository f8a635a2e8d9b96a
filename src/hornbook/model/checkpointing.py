"""Activation checkpointing: computing again in the backward pass what was not kept.

In: a function of activations, and how much it is to keep. Out: the same numbers, bit for bit, for
less memory and more time (arXiv:1604.06174). Dropout repeats itself: the generator's state is kept,
and whatever draws from it is done again.

For a GPT-2 block (width w, MLP 4w), in numbers of w a token: a compiled block keeps 16.6, which are
its input, the sum in its middle, both norms' outputs, query, key, value, attention's output, and
the MLP's inner products before and after GELU, 4 each. `selective` keeps 6, and does again a third
of the forward pass's products; `full` keeps the input alone, and does the whole forward pass twice.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
)

from hornbook.model.engine import Checkpointing

ATTENTION = (
    torch.ops.aten._scaled_dot_product_cudnn_attention.default,
    torch.ops.aten._scaled_dot_product_flash_attention.default,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default,
    torch.ops.aten._scaled_dot_product_efficient_attention.default,
    torch.ops.aten._scaled_dot_product_attention_math_for_mps.default,
    torch.ops.higher_order.flex_attention,
)
"""Kept by `selective`: of all operations the dearest to repeat, for the smallest output."""

PRODUCTS = {
    torch.ops.aten.mm.default: 1,
    torch.ops.aten.addmm.default: 2,
    torch.ops.aten._scaled_mm.default: 1,
}
"""Matrix products, and which argument is the right-hand matrix [inner, columns]."""


def checkpointed(
    function: Callable[..., Tensor],
    mode: Checkpointing,
    inner_width: int,
    attention_draws: bool,
    *arguments: Any,
) -> Tensor:
    """`function(*arguments)`, keeping for its backward pass what `mode` says.

    Args:
        function: a block's forward pass.
        mode: `none` and `budget` (which the compiler sees to) keep what autograd keeps.
        inner_width: columns of the MLP's first product; such wide ones `selective` does not keep.
        attention_draws: attention has dropout. Kept by itself it would not draw its numbers again,
            and the dropout after it would draw these. Compiled it is the other way round: each
            operation draws from a place of its own, but the kernels' is not kept (torch 2.11: all
            gradients wrong), so that they must be.
        arguments: of the function.
    """
    if mode not in ("selective", "full"):
        return function(*arguments)
    if mode == "full" and not torch.compiler.is_compiling():
        return checkpoint(function, *arguments, use_reentrant=False)  # type: ignore[no-any-return]
    # The compiler keeps the outputs of custom operations (GELU's products) unless it is told.
    compiled = torch.compiler.is_compiling()
    if mode == "selective":
        policy = partial(_policy, inner_width, compiled or not attention_draws)
    else:
        policy = partial(_policy, 0, attention_draws)
    contexts = partial(create_selective_checkpoint_contexts, policy)
    return checkpoint(  # type: ignore[no-any-return]
        function, *arguments, use_reentrant=False, context_fn=contexts
    )


@contextlib.contextmanager
def without_notice() -> Iterator[None]:
    """The compiler's warning about selective checkpointing, four lines that ask to make sure that a
    block has no in-place operations (ours have none), is not logged in here."""
    logger = logging.getLogger("torch._higher_order_ops.wrap")
    logger.addFilter(_is_not_notice)
    try:
        yield
    finally:
        logger.removeFilter(_is_not_notice)


def _is_not_notice(record: logging.LogRecord) -> bool:
    return "context_fn is passed to torch.utils.checkpoint" not in str(record.msg)


def _policy(
    narrow: int, attention: bool, _context: Any, operation: Any, *arguments: Any, **_options: Any
) -> CheckpointPolicy:
    """Keep products with fewer columns than `narrow`, and attention where that is said."""
    if operation in ATTENTION:
        return CheckpointPolicy.MUST_SAVE if attention else CheckpointPolicy.PREFER_RECOMPUTE
    matrix = PRODUCTS.get(operation)
    if matrix is not None and arguments[matrix].shape[1] < narrow:
        return CheckpointPolicy.MUST_SAVE
    return CheckpointPolicy.PREFER_RECOMPUTE
