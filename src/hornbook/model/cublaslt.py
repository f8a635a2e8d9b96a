"""Products of cuBLASLt that PyTorch has no function for: with GELU, or its gradient, inside.

In: matrices of a 16-bit type on a CUDA device. Out: what the two functions say, done on the current
stream. The library is the one that PyTorch's own products run in, called through ctypes: NVIDIA's
binding (nvmath-python) would be a dependency of 100 MB for six functions.

cuBLASLt counts matrices by columns, so that a row-major [N, M] is its M x N: each product here is
written down as that of the transposed matrices. Numbers of its interface are from cublasLt.h.
"""

from __future__ import annotations

import ctypes
import functools
import threading
from ctypes import byref, c_float, c_int, c_int64, c_size_t, c_uint32, c_uint64, c_void_p
from typing import Any

import torch
from torch import Tensor

TYPES = {torch.float16: 2, torch.bfloat16: 14}
FLOAT32, COMPUTE_FLOAT32 = 0, 68

TRANSPOSE_A, EPILOGUE, BIAS, AUXILIARY, AUXILIARY_STRIDE = 3, 7, 8, 11, 12
"""Attributes of a product."""

ADD_BIAS, GELU, GELU_BACKWARD, WITH_AUXILIARY = 4, 32, 64, 128
"""Parts of an epilogue. The auxiliary matrix is the one before GELU: written, or read on the way
back."""

WORKSPACE_BYTES = 4 * 2**20
"""What a product may use besides; those chosen on an H200 took 131 bytes at most."""

WORKSPACE_LIMIT, ALIGNMENTS = 1, (5, 6, 7, 8)
"""Attributes of a preference: bytes of workspace, alignment of each matrix."""

ALIGNMENT_BYTES = 16
"""Of the first number of a matrix, or a bias; one that lies among others has no more."""


def up_and_gelu(x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """inner = x weight^T + bias, and gelu(inner), of numbers not yet rounded to 16 bits.

    Args:
        x: [N, width].
        weight: [mlp_width, width].
        bias: [mlp_width].

    Returns:
        inner and gelu(inner), [N, mlp_width].

    Raises:
        RuntimeError: cuBLASLt has no such product for these numbers.
    """
    inner = x.new_empty(x.shape[0], weight.shape[0])
    activated = torch.empty_like(inner)
    epilogue = GELU | WITH_AUXILIARY | (0 if bias is None else ADD_BIAS)
    sizes = (weight.shape[0], x.shape[0], x.shape[1])
    product = _product(x.device, x.dtype, sizes, epilogue, transposed=True)
    product(weight, x, activated, bias=bias, auxiliary=inner)
    return inner, activated


def down_and_gelu_backward(upstream: Tensor, weight: Tensor, inner: Tensor) -> Tensor:
    """The gradient by `inner` [N, mlp_width] of gelu(inner) weight^T, whose gradient is `upstream`.

    Args:
        upstream: [N, width].
        weight: [width, mlp_width].
        inner: [N, mlp_width].

    Raises:
        RuntimeError: cuBLASLt has no such product for these numbers.
    """
    inner = _aligned(inner)
    gradient = torch.empty_like(inner)
    sizes = (weight.shape[1], upstream.shape[0], weight.shape[0])
    epilogue = GELU_BACKWARD | WITH_AUXILIARY
    product = _product(upstream.device, upstream.dtype, sizes, epilogue, transposed=False)
    product(weight, upstream, gradient, bias=None, auxiliary=inner)
    return gradient


class _Algorithm(ctypes.Structure):
    _fields_ = (("data", c_uint64 * 8),)


class _Heuristic(ctypes.Structure):
    _fields_ = (
        ("algorithm", _Algorithm),
        ("workspace", c_size_t),
        ("status", c_int),
        ("waves", c_float),
        ("reserved", c_int * 4),
    )


class _Product:
    """A product of matrices of certain sizes: descriptors and algorithm, found once."""

    def __init__(
        self,
        device: torch.device,
        dtype: torch.dtype,
        sizes: tuple[int, int, int],
        epilogue: int,
        *,
        transposed: bool,
    ):
        """(m, n, k): [m x k] times [k x n], by columns; the first is given as [k x m]."""
        m, n, k = sizes
        self._library, self._handle = _library(device)
        self._lock = threading.Lock()  # forward and backward passes come from different threads
        self._description = c_void_p()
        self._call("MatmulDescCreate", byref(self._description), COMPUTE_FLOAT32, FLOAT32)
        self._set(TRANSPOSE_A, c_int(int(transposed)))
        self._set(EPILOGUE, c_uint32(epilogue))
        self._set(AUXILIARY_STRIDE, c_int64(m))
        # Each call sets its own addresses; an algorithm is chosen for what these are multiples of.
        for attribute in (BIAS, AUXILIARY) if epilogue & ADD_BIAS else (AUXILIARY,):
            self._set(attribute, c_void_p(ALIGNMENT_BYTES))
        self._first = self._layout(dtype, k, m) if transposed else self._layout(dtype, m, k)
        self._second = self._layout(dtype, k, n)
        self._out = self._layout(dtype, m, n)
        self._algorithm = self._fastest()

    def _call(self, name: str, *arguments: Any) -> None:
        status = getattr(self._library, f"cublasLt{name}")(*arguments)
        if status:
            raise RuntimeError(f"cublasLt{name} failed with status {status}")

    def _set(self, attribute: int, value: Any) -> None:
        size = c_size_t(ctypes.sizeof(value))
        self._call("MatmulDescSetAttribute", self._description, attribute, byref(value), size)

    def _layout(self, dtype: torch.dtype, rows: int, columns: int) -> c_void_p:
        layout = c_void_p()
        sizes = c_uint64(rows), c_uint64(columns), c_int64(rows)
        self._call("MatrixLayoutCreate", byref(layout), TYPES[dtype], *sizes)
        return layout

    def _fastest(self) -> _Algorithm:
        """The first that cuBLASLt names; on an H200, the best of eight is 0 to 6 % faster."""
        preference, found, count = c_void_p(), _Heuristic(), c_int()
        self._call("MatmulPreferenceCreate", byref(preference))
        wishes: list[tuple[int, Any]] = [(WORKSPACE_LIMIT, c_size_t(WORKSPACE_BYTES))]
        wishes += [(matrix, c_uint32(ALIGNMENT_BYTES)) for matrix in ALIGNMENTS]
        for name, value in wishes:
            size = c_size_t(ctypes.sizeof(value))
            self._call("MatmulPreferenceSetAttribute", preference, name, byref(value), size)
        self._call(
            "MatmulAlgoGetHeuristic", self._handle, self._description, self._first, self._second,
            self._out, self._out, preference, 1, byref(found), byref(count),
        )  # fmt: skip
        self._call("MatmulPreferenceDestroy", preference)
        if count.value == 0:
            raise RuntimeError("cuBLASLt has no product with GELU for these sizes")
        algorithm: _Algorithm = found.algorithm
        return algorithm

    def __call__(
        self, first: Tensor, second: Tensor, out: Tensor, *, bias: Tensor | None, auxiliary: Tensor
    ) -> None:
        """Do it: `out` = first second, and what the epilogue says."""
        first, second = _aligned(first), _aligned(second)
        workspace = torch.empty(WORKSPACE_BYTES, dtype=torch.uint8, device=out.device)
        one, zero = c_float(1.0), c_float(0.0)
        with self._lock, torch.cuda.device(out.device):
            self._set(AUXILIARY, c_void_p(auxiliary.data_ptr()))
            if bias is not None:
                bias = _aligned(bias)
                self._set(BIAS, c_void_p(bias.data_ptr()))
            self._call(
                "Matmul", self._handle, self._description, byref(one),
                c_void_p(first.data_ptr()), self._first, c_void_p(second.data_ptr()), self._second,
                byref(zero), c_void_p(out.data_ptr()), self._out, c_void_p(out.data_ptr()),
                self._out, byref(self._algorithm), c_void_p(workspace.data_ptr()),
                c_size_t(WORKSPACE_BYTES), c_void_p(torch.cuda.current_stream().cuda_stream),
            )  # fmt: skip


def _aligned(matrix: Tensor) -> Tensor:
    """The matrix without gaps, where cuBLASLt's loads begin."""
    matrix = matrix.contiguous()
    return matrix if matrix.data_ptr() % ALIGNMENT_BYTES == 0 else matrix.clone()


@functools.cache
def _product(
    device: torch.device,
    dtype: torch.dtype,
    sizes: tuple[int, int, int],
    epilogue: int,
    *,
    transposed: bool,
) -> _Product:
    with torch.cuda.device(device):
        return _Product(device, dtype, sizes, epilogue, transposed=transposed)


@functools.cache
def _library(device: torch.device) -> tuple[ctypes.CDLL, c_void_p]:
    """cuBLASLt of the CUDA version that PyTorch was built for, which has it loaded; a handle, which
    is of the device that is the current one when it is made: `device`."""
    version = (torch.version.cuda or "").partition(".")[0]
    library = ctypes.CDLL(f"libcublasLt.so.{version}")
    handle = c_void_p()
    if library.cublasLtCreate(byref(handle)):
        raise RuntimeError("cublasLtCreate failed")
    return library, handle
