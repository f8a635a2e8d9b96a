"""Offloaded AdamW is AdamW, whatever the pieces."""

from __future__ import annotations

import pytest
import torch
from tests.optim.tiny_decoder import give_gradients, tiny_decoder

from hornbook.optim import offload
from hornbook.optim.config import OptimizerConfig
from hornbook.optim.groups import build_optimizer

CPU = torch.device("cpu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("piece", [100, 1024, 2**24])
def test_it_is_adamw_over_float32_masters(
    dtype: torch.dtype, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(offload, "PIECE_ELEMENTS", piece)
    model = tiny_decoder().to(dtype)
    masters = tiny_decoder()
    masters.load_state_dict({k: v.float() for k, v in model.state_dict().items()})
    optimizer = build_optimizer(model, OptimizerConfig(offload=True), CPU)
    reference = build_optimizer(masters, OptimizerConfig(), CPU)
    for step in range(3):
        give_gradients(model, step)
        for parameter, master in zip(model.parameters(), masters.parameters(), strict=True):
            assert parameter.grad is not None
            master.grad = parameter.grad.float()
        optimizer.step()
        reference.step()
    for parameter, master in zip(model.parameters(), masters.parameters(), strict=True):
        found = optimizer.state[parameter]["master"]
        # The kernel's vector and scalar parts differ in the last bit, and pieces end elsewhere.
        torch.testing.assert_close(found, master, rtol=1e-6, atol=1e-8)
        assert torch.equal(parameter, found.to(dtype))
