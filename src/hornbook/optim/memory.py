"""Bytes of optimizer state, exactly, before anything is allocated.

In: the recipe's `optimizer` section and an architecture. Out: bytes.
"""

from __future__ import annotations

import torch

from hornbook.model.config import ModelConfig
from hornbook.model.decoder import Decoder
from hornbook.optim.config import OptimizerConfig
from hornbook.optim.groups import build_optimizer


def state_bytes(config: OptimizerConfig, model_config: ModelConfig) -> int:
    """Bytes of the state of all parameters together, whatever dtype the weights have.

    On one device; where parameters are sharded, each process has its share of it. With
    `config.offload` they are bytes of CPU memory, and none of the GPU's.
    """
    device = torch.device("meta")  # shapes without memory
    with device:
        model = Decoder(model_config, initialise=False)
    optimizer = build_optimizer(model, config, device)
    states = [optimizer.new_state(parameter) for parameter in model.parameters()]
    return sum(tensor.nbytes for state in states for tensor in state.values())
