"""A whole run on paper: settings, memory, speed, time, loss and cost.

In: a `ModelConfig`, `Wishes`, a `Device`, a `Horizon`. Out: a `Prediction`; `correct` puts real
steps in the place of what was predicted. Each part says whether it was measured.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from hornbook.model.config import ModelConfig
from hornbook.model.count import ParameterCount, flops_per_token, parameters
from hornbook.plan.device import Device
from hornbook.plan.fit import Choice, Remedy, choose, remedies, smallest
from hornbook.plan.loss import Loss, bytes_per_token, expected_loss
from hornbook.plan.measured import CALIBRATED
from hornbook.plan.memory import memory
from hornbook.plan.setup import Setup, Wishes
from hornbook.plan.speed import step_time


@dataclass(frozen=True)
class Horizon:
    """How long a run is: tokens, or hours, or whichever ends first; and how much text there is."""

    tokens: float = 0.0
    hours: float = 0.0
    unique: float = 0.0
    """Different tokens; 0: not known, taken to be as many as are trained on."""
    bytes_per_token: float = 0.0
    """0: not known, taken from the size of the vocabulary."""

    def tokens_at(self, tokens_per_second: float) -> float:
        """Tokens that the run trains on; 0 where nothing says how long it is."""
        lengths = (self.tokens, 3600 * self.hours * tokens_per_second)
        return min((length for length in lengths if length), default=0.0)


@dataclass(frozen=True)
class Probe:
    """Real steps on the device that is here."""

    seconds: float
    """Of one optimizer step."""
    peak: float
    """Bytes allocated at most; 0 where that cannot be known."""


@dataclass(frozen=True)
class Prediction:
    """What a run will be.

    Attributes:
        name: of the recipe.
        wishes: what the recipe asks for.
        fits: whether `choice` fits into the device's memory; where not, `choice` is the smallest.
        tokens: that the run trains on; 0 where nothing says how long it is.
        price: US dollars a GPU and hour.
        listed: whether the price is the table's.
        remedies: where it does not fit, what would.
        probe: what real steps gave; None: not tried.
    """

    name: str
    config: ModelConfig
    wishes: Wishes
    device: Device
    choice: Choice
    fits: bool
    horizon: Horizon
    tokens: float
    price: float
    listed: bool = False
    remedies: list[Remedy] = field(default_factory=list)
    probe: Probe | None = None

    @property
    def count(self) -> ParameterCount:
        """Parameters."""
        return parameters(self.config)

    @property
    def flops_per_token(self) -> int:
        """Forward and backward, 6 N + 12 L d T."""
        return flops_per_token(self.config, self.choice.setup.sequence_length)

    @property
    def tokens_per_second(self) -> float:
        """Of all GPUs."""
        if self.probe is not None:
            return self.choice.step.tokens / self.probe.seconds
        return self.choice.step.tokens_per_second

    @property
    def utilisation(self) -> float:
        """Model FLOPs utilisation (MFU), of the devices' peak."""
        peak = self.device.flops * self.choice.setup.gpus
        return self.tokens_per_second * self.flops_per_token / peak

    @property
    def peak(self) -> float:
        """Bytes allocated at most."""
        if self.probe is not None and self.probe.peak:
            return self.probe.peak
        return self.choice.memory.peak

    @property
    def hours(self) -> float:
        """Of training."""
        return self.tokens / self.tokens_per_second / 3600

    @property
    def cost(self) -> float:
        """US dollars."""
        return self.hours * self.price * self.choice.setup.gpus

    @property
    def loss(self) -> Loss | None:
        """Expected at the end; None where nothing says how long the run is."""
        if not self.tokens:
            return None
        count = self.count
        unique = self.horizon.unique or self.tokens
        size = self.horizon.bytes_per_token or bytes_per_token(self.config.vocabulary)
        loss = expected_loss(count.total, count.blocks, self.tokens, unique, size)
        return loss.at_most(math.log(self.config.vocabulary))

    @property
    def calibrated(self) -> bool:
        """Whether runs of this kind on this kind of device were measured for the plan."""
        setup = self.choice.setup
        known = (self.config.family, setup.optimizer.kind) in CALIBRATED
        plain = not (setup.optimizer.offload or setup.engine.float8 or setup.cuda_graph)
        usual = setup.precision == "bf16" and setup.engine.checkpointing in ("none", "selective")
        return self.device.measured and known and plain and usual and setup.gpus == 1

    @property
    def speed_measured(self) -> bool:
        """Whether the speed comes from measurements."""
        return self.probe is not None or self.calibrated

    @property
    def memory_measured(self) -> bool:
        """Whether the memory comes from measurements."""
        return self.calibrated or (self.probe is not None and self.probe.peak > 0)


def predict(
    name: str,
    config: ModelConfig,
    wishes: Wishes,
    device: Device,
    horizon: Horizon,
    price: float | None = None,
    smaller: Mapping[str, ModelConfig] | None = None,
) -> Prediction:
    """Choose settings and say what they come to.

    Args:
        name: of the recipe.
        config: the model.
        wishes: what the recipe asks for; the rest is chosen.
        device: of which `wishes.gpus` are used.
        horizon: hours become tokens by the predicted speed.
        price: US dollars a GPU and hour; None: the table's.
        smaller: models that could be taken where this one does not fit, by how to ask for each.
    """
    choice = choose(config, wishes, device)
    found = [] if choice else remedies(config, wishes, device, smaller or {})
    taken = choice or smallest(config, wishes, device)
    tokens = horizon.tokens_at(taken.step.tokens_per_second)
    return Prediction(
        name, config, wishes, device, taken, choice is not None, horizon, tokens,
        price=device.price if price is None else price, listed=price is None, remedies=found,
    )  # fmt: skip


def correct(prediction: Prediction, setup: Setup, probe: Probe) -> Prediction:
    """The prediction with real steps, and the settings they ran with, in place of the computed."""
    config, device = prediction.config, prediction.device
    choice = Choice(setup, memory(config, setup), step_time(config, setup, device))
    corrected = replace(prediction, choice=choice, probe=probe, fits=True, remedies=[])
    return replace(corrected, tokens=prediction.horizon.tokens_at(corrected.tokens_per_second))
