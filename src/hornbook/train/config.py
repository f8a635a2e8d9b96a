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
    """Rows in one forward pass. 0: on a GPU found by trying larger ones while they fit and gain
    speed; on a CPU about 4,096 tokens. Halved when memory runs out."""

    init: str | None = None
    """Start from these weights: a checkpoint, a run, or a Hugging Face directory."""

    device: Literal["auto", "cpu", "cuda", "mps"] = _horizon("auto")
    """Where to train; `auto` takes the fastest that works."""

    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Arithmetic of matrix products; weights and optimizer state stay float32. `auto` probes."""

    compile: Literal["auto", "on", "off"] = _horizon("auto")
    """`torch.compile`; `auto`: on for CUDA, off elsewhere."""

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
