"""A run's beginning with a feed: which log, from which text on.

In: the `data` section of a run that is trained from a feed. Out: a `FeedSource`, and `feed.json` in
the stage's folder, which is written before the first row is read: a run that is killed before its
first checkpoint begins again at that very text, also where it was to begin with the latest.
"""

from __future__ import annotations

import dataclasses
import re
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hornbook.errors import HornbookError
from hornbook.files import read_json, write_json
from hornbook.tokenizer.tokenizer import Tokenizer
from hornbook.tokens.config import DataConfig
from hornbook.tokens.feed_client import FeedClient
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
    refused = {
        "mode": (config.mode != "chunks", "a feed's texts are trained on in their order", "chunks"),
        "document_mask": (config.document_mask, "needs `packed`, a feed has `chunks`", "false"),
        "sources": (bool(config.sources), "a feed takes the place of token folders", "[]"),
        "feed_skip_lost": (
            config.feed_skip_lost and processes > 1,
            "several processes could go on at different texts",
            "false",
        ),
    }
    for name, (wrong, what, right) in refused.items():
        if wrong:
            raise HornbookError(what, where=f"data.{name}", hint=f"Set it to {right}")
    _client(config, processes).close()  # which refuses a wrong address and wrong numbers


def _client(config: DataConfig, processes: int) -> FeedClient:
    assert config.feed is not None
    patience = 60 * config.feed_give_up_minutes
    if processes > 1:
        patience = min(patience, LONGEST_TOGETHER_S)
    return FeedClient(config.feed, batch=config.feed_batch, give_up_seconds=patience)


def open_feed(
    config: DataConfig,
    tokenizer: Tokenizer,
    sequence_length: int,
    rows_per_epoch: int,
    folder: Path,
    world: World,
    lost: Callable[[int, int], None],
) -> FeedSource:
    """The feed of a run, at the text that its first start began with.

    Args:
        config: with an address in `feed`.
        tokenizer: of the run.
        sequence_length: tokens in a row.
        rows_per_epoch: rows that are called an epoch.
        folder: of the stage.
        world: this process among those that train; process 0 asks the feed where to begin.
        lost: told of texts that are gone, the numbers [first, next), in another thread.

    Raises:
        HornbookError: the feed is not there for too long, or is none.
    """
    check_feed(config, world.size)
    client = _client(config, world.size)
    begun: dict[str, Any] | None = None
    if world.is_main:
        begun = _begun(config, client, tokenizer, sequence_length, folder)
    begun = world.share(begun)
    assert begun is not None
    return FeedSource(
        client,
        tokenizer,
        FeedState(**begun["start"]),
        name=begun["cursor"] if world.is_main else "",
        rows_per_epoch=rows_per_epoch,
        skip_lost=config.feed_skip_lost,
        lost=lost,
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
    client.keep_from(begun["cursor"], start.next)
    return begun
