"""Who trains in a comparison: hornbook, nanoGPT's code, stock `transformers` models.

In: `Settings`, which say who trains what and how. Out: a `Contestant` whose `step` is a real
training step: forward, backward, gradient accumulation, clipping to norm 1, AdamW with learning
rate 6e-4, betas 0.9 and 0.95, weight decay 0.1. All get the same batches from the same memory.

- nanogpt: `model.py` of nanoGPT as its `train.py` and `config/train_gpt2.py` use it: bias False
  (train.py's default, which makes it a little faster than GPT-2, whose biases hornbook has),
  vocabulary 50,304, bf16 autocast, `torch.compile`, fused AdamW, TF32 allowed.
- transformers, GPT-2: `GPT2LMHeadModel` with float32 weights, bf16 autocast, sdpa attention,
  `torch.compile`, fused AdamW.
- transformers, Phi-2: `PhiForCausalLM` in pure bf16 (weights, gradients and AdamW's state), sdpa,
  `torch.compile`, fused AdamW.
- hornbook: its own decoder, engine, optimizer and `Stepper`, as `hornbook pretrain` drives them.
"""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from hornbook.model.config import ModelConfig, ModelSettings
from hornbook.model.decoder import Decoder
from hornbook.model.engine import Engine
from hornbook.model.presets import resolve
from hornbook.optim.config import OptimizerConfig
from hornbook.optim.groups import build_optimizer
from hornbook.tokens.batch import Batch
from hornbook.train.config import PretrainConfig
from hornbook.train.objective import NextToken, bind
from hornbook.train.precision import Precision
from hornbook.train.replay import Replay
from hornbook.train.start import prepare_weights
from hornbook.train.step import Stepper

VOCABULARY = 50257
"""Ids of GPT-2's tokenizer; batches are random ids below it."""

PRESETS = {"124m": "gpt2-124m", "712m": "gpt2-712m", "phi2": "phi2"}

TINY = {
    "124m": ModelSettings(preset="gpt2-124m", layers=2, heads=2, width=64, context=64),
    "712m": ModelSettings(preset="gpt2-712m", layers=3, heads=2, width=108, context=64),
    "phi2": ModelSettings(preset="phi2", layers=2, heads=2, width=160, context=64),
}
"""The same shapes in small, to rehearse a benchmark on a CPU: 108 / 2 heads is 54 again."""

TINY_VOCABULARY = 1000
"""With 50,257 a step of 256 tokens takes 8 s on a CPU without AVX-512, where bf16 is emulated."""


@dataclass(frozen=True)
class Settings:
    """One contestant. The fields from `weights` on are hornbook's names; peers know some of them.

    Attributes:
        who: ours, nanogpt or transformers.
        work: the model: 124m, 712m or phi2.
        rows: sequences of one optimizer step.
        micro_batch: sequences of one forward pass.
        tokens: of a sequence.
        memory_gb: 10^9 bytes that PyTorch may take from the GPU; 0: all there are.
        expandable_segments: PyTorch's allocator setting against fragmentation, for those who fill
            their memory: PYTORCH_ALLOC_CONF=expandable_segments:True.
        compile: peers compile unless this is `off`.
    """

    who: Literal["ours", "nanogpt", "transformers"]
    work: str
    rows: int
    micro_batch: int
    tokens: int = 1024
    memory_gb: float = 0.0
    expandable_segments: bool = False
    tiny: bool = False
    weights: Literal["fp32", "bf16"] = "fp32"
    optimizer: Literal["adamw", "adamw8bit", "muon"] = "adamw"
    offload: bool = False
    checkpointing: Literal["none", "selective", "full", "budget"] = "none"
    budget: float = 0.5
    attention: Literal["auto", "cudnn", "flash", "efficient", "math"] = "auto"
    cross_entropy: Literal["plain", "chunked", "fused"] = "plain"
    residual: Literal["fp32", "bf16"] = "fp32"
    mlp: Literal["plain", "fused"] = "plain"
    compile: Literal["on", "regional", "off"] = "on"
    float8: bool = False
    cuda_graph: bool = False

    def model(self) -> ModelConfig:
        """The architecture, in hornbook's terms."""
        chosen = TINY[self.work] if self.tiny else ModelSettings(preset=PRESETS[self.work])
        return resolve(chosen, TINY_VOCABULARY if self.tiny else VOCABULARY)

    def differs(self) -> str:
        """In words, what is not the default; the model and who trains it left out."""
        shown = []
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name in ("who", "work", "tiny") or value == field.default:
                continue
            shown.append(f"{field.name.replace('_', ' ')} {value}")
        return ", ".join(shown)


class Contestant(Protocol):
    """Someone who trains."""

    def step(self, number: int, batch: Batch) -> None:
        """Do step `number` (from 1) on a batch in page-locked memory; need not wait for it."""
        ...

    def loss(self) -> float:
        """The loss of the last step; waits for it."""
        ...


def build(settings: Settings, device: torch.device, nanogpt: Path | None = None) -> Contestant:
    """A contestant with new weights on `device`.

    Args:
        settings: who, what, how.
        device: cuda, or cpu for a rehearsal.
        nanogpt: nanoGPT's `model.py`, needed for that contestant.
    """
    torch.manual_seed(1337)
    torch.set_float32_matmul_precision("high")
    if settings.who == "ours":
        return Hornbook(settings, device)
    if settings.who == "nanogpt":
        if nanogpt is None:
            raise SystemExit("nanogpt needs --nanogpt FILE, its model.py")
        return _nanogpt(settings, device, nanogpt)
    return _transformers(settings, device)


class Hornbook:
    """hornbook's own parts, put together as the trainer does it."""

    def __init__(self, settings: Settings, device: torch.device):
        with device:
            model = Decoder(settings.model())
        config = PretrainConfig(weights=settings.weights, float8=settings.float8)
        prepare_weights(model, config, device)
        model.engine = Engine(
            attention=settings.attention,
            checkpointing=settings.checkpointing,
            budget=settings.budget if settings.checkpointing == "budget" else 1.0,
            cross_entropy=settings.cross_entropy,
            residual=settings.residual,
            mlp=settings.mlp,
            compile=settings.compile,
            float8=settings.float8,
        )
        objective = NextToken()
        config = OptimizerConfig(kind=settings.optimizer, offload=settings.offload)
        self._objective, self._micro_batch, self._device = objective, settings.micro_batch, device
        forward, precision = bind(objective, model), Precision("bf16", device)
        replay = None
        if settings.cuda_graph and device.type == "cuda":
            shape = (settings.micro_batch, settings.tokens)
            ids = torch.zeros(shape, dtype=torch.long, device=device)
            replay = Replay(model, forward, Batch(ids, ids), precision)
        self._stepper = Stepper(
            model,
            forward,
            build_optimizer(model, config, device),
            precision,
            gradient_clip=config.gradient_clip,
            seed=1337,
            replay=replay,
        )
        self._pending: Any = None

    def step(self, number: int, batch: Batch) -> None:
        """As the trainer: the next step is under way before the numbers of the last are read."""
        before, weight = self._pending, self._objective.weight(batch)
        self._pending = self._stepper.step(
            number, batch.to(self._device), self._micro_batch, weight, smaller=self._too_large
        )
        if before is not None:
            before.result()

    @staticmethod
    def _too_large(step: int, rows: int) -> None:
        """Instead of going on in smaller micro-batches: these settings do not fit."""
        raise torch.OutOfMemoryError(f"out of memory: the trainer would go on with {rows} rows")

    def loss(self) -> float:
        """The loss of the last step."""
        return float(self._pending.result().loss)


class Peer:
    """A model of others in the plain training loop that nanoGPT's train.py has."""

    def __init__(
        self,
        settings: Settings,
        model: nn.Module,
        loss: Callable[[Any, Batch], Tensor],
        optimizer: torch.optim.Optimizer,
        device: torch.device,
    ):
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        # Static shapes: one run has one; without this a second one would compile a dynamic graph.
        self._model = torch.compile(model, dynamic=False) if settings.compile != "off" else model
        self._loss_of, self._optimizer, self._device = loss, optimizer, device
        self._micro_batch = settings.micro_batch
        self._autocast = settings.weights == "fp32"
        self._loss = torch.zeros(())

    def step(self, number: int, batch: Batch) -> None:
        """Accumulate, clip, update."""
        batch = batch.to(self._device)
        pieces = [
            batch[start : start + self._micro_batch]
            for start in range(0, len(batch), self._micro_batch)
        ]
        for piece in pieces:
            with torch.autocast(self._device.type, torch.bfloat16, enabled=self._autocast):
                loss = self._loss_of(self._model, piece) / len(pieces)
            loss.backward()
        self._loss = loss.detach() * len(pieces)
        torch.nn.utils.clip_grad_norm_(self._parameters, 1.0)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)

    def loss(self) -> float:
        """The loss of the last step's last micro-batch."""
        return float(self._loss)


def _nanogpt(settings: Settings, device: torch.device, source: Path) -> Peer:
    specification = importlib.util.spec_from_file_location("nanogpt_model", source)
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    config = settings.model()
    with device:
        model = module.GPT(
            module.GPTConfig(
                block_size=settings.tokens,
                vocab_size=config.vocabulary_rows,
                n_layer=config.layers,
                n_head=config.heads,
                n_embd=config.width,
                dropout=0.0,
                bias=False,
            )
        )
    optimizer = model.configure_optimizers(0.1, 6e-4, (0.9, 0.95), device.type)
    return Peer(settings, model, lambda m, b: m(b.inputs, b.targets)[1], optimizer, device)


def _transformers(settings: Settings, device: torch.device) -> Peer:
    from transformers import AutoModelForCausalLM, GPT2Config, PhiConfig

    config = settings.model()
    stock: Any
    if config.family == "phi":
        stock = PhiConfig(
            vocab_size=config.vocabulary_rows, hidden_size=config.width,
            intermediate_size=config.mlp_width, num_hidden_layers=config.layers,
            num_attention_heads=config.heads, max_position_embeddings=config.context,
            partial_rotary_factor=config.rotary_fraction, hidden_act="gelu_new", use_cache=False,
        )  # fmt: skip
    else:
        stock = GPT2Config(
            vocab_size=config.vocabulary, n_positions=config.context, n_embd=config.width,
            n_layer=config.layers, n_head=config.heads, resid_pdrop=0.0, embd_pdrop=0.0,
            attn_pdrop=0.0, use_cache=False,
        )  # fmt: skip
    dtype = torch.bfloat16 if settings.weights == "bf16" else torch.float32
    with device:
        model = AutoModelForCausalLM.from_config(stock, dtype=dtype, attn_implementation="sdpa")
    model.train()
    if settings.checkpointing == "full":
        model.gradient_checkpointing_enable({"use_reentrant": False})
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=6e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True
    )
    # As people call it: the model shifts the labels by one itself.
    loss = lambda m, b: m(input_ids=b.inputs, labels=b.inputs).loss  # noqa: E731
    return Peer(settings, model, loss, optimizer, device)
