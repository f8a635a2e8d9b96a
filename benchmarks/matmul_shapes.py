"""What the bare matrix products of each model's shapes reach: the wall for its MFU.

    python benchmarks/matmul_shapes.py

For every projection of GPT-2 124M, the 712M (width 1296, heads of 54) and Phi-2 at their training
micro-batches, in bf16: forward x W^T, gradient of the input dy W, gradient of the weight dy^T x,
alone and back to back, on random data; then causal attention, forward and backward, through cuDNN
and the flash kernel. A step that did nothing else would take `matmul` (+ `attention`) milliseconds,
and its MFU (6N + 12 L d T operations a token, which counts attention as if it were not causal)
would be the wall given here. Variants of the 712M say what its shapes cost: heads padded to 56 and
64, a width of 1280 and 1344. With --float8 also the products in 8 bits (tensorwise scales, fast
accumulation in the forward product), without the casts they need.

Writes benchmarks/results/matmul_shapes.json. About 20 seconds.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from common import best_device, parser_for, peak, write_result
from contestants import PRESETS, TINY, VOCABULARY
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from hornbook.model.config import ModelConfig, ModelSettings
from hornbook.model.count import flops_per_token
from hornbook.model.presets import resolve


@dataclass(frozen=True)
class Product:
    """One projection: x [rows * tokens, inputs] to y [rows * tokens, outputs]."""

    name: str
    inputs: int
    outputs: int
    times: int
    """How many of it a model has."""


def products(config: ModelConfig) -> list[Product]:
    """The projections of a GELU model; the head once, the others in every layer."""
    inner = config.heads * config.head_dim
    return [
        Product("qkv", config.width, 3 * inner, config.layers),
        Product("output", inner, config.width, config.layers),
        Product("up", config.width, config.mlp_width, config.layers),
        Product("down", config.mlp_width, config.width, config.layers),
        Product("head", config.width, config.vocabulary_rows, 1),
    ]


class Clock:
    """Median seconds of something that runs on the device."""

    def __init__(self, device: torch.device, repeats: int):
        self.device, self._repeats = device, repeats

    def seconds(self, work: Callable[[], Any]) -> float:
        """After three warm-ups, the median of single runs, each between two events."""
        for _ in range(3):
            work()
        if self.device.type != "cuda":
            began = time.perf_counter()
            work()
            return time.perf_counter() - began
        events = [torch.cuda.Event(enable_timing=True) for _ in range(self._repeats + 1)]
        events[0].record()
        for event in events[1:]:
            work()
            event.record()
        torch.cuda.synchronize()
        gaps = [a.elapsed_time(b) for a, b in pairwise(events)]
        return statistics.median(gaps) / 1e3


def product_seconds(clock: Clock, rows: int, product: Product, device: torch.device) -> list[float]:
    """Seconds of forward, gradient of the input, gradient of the weight."""
    x = torch.randn(rows, product.inputs, device=device, dtype=torch.bfloat16)
    weight = torch.randn(product.outputs, product.inputs, device=device, dtype=torch.bfloat16)
    dy = torch.randn(rows, product.outputs, device=device, dtype=torch.bfloat16)
    return [
        clock.seconds(lambda: x @ weight.T),
        clock.seconds(lambda: dy @ weight),
        clock.seconds(lambda: dy.T @ x),
    ]


def float8_seconds(clock: Clock, rows: int, product: Product, device: torch.device) -> list[float]:
    """The same three in 8 bits; operands lie as the kernel wants them (no transposing counted)."""
    one = torch.ones((), device=device)

    def made(first: int, second: int, dtype: torch.dtype) -> Tensor:
        return torch.randn(first, second, device=device).to(dtype)

    def multiply(a: Tensor, b: Tensor, fast: bool) -> Callable[[], Any]:
        return lambda: torch._scaled_mm(
            a, b.T, scale_a=one, scale_b=one, out_dtype=torch.bfloat16, use_fast_accum=fast
        )

    value, gradient = torch.float8_e4m3fn, torch.float8_e5m2
    inputs, outputs = product.inputs, product.outputs
    return [
        clock.seconds(multiply(made(rows, inputs, value), made(outputs, inputs, value), True)),
        clock.seconds(multiply(made(rows, outputs, gradient), made(inputs, outputs, value), False)),
        clock.seconds(multiply(made(outputs, rows, gradient), made(inputs, rows, value), False)),
    ]


def attention_seconds(
    clock: Clock, config: ModelConfig, rows: int, tokens: int, backend: SDPBackend
) -> float | str:
    """Causal attention forward and backward in one layer; words where the kernel refuses."""
    shape = (rows, tokens, config.heads, config.head_dim)
    device = clock.device
    made = [
        torch.randn(shape, device=device, dtype=torch.bfloat16, requires_grad=True)
        for _ in range(3)
    ]
    query, key, value = (x.transpose(1, 2) for x in made)
    gradient = torch.randn_like(query)

    def both() -> None:
        with sdpa_kernel(backend):
            mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        torch.autograd.grad(mixed, made, gradient)

    try:
        return clock.seconds(both)
    except RuntimeError as error:
        return str(error).splitlines()[0][:120]


def measure(
    config: ModelConfig, rows: int, tokens: int, clock: Clock, device: torch.device, float8: bool
) -> dict[str, Any]:
    """All products and attention kernels of one model."""
    shapes: list[dict[str, Any]] = []
    totals = {"bf16": 0.0, "float8": 0.0}
    count = rows * tokens
    for product in products(config):
        operations = 2.0 * count * product.inputs * product.outputs
        row: dict[str, Any] = dataclasses.asdict(product)
        seconds = product_seconds(clock, count, product, device)
        totals["bf16"] += product.times * sum(seconds)
        row["tflops"] = [operations / s / 1e12 for s in seconds]
        if float8:
            try:
                seconds = float8_seconds(clock, count, product, device)
                row["float8_tflops"] = [operations / s / 1e12 for s in seconds]
            except RuntimeError as error:  # dimensions that are no multiple of 16
                row["float8_refused"] = str(error).splitlines()[0][:120]
            totals["float8"] += product.times * sum(seconds)
        shapes.append(row)
    result: dict[str, Any] = {"rows": rows, "shapes": shapes, "matmul_ms": 1e3 * totals["bf16"]}
    if float8:
        result["float8_matmul_ms"] = 1e3 * totals["float8"]
    for name, backend in (
        ("cudnn", SDPBackend.CUDNN_ATTENTION),
        ("flash", SDPBackend.FLASH_ATTENTION),
    ):
        took = attention_seconds(clock, config, rows, tokens, backend)
        result[f"{name}_ms"] = took if isinstance(took, str) else 1e3 * took * config.layers
    attention = [ms for ms in (result["cudnn_ms"], result["flash_ms"]) if isinstance(ms, float)]
    unpadded = dataclasses.replace(config, head_dim=config.width // config.heads)
    ideal = 1e3 * flops_per_token(unpadded, tokens) * count / peak()
    matmul_operations = sum(6.0 * p.times * p.inputs * p.outputs for p in products(config)) * count
    result["tflops"] = matmul_operations / totals["bf16"] / 1e12
    result["wall_mfu_matmul"] = ideal / result["matmul_ms"]
    result["wall_mfu"] = ideal / (result["matmul_ms"] + min(attention, default=0.0))
    return result


def variants(tiny: bool) -> dict[str, tuple[ModelConfig, int]]:
    """Title -> architecture and rows of a micro-batch."""
    chosen = {
        name: TINY[name] if tiny else ModelSettings(preset=preset)
        for name, preset in PRESETS.items()
    }
    small, middle, large = (resolve(chosen[name], VOCABULARY) for name in ("124m", "712m", "phi2"))
    change = dataclasses.replace
    listed = {
        "GPT-2 124M": (small, 64),
        "712M": (middle, 16),
        "712M, heads padded to 56": (change(middle, head_dim=56), 16),
        "712M, heads padded to 64": (change(middle, head_dim=64), 16),
        "712M, 32 rows": (middle, 32),
        "712M, 4 rows": (middle, 4),
        "Phi-2, 4 rows": (large, 4),
        "Phi-2, 8 rows": (large, 8),
        "Phi-2, 16 rows": (large, 16),
        "width 1280, 20 heads of 64": (
            change(middle, width=1280, mlp_width=5120, heads=20, kv_heads=20, head_dim=64), 16,
        ),
        "width 1344, 24 heads of 56": (
            change(middle, width=1344, mlp_width=5376, head_dim=56), 16,
        ),
    }  # fmt: skip
    if tiny:
        return {name: (config, 2) for name, (config, _) in listed.items()}
    return listed


def table(measured: dict[str, dict[str, Any]]) -> list[dict[str, str]]:
    """Rows for docs/performance.md."""

    def shown(value: float | str) -> str:
        return f"{value:.1f}" if isinstance(value, float) else "refuses"

    return [
        {
            "model": name,
            "rows": str(numbers["rows"]),
            **{
                shape["name"]: " / ".join(f"{tflops:.0f}" for tflops in shape["tflops"])
                for shape in numbers["shapes"]
            },
            "all, TFLOP/s": f"{numbers['tflops']:.0f}",
            "matmuls, ms": shown(numbers["matmul_ms"]),
            "attention, ms: cuDNN": shown(numbers["cudnn_ms"]),
            "flash": shown(numbers["flash_ms"]),
            "highest possible MFU": f"{numbers['wall_mfu']:.1%}",
        }
        for name, numbers in measured.items()
    ]


def main() -> None:
    parser = parser_for(__doc__)
    parser.add_argument("--float8", action="store_true")
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    device = best_device()
    clock = Clock(device, options.repeats)
    tokens = 64 if options.tiny else 1024
    measured: dict[str, dict[str, Any]] = {}
    for name, (config, rows) in variants(options.tiny).items():
        numbers = measure(config, rows, tokens, clock, device, options.float8)
        measured[name] = numbers
        line = " ".join(f"{key} {value}" for key, value in table({name: numbers})[0].items())
        print(line, flush=True)
    result = {
        "what": "TFLOP/s of each model's matrix products (forward / gradient of the input / of the"
        " weight), milliseconds of a micro-batch at T 1024, and the MFU that would be left",
        "models": measured,
        "table": table(measured),
    }
    write_result(options.out, "matmul_shapes", result)


if __name__ == "__main__":
    main()
