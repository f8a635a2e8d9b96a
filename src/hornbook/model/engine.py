"""How a decoder computes: the choices that change its speed and memory, and results by rounding.

In: what a recipe asks for, or what trying found to be fastest. Out: an `Engine`, which
`Decoder.engine` holds and the layers read. What is computed is `ModelConfig`'s business.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

AttentionKernel = Literal["auto", "cudnn", "flash", "efficient", "math"]
Checkpointing = Literal["none", "selective", "full", "budget"]
CrossEntropy = Literal["plain", "chunked", "fused"]
Residual = Literal["fp32", "bf16"]
MLP = Literal["plain", "fused"]
Compile = Literal["off", "on", "regional"]

COMPILER_OPTIONS: dict[str, Any] = {"comprehensive_padding": False}
"""What `torch.compile` is given. Padding the rows of activations to multiples of 128 bytes keeps
cuBLAS from adding the bias in its product: at width 1296 two products of each layer began with a
copy of the bias to each row, 2.6 of 168 ms a step. Other kernels lose 1.6 ms of that again."""


@dataclass(frozen=True)
class Engine:
    """How a decoder computes. The default is the plain path, which all others are tested against.

    What concerns training alone (checkpointing, compile) has no effect in eval mode, so that
    evaluation and sampling at other shapes compile nothing.
    """

    attention: AttentionKernel = "auto"
    """The attention kernel that is tried first; a call that it refuses (a mask, float32) takes
    another one. `auto`: PyTorch's own order. `cudnn` and `flash` also pad heads whose size they do
    not take (`attention.padded_head_dim`)."""

    checkpointing: Checkpointing = "none"
    """What the backward pass computes again instead of keeping: see `checkpointing`. `budget` is
    left to the compiler, and needs `compile`."""

    budget: float = 1.0
    """Share of the activations kept, 0 to 1, where `checkpointing` is `budget`."""

    cross_entropy: CrossEntropy = "plain"
    """`plain`: PyTorch's. `chunked`: a part of the logits at a time, gradient at once. `fused`: all
    logits, gradient in their place by a Triton kernel. See `cross_entropy`."""

    residual: Residual = "fp32"
    """Type of the residual stream under autocast; `bf16` stands for autocast's type, fp16 too."""

    mlp: MLP = "plain"
    """`fused`: training works GELU out inside the matrix products: see `gelu_matmul`. Networks of
    another kind, and devices without its kernels, take no notice."""

    compile: Compile = "off"
    """`on`: model and loss are one compiled graph (`train.objective.bind`). `regional`: each block
    is compiled alone, and as all are alike, only the first takes time."""

    float8: bool = False
    """The blocks' products run in 8 bits; `float8.convert` has changed the model to do so."""

    def __post_init__(self) -> None:
        assert not (self.float8 and self.mlp == "fused"), "the fused products are not in 8 bits"
