"""Settings of the pretrain stage. HORIZON fields may change without starting the run anew."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal


def _horizon(default: Any) -> Any:
    """A field that is not part of the stage's fingerprint: changing it continues the run."""
    return field(default=default, metadata={"horizon": True})


@dataclass
class PretrainConfig:
    """Train a language model from random weights, or from `init`."""

    steps: int = _horizon(0)
    """Optimizer steps; 0: not limited by steps."""

    tokens: int = _horizon(0)
    """Training tokens; 0: not limited by tokens."""

    minutes: float = _horizon(0.0)
    """Training time; turned into steps after a calibration of some seconds. 0: not limited."""

    stop_at_loss: str = _horizon("")
    """Stop when the mean training loss of 50 steps, or the validation loss, is at most this:
    a number, or `initial-1`."""

    global_batch_tokens: int = 16384
    """Tokens of one optimizer step over all micro-batches and processes; rounded up to whole
    rows."""

    micro_batch: int = _horizon(0)
    """Rows in one forward pass. 0: on a GPU found by trying larger ones while they fit, up to about
    65,536 tokens; on a CPU about 4,096 tokens. Halved when memory runs out."""

    init: str | None = None
    """Start from these weights: a checkpoint, a run, or a Hugging Face directory."""

    device: Literal["auto", "cpu", "cuda", "mps"] = _horizon("auto")
    """Where to train; `auto` takes the fastest that works."""

    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Arithmetic of matrix products; `auto` probes. fp16 is for GPUs without bf16."""

    compile: Literal["auto", "on", "regional", "off"] = _horizon("auto")
    """`torch.compile`: `on` makes one graph of model and loss, `regional` compiles one block and
    uses it for all (starts sooner in deep models). `auto`: on for CUDA, off elsewhere."""

    attention: Literal["auto", "cudnn", "flash", "efficient", "math"] = _horizon("auto")
    """Attention kernel; `auto` times them on a GPU and takes the fastest that works."""

    cross_entropy: Literal["auto", "plain", "chunked", "fused"] = _horizon("auto")
    """How the loss is computed: `plain`; `chunked` never holds all logits at once (least memory);
    `fused` is one Triton kernel (CUDA). `auto`: on a GPU `fused`, or `chunked` where memory asks
    for it; elsewhere `plain`."""

    mlp: Literal["auto", "plain", "fused"] = _horizon("auto")
    """`fused`: GELU inside the matrix products (NVIDIA GPUs; families with GELU). `auto`: fused
    where it works."""

    activation_checkpointing: Literal["auto", "none", "selective", "full", "budget"] = _horizon(
        "auto"
    )
    """Recompute activations in the backward pass to save memory: `selective` what is cheap, `full`
    each block, `budget` what the compiler picks. `auto`: on a GPU as little as fits; elsewhere
    `none`."""

    activation_budget: float = _horizon(0.5)
    """`budget`: share of the activations that is kept, 0 to 1."""

    residual: Literal["auto", "fp32", "bf16"] = _horizon("auto")
    """Type of the sum that runs through the blocks, in narrow precision; bf16 takes half the
    memory. `auto`: bf16 on a GPU that trains in bf16, else fp32."""

    weights: Literal["fp32", "bf16"] = "fp32"
    """Type in which weights and gradients are stored. bf16 takes half the memory, and updates are
    then rounded stochastically, so that small ones are not lost. It needs bf16 arithmetic."""

    float8: bool = False
    """Matrix products in 8 bits, on GPUs that have them (extra `float8`). Pays from about 1B
    parameters."""

    gpus: int = _horizon(0)
    """GPUs to train on, one process each; 0: one. Under `torchrun` it is torchrun that says."""

    sharding: Literal["auto", "ddp", "fsdp", "hsdp"] = _horizon("auto")
    """Many GPUs: `ddp` keeps all on each, `fsdp` shares out weights, gradients and optimizer state,
    `hsdp` does so within a host. `auto`: ddp where it fits."""

    cuda_graph: Literal["auto", "on", "off"] = _horizon("auto")
    """Replay a recorded pass instead of launching its kernels one by one, which takes the host
    longer than a GPU needs for a small model. `auto`: where it is measurably faster."""

    threads: int = _horizon(0)
    """CPU threads; 0: all cores."""

    deterministic: bool = False
    """Bit-identical resume on GPU too (slower). CPU runs are always bit-identical."""

    seed: int = 1337
    """Seed of the initial weights and of dropout."""

    evaluate_every: int = _horizon(250)
    """Steps between losses on the fixed validation set; 0: only at the end."""

    evaluate_tokens: int = _horizon(131072)
    """Size of the fixed validation set, in tokens; 0: the whole held-out split."""

    sample_every: int = _horizon(500)
    """Steps between samples from the fixed prompts; 0: only at the end."""

    sample_prompts: list[str] = field(default_factory=list, metadata={"horizon": True})
    """Fixed prompts; empty: the beginning of a document."""

    sample_tokens: int = _horizon(120)
    """Tokens per sample."""

    log_every: int = _horizon(1)
    """Steps between lines in metrics.jsonl."""

    log_style: Literal["bar", "lines"] = _horizon("bar")
    """How training shows on the screen: a bar, or a line a step (also in pretrain/train.log):
    `Epoch: 0003 Step count: 30 loss = 6.702834`."""

    epoch_steps: int = _horizon(0)
    """Steps that count as an epoch in those lines; 0: one pass over the data (a feed has no end:
    1,000 steps)."""

    tensorboard: bool = _horizon(True)
    """Also write TensorBoard event files, where the `report` extra is installed."""

    checkpoint_every: int = _horizon(500)
    """Steps between checkpoints; 0: only at the end and when interrupted."""

    checkpoint_minutes: float = _horizon(10.0)
    """A checkpoint at least this often; 0: only by steps."""

    keep: int = _horizon(2)
    """Checkpoints kept."""

    mirror: str | None = _horizon(None)
    """fsspec URL to which each finished checkpoint is copied (s3://..., file://...)."""

    spike_factor: float = _horizon(1.5)
    """Warn when the loss exceeds the mean of the last 50 steps by this factor."""
