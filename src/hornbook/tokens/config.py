"""Settings of how tokens become training rows.

Fields whose metadata says `horizon` may change without starting a run anew.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass
class SourceConfig:
    """One folder of token shards in a mixture."""

    path: str
    """Folder with manifest.json and token shards."""

    weight: float = 1.0
    """Share of the training tokens, relative to the other sources."""


@dataclass
class PhaseConfig:
    """New mixture weights from a step on, for example an annealing phase."""

    from_step: int
    """First step with these weights."""

    weights: list[float]
    """One weight for each entry of `sources`, in order."""


@dataclass
class DataConfig:
    """Which tokens are trained on, in what order, in what rows."""

    mode: Literal["windows", "chunks", "packed"] = "chunks"
    """`windows`: random windows over the whole stream (nanoGPT's way); `chunks`: contiguous rows,
    each token once an epoch; `packed`: best-fit packing of documents, rows start at a document
    where they can, no token is lost, padding is reported."""

    sequence_length: int = 0
    """Tokens in a row; 0: the model's context."""

    document_mask: bool = False
    """Attention stays inside a document, and positions start at 0 in each (needs `packed`)."""

    sources: list[SourceConfig] = field(default_factory=list)
    """Token folders to mix by weight; empty: this run's own."""

    phases: list[PhaseConfig] = field(default_factory=list)
    """Later mixture weights, in order of their first step."""

    feed: str | None = field(default=None, metadata={"horizon": True})
    """Address of a feed (`hornbook feed serve`) to train from, such as http://127.0.0.1:8765; it
    takes the place of this run's token shards. Needs mode `chunks`."""

    feed_start: str = "oldest"
    """The feed's text to begin with: `oldest` that is kept, `latest`, or a number."""

    feed_batch: int = field(default=64, metadata={"horizon": True})
    """Texts asked of the feed at a time."""

    feed_give_up_minutes: float = field(default=30.0, metadata={"horizon": True})
    """How long a feed may be silent before the run saves a checkpoint and ends; with several GPUs
    at most 8."""

    feed_skip_lost: bool = field(default=False, metadata={"horizon": True})
    """Go on behind texts that the feed has lost (dropped or damaged) instead of ending; the gap is
    noted in metrics.jsonl, and a run with a gap cannot be repeated exactly."""

    seed: int = field(default=1337, metadata={"horizon": True})
    """Seed of the data order. A new one when a run is extended gives new epochs."""

    prefetch: int = field(default=4, metadata={"horizon": True})
    """Batches prepared ahead by a background thread."""

    verify: bool = field(default=True, metadata={"horizon": True})
    """Check the sha256 of each shard when it is opened (sizes are checked always)."""
