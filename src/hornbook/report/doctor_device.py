"""The doctor's look at arithmetic: PyTorch, the CPU, GPUs, the compiler.

In: the machine. Out: for each thing tried a status, what was found, and a hint. PyTorch is imported
inside, so that a broken one is a finding and no traceback.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

Status = Literal["ok", "warn", "fail"]
Finding = tuple[Status, str, str]
"""Status, what was found, and what to do about it (may be empty)."""

OLDEST_TORCH = (2, 11)
CPU_SIZE, GPU_SIZE = 768, 4096
"""Rows and columns of the matrices whose product is timed."""
MEASURED_SECONDS = 0.3
COMPILE_SECONDS = 60.0

COMPILED = """
import sys, torch
x = torch.linspace(-3, 3, 4096, device=sys.argv[1])
def f(x): return torch.nn.functional.gelu(x) * 2 + 1
torch.testing.assert_close(torch.compile(f)(x), f(x))
"""
"""What `torch.compile` is tried on, in a process of its own."""

QUICK_COMPILE = {
    "TORCHINDUCTOR_VEC_ISA_OK": "0",
    "TORCHINDUCTOR_CPP_CACHE_PRECOMPILE_HEADERS": "0",
    "TORCHINDUCTOR_COMPILE_THREADS": "1",
}
"""Settings under which one program is compiled, not several that only choose vector instructions,
headers that later runs would use, and other processes: a third of the time."""


def torch_version() -> Finding:
    """PyTorch's version, and how long its import takes where it was not imported before."""
    first_time = "torch" not in sys.modules
    start = time.perf_counter()
    import torch

    took = f", imported in {time.perf_counter() - start:.1f} s" if first_time else ""
    built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "no CUDA in it"
    detail = f"{torch.__version__} ({built}){took}"
    version = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    if version < OLDEST_TORCH:
        wanted = ".".join(map(str, OLDEST_TORCH))
        return "fail", detail, f"Install a newer one: pip install 'torch>={wanted}'"
    return "ok", detail, ""


def cpu_speed() -> Finding:
    """Cores, threads, and the speed of a float32 matrix product."""
    import torch

    from hornbook.train.machine import cpu_threads, device_name

    speed = matmul_speed(torch.float32, "cpu", CPU_SIZE) / 1e9
    return (
        "ok",
        f"{device_name('cpu')}: {os.cpu_count()} cores, {cpu_threads(0)} threads used, "
        f"{speed:.0f} GFLOP/s in float32",
        "",
    )


def cpu_bf16() -> Finding:
    """How fast bfloat16 products are beside float32; many CPUs only emulate them."""
    import torch

    wide = matmul_speed(torch.float32, "cpu", CPU_SIZE)
    narrow = matmul_speed(torch.bfloat16, "cpu", CPU_SIZE)
    used = "worth trying" if narrow > wide else "float32 is the better choice here"
    return "ok", f"{narrow / wide:.2f} times the speed of float32: {used}", ""


def cuda() -> Finding:
    """Really multiply and attend, forward and backward, on every CUDA GPU."""
    import torch

    if not torch.cuda.is_available():
        if shutil.which("nvidia-smi") is None:
            return "ok", "no NVIDIA GPU here", ""
        return (
            "warn",
            "there is an NVIDIA driver, but this PyTorch cannot use it",
            "Install the PyTorch build for your CUDA version (see pytorch.org)",
        )
    found = []
    for number in range(torch.cuda.device_count()):
        with torch.cuda.device(number):
            bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
            dtype = torch.bfloat16 if bf16 else torch.float16
            attend(dtype, "cuda")
            speed = matmul_speed(dtype, "cuda", GPU_SIZE) / 1e12
            free, total = torch.cuda.mem_get_info()
        found.append(
            f"{torch.cuda.get_device_name(number)}: {free / 2**30:.0f} of {total / 2**30:.0f} GB "
            f"free, {'bf16' if bf16 else 'fp16'} attention forward and backward works, "
            f"{speed:.0f} TFLOP/s"
        )
    return "ok", "; ".join(found), ""


def mps() -> Finding:
    """Really multiply and attend on a Mac's GPU."""
    import torch

    if platform.system() != "Darwin":
        return "ok", "not a Mac", ""
    if not torch.backends.mps.is_available():
        return "warn", "PyTorch cannot use Metal here", "It needs macOS 14 and an Apple GPU"
    attend(torch.float32, "mps")
    speed = matmul_speed(torch.float32, "mps", GPU_SIZE // 2) / 1e12
    return "ok", f"attention forward and backward works, {speed:.1f} TFLOP/s in float32", ""


def compilation() -> Finding:
    """Really compile a small function, in a process of its own and without its cache."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as cache:
        try:
            done = subprocess.run(
                [sys.executable, "-c", COMPILED, device],
                env={
                    **os.environ,
                    **QUICK_COMPILE,
                    "TORCHINDUCTOR_CACHE_DIR": cache,
                    "TRITON_CACHE_DIR": cache,
                },
                capture_output=True,
                text=True,
                timeout=COMPILE_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return "warn", f"not done after {COMPILE_SECONDS:.0f} s", "Set pretrain.compile to off"
    if done.returncode == 0:
        return "ok", f"compiled for {device} in {time.perf_counter() - start:.1f} s", ""
    return "warn", *compile_problem(done.stderr)


def compile_problem(stderr: str) -> tuple[str, str]:
    """What a failed compilation's messages mean, and what to do."""
    if "Python.h" in stderr:
        return "the headers of Python are missing", "Debian, Ubuntu: apt install python3-dev"
    if "CppCompiler" in stderr or "CxxCompiler" in stderr or "C compiler" in stderr:
        return (
            "a C++ compiler is missing",
            "Debian, Ubuntu: apt install g++; Mac: xcode-select --install; or go without",
        )
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line for line in lines if "Error" in line.split(":")[0]]
    return (errors or lines or ["it ended without a message"])[-1], "Set pretrain.compile to off"


def matmul_speed(dtype: torch.dtype, device: str, size: int) -> float:
    """FLOPs a second of a square matrix product."""
    import torch

    left = torch.randn(size, size, device=device).to(dtype)
    wait = {"cuda": torch.cuda.synchronize, "mps": torch.mps.synchronize}.get(device, lambda: None)
    left @ left  # the first one pays for setting up
    wait()
    products, start = 0, time.perf_counter()
    while time.perf_counter() - start < MEASURED_SECONDS:
        left @ left
        wait()
        products += 1
    return products * 2 * size**3 / (time.perf_counter() - start)


def attend(dtype: torch.dtype, device: str) -> None:
    """Causal attention forward and backward. Raises RuntimeError when it computes no numbers."""
    import torch

    shape = (2, 4, 128, 64)
    query, key, value = (
        torch.randn(shape, device=device).to(dtype).requires_grad_() for _ in range(3)
    )
    out = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
    gradients = torch.autograd.grad(out.float().square().sum(), (query, key, value))
    if not all(bool(gradient.isfinite().all()) for gradient in gradients):
        raise RuntimeError(f"attention gives wrong gradients in {dtype}")
