"""The tiny run on a feed: also a script that a test can kill.

python tiny_feed_run.py FOLDER URL '{"steps": 40}' '{"feed_give_up_minutes": 1}'
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import several
import tiny_run

from hornbook.errors import HornbookError
from hornbook.tokenizer.assemble import AddedToken, tokenizer_json
from hornbook.tokenizer.special import END_OF_TEXT
from hornbook.tokenizer.tokenizer import Tokenizer
from hornbook.tokens import feed_client
from hornbook.tokens.config import DataConfig
from hornbook.train.feed import open_feed
from hornbook.train.parallel import joined
from hornbook.train.trainer import Outcome

MODEL = {"vocabulary": 257, "vocabulary_rows": 320, **several.STILL}
SETTINGS = {
    "steps": 40,
    "checkpoint_every": 6,
    "evaluate_every": 0,
    "sample_every": 0,
    "log_style": "lines",
    "epoch_steps": 10,
}


def byte_tokenizer(folder: Path) -> Tokenizer:
    """A token for each byte."""
    path = folder / "tokenizer.json"
    if not path.exists():
        tokens = {bytes([byte]): byte for byte in range(256)}
        own = [AddedToken(256, END_OF_TEXT)]
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(tokenizer_json(tokens, [], "gpt2", own_special=own))
    return Tokenizer(path)


def fit(
    folder: Path,
    url: str,
    pretrain: dict[str, Any] | None = None,
    data: dict[str, Any] | None = None,
) -> Outcome:
    """Train on a feed, in `folder/pretrain`; each process writes down the rows that it saw."""
    out = folder / "pretrain"
    config = DataConfig(feed=url, **{"feed_batch": 3, **(data or {})})
    objective = several.Recorded()
    with joined("cpu") as world:
        tokenizer = byte_tokenizer(folder / f"tokenizer-{world.rank}")
        rows = 1000 * tiny_run.ROWS
        source = open_feed(config, tokenizer, tiny_run.LENGTH, rows, out, world)
        trainer = tiny_run.build(
            out, {**SETTINGS, **(pretrain or {})}, MODEL,
            {"schedule": "constant", "warmup_steps": 0},
            source=source, world=world, objective=objective,
        )  # fmt: skip
        outcome = trainer.fit()
        (folder / f"seen-{world.rank}.json").write_text(json.dumps(objective.seen))
        return outcome


if __name__ == "__main__":
    feed_client.LONGEST_WAIT_S = 0.2
    more = [json.loads(argument) for argument in sys.argv[3:]]
    try:
        outcome = fit(Path(sys.argv[1]), sys.argv[2], *more)
    except HornbookError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(130 if outcome.interrupted else 0)
