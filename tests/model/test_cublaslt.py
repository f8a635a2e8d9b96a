"""What cuBLASLt is asked, by a library that notes it down; what it answers, `tests/gpu` tests."""

from __future__ import annotations

from collections.abc import Callable
from ctypes import c_void_p
from typing import Any

import pytest
import torch

from hornbook.model import cublaslt

DEVICE = torch.device("cuda:0")


class Library:
    """Says yes to everything.

    Attributes:
        addresses: of bias and auxiliary matrix, as they are when an algorithm is chosen.
    """

    def __init__(self, found: int = 1):
        self.found = found
        self.set: dict[int, Any] = {}
        self.addresses: dict[int, Any] = {}

    def __getattr__(self, name: str) -> Callable[..., int]:
        def call(*arguments: Any) -> int:
            if name == "cublasLtMatmulDescSetAttribute":
                self.set[arguments[1]] = arguments[2]._obj.value
            elif name == "cublasLtMatmulAlgoGetHeuristic":
                pointers = (cublaslt.BIAS, cublaslt.AUXILIARY)
                self.addresses = {key: self.set[key] for key in pointers if key in self.set}
                arguments[-1]._obj.value = self.found
            return 0

        return call


def product(monkeypatch: pytest.MonkeyPatch, library: Library, epilogue: int) -> None:
    monkeypatch.setattr(cublaslt, "_library", lambda device: (library, c_void_p()))
    cublaslt._Product(DEVICE, torch.bfloat16, (32, 5, 8), epilogue, transposed=True)


def test_algorithms_are_chosen_for_addresses_as_they_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an address cuBLASLt takes any alignment for given."""
    library = Library()
    product(monkeypatch, library, cublaslt.GELU | cublaslt.WITH_AUXILIARY | cublaslt.ADD_BIAS)
    assert library.addresses == {cublaslt.BIAS: 16, cublaslt.AUXILIARY: 16}
    library = Library()
    product(monkeypatch, library, cublaslt.GELU_BACKWARD | cublaslt.WITH_AUXILIARY)
    assert library.addresses == {cublaslt.AUXILIARY: 16}


def test_no_algorithm_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RuntimeError, match="no product with GELU for these sizes"):
        product(monkeypatch, Library(found=0), cublaslt.GELU | cublaslt.WITH_AUXILIARY)


def test_misaligned_matrices_are_copied() -> None:
    numbers = torch.arange(64, dtype=torch.bfloat16)
    assert cublaslt._aligned(numbers) is numbers
    moved = cublaslt._aligned(numbers[3:])
    assert moved.data_ptr() % 16 == 0 and torch.equal(moved, numbers[3:])
