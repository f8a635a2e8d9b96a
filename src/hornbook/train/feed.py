"""A run's beginning with a feed: which log, from which text on.

In: the `data` section of a run that is trained from a feed. Out: a `FeedSource`, and `feed.json` in
the stage's folder, which is written before the first row is read: a run that is killed before its
first checkpoint begins again at that very text, also where it was to begin with the latest.
"""

from __future__ import annotations

import dataclasses
import math
import re
import secrets
from pathlib import Path
from typing import Any

from hornbook.errors import check_limits
from hornbook.files import read_json, write_json
from hornbook.tokenizer.tokenizer import Tokenizer
from hornbook.tokens.config import DataConfig
from hornbook.tokens.feed_client import FeedClient, check_address
from hornbook.tokens.feed_packer import FeedState
from hornbook.tokens.feed_source import FeedSource, first_state
from hornbook.train.parallel import World

FILE = "feed.json"

EPOCH_STEPS = 1000
"""Steps that are called an epoch where `pretrain.epoch_steps` does not say: a feed has no end."""

LONGEST_TOGETHER_S = 480.0
"""Several processes give a feed up after this time at the latest: the others, which wait for the
one that has no data, give up themselves after ten minutes (`parallel.TIMEOUT`)."""


def check_feed(config: DataConfig, processes: int) -> None:
    """Refuse settings that a feed cannot have."""
    several = config.feed_skip_lost and processes > 1
    limits = [
        ("mode", config.mode == "chunks", "chunks: a feed's texts come in their order"),
        ("document_mask", not config.document_mask, "false, as a feed has no mode `packed`"),
        ("sources", not config.sources, "empty, as a feed takes the place of token folders"),
        ("feed_batch", config.feed_batch >= 1, "at least 1"),
        ("feed_give_up_minutes", 0 < config.feed_give_up_minutes < math.inf, "above 0"),
        ("feed_skip_lost", not several, "false: several processes could go on at different texts"),
    ]
    check_limits(config, "data", limits)
    check_address(config.feed or "")


def open_feed(
    config: DataConfig,
    tokenizer: Tokenizer,
    sequence_length: int,
    rows_per_epoch: int,
    folder: Path,
    world: World,
) -> FeedSource:
    """This process's rows of a feed, from the text that the run's first start began with.

    Args:
        config: with an address in `feed`.
        tokenizer: of the run.
        sequence_length: tokens in a row.
        rows_per_epoch: rows that are called an epoch.
        folder: of the stage.
        world: this process among those that train; process 0 asks the feed where to begin.

    Raises:
        HornbookError: the feed is not there for too long, or is none.
    """
    check_feed(config, world.size)
    patience = 60 * config.feed_give_up_minutes
    if world.size > 1:
        patience = min(patience, LONGEST_TOGETHER_S)
    client = FeedClient(config.feed or "", batch=config.feed_batch, give_up_seconds=patience)
    begun: dict[str, Any] = {}
    if world.is_main:
        begun = _begun(config, client, tokenizer, sequence_length, folder)
    begun = world.share(begun)
    return FeedSource(
        client,
        tokenizer,
        FeedState(**begun["start"]),
        cursor=begun["cursor"],
        rows_per_epoch=rows_per_epoch,
        skip_lost=config.feed_skip_lost,
        rank=world.rank,
        size=world.size,
    )


def _begun(
    config: DataConfig,
    client: FeedClient,
    tokenizer: Tokenizer,
    sequence_length: int,
    folder: Path,
) -> dict[str, Any]:
    """The name of the run's cursor and its first state: of an earlier start, or of now."""
    path = folder / FILE
    if path.exists():
        begun: dict[str, Any] = read_json(path)
        return begun
    start = first_state(config, client, tokenizer, sequence_length)
    run = re.sub(r"[^A-Za-z0-9._-]", "-", folder.resolve().parent.name)[:48]
    begun = {"cursor": f"{run}-{secrets.token_hex(4)}", "start": dataclasses.asdict(start)}
    write_json(path, begun)
    client.keep_from(start.log, begun["cursor"], start.next)
    return begun
