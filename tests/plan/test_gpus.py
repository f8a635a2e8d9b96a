"""The table of GPUs: found by any spelling, and by the names that devices give themselves."""

from __future__ import annotations

import pytest

from hornbook.errors import HornbookError
from hornbook.plan.gpus import GPUS, find_gpu, known_device, peak_flops


@pytest.mark.parametrize("name", ["A100-40GB", "a100 40gb", "a100_40gb", "NVIDIA A100-SXM4-40GB"])
def test_spellings(name: str) -> None:
    assert find_gpu(name).name == "a100-40gb"


@pytest.mark.parametrize(
    ("device", "name"),
    [
        ("NVIDIA H200", "h200"),
        ("NVIDIA H200 NVL", "h200-nvl"),
        ("NVIDIA GH200 480GB", "gh200"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA A100-SXM4-80GB", "a100-80gb"),
        ("NVIDIA A100-PCIE-40GB", "a100-40gb"),
        ("Tesla V100-SXM2-32GB", "v100-32gb"),
        ("Tesla V100-SXM2-16GB", "v100"),
        ("NVIDIA L40S", "l40s"),
        ("NVIDIA L4", "l4"),
        ("Tesla T4", "t4"),
        ("NVIDIA GeForce RTX 3090", "rtx3090"),
    ],
)
def test_names_that_devices_give_themselves(device: str, name: str) -> None:
    gpu = known_device(device)
    assert gpu is not None
    assert gpu.name == name


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(HornbookError, match="Did you mean 'rtx4090'"):
        find_gpu("rtx-4009")
    assert peak_flops("NVIDIA T400 4GB") is None


def test_every_row_is_plausible() -> None:
    assert len({gpu.name for gpu in GPUS}) == len(GPUS)
    for gpu in GPUS:
        assert 10e9 < gpu.memory < 300e9, gpu.name
        assert 0.2e12 < gpu.bandwidth < 10e12, gpu.name
        assert 50e12 < gpu.flops < 3000e12, gpu.name
        assert 0 < gpu.price < 20, gpu.name
        assert gpu.float8_flops is None or gpu.float8_flops == pytest.approx(2 * gpu.flops, 0.05)
        assert gpu.bf16 == (gpu.name not in ("v100", "v100-32gb", "t4"))
