"""One model on several devices: whole on each (DDP), or a part of every parameter on each (FSDP).

In: a model, settings, the `World`. Out: the model changed in place, and the step's forward function
such that its backward passes exchange gradients, once a step where memory allows it.

How the step stays right for any number of processes: each takes its slice of the step's rows and
divides its losses by (weight of the whole step / processes). DDP and FSDP then average the
gradients over processes, which makes that the gradient of the step's mean loss.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import nn

from hornbook.model.decoder import Decoder
from hornbook.optim.config import OptimizerConfig
from hornbook.plan.rules import Kind, choose_sharding, keeps_gathered, whole_bytes
from hornbook.plan.setup import WEIGHT_BYTES
from hornbook.train.config import PretrainConfig
from hornbook.train.objective import Forward
from hornbook.train.parallel import World


class Sharing:
    """How the processes of a run share its model.

    Attributes:
        kind: None for a process alone.
    """

    def __init__(self, world: World, config: PretrainConfig, optimizer: OptimizerConfig):
        self._world, self._config, self._optimizer = world, config, optimizer
        self._module: Any = None
        self._keeps = True
        self.kind: Kind | None = None

    def prepare(self, model: Decoder) -> None:
        """Choose, and shard the model in place where that is chosen.

        Args:
            model: on the CPU or on `meta`, in the type its weights are stored in; from the CPU what
                is sharded goes to the device block by block, so that no GPU ever holds all of it.
        """
        if self._world.size == 1:
            return
        count = sum(parameter.numel() for parameter in model.parameters())
        memory = None
        if self._world.device.type == "cuda":
            memory = torch.cuda.mem_get_info()[1]
        self.kind = choose_sharding(
            self._config.sharding,
            whole_bytes=whole_bytes(
                model.config, self._optimizer, WEIGHT_BYTES[self._config.weights]
            ),
            memory_bytes=memory,
            size=self._world.size,
            local_size=self._world.local_size,
        )
        if self.kind in ("fsdp", "hsdp"):
            narrow = _narrow(self._config.precision, self._world.device)
            self._keeps = keeps_gathered(count, 2 if narrow else 4, memory)
            self._shard(model, narrow)

    def wrap(self, forward: Forward) -> Forward:
        """The step's forward function: as it is, or one that averages gradients (DDP)."""
        if self.kind != "ddp":
            return forward
        # Where model and loss are one compiled graph, all gradients come at its end, and nothing
        # overlaps. Not worth a cut in the graph: two H200s over NVLink exchange 124M float32
        # gradients (0.5 GB at 350-400 GB/s) in 1.4 ms, 712M in 7.6 ms, once a step. A step of 0.5M
        # tokens has 4 passes of 110 ms, or 8 of 330 ms, on each: 0.3 % (computed, not measured).
        from torch.nn.parallel import DistributedDataParallel

        assert isinstance(forward, nn.Module)
        with warnings.catch_warnings():  # torch 2.13 renames the argument, which 2.11 must have
            warnings.simplefilter("ignore", FutureWarning)
            self._module = DistributedDataParallel(
                forward, gradient_as_bucket_view=True, broadcast_buffers=False
            )
        wrapped: Forward = self._module
        return wrapped

    def synchronise(self, last: bool) -> None:
        """Told before each micro-batch whether it is the step's last: gradients are exchanged once,
        after that one."""
        if self.kind == "ddp":
            self._module.require_backward_grad_sync = last  # what its `no_sync` sets
        elif self.kind is not None and self._keeps:
            self._module.set_requires_gradient_sync(last)
            self._module.set_reshard_after_backward(last)
        elif self.kind == "hsdp":
            self._module.set_requires_all_reduce(last)

    def settle(self) -> None:
        """After forward passes without a backward pass: each process holds its part alone again."""
        if self.kind in ("fsdp", "hsdp"):
            for module in self._module.modules():
                if hasattr(module, "reshard"):
                    module.reshard()

    def _shard(self, model: Decoder, narrow: torch.dtype | None) -> None:
        """Keep of each parameter only this process's rows (FSDP, arXiv:2304.11277).

        Each block is gathered when it computes, the rest of the model when `hidden` begins; `loss`
        and `head` find it there. With `hsdp` a parameter is spread over the processes of a host.
        """
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import (
            MixedPrecisionPolicy,
            fully_shard,
            register_fsdp_forward_method,
        )

        world = self._world
        shape: tuple[int, ...] = (world.size,)
        names: tuple[str, ...] = ("shard",)
        if self.kind == "hsdp":
            shape = (world.size // world.local_size, world.local_size)
            names = ("replicate", "shard")
        mesh = init_device_mesh(world.device.type, shape, mesh_dim_names=names)
        # The residual stream goes into a block as it is, also where it is float32.
        policy = MixedPrecisionPolicy(
            param_dtype=narrow, reduce_dtype=torch.float32, cast_forward_inputs=False
        )
        for block in model.blocks:
            fully_shard(block, mesh=mesh, mp_policy=policy, reshard_after_forward=not self._keeps)
        fully_shard(model, mesh=mesh, mp_policy=policy, reshard_after_forward=False)
        register_fsdp_forward_method(model, "hidden")
        self._module = model


def break_off(model: nn.Module) -> None:
    """Make a sharded model ready for another pass after memory ran out in the middle of one.

    FSDP ends a backward pass with a callback that gives gathered weights back; it never came.
    """
    if hasattr(model, "unshard"):
        state: Any = model
        state._get_fsdp_state()._root_post_backward_final_callback()
        model.zero_grad(set_to_none=True)


def _narrow(precision: str, device: torch.device) -> torch.dtype | None:
    """What weights are gathered in: the type of the products where that is known beforehand."""
    if precision == "auto" and device.type == "cuda":
        precision = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
